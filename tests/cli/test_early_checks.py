"""What cannot be done is said before the weights are loaded: here there are none, and nothing says so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pico
import pytest
from commands import Command, assert_one_paragraph
from exporting import make_factors

from longrope.models import load_model, open_model
from longrope.rope import dump_factors

SHORT = "must fit into it"
CASES = {
    "a target beyond the text": (
        ("extend", "search", "compare", "tune"),
        "--set target_tokens=1m --set measure.lengths=64",
        SHORT,
    ),
    "too little text to measure on": (("extend", "compare"), "--measure-data short.txt", SHORT),
    "a length beyond the text": (("measure",), "--lengths 1m", SHORT),
    "an unknown benchmark": (("extend", "compare", "measure"), "--metrics harness:no_such_task", "no task or group"),
    "no room for a passkey": (
        ("extend", "compare", "measure"),
        "--metrics passkey --lengths 64",
        "prompt of 64 tokens",
    ),
    "foreign factors": (("extend", "compare"), "--set factors=foreign.json", "0123456789abcdef"),
    "a target in the window": (
        ("extend", "search", "compare"),
        "--set target_tokens=64 --set measure.lengths=64",
        "trained on 64",
    ),
    "weights of no name": (("tune",), "--set tune.parameters=nothing", "'nothing' chooses no weight"),
    "an unknown method": (("measure",), "--method magic", "'magic'"),
}
RUNS = [(name, case) for case, (names, _, _) in CASES.items() for name in names]


@pytest.fixture
def without_weights(pico_folder: Path, tmp_path: Path) -> Path:
    """The pico model without its weights."""
    folder = Path(shutil.copytree(pico_folder, tmp_path / "light"))
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    return folder


@pytest.mark.parametrize(("name", "case"), RUNS)
def test_it_is_said_before_the_weights_are_loaded(
    name: str, case: str, command: Command, recipe_file: Path, text_folders: tuple[Path, Path], without_weights: Path
) -> None:
    _, options, words = CASES[case]
    Path("short.txt").write_text(pico.make_text(30))
    factors = make_factors(pico.make_model(), target_window=2**20)
    Path("good.json").write_text(dump_factors(factors))
    Path("foreign.json").write_text(dump_factors(replace(factors, spec_fingerprint="0123456789abcdef")))
    given: dict[str, tuple[object, ...]] = {
        "measure": (without_weights, "--measure-data", text_folders[1], "--lengths", "256"),
        "tune": (without_weights, "--recipe", recipe_file, "--factors", "good.json", "--out", "run"),
    }
    arguments = given.get(name, (without_weights, "--recipe", recipe_file, "--out", "run"))
    result = command(name, *arguments, *options.split())
    assert words in assert_one_paragraph(result)
    assert "\nload " not in result.err
    assert not Path("run").exists()


def test_without_a_mistake_the_weights_are_missed(command: Command, recipe_file: Path, without_weights: Path) -> None:
    """Which is said last."""
    result = command("search", without_weights, "--recipe", recipe_file, "--out", "run")
    assert "cannot be loaded" in assert_one_paragraph(result)
    assert "\nload " in result.err


def test_an_outline_is_the_model_without_its_numbers(pico_folder: Path) -> None:
    opened, model = open_model(pico_folder, device="cpu"), load_model(pico_folder, device="cpu")
    outline = opened.outline
    assert (outline.spec, outline.name, outline.choices) == (model.spec, model.name, model.choices)
    assert outline.tokenizer("one two").input_ids == model.tokenizer("one two").input_ids
    shapes = [{name: weight.shape for name, weight in some.network.named_parameters()} for some in (outline, model)]
    assert shapes[0] == shapes[1]
    assert outline.device.type == "meta"
    assert json.dumps(opened.load().network.config.to_dict()) == json.dumps(model.network.config.to_dict())
