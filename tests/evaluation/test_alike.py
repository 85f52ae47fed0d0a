"""Methods that read alike are read once: the same scores as by passes of their own, to the last bit."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from measuring import counted, without_seconds

from longrope.data import TokenText
from longrope.engine import near_exact
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import baseline_factors
from longrope.runs.run_dir import RunDir

LENGTHS = (64, 128)  # the trained window of the pico model, and the target
SETTINGS = MeasureRecipe(LENGTHS, ("perplexity", "far-shuffled"), windows=2, tail_tokens=32)


def baseline(model: LanguageModel, name: str) -> Subject:
    return name_subject(model, baseline_factors(model.spec, name, LENGTHS[-1], LENGTHS), name)


def attention(model: LanguageModel, name: str) -> Subject:
    return Subject(model, None, name, getattr(near_exact, name.replace("-", "_")))


PAIRS: dict[str, tuple[Callable[[LanguageModel], Subject], Callable[[LanguageModel], Subject], tuple[int, ...]]] = {
    "dynamic NTK at its longest length": (
        lambda model: baseline(model, "ntk"),
        lambda model: baseline(model, "dynamic-ntk"),
        LENGTHS[1:],
    ),
    "dynamic NTK in the trained window": (
        lambda model: Subject(model, None, "none"),
        lambda model: baseline(model, "dynamic-ntk"),
        LENGTHS[:1],
    ),
    "Self-Extend in the trained window": (
        lambda model: Subject(model, None, "none"),
        lambda model: attention(model, "self-extend"),
        LENGTHS[:1],
    ),
    "DCA nowhere": (lambda model: Subject(model, None, "none"), lambda model: attention(model, "dca"), ()),
    "other factors": (lambda model: baseline(model, "ntk"), lambda model: baseline(model, "yarn"), ()),
    "other weights": (
        lambda model: Subject(model, None, "none"),
        lambda model: Subject(replace(model, network=deepcopy(model.network)), None, "copy"),
        (),
    ),
    "the same under another name": (
        lambda model: Subject(model, None, "none"),
        lambda model: Subject(model, None, "again"),
        LENGTHS,
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_reads_alike_is_read_once_and_scores_as_if_it_were_read_again(
    pair: str, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    first, second, alike = PAIRS[pair]
    original = Subject(model, None, "none")
    shared = Evaluation(text, SETTINGS, original, SampleCache(RunDir(tmp_path / "shared")))
    apart = Evaluation(text, SETTINGS, original, SampleCache(RunDir(tmp_path / "apart")))
    shared.measure(first(model))
    other = second(model)
    with other.reading(LENGTHS[-1]):
        pass  # how the model rotates is tried once
    with counted(other.model) as less:
        scores = shared.measure(other)
    with counted(other.model) as all_of_it:
        expected = apart.measure(other)
    assert without_seconds(scores) == without_seconds(expected)
    tokens = {64: 2 * 128, 128: 2 * 2 * 128}  # the windows, and the shuffled ones
    assert all_of_it.tokens - less.tokens == sum(tokens[length] for length in alike)
    assert {path.name for path in (tmp_path / "apart" / "samples").iterdir()} <= {
        path.name for path in (tmp_path / "shared" / "samples").iterdir()
    }
