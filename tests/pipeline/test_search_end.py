"""The end of a search: its loss on held-out windows beside those of the formulas that it looked at."""

from dataclasses import replace
from pathlib import Path

import pytest

from longrope.pipeline.search_end import describe_losses, describe_search
from longrope.recipe import Recipe
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir


def trial(origin: str, loss: float, kind: str = "validation", method: str = "longrope-gradient") -> Trial:
    return Trial(
        method=method,
        model="m",
        texts_fingerprint="0" * 16,
        step=0,
        kind=kind,
        origin=origin,
        lambdas=(1.0,),
        start_tokens=0,
        attention_factor=1.0,
        loss_nats=loss,
        num_tokens=1,
        token_passes=1,
        seconds=0.0,
    )


TRIALS = [
    trial("yarn", 2.5),
    trial("pi", 3.0),
    trial("gradient", 2.4),
    trial("gradient", 2.25),
    trial("gradient", 1.0, kind="search"),
    trial("gradient", 1.0, method="longrope-evolution"),
]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("longrope-gradient", "2.2500 nats a token at the lowest; YaRN 2.5000; PI 3.0000"),
        ("longrope-evolution", "1.0000 nats a token at the lowest"),
    ],
)
def test_the_lowest_loss_stands_beside_those_of_formulas(method: str, text: str) -> None:
    """It need not be that of the factors found, which are chosen by tails and needles as well."""
    assert describe_losses(TRIALS, method) == f"loss on held-out windows: {text}"


def test_without_such_trials_nothing_is_said() -> None:
    assert describe_losses(TRIALS[4:5], "longrope-gradient") == ""


@pytest.mark.parametrize(
    ("dtype", "measured", "exported"),
    [("auto", "", "{run}"), ("4bit", " --dtype 4bit", "--model m --factors {run} --out {run}/hf")],
)
def test_the_next_commands_fit_the_number_format(dtype: str, measured: str, exported: str, tmp_path: Path) -> None:
    """An export refuses a quantized model; the run's own export would load it as the search did."""
    lines = describe_search(RunDir(tmp_path), Recipe("m", 512, ("books",), dtype=dtype))
    assert lines == [
        f"next: longrope measure m --factors {tmp_path} --measure-data OTHER-TEXTS{measured}",
        f"      longrope export {exported.format(run=tmp_path)}",
    ]


def test_the_next_commands_load_the_model_as_the_search_did(tmp_path: Path) -> None:
    """A run has these settings; a measurement by its factors, and an export without the run, need the options."""
    own = Recipe("m", 512, ("books",), trained_window=128, rope_table="full attention")
    loading = " --trained-window 128 --rope-table 'full attention'"
    lines = describe_search(RunDir(tmp_path), own)
    assert lines[0].endswith(f"--measure-data OTHER-TEXTS{loading}")
    assert lines[1] == f"      longrope export {tmp_path}"
    assert describe_search(RunDir(tmp_path), replace(own, dtype="8bit"))[1].endswith(f"/hf{loading}")


def test_paths_with_spaces_are_quoted_in_the_next_commands(tmp_path: Path) -> None:
    lines = describe_search(RunDir(tmp_path / "my run"), Recipe("my model", 512, ("books",)))
    assert f"measure 'my model' --factors '{tmp_path / 'my run'}' --measure-data" in lines[0]
    assert lines[1].endswith(f"export '{tmp_path / 'my run'}'")
