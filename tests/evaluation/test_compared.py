"""Methods that are compared, metrics of other packages, and where factors come from."""

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from measurements import SETTINGS
from measuring import Passes, brute_losses, without_seconds

from longrope.data import TokenText, fingerprint
from longrope.errors import RecipeError, RunError
from longrope.evaluation import Evaluation, find_metric, measure, name_subject
from longrope.evaluation.metric import Context, Metric, Subject
from longrope.evaluation.perplexity import cached_losses
from longrope.evaluation.samples import SampleCache, Samples
from longrope.evaluation.statistics import share_interval
from longrope.metrics import METRICS
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.rows import Metric as MetricRow
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

# Two methods


def test_two_methods_are_compared_in_any_order(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """Whichever is measured first, or none at all."""
    settings = MeasureRecipe((300,), ("perplexity", "passkey"), 3, 16, passkeys=10)
    original = Subject(model, None, "none")
    pi, yarn = (name_subject(model, baseline_factors(model.spec, name, 300)) for name in ("pi", "yarn"))
    found = []
    for number, before in enumerate(((), (pi, yarn), (yarn, pi), (original, yarn))):
        evaluation = Evaluation(text, settings, original, SampleCache(RunDir(tmp_path / str(number))))
        for subject in before:
            evaluation.measure(subject)
        found.append(without_seconds(evaluation.compare(pi, yarn)))
    assert all(scores == found[0] for scores in found)
    assert [score.metric for score in found[0]] == ["ratio-to-yarn", "difference-to-yarn"]


@pytest.fixture
def tuned(model: LanguageModel) -> LanguageModel:
    """The same model with other weights, under another name."""
    other = LanguageModel(copy.deepcopy(model.network), model.tokenizer, model.tables, "pico, tuned")
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return other


def test_tuned_weights_are_compared_with_a_baseline_that_was_prepared(
    model: LanguageModel, tuned: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Its losses and answers are of the weights before, though nothing of these is left; also on windows of its own."""
    table, original = baseline_factors(model.spec, "yarn", 300), Subject(model, None, "none")
    settings = MeasureRecipe((300,), ("perplexity", "passkey"), 3, 16, passkeys=10, paired_windows=5)
    evaluation = Evaluation(text, settings, original, SampleCache(RunDir(tmp_path)))
    evaluation.prepare(Subject(model, table, "yarn"))
    gone = Subject(replace(tuned, name=model.name), table, "yarn", at_hand=False)
    ratio, difference = evaluation.compare(Subject(tuned, table, "longrope-tuned"), gone)
    windows, factors = text.windows(300, 5), table.choose(300)
    after, before = (brute_losses(some, factors, windows) for some in (tuned, model))
    assert ratio.value == pytest.approx(math.exp((after - before).mean()), rel=1e-5)
    assert ratio.value != pytest.approx(1, abs=1e-3)
    shares = [
        measure(some, table, text, settings=replace(settings, metrics=("passkey",)))[0].value for some in (tuned, model)
    ]
    assert difference.value == pytest.approx(shares[0] - shares[1])
    assert {(s.method, s.model, s.factors_fingerprint) for s in (ratio, difference)} == {
        ("longrope-tuned", "pico, tuned", table.fingerprint)
    }


def test_samples_of_weights_that_are_gone_are_not_made_of_others(
    tuned: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    evaluation = Evaluation(text, SETTINGS, Subject(tuned, None, "none"), SampleCache(RunDir(tmp_path)))
    gone = Subject(replace(tuned, name="pico"), None, "none", at_hand=False)
    with pytest.raises(RunError, match="weights have been tuned since"):
        evaluation.compare(Subject(tuned, None, "tuned"), gone)
    assert not (tmp_path / "scores.jsonl").exists()


# A metric of one's own: one module, one row


class EasyTokens(Metric):
    """The share of tokens with a loss below one nat."""

    def inputs(self, context: Context) -> str:
        """The windows."""
        return fingerprint(context.windows)

    def samples(self, context: Context) -> Samples:
        """The losses."""
        return Samples(self.identity(context), *cached_losses(context, *context.divided()))

    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """One share."""
        easy = samples.arrays["losses"] < 1
        interval = share_interval(easy.ravel().tolist())
        return [samples.score(self.name, interval, num_tokens=easy.size, num_windows=len(easy))]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a metric that stands in a module and in the table of metrics, nowhere else."""
    module = ModuleType("easy_tokens")
    module.EasyTokens = EasyTokens  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easy_tokens", module)
    monkeypatch.setitem(
        METRICS, "easy-tokens", MetricRow("easy-tokens", "Easy tokens", measure="easy_tokens:EasyTokens")
    )
    return "easy-tokens"


def test_a_metric_is_one_module_and_one_row(
    toy: str, model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    """It is asked for, measured at every length, recorded, and taken from the records; its pass is shared."""
    run, settings = RunDir(tmp_path), replace(SETTINGS, metrics=("perplexity", toy))
    table = baseline_factors(model.spec, "yarn", 128)
    scores = measure(model, table, text, settings=settings, run=run)
    assert measure(model, table, text, settings=settings, run=run) == scores
    assert passes.tokens == 3 * 128 * 2
    own = [score for score in scores if score.metric == toy]
    assert [(score.context_tokens, score.method) for score in own] == [(64, "yarn"), (128, "yarn")]
    for score in own:
        pieces = text.divided(text.windows(128, 3), score.context_tokens)
        losses = brute_losses(model, table.choose(score.context_tokens), pieces)
        assert score.value == pytest.approx((losses < 1).mean(), abs=2 / losses.size)
        assert score.low < score.value < score.high or score.value == 0
    assert len(read_records(run.scores, Score)) == len(scores)


def test_a_metric_that_is_in_no_row_is_unknown() -> None:
    with pytest.raises(RecipeError, match="easy-tokens"):
        MeasureRecipe(metrics=("easy-tokens",))


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.measure and ":" not in name])
def test_every_row_names_a_metric(name: str) -> None:
    assert find_metric(name).name == name


# Where factors come from


def test_a_baseline_that_a_search_chose_is_measured_beside_itself(
    model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """The same factors and values in two rows, and a ratio of exactly 1; the weights' own name keeps both fields."""
    run, (yarn,) = RunDir(tmp_path), baseline_factors(model.spec, "yarn", 128).factor_sets
    chosen = replace(yarn, chosen_by="longrope-gradient")
    settings = replace(SETTINGS, lengths=(128,), tail_tokens=0)
    made = measure(model, yarn, text, settings=settings, run=run)
    made += measure(model, chosen, text, settings=settings, run=run)
    made += measure(model, chosen, text, settings=settings, run=run, method="longrope-tuned")
    evaluation = Evaluation(text, settings, Subject(model, None, "none"), SampleCache(run))
    [ratio] = evaluation.compare(name_subject(model, chosen), name_subject(model, yarn))
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert read_records(run.scores, Score) == [*made, ratio]
    assert len({score.value for score in made}) == 1
    assert [score.source for score in (*made, ratio)] == [
        ("yarn", "", ""),
        ("yarn", "longrope-gradient", ""),
        ("longrope-tuned", "longrope-gradient", "yarn"),
        ("yarn", "longrope-gradient", ""),
    ]


def test_scores_of_an_earlier_version_are_not_measured_again(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    """They named the search alone; they come back with what the factors say, and the file stays as it is."""
    run, (yarn,) = RunDir(tmp_path), baseline_factors(model.spec, "yarn", 128).factor_sets
    own = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    before = [replace(yarn, method="longrope-gradient"), own]
    now = [replace(factors, chosen_by="longrope-gradient") for factors in (yarn, own)]
    old = [measure(model, factors, text, settings=SETTINGS, run=run) for factors in before]
    tuned = measure(model, before[0], text, settings=SETTINGS, run=run, method="longrope-tuned")
    lines = run.scores.read_text()
    assert '"chosen_by": ""' in lines
    passes.forbidden = True
    for factors, scores in zip(now, old, strict=True):
        again = measure(model, factors, text, settings=SETTINGS, run=run)
        assert again == [replace(s, method=factors.method, chosen_by="longrope-gradient") for s in scores]
    again = measure(model, now[0], text, settings=SETTINGS, run=run, method="longrope-tuned")
    assert again == [replace(s, chosen_by="longrope-gradient", factors_method="yarn") for s in tuned]
    assert run.scores.read_text() == lines
