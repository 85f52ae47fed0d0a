"""Each bad input ends as one paragraph with exit code 2, our own faults with a traceback."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from commands import Command, assert_one_paragraph

from longrope import cli, pipeline
from longrope.engine import compiling
from longrope.evaluation import perplexity
from longrope.models import read_spec
from longrope.recipe import Recipe, dump_recipe
from longrope.rope import RescaleFactors, dump_factors
from longrope.runs.run_dir import RunDir


@pytest.fixture
def bad(tmp_path: Path, pico_folder: Path, text_folders: tuple[Path, Path]) -> Callable[[str], list[str]]:
    """The arguments of a bad command by its name, with the files that it needs."""
    spec = read_spec(pico.make_network().config)
    model, data = str(pico_folder), str(text_folders[0])
    factors = RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, spec.fingerprint)

    def write(name: str, content: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    def write_model(name: str, content: str) -> str:
        return str(Path(write(f"{name}/config.json", content)).parent)

    def extending(
        model: str = model, to: str = "256", data: str = data, out: str = str(tmp_path / "run"), **more: str
    ) -> list[str]:
        options = [word for flag, value in more.items() for word in (f"--{flag.replace('_', '-')}", value)]
        return ["extend", model, "--to", to, "--data", data, "--out", out, *options]

    def measuring(content: str, lengths: str = "256") -> list[str]:
        return ["measure", model, "--factors", write("f.json", content), "--data", data, "--lengths", lengths]

    def tuning(content: str | None = None, to: str = "256", data: str = data) -> list[str]:
        given = write("f.json", content or dump_factors(factors))
        return ["tune", model, "--factors", given, "--to", to, "--data", data, "--out", str(tmp_path / "run")]

    def recipe(text: str) -> list[str]:
        return ["extend", "--recipe", write("r.toml", text), "--out", str(tmp_path / "run")]

    plain = dump_recipe(Recipe(model, 256, (data,)))
    named = f'model = "{model}"\ndata = ["{data}"]\n'
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 320}
    foreign = replace(factors, spec_fingerprint="0123456789abcdef")
    longer = replace(factors, lambdas=(1.0,) * 8)
    cases: dict[str, Callable[[], list[str]]] = {
        "missing data": lambda: extending(data=str(tmp_path / "nowhere")),
        "empty data": lambda: extending(data=write("empty.txt", "")),
        "short text": lambda: extending(data=write("short.txt", pico.make_text(60))),
        "target in the window": lambda: extending(to="64"),
        "target below the window": lambda: extending(to="32"),
        "unknown model": lambda: extending(model=write_model("nonsense", '{"model_type": "nonsense"}')),
        "inspect unknown model": lambda: ["inspect", write_model("nonsense", '{"model_type": "nonsense"}')],
        "gpt2": lambda: extending(model=write_model("gpt2", json.dumps(gpt2))),
        "inspect gpt2": lambda: ["inspect", write_model("gpt2", json.dumps(gpt2))],
        "broken config": lambda: ["inspect", write_model("broken", "{")],
        "empty config": lambda: ["inspect", write_model("empty", "{}")],
        "no weights": lambda: extending(model=write_model("bare", (pico_folder / "config.json").read_text())),
        "no such model": lambda: ["inspect", str(tmp_path / "no" / "such" / "model")],
        "a text as a model": lambda: ["inspect", write("model.txt", "text")],
        "foreign factors": lambda: measuring(dump_factors(foreign)),
        "factors of another length": lambda: measuring(dump_factors(longer)),
        "nan factors": lambda: measuring(dump_factors(factors).replace("3.0", "NaN")),
        "decreasing factors": lambda: measuring(dump_factors(factors).replace("3.0", "9.0")),
        "no factors": lambda: ["measure", model, "--factors", str(tmp_path / "nothing.json"), "--data", data],
        "torn factors": lambda: measuring(dump_factors(factors)[:50]),
        "factors that are a list": lambda: measuring("[1, 2]"),
        "factors for less": lambda: measuring(dump_factors(factors), lengths="512"),
        "recipe typo": lambda: recipe(named + "target_token = 256\n"),
        "nested recipe typo": lambda: recipe(named + 'target_tokens = 256\n[search]\nmetod = "gradient"\n'),
        "recipe of wrong type": lambda: recipe(named + "target_tokens = 256\nseed = 1.5\n"),
        "broken recipe": lambda: recipe("model = \n"),
        "no recipe": lambda: ["extend", "--recipe", str(tmp_path / "nothing.toml")],
        "unknown metric": lambda: extending(metrics="perplexity,beauty"),
        "measure unknown metric": lambda: ["measure", model, "--data", data, "--metrics", "beauty"],
        "wrong target": lambda: extending(to="64q"),
        "wrong length": lambda: extending(lengths="64,64q"),
        "measure wrong length": lambda: ["measure", model, "--data", data, "--lengths", "64q"],
        "inspect wrong length": lambda: ["inspect", model, "--to", "64q"],
        "length of nothing": lambda: extending(to="0"),
        "length of one token": lambda: ["measure", model, "--data", data, "--lengths", "1", "--metrics", "perplexity"],
        "too short for passkeys": lambda: ["measure", model, "--data", data, "--lengths", "64"],
        "no arguments": lambda: ["compare"],
        "no data": lambda: ["extend", model, "--to", "256"],
        "no target": lambda: ["compare", model, "--data", data],
        "no model": lambda: ["search", "--to", "256", "--data", data],
        "measure no data": lambda: ["measure", model],
        "run is a file": lambda: extending(out=write("file", "")),
        "unknown method": lambda: extending(method="genetic"),
        "unknown device": lambda: extending(device="abacus"),
        "unknown dtype": lambda: extending(dtype="float8"),
        "set of no key": lambda: [*extending(), "--set", "search.gradient.step=4"],
        "set without a value": lambda: [*extending(), "--set", "seed"],
        "set of a wrong type": lambda: [*extending(), "--set", "search.gradient.steps=many"],
        "set of a wrong number": lambda: [*extending(), "--set", "tune.learning_rate=fast"],
        "set of no boolean": lambda: [*extending(), "--set", "compiled=yes"],
        "set out of bounds": lambda: [*extending(), "--set", "search.gradient.steps=0"],
        "set of no table": lambda: [*extending(), "--set", "stages=search"],
        "set of nothing tuned": lambda: [*extending(), "--set", "tune.steps=40"],
        "measure a search": lambda: ["measure", model, "--data", data, "--set", "search.gradient.steps=4"],
        "negative seed": lambda: extending(seed="-1"),
        "unknown preset": lambda: [*extending(preset="falcon"), "--tune"],
        "preset of nothing": lambda: extending(preset="llama2"),
        "steps of nothing": lambda: extending(steps="5", rate="1e-4"),
        "no steps": lambda: [*extending(steps="0"), "--tune"],
        "no rate": lambda: [*extending(rate="0"), "--tune"],
        "negative rank": lambda: [*extending(lora="-1"), "--tune"],
        "tune to nothing": lambda: [*tuning()[:4], *tuning()[6:]],
        "tune beyond the factors": lambda: tuning(to="512"),
        "tune with foreign factors": lambda: tuning(dump_factors(foreign)),
        "tune on a short text": lambda: tuning(data=write("short.txt", pico.make_text(60))),
        "tune with unknown preset": lambda: [*tuning(), "--preset", "falcon"],
        "export elsewhere": lambda: ["export", str(tmp_path), "--to", "onnx"],
        "export nothing": lambda: ["export", str(tmp_path / "no-run")],
        "export factor sets": lambda: [
            "export",
            str(Path(write("old/recipe.toml", plain)).parent),
            "--factor-sets",
            "three",
        ],
    }
    return lambda name: cases[name]()


WORDS = {
    "missing data": "nowhere does not exist",
    "empty data": "empty.txt is blank",
    "short text": "windows of 256 tokens must fit",
    "target in the window": "trained on 64 tokens already",
    "target below the window": "trained on 64 tokens already",
    "unknown model": "nonsense",
    "inspect unknown model": "nonsense",
    "gpt2": "'gpt2'",
    "inspect gpt2": "'gpt2'",
    "broken config": "broken",
    "empty config": "empty",
    "no weights": "cannot be loaded",
    "no such model": "no such file or folder is here",
    "a text as a model": "is a file, but no .gguf",
    "foreign factors": "0123456789abcdef",
    "factors of another length": "8 lambdas",
    "nan factors": "lambdas[2] = nan",
    "decreasing factors": "lambdas[3] = 4.0 after 9.0 (decreasing)",
    "no factors": "nothing.json cannot be read",
    "torn factors": "f.json cannot be read",
    "factors that are a list": "f.json cannot be read",
    "factors for less": "512 tokens",
    "recipe typo": "nearest known one is 'target_tokens'",
    "nested recipe typo": "nearest known one is 'search.method'",
    "recipe of wrong type": "seed = 1.5",
    "broken recipe": "r.toml cannot be read",
    "no recipe": "nothing.toml cannot be read",
    "unknown metric": "'beauty'",
    "measure unknown metric": "'beauty'",
    "wrong target": "'64q'",
    "wrong length": "'64q'",
    "measure wrong length": "'64q'",
    "inspect wrong length": "'64q'",
    "length of nothing": "'0'",
    "length of one token": "1",
    "too short for passkeys": "passkey prompt of 64 tokens",
    "no arguments": "MODEL and --to and --data are missing",
    "no data": "--data is missing",
    "no target": "--to is missing",
    "no model": "MODEL is missing",
    "measure no data": "--data",
    "run is a file": "is a file",
    "unknown method": "'genetic'",
    "unknown device": "abacus",
    "unknown dtype": "'float8'",
    "set of no key": "nearest known one is 'search.gradient.steps'",
    "set without a value": "--set 'seed'",
    "set of a wrong type": "'many'",
    "set of a wrong number": "tune.learning_rate = 'fast'",
    "set of no boolean": "compiled = 'yes'",
    "set out of bounds": "search.gradient.steps = 0",
    "set of no table": "stages = 'search'",
    "set of nothing tuned": "--set tune.steps=40 is given, and nothing is tuned",
    "measure a search": "Only settings that begin with measure. have an effect",
    "negative seed": "-1",
    "unknown preset": "'falcon'. Known: llama2, mistral",
    "preset of nothing": "--preset is given, and nothing is tuned",
    "steps of nothing": "--steps and --rate are given, and nothing is tuned",
    "no steps": "tune.steps = 0",
    "no rate": "tune.learning_rate = 0.0",
    "negative rank": "tune.lora_rank = -1",
    "tune to nothing": "--to is missing",
    "tune beyond the factors": "512 tokens",
    "tune with foreign factors": "0123456789abcdef",
    "tune on a short text": "window of 256 tokens must fit",
    "tune with unknown preset": "'falcon'. Known: llama2, mistral",
    "export elsewhere": "'onnx'",
    "export nothing": "no-run",
    "export factor sets": "three",
}


@pytest.mark.parametrize("case", WORDS)
def test_bad_input_ends_in_one_paragraph(case: str, command: Command, bad: Callable[[str], list[str]]) -> None:
    assert WORDS[case] in assert_one_paragraph(command(*bad(case)))


def test_the_traceback_of_bad_input_is_shown_if_asked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "llama", "hidden_size": "many"}')
    assert_one_paragraph(command("inspect", tmp_path / "odd"))
    monkeypatch.setenv("LONGROPE_DEBUG", "1")
    result = command("inspect", tmp_path / "odd")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "direct cause" in result.err, "of the library's own exception"
    assert result.err.splitlines()[-1].startswith("longrope: The model")


def test_a_missing_argument_is_named(command: Command) -> None:
    """Where the parser itself refuses, its own words are kept."""
    cases = {
        "measure": "model",
        "inspect": "model",
        "export": "run",
        "extend --nonsense": "nonsense",
        "nonsense": "nonsense",
    }
    for arguments, word in cases.items():
        result = command(*arguments.split())
        assert (result.code, result.out) == (2, "")
        assert "Traceback" not in result.err
        assert word in result.err.lower().split("error", 1)[1]


def test_compiled_passes_are_made_where_they_are_asked_for(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer and the loss of `measure`, each layer of `generate`; and what a user reads says so."""
    made: set[str] = set()

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        made.add(function.__qualname__)
        return function

    monkeypatch.setattr(compiling, "compiled", note)
    layer, loss = "LlamaDecoderLayer.forward", "loss_by_sums"
    book = Path("book.txt")
    book.write_text("A short one.")
    lengths = ("--lengths", 64, "--metrics", "perplexity")
    commands = {
        ("measure", pico_folder, "--data", text_folders[0], *lengths): ("layers and losses", {layer, loss}),
        ("generate", pico_folder, "--document", book, "--prompt", "What?", "--max-new-tokens", 2): ("layers", {layer}),
    }
    for arguments, (parts, expected) in commands.items():
        for asked in (False, True):
            made.clear()
            result = command(*arguments, *["--compile"] * asked)
            assert result.code == 0, result.err
            assert made == (expected if asked else set())
            assert (f"{parts} compiled (as asked)" in result.err) is asked


def test_a_gpu_that_is_not_there_is_refused(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = command("measure", pico_folder, "--data", text_folders[0], "--lengths", "64", "--device", "cuda")
    assert "No GPU is here" in assert_one_paragraph(result)


def test_a_locked_run_is_refused(
    command: Command, recipe_file: Path, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    """By every command that writes into it."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    measured = ["--data", str(text_folders[0]), "--lengths", "64", "--metrics", "perplexity"]
    cases = [[name, "--recipe", str(recipe_file), "--out", "run"] for name in ("extend", "search", "compare")]
    cases += [["export", "run"], ["measure", str(pico_folder), *measured, "--out", "run"]]
    with RunDir("run").locked():
        for arguments in cases:
            result = command(*arguments)
            assert "in use by another process" in assert_one_paragraph(result), arguments
    assert not RunDir("run").scores.exists()


def test_another_recipe_is_refused_with_what_differs(command: Command, recipe_file: Path) -> None:
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    result = command("extend", "--out", "run", "--seed", 41)
    assert "seed" in (paragraph := assert_one_paragraph(result))
    assert "41" in paragraph


def test_searched_text_is_refused(
    command: Command, recipe_file: Path, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    given = ("--factors", "run/factors.json", "--measure-data", text_folders[0], "--lengths", "256")
    result = command("measure", pico_folder, *given, "--metrics", "perplexity")
    assert "no search has seen" in assert_one_paragraph(result)


def test_a_failed_command_leaves_no_run_behind(command: Command) -> None:
    """A slip of the pen must not become a directory."""
    assert_one_paragraph(command("export", "rum"))
    assert not Path("rum").exists()


def test_an_interruption_says_how_to_go_on(
    command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "inspect", interrupt)
    result = command("inspect", pico_folder)
    assert result.code == 130
    assert "the same command goes on from here" in result.err


def test_our_own_faults_are_not_swallowed(recipe_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ValueError from within is no bad input: only our own errors are."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(perplexity, "token_losses", fail)
    monkeypatch.setattr(sys, "argv", ["longrope", "extend", "--recipe", str(recipe_file), "--out", str(tmp_path / "r")])
    with pytest.raises(ValueError, match="a fault of ours"):
        cli.main()
