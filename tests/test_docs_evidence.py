"""The table of results/evidence-64k, made of records that are written here."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from documents import RESULTS  # noqa: F401  # puts results/ on the path
from tables_cells import MixedTextsError, Records
from tables_evidence import NANO, NANO_TARGET, RUN, SEEDS, TARGET, WINDOW, evidence_table, nano_arms_table, seeds_table

from longrope.evaluation.pairing import Comparison
from longrope.runs.records import Score, append_records

TAIL = f"perplexity-last-{WINDOW}"


def score(metric: str, length: int, value: float, method: str, texts: str = "t", factors_method: str = "") -> Score:
    return Score(
        metric, value, value - 0.01, value + 0.01, method, length, 10, 1, 0, "m", texts, "f", 1.0, "", factors_method
    )


def write(folder: Path, *scores: Score) -> None:
    folder.mkdir(parents=True)
    for one in scores:
        append_records(folder / "scores.jsonl", [one])


def write_pairs(folder: Path, *lines: Comparison) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arms.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two methods and the original without training, two arms with it."""
    write(
        tmp_path / RUN / "compare",
        score("perplexity", WINDOW, 20.0, "none"),
        score("perplexity", TARGET, 900.0, "none"),
        score("perplexity", WINDOW, 22.0, "yarn"),
        score("perplexity", TARGET, 30.0, "yarn"),
        score("prose-needle", TARGET, 0.05, "yarn", "n"),
        score("perplexity", WINDOW, 21.0, "longrope-gradient"),
        score("perplexity", TARGET, 25.0, "longrope-gradient"),
        score("prose-needle", TARGET, 0.04, "longrope-gradient", "n"),
    )
    pair = {"run": "yarn", "reference": "longrope-gradient", "metric": "perplexity", "context_tokens": TARGET}
    share = {"value": 1.2, "low": 1.19, "high": 1.21, "resampled": "documents"}
    (tmp_path / RUN / "compare" / "paired.jsonl").write_text(json.dumps(pair | share) + "\n")
    for name, value in {"searched": 17.0, "yarn": 16.5}.items():
        write(
            tmp_path / RUN / name,
            score("perplexity", TARGET, 900.0, "none"),
            score("perplexity", TARGET, value, "longrope-tuned", factors_method=name),
            score(TAIL, TARGET, value - 1, "longrope-tuned", factors_method=name),
        )
    line = Comparison("searched", "yarn", "perplexity", TARGET, 1.03, 1.02, 1.04, 9, "documents", "t")
    other = Comparison("searched", "yarn", "prose-needle", TARGET, 0.1, 0.0, 0.2, 9, "", "n")
    write_pairs(tmp_path / RUN, other, line)
    return Records(tmp_path)


def test_every_method_has_its_row_and_a_loss_stands_there_like_a_win(records: Records) -> None:
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in evidence_table(records).splitlines()]
    assert rows[0][:4] == ["", "8k", "64k", "last 8k of 64k"]
    assert rows[2:] == [
        ["original model", "20.00", "900", *[""] * 7],
        ["YaRN", "22.00", "30.00", *[""] * 4, "**5% (4-6)**", "", "1.2000 (1.1900-1.2100) of LongRoPE, gradient's"],
        [
            "LongRoPE, gradient",
            "**21.00**",
            "**25.00**",
            "",
            "",
            "",
            "",
            "4% (3-5)",
            "",
            "",
        ],
        ["searched factors, trained", "", "17.00", "16.00", *[""] * 5, "1.0300 (1.0200-1.0400) of YaRN's, trained"],
        ["YaRN, trained", "", "**16.50**", "**15.50**", *[""] * 6],
    ]


def test_the_bundled_model_has_a_row_for_itself_and_for_each_arm_of_a_seed(tmp_path: Path) -> None:
    for name, value in {"yarn": 8.5, "searched": 8.25, "searched@1": 8.75}.items():
        own = score("perplexity", NANO_TARGET, value, "longrope-tuned", factors_method=name)
        write(tmp_path / NANO / name, score("perplexity", NANO_TARGET, 142.0, "none"), own)
    pairs = {"searched": 0.97, "searched@1": 0.98}
    compared = [
        Comparison(name, "yarn", "perplexity", NANO_TARGET, x, x - 0.01, x + 0.01, 9, "", "t")
        for name, x in pairs.items()
    ]
    write_pairs(tmp_path / NANO, *compared)
    for seed, named in {"": {"searched": "**8.25**", "yarn": "8.50"}, "@1": {"searched": "**8.75**"}}.items():
        rows = [
            [cell.strip() for cell in line.split("|")] for line in nano_arms_table(Records(tmp_path), seed).split("\n")
        ]
        shown = {row[1]: (row[3], row[-2]) for row in rows[2:-1]}
        beside = "0.9800 (0.9700-0.9900) of YaRN's" if seed else "0.9700 (0.9600-0.9800) of YaRN's"
        labels = {"searched": "searched factors", "yarn": "YaRN"}
        assert shown == {
            "original model": ("142", ""),
            **{labels[name]: (value, beside if name == "searched" else "") for name, value in named.items()},
        }


def test_a_seed_is_compared_with_yarn_of_the_same_seed(tmp_path: Path) -> None:
    """Paired where there is a comparison; an arm of no other seed has no row."""
    for run, arm, value in ((RUN, "searched", 9.7), (RUN, "yarn", 10.0), (SEEDS, "searched@1", 9.9)):
        write_arm(tmp_path / run / arm, value)
    for arm, value in (("yarn@1", 10.0), ("searched@2", 9.0), ("yarn@2", 10.0)):
        write_arm(tmp_path / SEEDS / arm, value)
    write_arm(tmp_path / RUN / "ntk", 12.0)
    for run, arm, beside, x in ((RUN, "searched", "yarn", 0.97), (SEEDS, "searched@1", "yarn@1", 0.98)):
        write_pairs(tmp_path / run, Comparison(arm, beside, "perplexity", TARGET, x, x - 0.01, x + 0.01, 9, "", "t"))
    head, _, searched, yarn = ([cell.strip() for cell in line.split("|")] for line in made(seeds_table, tmp_path))
    assert [name for name in head if name.startswith("of YaRN's")] == [f"of YaRN's, seed {seed}" for seed in range(3)]
    assert searched[1:5] == ["searched factors", "9.70", "9.90", "9.00"]
    assert searched[-4:-1] == ["0.9700 (0.9600-0.9800)", "0.9800 (0.9700-0.9900)", "0.9000, not paired"]
    assert (yarn[1], yarn[-4:-1]) == ("YaRN", ["", "", ""])


def write_arm(folder: Path, perplexity: float) -> None:
    found = (("perplexity", perplexity), ("prose-needle", 0.5))
    write(folder, *(score(metric, TARGET, value, "longrope-tuned") for metric, value in found))


def made(table: Callable[[Records], str], folder: Path) -> list[str]:
    return table(Records(folder)).splitlines()


def test_arms_that_were_measured_on_another_text_are_refused(records: Records) -> None:
    write(records.folder / RUN / "critical", score("perplexity", TARGET, 1.0, "longrope-tuned", "other"))
    with pytest.raises(MixedTextsError):
        evidence_table(records)
