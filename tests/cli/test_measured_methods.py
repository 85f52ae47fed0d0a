"""``longrope measure --method``: baselines by their names."""

from pathlib import Path

from commands import Command, assert_one_paragraph, table_row


def test_a_baseline_is_measured_by_its_name(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    asked = ("--measure-data", text_folders[1], "--lengths", "64,256", "--metrics", "perplexity")
    given = ("measure", pico_folder, *asked)
    result = command(*given, "--method", "self-extend")
    assert result.code == 0
    assert table_row(result.out, "Self-Extend", "Perplexity (95 % interval)")
    assert "A call measures one method" in assert_one_paragraph(
        command(*given, "--method", "dca", "--factors", "f.json")
    )
    assert "longrope compare" in assert_one_paragraph(command(*given, "--method", "ntk-scan"))
    assert "Baselines: pi, ntk" in assert_one_paragraph(command(*given, "--method", "dcaa"))
