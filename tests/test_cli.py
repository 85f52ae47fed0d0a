"""The doors: each command once for real, each bad input as one paragraph with exit code 2, our faults with a traceback.

Commands run in this process, since starting torch takes seconds; a few processes of their own show that it is the same.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
import toys
from transformers import AutoModelForCausalLM
from whole_run import make_whole_run

import longrope
from longrope import cli, pipeline
from longrope.data import load_texts
from longrope.engine import compiling
from longrope.evaluation import perplexity
from longrope.models import load_model, read_spec
from longrope.recipe import (
    EvolutionRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    changed,
    dump_recipe,
    load_recipe,
)
from longrope.registry import FORMATS
from longrope.rope import RescaleFactors, baseline_factors, dump_factors, load_factors
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.settings import keys_of
from longrope.tuning import fine_tune


@dataclass(frozen=True)
class Result:
    """What a command has said."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run ``longrope`` with arguments, as its console script does, in an empty directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["longrope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def recipe_file(pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A recipe whose numbers are small enough for a test."""
    evolution = EvolutionRecipe(population=6, parents=3, mutations=3, crossovers=2, generations=3, windows=1)
    search = SearchRecipe(validation_windows=1, evolution=evolution, gradient=GradientRecipe(steps=3, validate_every=2))
    measured = MeasureRecipe(lengths=(64, 256), metrics=("perplexity",), windows=2, tail_tokens=16)
    data, measure_data = ((str(folder),) for folder in text_folders)
    full = Recipe(str(pico_folder), 256, data, measure_data, device="cpu", search=search, measure=measured)
    full = replace(full, export=replace(full.export, drop_start_tokens=True))
    (tmp_path / "recipe.toml").write_text(dump_recipe(full))
    return tmp_path / "recipe.toml"


def table_row(out: str, first: str, title: str = "") -> list[str]:
    """The cells of the row whose first cell this is, in the printed table of this title (or the only one)."""
    rows, shown = [], ""
    for line in out.splitlines():
        shown = line.strip() if line[:1].isalpha() else shown
        if line.startswith("│") and line.split("│")[1].strip() == first and title in shown:
            rows.append(line)
    assert len(rows) == 1, out
    return [cell.strip() for cell in rows[0].strip("│").split("│")]


def assert_shown(out: str, score: Score) -> None:
    """A score with its interval stands in the row of its method, in the table of its metric."""
    if "depth" in score.metric:
        return
    cell = f"{score.value:.4g} ({score.low:.4g}-{score.high:.4g})"
    assert cell in table_row(out, score.source.label, f"{score.metric} (95 % interval)")


def note_recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that ``extend`` is called with from now on; nothing is done with them."""
    begun: list[Recipe] = []

    def extend(full: Recipe, *_: object) -> list[Score]:
        begun.append(full)
        return []

    monkeypatch.setattr(pipeline, "extend", extend)
    return begun


# Each command once


@pytest.mark.usefixtures("unopened")
def test_extend_schedules_prints_and_resumes(command: Command, recipe_file: Path) -> None:
    result = command("extend", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0, result.err
    run = RunDir("run")
    scores = read_records(run.scores, Score)
    (found,) = load_factors(run.factors()).factor_sets
    assert {(score.method, score.chosen_by) for score in scores} == {("none", ""), found.source[:2]}
    for score in scores:
        assert_shown(result.out, score)
    for line in ("factors: run/factors.json", "checkpoint: run/hf", "report: run/report.html"):
        assert line in result.out.splitlines()
    for word in ("load", "search", "measure", "export"):
        assert any(line.startswith(word) for line in result.err.splitlines())
    (entry,) = json.loads(run.provenance.read_text())
    assert entry["command"].startswith("longrope extend --recipe ")
    assert (entry["torch"], entry["device"].split(",")[0]) == (torch.__version__, "cpu")
    rope, (cost,) = json.loads(run.rope.read_text()), json.loads((run.path / "costs.json").read_text())
    assert rope["fingerprint"] == load_factors(run.factors()).factor_sets[0].spec_fingerprint
    assert cost["trials"] == len(read_records(run.trials, Trial))
    page = (run.path / "report.html").read_text()
    for shown in (
        entry["torch"],
        "critical-pair rule",
        "What the searches took",
        "No weight of the model was changed.",
    ):
        assert shown in page
    again = command("extend", "--out", "run", "--json")
    assert again.code == 0
    printed = sorted(json.dumps(score, sort_keys=True) for score in json.loads(again.out))
    assert printed == sorted(json.dumps(asdict(score), sort_keys=True) for score in scores)


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
    assert Path("runs/llama-2k").is_dir()


def test_options_override_the_recipe_file(command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    assert command("extend", "--recipe", recipe_file, "--seed", 9, "--to", "512", "--out", "run").code == 0
    written = load_recipe(recipe_file)
    assert begun == [replace(written, seed=9, target_tokens=512)]


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
    assert "Some of perplexity, passkey, prefix-perplexity, retention, needle, ruler, harness:TASK;" in shown
    assert "without: the original model. " in shown


def test_completion_can_be_shown(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = command("--show-completion", "bash")
    assert result.code == 0, result.err
    assert "_LONGROPE_COMPLETE" in result.out


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_search_writes_factors(command: Command, recipe_file: Path, method: str) -> None:
    result = command("search", "--recipe", recipe_file, "--method", method, "--out", "run")
    assert result.code == 0, result.err
    (factors,) = load_factors("run/factors.json").factor_sets
    assert result.out == f"factors: run/factors.json\nmethod: {factors.source.label}\n"
    assert factors.chosen_by == f"longrope-{method}"
    assert {trial.method for trial in read_records(RunDir("run").trials, Trial)} == {factors.chosen_by}
    again = command("search", "--recipe", recipe_file, "--method", method, "--out", "run", "--json")
    assert json.loads(again.out) == json.loads(Path("run/factors.json").read_text())


def test_measure_prints_what_it_writes(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = read_spec(pico.make_network().config)
    factors = RescaleFactors((1.0, 1.5, 2.0, 4.0), 512, spec.fingerprint, method="longrope-gradient")
    (tmp_path / "factors.json").write_text(dump_factors(factors))
    given = ("measure", pico_folder, "--factors", tmp_path / "factors.json", "--measure-data", text_folders[1])
    result = command(*given, "--lengths", "512,256", "--seed", 5, "--out", "run", "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    lines = [json.loads(line) for line in Path("run/scores.jsonl").read_text().splitlines()]
    assert sorted(map(json.dumps, printed)) == sorted(map(json.dumps, lines))
    assert all(list(score) == [f.name for f in fields(Score)] for score in printed)
    assert {score["factors_fingerprint"] for score in printed} == {factors.fingerprint}
    assert {(score["method"], score["seed"]) for score in printed} == {("longrope-gradient", 5)}
    assert {(score["metric"], score["context_tokens"]) for score in printed} >= {
        (metric, length) for metric in ("perplexity", "passkey", "passkey-depth-0.05") for length in (256, 512)
    }
    table = command("measure", pico_folder, "--data", text_folders[0], "--metrics", "perplexity", "--lengths", "64")
    assert table_row(table.out, "original model")
    assert not Path("runs").exists()
    assert "measure 3 of 3 windows of 64 tokens\n" in table.err


def test_measure_says_what_it_reads_skips_and_lacks(command: Command, pico_folder: Path, tmp_path: Path) -> None:
    """A text that is long enough for one of the three windows, and a file that is none."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "book.txt").write_text(pico.make_text(90))
    (tmp_path / "texts" / "latin.txt").write_bytes("größe".encode("latin-1"))
    text = load_texts([], load_model(pico_folder).tokenizer, measure=[tmp_path / "texts"]).measure
    length, tokens = len(text.tokens) - 1, f"{len(text.tokens):,} tokens"
    given = ("--measure-data", tmp_path / "texts", "--metrics", "perplexity", "--lengths", length)
    result = command("measure", pico_folder, *given)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    read = f"read 1 file: search 0 documents, 0 tokens; tune 0 documents, 0 tokens; measure 1 document, {tokens}"
    assert lines[-3:] == [
        read,
        f"skipped 1 (not UTF-8 text): {tmp_path / 'texts' / 'latin.txt'}",
        f"measure 1 of 3 windows of {length} tokens: the measure text has {tokens}",
    ]


def test_compare_prints_every_method(command: Command, recipe_file: Path) -> None:
    result = command("compare", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0, result.err
    scores = read_records(RunDir("run").scores, Score)
    formulas = {"pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical"}
    methods = {"none", *formulas, "ntk-scan", "longrope-evolution", "longrope-gradient"}
    assert {score.source.known_as for score in scores} == methods
    scores_table, costs_table = re.split(r"^cost\s*$", result.out, flags=re.MULTILINE)
    for score in scores:
        assert_shown(scores_table, score)
    costs = json.loads(Path("run/costs.json").read_text())
    assert [cost["method"] for cost in costs] == ["longrope-evolution", "longrope-gradient", "ntk-scan"]
    for cost in costs:
        assert table_row(costs_table, cost["method"])[1] == f"{cost['trials']:,}"
    Path("run/costs.json").unlink()
    again = command("compare", "--out", "run", "--json")
    assert len(json.loads(again.out)) == len(scores)
    assert json.loads(Path("run/costs.json").read_text()) == costs


def test_export_reopens_the_checkpoint_of_a_run(command: Command, recipe_file: Path) -> None:
    """For real: plain transformers opens it in a process of its own."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    result = command("export", "run", "--factor-sets", "two", "--drop-start-tokens", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report == json.loads(Path("run/export.json").read_text())
    assert (report["factor_sets"], report["target_window"]) == ("two", 256)
    assert 0 <= max(report["difference_short"], report["difference_long"]) < 0.02
    config = json.loads(Path("run/hf/config.json").read_text())
    assert config["rope_parameters"]["long_factor"] == pytest.approx(
        load_factors("run/factors.json").factor_sets[0].lambdas
    )


def test_export_writes_a_gguf_file(command: Command, recipe_file: Path) -> None:
    """For llama.cpp, beside the checkpoint, and opened again; a second one replaces it. By the option's former name."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    for factor_sets in ("single", "two"):
        result = command("export", "run", "--to", "gguf", "--tiers", factor_sets, "--drop-start-tokens", "--json")
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report == json.loads(Path("run/gguf/export.json").read_text())
        assert report["factor_sets"] == factor_sets
        assert 0 <= max(report["difference_short"], report["difference_long"]) < 0.02
    native = load_model("run/gguf/model.gguf", device="cpu").spec.native
    assert native
    assert native.lambdas == pytest.approx(load_factors("run/factors.json").factor_sets[0].lambdas)
    assert command("export", "run", "--to", "gguf", "--drop-start-tokens").out == "checkpoint: run/gguf/model.gguf\n"
    assert not Path("run/hf").exists()


def test_a_format_of_another_package_is_written(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its row alone; without it the format is unknown."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    given = ("export", "run", "--to", "toy", "--drop-start-tokens")
    assert "Known: hf, gguf" in assert_one_paragraph(command(*given))
    monkeypatch.setitem(FORMATS, "toy", toys.FORMAT)
    assert command(*given).out == "checkpoint: run/toy/factors.json\n"
    (factor_set,) = load_factors("run/factors.json").factor_sets
    assert json.loads(Path("run/toy/factors.json").read_text()) == list(factor_set.lambdas)
    assert json.loads(Path("run/toy/export.json").read_text())["target_window"] == 256


def test_inspect_tells_the_geometry(command: Command, tmp_path: Path) -> None:
    """Against the formulas of the papers, written out here; weights are not needed."""
    pico.make_network("stablelm", rope={"rope_theta": 100.0}).config.save_pretrained(tmp_path)
    result = command("inspect", tmp_path, "--to", "256", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    dim = report["rotary_dim"]
    pairs = report.pop("pairs")
    assert report.items() >= {"theta": 100.0, "trained_window": 64, "target_window": 256, "head_dim": 16}.items()
    assert [pair["pair"] for pair in pairs] == list(range(dim // 2))
    for i, pair in enumerate(pairs):
        wavelength = 2 * math.pi * 100 ** (2 * i / dim)
        assert pair["wavelength_tokens"] == pytest.approx(wavelength)
        assert pair["turns_in_window"] == pytest.approx(64 / wavelength)
        assert pair["pi"] == 4
        assert pair["ntk"] == pytest.approx(4 ** (2 * i / (dim - 2)))
        assert 1 <= pair["yarn"] <= 4
        assert pair["ntk-critical"] == pytest.approx(4 ** (i / report["pairs_that_turn_fully"]))
    assert report["pairs_that_turn_fully"] == sum(pair["turns_in_window"] >= 1 for pair in pairs)
    text = command("inspect", tmp_path, "--to", "256").out
    assert f"rotary_dim: {dim}" in text
    assert table_row(text, "yarn")[1:] == [f"{1 + 0.1 * math.log(4):.5g}", "0.1 ln s + 1"]
    assert table_row(text, "0")[1:3] == [f"{2 * math.pi:.5g}", f"{64 / (2 * math.pi):.5g}"]


def test_report_writes_the_page_of_a_run_or_of_several(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the run, where --out says, or here; --open hands the browser the page's own address."""
    opened: list[str] = []

    def show(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", show)
    for name in ("one", "two"):
        make_whole_run(Path(name), trained=False)
    assert command("report", "one") == Result(0, "report: one/report.html\n", "")
    result = command("report", "one", "--out", "pages/one.html", "--json", "--open")
    assert json.loads(result.out) == {"report": "pages/one.html"}
    assert opened == [Path("pages/one.html").resolve().as_uri()]
    assert Path("pages/one.html").read_bytes() == Path("one/report.html").read_bytes()
    assert command("report", "one", "two") == Result(0, "report: comparison.html\n", "")
    assert "2 runs beside each other" in Path("comparison.html").read_text()
    assert not Path("two/report.html").exists()


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_report_refuses_what_is_no_run(command: Command, path: str) -> None:
    """Nothing is left of it."""
    Path("empty").mkdir()
    result = command("report", path)
    assert result.code == 2
    assert result.err.startswith("longrope: ")
    assert "A run directory is needed." in result.err
    assert list(Path().iterdir()) == [Path("empty")]


def test_no_arguments_show_the_commands(command: Command) -> None:
    result = command()
    for name in ("extend", "compare", "search", "measure", "export", "report", "inspect"):
        assert name in result.out + result.err


# Training


QUICKLY = ("--steps", 3, "--batch", 2, "--rate", "1e-3", "--device", "cpu")


def train_by_hand(folder: Path, texts: Path, factors: RescaleFactors, settings: TuneRecipe) -> dict[str, torch.Tensor]:
    """The weights that a command should leave, by the package's own function."""
    model = load_model(str(folder), device="cpu")
    fine_tune(model, factors, load_texts([texts], model.tokenizer).tune, settings=settings)
    return dict(model.network.named_parameters())


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("rank", [0, 2])
def test_tune_trains_at_the_window_of_its_factors(
    rank: int, command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """And exports the checkpoint, whose weights and factors are those of the functions behind it; again is at once."""
    factors = baseline_factors(read_spec(pico.make_network().config), "ntk", 256).factor_sets[0]
    (tmp_path / "factors.json").write_text(dump_factors(factors))
    given = ["tune", pico_folder, "--factors", tmp_path / "factors.json", "--to", "256", "--data", text_folders[0]]
    given += [*QUICKLY, *(("--lora", rank) if rank else ()), "--out", "run"]
    result = command(*given)
    assert result.code == 0, result.err
    assert result.out == "training: run/train.jsonl\ncheckpoint: run/hf\nreport: run/report.html\n"
    assert re.search(r"^tune: about [\d.]+ min, [\d.]+ GiB at the peak", result.err, re.MULTILINE)
    steps = read_records(RunDir("run").train, TrainStep)
    assert [step.num_tokens for step in steps] == [2 * 255] * 3
    assert [step.learning_rate for step in steps] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    settings = TuneRecipe(256, steps=3, batch_windows=2, learning_rate=1e-3, warmup_steps=0, lora_rank=rank)
    expected = train_by_hand(pico_folder, text_folders[0], factors, settings)
    exported = AutoModelForCausalLM.from_pretrained("run/hf")
    for name, weight in exported.named_parameters():
        assert torch.equal(weight, expected[name]), name
    assert exported.config.rope_parameters["long_factor"] == pytest.approx(factors.lambdas)
    assert Path("run/adapter").exists() == bool(rank)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.suffix in (".jsonl", ".safetensors")}
    assert command(*given).out == result.out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("given", [(), ("--lora", 2)], ids=["whole", "adapters"])
def test_extend_with_training_schedules_and_resumes(
    given: tuple[object, ...], command: Command, recipe_file: Path
) -> None:
    """Search, tune, search short factors; the tuned model is measured and exported with its factors."""
    result = command("extend", "--recipe", recipe_file, "--tune", *QUICKLY, *given, "--out", "run")
    assert result.code == 0, result.err
    assert [stage.kind for stage in load_recipe("run/recipe.toml").stages] == ["search", "tune", "short"]
    scores = read_records(RunDir("run").scores, Score)
    assert {score.method for score in scores} == {"none", "longrope-tuned"}
    for score in scores:
        assert_shown(result.out, score)
    (place,) = Path("run/stages").glob("2-tune-*")
    steps = read_records(place / "train.jsonl", TrainStep)
    assert [step.num_tokens for step in steps] == [2 * 255] * 3
    assert (place / "adapter").exists() == bool(given)
    assert [factor_set.target_window for factor_set in load_factors("run/factors.json").factor_sets] == [64, 256]
    again = command("extend", "--out", "run")
    assert (again.code, again.out) == (0, result.out)
    assert again.err.count("(done before)") == 3
    assert read_records(place / "train.jsonl", TrainStep) == steps


def test_options_of_a_training_reach_the_recipe(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm-up keeps its share of the steps, and stages that have steps of their own take those that are given."""
    begun = note_recipes(monkeypatch)
    stages = (Stage(search=256), Stage(tune=256, steps=50))
    own = replace(load_recipe(recipe_file), stages=stages, tune=TuneRecipe(steps=400, warmup_steps=20, short_share=0.2))
    recipe_file.write_text(dump_recipe(own))
    given = ("--steps", 100, "--batch", 3, "--rate", "2e-4", "--lora", 8)
    assert command("extend", "--recipe", recipe_file, *given, "--out", "run").code == 0
    tune = replace(own.tune, steps=100, warmup_steps=5, batch_windows=3, learning_rate=2e-4, lora_rank=8)
    assert begun == [replace(own, tune=tune, stages=(Stage(search=256), Stage(tune=256)))]
    assert command("extend", "--recipe", recipe_file, "--out", "other").code == 0
    assert begun[1] == own


@pytest.mark.parametrize(
    ("preset", "steps", "batch", "rate", "schedule"),
    [("llama2", 400, 32, 2e-5, "linear"), ("mistral", 400, 64, 1e-6, "constant")],
)
def test_presets_are_the_papers(
    preset: str,
    steps: int,
    batch: int,
    rate: float,
    schedule: str,
    command: Command,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Section 4.1 of arXiv 2402.13753; further options override them."""
    begun = note_recipes(monkeypatch)
    given = ("extend", "--recipe", recipe_file, "--tune", "--preset", preset, "--out", "run")
    assert command(*given).code == 0
    tune = begun[0].tune
    assert (tune.steps, tune.batch_windows, tune.learning_rate, tune.schedule) == (steps, batch, rate, schedule)
    assert command(*given, "--batch", 4).code == 0
    assert begun[1].tune == replace(tune, batch_windows=4)


# The bundled model


def next_commands(result: Result) -> list[str]:
    """The commands that a person is told to type next."""
    return [line.split()[1] for line in result.out.splitlines() if line.startswith("  longrope ")]


def test_extend_without_arguments_takes_the_embedded_recipe(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend")
    assert result.code == 0, result.err
    assert begun == [load_recipe(cli.DEFAULT_RECIPE)]
    assert (begun[0].model, begun[0].target_tokens, begun[0].data) == ("nano", 2048, ("stdlib",))
    assert [path.name for path in Path("runs").iterdir()] == ["nano-2k"]
    assert next_commands(result) == ["inspect", "extend", "compare"]
    assert "report: runs/nano-2k/report.html" in result.out.splitlines()


def test_the_next_commands_are_ones_that_work(
    command: Command,
    pico_folder: Path,
    text_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is typed as it was printed, with a model and texts of one's own in it."""
    begun = note_recipes(monkeypatch)
    monkeypatch.setattr(pipeline, "compare", pipeline.extend)
    own = {"MODEL": pico_folder, "books/": text_folders[0], "other-books/": text_folders[1]}
    lines = [line for line in command("extend").out.splitlines() if line.startswith("  longrope ")]
    for line in lines:
        result = command(*(own.get(word, word) for word in line.split()[1:]))
        assert result.code == 0, result.err
        assert next_commands(result) == []
    assert [full.target_tokens for full in begun] == [2048, 65536, 65536]
    assert {full.measure_data for full in begun[1:]} == {(str(text_folders[1]),)}


def test_extend_by_default_prints_json_alone_when_asked(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend", "--json")
    assert (result.code, json.loads(result.out)) == (0, [])
    assert begun == [load_recipe(cli.DEFAULT_RECIPE)]


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        (("--seed", 3), {"seed": 3}),
        (("--device", "cpu"), {"device": "cpu"}),
        (("--compile",), {"compiled": True}),
        (("--dtype", "bfloat16"), {"dtype": "bfloat16"}),
    ],
)
def test_the_default_is_taken_with_another_setting(
    given: tuple[object, ...], changes: dict[str, object], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend", *given)
    assert result.code == 0, result.err
    assert [asdict(full) for full in begun] == [asdict(load_recipe(cli.DEFAULT_RECIPE)) | changes]
    assert next_commands(result) == ["inspect", "extend", "compare"]


def test_half_a_run_of_ones_own_is_not_the_default(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a window, texts or a model means their own; what is missing is named, and nothing begins."""
    begun = note_recipes(monkeypatch)
    cases = {
        ("--to", "64k"): "MODEL and --data are missing",
        ("--data", "books"): "MODEL and --to are missing",
        ("model",): "--to and --data are missing",
    }
    for given, words in cases.items():
        assert words in assert_one_paragraph(command("extend", *given))
    assert begun == []
    assert not Path("runs").exists()


def test_a_recipe_of_ones_own_is_followed_by_no_advice(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_recipes(monkeypatch)
    result = command("extend", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0
    assert next_commands(result) == []


# Bad input


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


def assert_one_paragraph(result: Result) -> str:
    """Exit code 2, nothing on stdout, and after the lines of progress one paragraph, which is returned."""
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    *before, paragraph = result.err.splitlines()
    assert paragraph.startswith("longrope: ")
    assert not any(line.startswith("longrope: ") for line in before)
    assert paragraph.count(". ") >= 2, "found, needed, remedy"
    return paragraph


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


# In processes of their own

SANDBOX = """
import sys, types
fake = types.ModuleType("longrope.pipeline")
def inspect(*_): raise ValueError("a fault of ours")
fake.inspect = inspect
import longrope
sys.modules["longrope.pipeline"] = longrope.pipeline = fake
from longrope.cli import main
sys.argv = ["longrope", "inspect", "model"]
main()
"""
HELP = """
import sys
from longrope.cli import main
for arguments in ["--help"], ["extend", "--help"], ["measure", "--help"], ["export", "--help"]:
    sys.argv = ["longrope", *arguments]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start Python with these arguments."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def end(process: subprocess.Popen[str]) -> Result:
    """Wait for what a process has said."""
    out, err = process.communicate()
    return Result(process.returncode, out, err)


def test_help_does_not_load_torch() -> None:
    result = end(start("-c", HELP))
    assert result.err.splitlines() == ["0 []"] * 4
    assert "--measure-data" in result.out
    assert "perplexity" in result.out


def test_our_own_fault_ends_with_a_traceback_and_code_1() -> None:
    result = end(start("-c", SANDBOX))
    assert (result.code, result.out) == (1, "")
    assert "Traceback (most recent call last)" in result.err
    assert result.err.rstrip().endswith("ValueError: a fault of ours")


def test_the_module_is_the_command(pico_folder: Path, tmp_path: Path) -> None:
    """One good command and one bad one for real, by ``python -m longrope``."""
    good = start("-m", "longrope", "inspect", str(pico_folder), "--json")
    failing = start("-m", "longrope", "inspect", str(tmp_path / "nothing"))
    result = end(good)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["trained_window"] == 64
    assert "nothing" in assert_one_paragraph(end(failing))
