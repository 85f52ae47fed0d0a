"""Windows that are cut for a longer length than any that is read: a shorter run is on the text of the longer one."""

from dataclasses import replace

from measuring import Passes

from longrope.data import TokenText
from longrope.evaluation import Evaluation, measure
from longrope.evaluation.metric import Subject
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import baseline_factors

METRICS = ("far-context", "far-shuffled", "prose-needle")
LONG = MeasureRecipe(lengths=(256, 512), windows=2, metrics=METRICS, tail_tokens=16, needles=2)
SHORT = replace(LONG, lengths=(256,))


def test_a_shorter_run_has_the_scores_of_the_longer_one(model: LanguageModel, text: TokenText, passes: Passes) -> None:
    """Every score at 256 tokens, its texts included, without a pass over more."""
    factors = baseline_factors(model.spec, "yarn", 512)
    whole = {
        score.metric: score for score in measure(model, factors, text, settings=LONG) if score.context_tokens == 256
    }
    before = passes.tokens
    cut = measure(model, factors, text, settings=replace(SHORT, window_tokens=512))
    assert {score.metric for score in cut} >= {"last-tokens-63", "far-context", "far-shuffled", "prose-needle"}
    for score in cut:
        assert replace(score, seconds=0.0) == replace(whole[score.metric], seconds=0.0)
    assert 0 < passes.tokens - before < 20 * 256
    apart = {score.metric: score for score in measure(model, factors, text, settings=SHORT)}
    assert apart["far-context"].texts_fingerprint != whole["far-context"].texts_fingerprint


def test_windows_are_never_shorter_than_what_is_read(model: LanguageModel, text: TokenText) -> None:
    """A smaller number changes nothing; what is said of the windows has their length."""
    original = Subject(model, None, "none")
    settings = replace(SHORT, window_tokens=64)
    own, same = (measure(model, None, text, settings=one) for one in (SHORT, settings))
    assert [replace(score, seconds=0.0) for score in own] == [replace(score, seconds=0.0) for score in same]
    (line,) = Evaluation(text, replace(SHORT, window_tokens=512), original).describe_windows(original)
    assert line.startswith("measure 2 of 2 windows of 512 tokens")
    (line,) = Evaluation(text, settings, original).describe_windows(original)
    assert line.startswith("measure 2 of 2 windows of 256 tokens")
