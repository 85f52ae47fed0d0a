"""One page of several runs."""

from pathlib import Path

from handmade import make_run, read_page, score

from longrope.report import write_comparison


def test_what_runs_have_in_common_is_shown_once(tmp_path: Path) -> None:
    """PI is the same in both; the searched method has a row for each run. Every row names its runs."""
    runs = []
    for name, value in (("one", 14.5), ("two", 13.5)):
        own = [score("pi", 64, "perplexity", 20.0), score("longrope-gradient", 64, "perplexity", value)]
        runs.append(make_run(tmp_path / name, own))
    path = write_comparison(runs, tmp_path / "deep" / "both.html")
    shown = read_page(path)
    assert shown.texts["h1"] == ["2 runs beside each other"]
    assert shown.tables["Perplexity (95 % interval)"] == [
        ("method", "64 tokens"),
        ("PI · one, two", "20.0 (0.0-1.0)"),
        ("LongRoPE, gradient · one", "14.5 (0.0-1.0)"),
        ("LongRoPE, gradient · two", "13.5 (0.0-1.0)"),
    ]
    assert len(shown.texts["pre"]) == 2
    assert not (runs[0].path / "report.html").exists()


def test_runs_of_one_name_are_distinguished_by_their_paths(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name / "run", [score("pi", 64, "perplexity", value)])
        for name, value in (("a", 2), ("b", 3))
    ]
    rows = read_page(write_comparison(runs, tmp_path / "both.html")).tables["Perplexity (95 % interval)"]
    assert [row[0] for row in rows[1:]] == [f"PI · {tmp_path / name / 'run'}" for name in ("a", "b")]
