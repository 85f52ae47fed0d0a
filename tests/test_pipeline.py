"""The run, whole and interrupted: whatever happens in between, the end is the same.

A whole run is the oracle of every broken one: its factors byte by byte, its trials, its scores, its checkpoint.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import toys
from huggingface_hub import ModelCard
from measuring import brute_losses
from transformers import AutoModelForCausalLM

from longrope import pipeline
from longrope.data import load_texts
from longrope.engine import passes
from longrope.errors import ExportError, LongRopeError, RunError, TextsError
from longrope.evaluation import Evaluation, passkey, perplexity, statistics
from longrope.evaluation.metric import Subject
from longrope.exports import hf
from longrope.labels import Source
from longrope.models import load_model
from longrope.pipeline import (
    Callbacks,
    Session,
    compare,
    export_again,
    exporting,
    extend,
    extension,
    measure_only,
    plan_tasks,
    run_tasks,
    search_costs,
)
from longrope.recipe import (
    EvolutionRecipe,
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    dump_recipe,
)
from longrope.registry import METHODS as METHOD_ROWS
from longrope.report import score_tables
from longrope.rope import baseline_factors, load_factors
from longrope.runs import run_dir
from longrope.runs.records import Score, Trial, append_records, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors
from longrope.search import score as search_score
from longrope.search.cost import compare_costs

METHODS = ("gradient", "evolution")
FORMULAS = ("pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical")
SCAN, GRADIENT = "ntk-scan", "longrope-gradient"
TARGET = 256


class InterruptError(Exception):
    """What stands in for a killed process."""


@dataclass
class Countdown:
    """Raise at the call of this number; let everything else through to the function that it stands before."""

    calls_left: int
    function: Callable[..., Any] = lambda *_, **__: None
    counts: Callable[..., bool] = lambda *_, **__: True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Count down, raise at nought, go through otherwise."""
        self.calls_left -= self.counts(*args, **options)
        if self.calls_left == 0:
            raise InterruptError
        return self.function(*args, **options)


@pytest.fixture(scope="module")
def recipe(pico_folder: Path, text_folders: tuple[Path, Path]) -> Recipe:
    """A whole run in a second."""
    evolution = EvolutionRecipe(population=5, parents=3, mutations=2, crossovers=2, generations=2, windows=1)
    return Recipe(
        str(pico_folder),
        TARGET,
        (str(text_folders[0]),),
        (str(text_folders[1]),),
        seed=3,
        device="cpu",
        search=SearchRecipe(
            validation_windows=1, evolution=evolution, gradient=GradientRecipe(steps=4, validate_every=2)
        ),
        measure=MeasureRecipe(lengths=(TARGET,), windows=2, tail_tokens=16, passkeys=10),
        export=ExportRecipe(drop_start_tokens=True),
    )


def by_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with this search."""
    return replace(recipe, search=replace(recipe.search, method=method))


@dataclass(frozen=True)
class Outcome:
    """What a finished run holds, without its wall clock."""

    factors: bytes
    trials: list[Trial]
    scores: set[str]
    report: dict[str, Any]
    config: dict[str, Any]


def outcome(run: RunDir) -> Outcome:
    """Read a finished run."""
    assert not list(run.path.glob("*.partial"))
    return Outcome(
        run.factors().read_bytes(),
        [replace(trial, seconds=0.0) for trial in read_records(run.trials, Trial)],
        written_scores(read_records(run.scores, Score)),
        json.loads(run.export_report.read_text()),
        json.loads((run.checkpoint / "config.json").read_text()),
    )


def written_scores(scores: list[Score]) -> set[str]:
    """Every distinct score as it is printed, without its wall clock."""
    return {json.dumps(asdict(replace(score, seconds=0.0))) for score in scores}


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """Cold runs of both methods, unbroken; the checkpoint is not reopened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "_compare", lambda *_: [(0.0, 0.0), (0.0, 0.0)])
        runs = {method: RunDir(tmp_path_factory.mktemp("whole") / method) for method in METHODS}
        for method, run in runs.items():
            extend(by_method(recipe, method), run)
        yield {method: outcome(run) for method, run in runs.items()}


# The run


def test_a_cold_run_leaves_every_artifact_and_tells_of_its_steps(recipe: Recipe, tmp_path: Path) -> None:
    """With the checkpoint really reopened, in plain transformers, in another process."""
    run, steps = RunDir(tmp_path / "run"), list[str]()
    trials = list[Trial]()
    returned = extend(recipe, run, Callbacks(on_trial=trials.append, on_step=steps.append))
    assert [score.method for score in returned] == ["none"] * 13 + ["longrope-gradient"] * 13
    assert written_scores(read_records(run.scores, Score)) == written_scores(returned)
    assert read_records(run.trials, Trial) == trials
    assert run.recipe() == recipe
    assert [step.split()[0] for step in steps] == [
        *("load", "device", "read", "read", "measure", "measure", "search", "measure", "export", "report:")
    ]
    texts = load_texts(recipe.data, load_model(recipe.model).tokenizer, measure=recipe.measure_data)
    assert steps[3:4] == texts.report.lines()
    assert steps[4].startswith(
        f"measure {recipe.measure.windows} of {recipe.measure.windows} windows of {TARGET} tokens"
    )
    (factors,) = load_factors(run.factors()).factor_sets
    assert factors == load_factors(run.factors("longrope-gradient")).factor_sets[0]
    assert (factors.target_window, factors.method) == (TARGET, "longrope-gradient")
    report = json.loads(run.export_report.read_text())
    assert report["target_window"] == TARGET
    assert max(report["difference_short"], report["difference_long"]) < 0.02
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert network.config.max_position_embeddings == TARGET
    assert network.config.rope_parameters["long_factor"] == pytest.approx(factors.lambdas)


def test_the_trained_window_and_the_target_are_measured_by_default(
    recipe: Recipe, tmp_path: Path, unopened: None
) -> None:
    settings = MeasureRecipe(metrics=("perplexity",), windows=1, tail_tokens=0)
    scores = extend(replace(recipe, measure=settings), RunDir(tmp_path))
    measured = [(score.method, score.context_tokens) for score in scores]
    assert measured == [(m, n) for m in ("none", "longrope-gradient") for n in (64, TARGET)]


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_decided_by_its_recipe(method: str, recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path) -> None:
    extend(by_method(recipe, method), RunDir(tmp_path / "again"))
    assert outcome(RunDir(tmp_path / "again")) == whole[method]


# Rivals beside an extension


@pytest.fixture(scope="module")
def beside(recipe: Recipe) -> Recipe:
    """The run with two baselines, at two lengths."""
    settings = MeasureRecipe(
        lengths=(TARGET, 64), metrics=("perplexity",), windows=2, tail_tokens=16, baselines=("pi", "yarn")
    )
    return replace(recipe, measure=settings)


def best_baseline(scores: list[Score]) -> Score:
    """The perplexity at the longest length of the baseline where it is least."""
    last = [s for s in scores if s.metric == "perplexity" and s.context_tokens == TARGET and s.method in FORMULAS]
    return min(last, key=lambda score: score.value)


@pytest.mark.usefixtures("unopened")
def test_an_extension_is_measured_beside_its_baselines(beside: Recipe, tmp_path: Path) -> None:
    """The ratio to the best of them is that of the two perplexities in the same file."""
    run = RunDir(tmp_path)
    scores = extend(beside, run)
    *measured, ratio = scores
    assert list(dict.fromkeys(score.method for score in scores)) == ["none", "pi", "yarn", "longrope-gradient"]
    wanted = {
        (m, n, k)
        for m in ("none", "pi", "yarn", "longrope-gradient")
        for n in (64, TARGET)
        for k in ("perplexity", "perplexity-last-16")
    }
    keys = [(score.method, score.context_tokens, score.metric) for score in measured]
    assert set(keys) == wanted
    assert len(keys) == len(wanted)
    best = best_baseline(measured)
    (own,) = [
        s for s in measured if (s.method, s.context_tokens, s.metric) == ("longrope-gradient", TARGET, "perplexity")
    ]
    assert (ratio.metric, ratio.method) == (f"ratio-to-{best.method}", "longrope-gradient")
    assert ratio.value == pytest.approx(own.value / best.value)
    assert ratio.low <= ratio.value <= ratio.high
    assert (ratio.context_tokens, ratio.num_tokens, ratio.seed) == (TARGET, own.num_tokens, beside.seed)
    assert ratio.texts_fingerprint == own.texts_fingerprint == best.texts_fingerprint
    assert ratio.factors_fingerprint == own.factors_fingerprint
    assert written_scores(read_records(run.scores, Score)) == written_scores(scores)


@pytest.mark.usefixtures("unopened")
def test_an_extension_is_measured_beside_methods_of_every_kind(
    beside: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that changes attention and one that changes weights are one row each; table, page and card show them."""
    for row in (toys.ATTENTION, toys.WEIGHTS):
        monkeypatch.setitem(METHOD_ROWS, row.name, row)
    run, names = RunDir(tmp_path), (toys.ATTENTION.name, toys.WEIGHTS.name)
    settings = replace(beside.measure, baselines=names, metrics=("perplexity", "prefix-perplexity"), tail_tokens=0)
    scores = extend(replace(beside, measure=settings), run)
    found = {(s.method, s.metric, s.context_tokens): s.value for s in scores}
    model = load_model(beside.model, device="cpu")
    text = load_texts(beside.data, model.tokenizer, measure=beside.measure_data).measure
    for length in (64, TARGET):
        windows = text.windows(TARGET, 2)
        pieces, first = text.divided(windows, length), windows[:, :length]
        with toys.sharpened(model, length):
            sharp = [statistics.perplexity(brute_losses(model, None, some)) for some in (pieces, first)]
        half = brute_losses(toys.with_smaller_logits(model, TARGET), None, pieces)
        assert found["toy-attention", "perplexity", length] == pytest.approx(sharp[0], rel=1e-5)
        assert found["toy-attention", "prefix-perplexity", length] == pytest.approx(sharp[1], rel=1e-5)
        assert found["toy-weights", "perplexity", length] == pytest.approx(statistics.perplexity(half), rel=1e-5)
        assert len({found[name, "perplexity", length] for name in ("none", *names)}) == 3
    best = min(names, key=lambda name: found[name, "perplexity", TARGET])
    assert scores[-1].metric == f"ratio-to-{best}"
    label = METHOD_ROWS[best].label
    assert f"| {label} |" in (run.checkpoint / "README.md").read_text()
    page = (run.path / "report.html").read_text()
    (table, *_) = score_tables(scores)
    assert {toys.ATTENTION.label, toys.WEIGHTS.label} <= {row[0] for row in table.rows}
    assert toys.ATTENTION.label in page
    assert toys.WEIGHTS.label in page


@pytest.mark.usefixtures("unopened")
def test_an_extension_is_measured_beside_a_scan(beside: Recipe, tmp_path: Path) -> None:
    """It is a baseline like the formulas: the last ratio is to it, and the card has its column."""
    run, lines = RunDir(tmp_path), list[str]()
    settings = replace(beside.measure, baselines=(SCAN,), scan_passes=60)
    scores = extend(replace(beside, measure=settings), run, Callbacks(on_step=lines.append))
    scanned = load_factors(run.factors(SCAN)).factor_sets[0]
    measured = dict.fromkeys(score.source for score in scores)
    assert list(measured) == [Source("none"), scanned.source, Source(GRADIENT, GRADIENT)]
    values = {s.source: s.value for s in scores if (s.metric, s.context_tokens) == ("perplexity", TARGET)}
    assert scores[-1].metric == f"ratio-to-{scanned.method}"
    assert scores[-1].value == pytest.approx(values[scores[-1].source] / values[scanned.source])
    assert f"| {scanned.source.label} |" in (run.checkpoint / "README.md").read_text()
    page = (run.path / "report.html").read_text()
    messages = json.loads(run.scan.read_text())
    assert f"took {messages['passes']} window passes of a budget of 60" in page
    assert [line for line in lines if line.startswith(SCAN)] == [line for line in lines if "budget of 60" in line] != []
    assert {trial.method for trial in read_records(run.trials, Trial)} == {SCAN, GRADIENT}


@pytest.mark.usefixtures("unopened")
def test_a_baseline_that_the_search_chose_is_measured_and_compared_beside_itself(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that found nothing better than PI, by hand: PI has its row, and what was chosen another one."""
    spec = load_model(recipe.model, device="cpu").spec
    chosen = replace(baseline_factors(spec, "pi", TARGET).factor_sets[0], chosen_by="longrope-gradient")
    monkeypatch.setattr(extension, "find_factors", lambda *_, **__: chosen)
    settings = replace(recipe.measure, metrics=("perplexity",), tail_tokens=0, baselines=("pi", "ntk", "yarn"))
    run = RunDir(tmp_path)
    full = replace(recipe, measure=settings)
    scores = extend(full, run)
    (factors,) = load_factors(run.factors()).factor_sets
    assert factors == chosen
    own = [score for score in scores if score.chosen_by]
    assert [(s.method, s.metric) for s in own] == [
        (factors.method, "perplexity"),
        (factors.method, f"ratio-to-{best_baseline([s for s in scores if not s.chosen_by]).method}"),
    ]
    (same,) = [s for s in scores if s.method == factors.method and not s.chosen_by]
    assert (same.value, same.factors_fingerprint) == (own[0].value, factors.fingerprint)
    assert scores == extend(full, run)
    assert f"Method: {own[0].source.label};" in (run.checkpoint / "README.md").read_text()


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("best", ["pi", "yarn"])
def test_the_best_baseline_is_the_one_at_the_longest_length(
    best: str, beside: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perplexities are set by hand: whoever wins at the longest length loses at the shorter one and over the tail."""
    worst = {"pi": "yarn", "yarn": "pi"}[best]
    real = Evaluation.measure

    def measure(self: Evaluation, subject: Subject) -> list[Score]:
        scores = []
        for score in real(self, subject):
            favourite = best if (score.context_tokens, score.metric) == (TARGET, "perplexity") else worst
            scores.append(replace(score, value=2.0 if score.method == favourite else 3.0))
        return scores

    monkeypatch.setattr(Evaluation, "measure", measure)
    scores = extend(beside, RunDir(tmp_path))
    assert [score.metric for score in scores if score.metric.startswith("ratio")] == [f"ratio-to-{best}"]


@pytest.mark.usefixtures("unopened")
def test_a_resumed_extension_with_baselines_adds_no_line(beside: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = extend(beside, run)
    lines, report = read_lines(run.scores), (run.path / "report.html").read_bytes()
    assert len(lines) == 4 * 2 * 2 + 1
    assert written_scores(extend(beside, run)) == written_scores(first)
    assert read_lines(run.scores) == lines
    assert (run.path / "report.html").read_bytes() == report


@pytest.mark.usefixtures("unopened")
def test_a_run_of_an_earlier_version_is_resumed(beside: Recipe, tmp_path: Path) -> None:
    """Its scores do not say what was resampled, and its samples had other names: no score is measured again."""
    run = RunDir(tmp_path)
    first = extend(beside, run)
    lines = [json.loads(line) for line in read_lines(run.scores)]
    old = "".join(json.dumps({k: v for k, v in line.items() if k != "resampled"}) + "\n" for line in reversed(lines))
    run.scores.write_text(old)
    shutil.rmtree(run.path / "samples")
    again = extend(beside, run)
    assert run.scores.read_text() == old
    assert written_scores([replace(score, resampled="") for score in first]) == written_scores(again)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("groups", [3, 7, 8])
def test_an_extension_with_baselines_that_was_interrupted_ends_as_a_whole_one(
    groups: int, beside: Recipe, tmp_path: Path
) -> None:
    """The power goes in the middle of a baseline, of our own scores, and before the ratio; a metric has two scores."""
    expected = extend(beside, RunDir(tmp_path / "whole"))
    run = RunDir(tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "append_records", Countdown(groups + 1, append_records))
        with pytest.raises(InterruptError):
            extend(beside, run)
    assert len(read_lines(run.scores)) == 2 * groups
    assert not (run.path / "report.html").exists()
    assert written_scores(extend(beside, run)) == written_scores(expected)
    assert written_scores(read_records(run.scores, Score)) == written_scores(expected)
    assert len(read_lines(run.scores)) == len(expected)
    assert outcome(run) == outcome(RunDir(tmp_path / "whole"))


@pytest.mark.usefixtures("unopened")
def test_the_report_is_written_and_reported_of_last(beside: Recipe, tmp_path: Path) -> None:
    run, steps = RunDir(tmp_path), list[str]()
    scores = extend(beside, run, Callbacks(on_step=steps.append))
    assert steps[-1] == f"report: {run.path / 'report.html'}"
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for score in scores:
        assert f"{score.value:.4g} ({score.low:.4g}-{score.high:.4g})" in page


@pytest.mark.usefixtures("unopened")
def test_without_perplexity_there_is_no_ratio(beside: Recipe, tmp_path: Path) -> None:
    settings = replace(beside.measure, lengths=(TARGET,), metrics=("passkey",), passkeys=10)
    scores = extend(replace(beside, measure=settings), RunDir(tmp_path))
    assert {score.method for score in scores} == {"none", "pi", "yarn", "longrope-gradient"}
    assert {score.metric.split("-")[0] for score in scores} == {"passkey"}


@pytest.mark.usefixtures("unopened")
def test_without_baselines_there_is_no_ratio(beside: Recipe, tmp_path: Path) -> None:
    scores = extend(replace(beside, measure=replace(beside.measure, baselines=())), RunDir(tmp_path))
    assert {score.method for score in scores} == {"none", "longrope-gradient"}
    assert {score.metric for score in scores} == {"perplexity", "perplexity-last-16"}


# Interrupted


def interrupted_in_search(count: int) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """After so many evaluations."""
    return lambda _: Callbacks(on_trial=Countdown(count))


def interrupted_at_file(name: str) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """When this file was about to be written."""

    def arrange(patch: pytest.MonkeyPatch) -> Callbacks:
        write = RunDir.write_text
        named = Countdown(1, write, counts=lambda _self, path, _text: path.name == name)

        def write_or_raise(run: RunDir, path: Path, text: str) -> None:  # a function, so that it is bound to the run
            named(run, path, text)

        patch.setattr(RunDir, "write_text", write_or_raise)
        return Callbacks()

    return arrange


def interrupted_in(module: Any, name: str, count: int = 1) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """At this call of a function."""

    def arrange(patch: pytest.MonkeyPatch) -> Callbacks:
        patch.setattr(module, name, Countdown(count, getattr(module, name)))
        return Callbacks()

    return arrange


def interrupted_in_a_half_written_checkpoint(patch: pytest.MonkeyPatch) -> Callbacks:
    """The config is there, the weights are not."""

    def write_half(_: Any, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise InterruptError

    patch.setattr(hf, "save_model", write_half)
    return Callbacks()


MOMENTS: dict[str, Callable[[pytest.MonkeyPatch], Callbacks]] = {
    "in the first evaluation": interrupted_in(search_score, "token_losses"),
    "after one trial": interrupted_in_search(1),
    "after seven trials": interrupted_in_search(7),
    "in a later evaluation": interrupted_in(search_score, "token_losses", 8),
    "before factors of the search": interrupted_at_file("factors-longrope-{method}.json"),
    "before factors of the run": interrupted_at_file("factors.json"),
    "in perplexity": interrupted_in(perplexity, "token_losses", 2),
    "in passkeys": interrupted_in(passkey, "greedy_answers", 13),
    "after two scores": interrupted_in(run_dir, "append_records", 2),
    "after fifteen scores": interrupted_in(run_dir, "append_records", 4),
    "in the checkpoint": interrupted_in_a_half_written_checkpoint,
    "while reopening": interrupted_in(hf, "_compare"),
    "before the report": interrupted_at_file("export.json"),
}


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_interrupted_at_any_moment_ends_as_a_whole_one(
    method: str, moment: str, recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    run, full = RunDir(tmp_path / "run"), by_method(recipe, method)
    arrange = MOMENTS[moment]
    if moment == "before factors of the search":
        arrange = interrupted_at_file(f"factors-longrope-{method}.json")
    with pytest.MonkeyPatch.context() as patch:
        watch = arrange(patch)
        with pytest.raises(InterruptError):
            extend(full, run, watch)
    assert not run.export_report.exists()
    assert run.checkpoint.exists() == (moment == "before the report")
    returned = extend(full, RunDir(tmp_path / "run"))
    assert outcome(run) == whole[method]
    assert written_scores(returned) == whole[method].scores


@pytest.mark.usefixtures("unopened")
def test_a_run_interrupted_again_and_again_ends_as_a_whole_one(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    """Fourteen writes are let through each time, then the power goes: work in hand is lost, no more, so it ends."""
    run, rounds = RunDir(tmp_path), 0
    writes = len(whole["gradient"].trials) + 8  # for two metrics of two methods: samples and scores
    while not run.export_report.exists():
        assert rounds <= writes / 3
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", Countdown(15, os.fsync))
            with contextlib.suppress(InterruptError):
                extend(recipe, run)
        rounds += 1
    assert outcome(run) == whole["gradient"]
    assert rounds >= writes / 14


@pytest.mark.usefixtures("unopened")
def test_a_killed_process_is_resumed(recipe: Recipe, tmp_path: Path) -> None:
    """SIGKILL in the middle of a search, of a real command in a process of its own."""
    gradient = GradientRecipe(steps=80, validate_every=20)
    full = replace(recipe, search=replace(recipe.search, gradient=gradient))
    (tmp_path / "recipe.toml").write_text(dump_recipe(full))
    run, reference = RunDir(tmp_path / "run"), RunDir(tmp_path / "whole")
    command = [sys.executable, "-m", "longrope", "extend", "--recipe", str(tmp_path / "recipe.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--out", str(run.path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(read_lines(run.trials)) < 10:
        time.sleep(0.002)
    process.kill()
    _, messages = process.communicate()
    extend(full, reference)
    assert process.returncode == -signal.SIGKILL, messages
    left = len(read_lines(run.trials))
    assert 10 <= left < len(read_lines(reference.trials))
    assert not run.factors().exists()
    extend(full, run)
    assert outcome(run) == outcome(reference)


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that somebody else is writing."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@pytest.mark.usefixtures("unopened")
def test_a_finished_run_is_only_read(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    first = extend(recipe, run)
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    for module, name in ((search_score, "token_losses"), (perplexity, "token_losses"), (passkey, "greedy_answers")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(exporting, "export_hf", never)
    again = extend(recipe, run)
    assert written_scores(again) == written_scores(first)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == files


# Refusals


def test_another_recipe_is_refused_and_nothing_changes(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(InterruptError):
        extend(recipe, run, Callbacks(on_trial=Countdown(3)))
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    others = [
        replace(recipe, seed=4),
        replace(recipe, target_tokens=512),
        by_method(recipe, "evolution"),
        replace(recipe, measure=replace(recipe.measure, windows=1)),
    ]
    for other in others:
        for command in (extend, compare, pipeline.search):
            with pytest.raises(RunError, match="another recipe"):
                command(other, run)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_of_the_recipe_decides_the_search(method: str, recipe: Recipe, tmp_path: Path) -> None:
    """The same losses as in a search by hand on the search part of the texts with that seed, and no other."""
    model = load_model(recipe.model, device="cpu")
    text = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data).search
    full, scheduled = by_method(recipe, method), list[Trial]()
    pipeline.search(full, RunDir(tmp_path), Callbacks(on_trial=scheduled.append))
    for seed, same in ((recipe.seed, True), (0, False)):
        by_hand = list[Trial]()
        find_factors(model, text, TARGET, settings=full.search, seed=seed, on_trial=by_hand.append)
        assert ([trial.loss_nats for trial in scheduled] == [trial.loss_nats for trial in by_hand]) == same


def test_a_directory_in_use_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.locked():
        for command in (extend, compare, pipeline.search):
            with pytest.raises(RunError, match="in use by another process"):
                command(recipe, run)
    assert not run.trials.exists()


@pytest.mark.usefixtures("unopened")
def test_a_run_that_could_not_begin_does_not_keep_its_directory(recipe: Recipe, tmp_path: Path) -> None:
    """After a typing error in --data the corrected command works, in the same directory."""
    run = RunDir(tmp_path)
    with pytest.raises(TextsError):
        extend(replace(recipe, data=(str(tmp_path / "boks"),)), run)
    assert extend(recipe, run)


@pytest.mark.usefixtures("unopened")
def test_start_tokens_are_not_dropped_silently(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors with start tokens: refused by default, and exported with the measured difference when asked."""
    run, careful = RunDir(tmp_path), replace(recipe, export=ExportRecipe())
    monkeypatch.setattr(extension, "find_factors", lambda *a, **k: replace(find_factors(*a, **k), start_tokens=16))
    with pytest.raises(ExportError, match="first 16 tokens"):
        extend(careful, run)
    assert not run.checkpoint.exists()
    assert not run.export_report.exists()
    export_again(run, ExportRecipe(drop_start_tokens=True))
    report = json.loads(run.export_report.read_text())
    assert report["start_tokens_dropped"] == 16
    assert report["loss_change_nats"] != 0


SEARCHED = SearchRecipe(validation_windows=1)
UNABLE: dict[str, tuple[dict[str, Any], str]] = {
    "target within the window": ({"target_tokens": 64}, "trained on 64 tokens already"),
    "target too long for the text": ({"target_tokens": 2**20}, "search text .* 2 windows of 1,048,576 tokens"),
    "too many windows held out": ({"search": replace(SEARCHED, validation_windows=10**5)}, "100001 windows of 256"),
    "no room for needles": ({"search": replace(SEARCHED, needle_weight=1.0)}, "half of it at most"),
    "stage within the window": (
        {"stages": (Stage(search=64), Stage(search=TARGET))},
        "trained on 64 tokens already",
    ),
    "stage too long for the text": (
        {"stages": (Stage(search=128), Stage(search=2**20)), "target_tokens": 2**20},
        "search text .* 2 windows of 1,048,576 tokens",
    ),
    "too little to recover with": (
        {
            "stages": (Stage(search=96), Stage(extrapolate=2**15), Stage(short=2048)),
            "target_tokens": 2**15,
            "search": replace(SEARCHED, validation_windows=4),
        },
        "33 windows of 2,048 tokens",
    ),
    "too little to tune on": (
        {"stages": (Stage(search=96), Stage(extrapolate=2**15), Stage(tune=2**15)), "target_tokens": 2**15},
        "tune text .* 1 window of 32,768 tokens",
    ),
    "no room for needles in a training": (
        {"stages": (Stage(search=TARGET), Stage(tune=TARGET)), "tune": TuneRecipe(needle_weight=1.0)},
        "half of it at most",
    ),
}


@pytest.mark.parametrize("case", UNABLE)
def test_what_cannot_begin_is_reported_before_anything_is_measured(
    case: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all stages, and the run directory stays free for the corrected command."""
    changes, words = UNABLE[case]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a pass was made")

    for module in (search_score, perplexity, passes):
        monkeypatch.setattr(module, "token_losses", never)
    with pytest.raises(LongRopeError, match=words):
        extend(replace(recipe, **changes), RunDir(tmp_path))
    assert not any(tmp_path.iterdir())


# The other doors


@pytest.mark.usefixtures("unopened")
def test_a_search_alone_is_what_a_schedule_begins_with(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    factors = pipeline.search(recipe, run)
    assert load_factors(run.factors()).factor_sets == (factors,)
    assert run.factors().read_bytes() == whole["gradient"].factors
    assert not run.scores.exists()
    trials = read_lines(run.trials)
    extend(recipe, run)
    assert read_lines(run.trials) == trials
    assert outcome(run) == whole["gradient"]


@pytest.mark.usefixtures("unopened")
def test_the_card_of_a_run_holds_its_scores(recipe: Recipe, tmp_path: Path) -> None:
    """Read by the hub's parser; an export again writes the card again, with the base model's name on the hub."""
    run = RunDir(tmp_path)
    own = [s for s in extend(recipe, run) if s.method == "longrope-gradient" and s.metric in ("perplexity", "passkey")]
    data: Any = ModelCard.load(run.checkpoint / "README.md").data
    labels = {"perplexity": "Perplexity", "passkey": "Passkeys found"}
    measured = {(r.metric_name, r.metric_value) for r in data.eval_results}
    assert measured == {
        (f"{labels[s.metric]}, {s.context_tokens:,} tokens", s.value) for s in own if s.metric in labels
    }
    assert len(measured) == 2
    assert data.base_model is None
    export_again(run, replace(recipe.export, base_model="someone/pico"))
    again: Any = ModelCard.load(run.checkpoint / "README.md").data
    assert (again.base_model, again.eval_results) == ("someone/pico", data.eval_results)


@pytest.mark.usefixtures("unopened")
def test_a_run_is_exported_again_with_other_settings(recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    extend(recipe, run)
    single = whole["gradient"].config["rope_parameters"]
    assert single["short_factor"] == single["long_factor"]
    export_again(run, ExportRecipe(factor_sets="two", drop_start_tokens=True))
    two = outcome(run)
    assert two.report["factor_sets"] == "two"
    assert two.config["rope_parameters"]["short_factor"] == [1.0] * 4
    assert two.config["rope_parameters"]["long_factor"] == single["long_factor"]
    export_again(run, recipe.export)
    assert outcome(run) == whole["gradient"]


def test_measuring_alone_gives_the_numbers_of_the_schedule(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    (tmp_path / "factors.json").write_bytes(whole["gradient"].factors)
    scores = measure_only(recipe, None, RunDir(tmp_path / "a"))
    scores += measure_only(recipe, tmp_path / "factors.json", RunDir(tmp_path / "b"))
    assert written_scores(scores) == whole["gradient"].scores
    assert len(read_lines(tmp_path / "a" / "scores.jsonl")) == len(scores) / 2


def test_comparing_measures_every_method_on_the_same_text(recipe: Recipe, tmp_path: Path) -> None:
    settings = MeasureRecipe(lengths=(64, 192, TARGET), metrics=("perplexity",), windows=2, tail_tokens=16)
    full, run = replace(recipe, measure=settings), RunDir(tmp_path)
    every = compare(full, run)
    scores = [score for score in every if "ratio" not in score.metric]
    searches = (SCAN, "longrope-evolution", "longrope-gradient")
    sources = [
        Source("none"),
        *map(Source, FORMULAS),
        *(load_factors(run.factors(s)).factor_sets[0].source for s in searches),
    ]
    wanted = {(m, n, k) for m in sources for n in settings.lengths for k in ("perplexity", "perplexity-last-16")}
    keys = [(score.source, score.context_tokens, score.metric) for score in scores]
    assert set(keys) == wanted
    assert len(keys) == len(wanted)
    for length in settings.lengths:
        own = [score for score in scores if score.context_tokens == length]
        assert len({score.texts_fingerprint for score in own}) == 1
        assert len({(score.metric, score.num_tokens) for score in own}) == 2
    assert written_scores(read_records(run.scores, Score)) == written_scores(every)
    fingerprints = {(score.source.known_as, score.factors_fingerprint) for score in scores}
    model = load_model(recipe.model, device="cpu")
    baselines = {name: baseline_factors(model.spec, name, TARGET, settings.lengths) for name in FORMULAS}
    searched = {method: load_factors(run.factors(method)) for method in searches}
    tables = {method: table.fingerprint for method, table in {**baselines, **searched}.items()}
    assert fingerprints == {("none", ""), *tables.items()}
    values = {(score.method, score.context_tokens): score.value for score in scores if score.metric == "perplexity"}
    text = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data).measure
    pieces = text.divided(text.windows(TARGET, 2), 192)
    losses = perplexity.window_losses(model, baselines["dynamic-ntk"].factor_sets[1], pieces)
    assert values["dynamic-ntk", 192] == pytest.approx(statistics.perplexity(losses))
    assert values["dynamic-ntk", 64] == pytest.approx(values["none", 64])
    assert values["dynamic-ntk", TARGET] == pytest.approx(values["ntk", TARGET])
    assert {trial.method for trial in read_records(run.trials, Trial)} == set(searched)


def test_comparing_ends_with_every_method_against_the_best_closed_form(recipe: Recipe, tmp_path: Path) -> None:
    """Token by token and key by key, at the longest length, last in print."""
    settings = MeasureRecipe(lengths=(192, TARGET), windows=2, tail_tokens=0, passkeys=10)
    scores = compare(replace(recipe, measure=settings), RunDir(tmp_path))
    values = {(s.metric, s.source.known_as): s.value for s in scores if s.context_tokens == TARGET}
    baselines = (*FORMULAS, SCAN)
    best = min(baselines, key=lambda name: values["perplexity", name])
    others = [name for name in ("none", *baselines, "longrope-evolution", "longrope-gradient") if name != best]
    paired = scores[-2 * len(others) :]
    assert [(s.source.known_as, s.metric) for s in paired] == [
        (name, f"{metric}-to-{best}") for name in others for metric in ("ratio", "difference")
    ]
    for ratio, difference in zip(paired[::2], paired[1::2], strict=True):
        of_perplexities = values["perplexity", ratio.source.known_as] / values["perplexity", best]
        assert ratio.value == pytest.approx(of_perplexities, rel=1e-5)
        assert ratio.low <= ratio.value <= ratio.high
        of_keys = values["passkey", ratio.source.known_as] - values["passkey", best]
        assert difference.value == pytest.approx(of_keys)
        assert difference.low < difference.value < difference.high
    assert {s.context_tokens for s in paired} == {TARGET}


def test_a_comparison_that_was_interrupted_ends_as_a_whole_one(recipe: Recipe, tmp_path: Path) -> None:
    settings = MeasureRecipe(lengths=(TARGET,), metrics=("perplexity",), windows=1, tail_tokens=0)
    full = replace(recipe, measure=settings)
    expected = compare(full, RunDir(tmp_path / "whole"))
    run = RunDir(tmp_path / "broken")
    for watch in (
        Callbacks(on_trial=Countdown(4)),
        Callbacks(on_trial=Countdown(18)),
        Callbacks(on_trial=Countdown(60)),
        Callbacks(on_step=Countdown(10)),
    ):
        with pytest.raises(InterruptError):
            compare(full, run, watch)
    assert written_scores(compare(full, run)) == written_scores(expected)
    whole_trials, trials = (read_records(RunDir(tmp_path / name).trials, Trial) for name in ("whole", "broken"))
    assert [replace(t, seconds=0.0) for t in trials] == [replace(t, seconds=0.0) for t in whole_trials]


@pytest.fixture
def tuning(recipe: Recipe) -> Recipe:
    """A run that searches, tunes and recovers the short window."""
    return replace(
        recipe,
        stages=(Stage(search=TARGET), Stage(tune=TARGET), Stage(short=64)),
        tune=TuneRecipe(steps=3, batch_windows=2, warmup_steps=0, learning_rate=1e-2),
        measure=MeasureRecipe(
            (64, TARGET), ("perplexity", "retention"), 2, 0, baselines=("ntk", "yarn"), paired_windows=3
        ),
    )


@pytest.mark.usefixtures("unopened")
def test_tuned_weights_are_measured_against_those_before(tuning: Recipe, tmp_path: Path) -> None:
    """Retention against the original, the last score against the best rival of the untuned model; the card has both."""
    run = RunDir(tmp_path)
    scores = extend(tuning, run)
    values = {(s.metric, s.method, s.context_tokens): s.value for s in scores}
    before, after = values["perplexity", "none", 64], values["perplexity", "longrope-tuned", 64]
    assert values["ratio-to-none", "longrope-tuned", 64] == pytest.approx(after / before, rel=1e-5)
    best = min(("ntk", "yarn"), key=lambda name: values["perplexity", name, TARGET])
    assert (scores[-1].metric, scores[-1].method) == (f"ratio-to-{best}", "longrope-tuned")
    untuned = load_model(tuning.model, device="cpu")
    texts = load_texts(tuning.data, untuned.tokenizer, measure=tuning.measure_data)
    windows = texts.measure.windows(TARGET, 3)
    rival = baseline_factors(untuned.spec, best, TARGET, (64, TARGET)).choose(TARGET)
    theirs = perplexity.window_losses(untuned, rival, windows)
    session = Session(tuning, run, untuned, texts)
    tuned = run_tasks(session, plan_tasks(session))
    ours = perplexity.window_losses(tuned.model, tuned.longest, windows)
    assert scores[-1].value == pytest.approx(statistics.perplexity(ours - theirs), rel=1e-5)
    assert abs(scores[-1].value - 1) > 1e-3
    card = (run.checkpoint / "README.md").read_text()
    assert f"| Perplexity, {TARGET} tokens |" in card
    assert f"{scores[-1].value:.4g} ({scores[-1].low:.4g}-{scores[-1].high:.4g})" in card
    assert "| Perplexity, 64 tokens |" not in card  # the checkpoint takes the long factors there, too
    assert written_scores(extend(tuning, run)) == written_scores(scores)


@pytest.mark.usefixtures("unopened")
def test_an_interrupted_schedule_compares_with_the_weights_before_its_tuning(tuning: Recipe, tmp_path: Path) -> None:
    whole, run, steps = extend(tuning, RunDir(tmp_path / "whole")), RunDir(tmp_path / "broken"), list[str]()

    def stop_in_short_search(text: str) -> None:
        steps.append(text)
        if text.startswith("stage 3"):
            raise InterruptError

    with pytest.raises(InterruptError):
        extend(tuning, run, Callbacks(on_step=stop_in_short_search))
    assert written_scores(extend(tuning, run)) == written_scores(whole)


def test_the_costs_of_a_run_are_written(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    found_by_gradient = replace(recipe, search=replace(recipe.search, validation_windows=2))
    pipeline.search(found_by_gradient, run)
    costs = search_costs(run)
    assert costs == compare_costs(read_records(run.trials, Trial))
    assert json.loads((run.path / "costs.json").read_text()) == [asdict(cost) for cost in costs]
    assert [cost.method for cost in costs] == ["longrope-gradient"]
