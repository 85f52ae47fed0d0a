"""Options, settings by key, help and completion of the command line."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Command, Result, note_recipes

import longrope
from longrope.cli import options
from longrope.errors import RecipeError
from longrope.metrics import METRICS
from longrope.recipe import Recipe, Stage, changed, dump_recipe, load_recipe
from longrope.settings import keys_of


def test_extend_needs_no_recipe_file(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option reaches the recipe, and the run directory has a name of its own."""
    begun = note_recipes(monkeypatch)
    search, measured = text_folders
    result = command(
        *("extend", pico_folder, "--to", "2k", "--data", search, "--data", measured, "--measure-data", measured),
        *("--method", "evolution", "--lengths", "64,1k,2_048", "--metrics", "passkey", "--seed", "7"),
        *("--device", "cpu", "--dtype", "bfloat16"),
    )
    assert result.code == 0, result.err
    (full,) = begun
    assert (full.model, full.target_tokens, full.seed) == (str(pico_folder), 2048, 7)
    assert (full.data, full.measure_data) == ((str(search), str(measured)), (str(measured),))
    assert (full.search.method, full.device, full.dtype) == ("evolution", "cpu", "bfloat16")
    assert (full.measure.lengths, full.measure.metrics) == ((64, 1024, 2048), ("passkey",))
    assert full.measure.baselines == ("yarn", "ntk-critical")
    assert Path("runs/llama-2k").is_dir()


def test_a_run_that_has_begun_keeps_its_baselines(command: Command, pico_folder: Path) -> None:
    """Those of its recipe, whatever is measured by default; --set names others."""
    given: dict[str, Any] = {"model": str(pico_folder), "to": "2k", "data": ["books"], "recipe": None}
    run = Path("runs/llama-2k")
    run.mkdir(parents=True)
    earlier = Recipe(str(pico_folder), 2048, ("books",))
    (run / "recipe.toml").write_text(dump_recipe(earlier))
    for out in (None, run):
        assert options.prepare(**given, out=out, compared=options.COMPARED) == (earlier, run)
    named, _ = options.prepare(
        **given, out=Path("new"), compared=options.COMPARED, assignments=["measure.baselines=pi"]
    )
    assert named.measure.baselines == ("pi",)
    assert options.prepare(**given, out=Path("new"))[0] == earlier, "other commands have none by default"


def test_a_run_that_has_begun_completes_the_options(command: Command, pico_folder: Path) -> None:
    """They were taken for a new run that lacks the others; a model that was moved is told what to do."""
    earlier = Recipe(str(pico_folder), 2048, ("books",))
    Path("run").mkdir()
    Path("run/recipe.toml").write_text(dump_recipe(earlier))
    known: dict[str, Any] = {"recipe": None, "out": Path("run")}
    assert options.prepare(**known, model=str(pico_folder)) == (earlier, Path("run"))
    assert options.prepare(**known, model=str(pico_folder), data=["books"]) == (earlier, Path("run"))
    moved = command("extend", "moved", "--out", "run")
    assert moved.code == 2
    assert f"model = 'moved' (was '{pico_folder}')" in moved.err
    assert "a link is needed at the old path" in moved.err


def test_options_override_the_recipe_file(command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    assert command("extend", "--recipe", recipe_file, "--seed", 9, "--to", "512", "--out", "run").code == 0
    written = load_recipe(recipe_file)
    assert begun == [replace(written, seed=9, target_tokens=512)]


def given_over(recipe: Recipe, **given: Any) -> Recipe:
    return options.overridden(recipe, given)


def test_options_and_settings_are_checked_together() -> None:
    """Neither without the other would be right; --set has the last word."""
    recipe = Recipe("nano", 512, ("books",))
    evaluated = given_over(recipe, metrics="longppl", assignments=["measure.evaluator=nano"])
    assert (evaluated.measure.metrics, evaluated.measure.evaluator) == (("longppl",), "nano")
    by_formula = given_over(recipe, method="yarn", assignments=["search.attention_factor=1.1"])
    search = given_over(by_formula, method="gradient", assignments=["search.attention_factor=0"]).search
    assert (search.method, search.attention_factor) == ("gradient", 0)
    assert given_over(recipe, seed=3, assignments=["seed=4"]).seed == 4
    with pytest.raises(RecipeError, match="longppl"):
        given_over(recipe, metrics="longppl")


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B-8k"),
        ("models/model.Q4_K_M.gguf", "model.Q4_K_M-8k"),
        (".", "here-8k"),
        ("..", "above-8k"),
    ],
)
def test_a_run_has_the_whole_name_of_its_model(
    model: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "above" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "here")
    _, place = options.prepare(model=model, to="8k", data=["books"], recipe=None, out=None)
    assert place == Path("runs") / folder


ASSIGNED: dict[str, tuple[str, object]] = {  # a text for each kind of value, and what it stands for
    "search.gradient.steps": ("40", 40),
    "search.gradient.learning_rate": ("1", 1.0),
    "search.gradient.start": ("yarn", "yarn"),
    "search.tail_tokens": ("1k", 1024),
    "seed": ("0", 0),
    "compiled": ("true", True),
    "measure.lengths": ("64, 1k", (64, 1024)),
    "measure.baselines": ("pi,yarn", ("pi", "yarn")),
    "measure.qa_data": ("", ""),
    "tune.clip_norm": ("inf", math.inf),
    "target_tokens": ("512", 512),
    "stages": ('[{ search = "512" }, { tune = 256, steps = 40 }]', (Stage(search=512), Stage(tune=256, steps=40))),
}


def test_any_setting_can_be_set_by_its_key(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as the setting is, over the recipe file and the options."""
    begun = note_recipes(monkeypatch)
    texts = [text for key, (value, _) in ASSIGNED.items() for text in ("--set", f"{key}={value}")]
    result = command("extend", "--recipe", recipe_file, "--seed", 7, "--out", "run", *texts)
    assert result.code == 0, result.err
    for key, (_, value) in ASSIGNED.items():
        found: Any = begun[0]
        for part in key.split("."):
            found = getattr(found, part)
        assert (type(found), found) == (type(value), value), key
    assert begun[0].search.evolution == load_recipe(recipe_file).search.evolution, "what is not named stays"


@pytest.mark.parametrize("key", [key for key, _ in keys_of(Recipe)])
def test_every_setting_takes_the_text_of_its_default(key: str) -> None:
    """So each of them can be given on the command line."""
    full = Recipe("m", 512, ("books",))
    value: Any = full
    for part in key.split("."):
        value = getattr(value, part)
    text = "[]" if key == "stages" else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert changed(full, [f"{key}={text.lower() if isinstance(value, bool) else text}"]) == full


def test_version_is_printed(command: Command) -> None:
    assert command("--version") == Result(0, f"longrope {longrope.__version__}\n", "")


@pytest.mark.parametrize("name", ["extend", "search", "tune", "measure"])
def test_help_shows_the_defaults_of_the_settings(command: Command, name: str) -> None:
    shown = " ".join(command(name, "--help").out.split())
    defaults = {"--seed": "0", "--device": "auto", "--dtype": "auto", "--set": None}
    defaults |= {"--rate": "2e-05", "--batch": "32"} if name == "tune" else {}
    defaults |= {"--metrics": "perplexity,passkey"} if name == "measure" else {}
    for flag, default in defaults.items():
        described = shown.split(f"{flag} ", 1)[1].split(" --", 1)[0]
        assert default is None or f"[default: ({default})]" in described, flag


def test_help_of_measure_names_what_can_be_measured(command: Command) -> None:
    """The metrics that can be asked for, not parts of others; and what is measured without factors."""
    shown = " ".join(command("measure", "--help").out.split())
    *names, last = shown.split("Some of ")[1].split(";")[0].split(", ")
    assert {"perplexity", "passkey", "prefix-perplexity", "retention", "needle", "ruler"} <= set(names) <= set(METRICS)
    assert last == "harness:TASK"
    assert "without this option, the original model. " in shown


def test_completion_can_be_shown(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = command("--show-completion", "bash")
    assert result.code == 0, result.err
    assert "_LONGROPE_COMPLETE" in result.out


def test_no_arguments_show_the_commands(command: Command) -> None:
    result = command()
    for name in ("extend", "compare", "search", "measure", "export", "report", "inspect"):
        assert name in result.out + result.err
