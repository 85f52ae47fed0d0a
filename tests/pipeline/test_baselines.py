"""Baselines that are measured beside an extension."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import toys
from intervals import perplexity
from measuring import brute_losses
from outcomes import (
    FORMULAS,
    GRADIENT,
    SCAN,
    TARGET,
    Countdown,
    InterruptError,
    appends_scores,
    keep_search,
    leave_unopened,
    outcome,
    read_lines,
    written_scores,
)
from spying import before

from longrope.data import load_texts
from longrope.evaluation import Evaluation
from longrope.evaluation.metric import Subject
from longrope.labels import Source
from longrope.models import load_model
from longrope.pipeline import Callbacks, extend
from longrope.recipe import MeasureRecipe, Recipe
from longrope.registry import METHODS as METHOD_ROWS
from longrope.report import score_tables
from longrope.rope import baseline_factors, load_factors
from longrope.runs import run_dir
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def beside(recipe: Recipe) -> Recipe:
    """The run with two baselines, at two lengths."""
    settings = MeasureRecipe(
        lengths=(TARGET, 64), metrics=("perplexity",), windows=2, tail_tokens=16, baselines=("pi", "yarn")
    )
    return replace(recipe, measure=settings)


@dataclass(frozen=True)
class Measured:
    """A finished run, what it returned, and the lines of its progress."""

    run: RunDir
    scores: list[Score]
    steps: list[str]


@pytest.fixture(scope="module")
def measured(beside: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The run beside its baselines, whose checkpoint was not reopened; read it only."""
    run, steps = RunDir(tmp_path_factory.mktemp("beside") / "run"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        leave_unopened(patch)
        return Measured(run, extend(beside, run, Callbacks(on_step=steps.append)), steps)


@pytest.fixture
def copied(measured: Measured, tmp_path: Path) -> RunDir:
    """The same run as one's own."""
    shutil.copytree(measured.run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def best_baseline(scores: list[Score]) -> Score:
    """The perplexity at the longest length of the baseline where it is least."""
    last = [s for s in scores if s.metric == "perplexity" and s.context_tokens == TARGET and s.method in FORMULAS]
    return min(last, key=lambda score: score.value)


def test_an_extension_is_measured_beside_its_baselines(beside: Recipe, measured: Measured) -> None:
    """The ratio to the best of them is that of the two perplexities in the same file."""
    run, scores = measured.run, measured.scores
    *others, ratio = scores
    assert list(dict.fromkeys(score.method for score in scores)) == ["none", "pi", "yarn", "longrope-gradient"]
    wanted = {
        (m, n, k)
        for m in ("none", "pi", "yarn", "longrope-gradient")
        for n in (64, TARGET)
        for k in ("perplexity", "perplexity-last-16")
    }
    keys = [(score.method, score.context_tokens, score.metric) for score in others]
    assert set(keys) == wanted
    assert len(keys) == len(wanted)
    best = best_baseline(others)
    (own,) = [
        s for s in others if (s.method, s.context_tokens, s.metric) == ("longrope-gradient", TARGET, "perplexity")
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
            sharp = [perplexity(brute_losses(model, None, some)) for some in (pieces, first)]
        half = brute_losses(toys.with_smaller_logits(model, TARGET), None, pieces)
        assert found["toy-attention", "perplexity", length] == pytest.approx(sharp[0], rel=1e-5)
        assert found["toy-attention", "prefix-perplexity", length] == pytest.approx(sharp[1], rel=1e-5)
        assert found["toy-weights", "perplexity", length] == pytest.approx(perplexity(half), rel=1e-5)
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
    recipe: Recipe, tmp_path: Path
) -> None:
    """A search that found nothing better than PI, by hand: PI has its row, and what was chosen another one."""
    spec = load_model(recipe.model, device="cpu").spec
    chosen = replace(baseline_factors(spec, "pi", TARGET).factor_sets[0], chosen_by="longrope-gradient")
    settings = replace(recipe.measure, metrics=("perplexity",), tail_tokens=0, baselines=("pi", "ntk", "yarn"))
    run = RunDir(tmp_path)
    full = replace(recipe, measure=settings)
    keep_search(run, full, chosen)
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
def test_a_resumed_extension_with_baselines_adds_no_line(beside: Recipe, measured: Measured, copied: RunDir) -> None:
    run, first = copied, measured.scores
    lines, report = read_lines(run.scores), (run.path / "report.html").read_bytes()
    assert len(lines) == 4 * 2 * 2 + 1
    assert written_scores(extend(beside, run)) == written_scores(first)
    assert read_lines(run.scores) == lines
    assert (run.path / "report.html").read_bytes() == report


@pytest.mark.usefixtures("unopened")
def test_a_run_of_an_earlier_version_is_resumed(beside: Recipe, measured: Measured, copied: RunDir) -> None:
    """Its scores do not say what was resampled, and its samples had other names: no score is measured again."""
    run, first = copied, measured.scores
    lines = [json.loads(line) for line in read_lines(run.scores)]
    old = "".join(json.dumps({k: v for k, v in line.items() if k != "resampled"}) + "\n" for line in reversed(lines))
    run.scores.write_text(old)
    shutil.rmtree(run.path / "samples")
    again = extend(beside, run)
    assert run.scores.read_text() == old
    assert written_scores([replace(score, resampled="") for score in first]) == written_scores(again)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("groups", [3, *(pytest.param(groups, marks=pytest.mark.slow) for groups in (7, 8))])
def test_an_extension_with_baselines_that_was_interrupted_ends_as_a_whole_one(
    groups: int, beside: Recipe, measured: Measured, tmp_path: Path
) -> None:
    """The power goes in the middle of a baseline, of our own scores, and before the ratio; a metric has two scores."""
    expected = measured.scores
    run = RunDir(tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        before(patch, run_dir, "append_records", Countdown(groups + 1, appends_scores))
        with pytest.raises(InterruptError):
            extend(beside, run)
    assert len(read_lines(run.scores)) == 2 * groups
    assert not (run.path / "report.html").exists()
    assert written_scores(extend(beside, run)) == written_scores(expected)
    assert written_scores(read_records(run.scores, Score)) == written_scores(expected)
    assert len(read_lines(run.scores)) == len(expected)
    assert outcome(run) == outcome(measured.run)


def test_the_report_is_written_and_reported_of_last(measured: Measured) -> None:
    run, scores = measured.run, measured.scores
    assert measured.steps[-1] == f"report: {run.path / 'report.html'}"
    page = (run.path / "report.html").read_text(encoding="utf-8")
    cells = re.findall(r"([\d.,]+) \(([\d.,]+)-([\d.,]+)\)", page)
    shown = [[float(number.replace(",", "")) for number in cell] for cell in cells]
    for score in scores:
        wanted = [score.value, score.low, score.high]
        assert any(np.allclose(cell, wanted, rtol=5e-4, atol=0) for cell in shown), wanted


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
