"""Metrics whose texts are read once and asked several things: each text that was read is counted."""

import sys
from dataclasses import replace

import numpy as np
import pico
import pytest
from measuring import make_context, scores_of
from spying import before

from longrope.data import TokenText
from longrope.evaluation import Evaluation, find_metric, name_subject
from longrope.recipe import MeasureRecipe


@pytest.mark.parametrize("name", ["prose-needle", "needle"])
def test_texts_that_hold_few_of_the_needles_are_counted_as_many_as_they_are(name: str) -> None:
    counted = list[int]()
    windows = np.arange(256, dtype=np.int32).reshape(1, -1) % 300
    context = make_context(pico.make_model(num_hidden_layers=1), None, windows, needles=6, needles_per_text=6)
    context = replace(context, passed=counted.append)
    scores_of(name, context)
    (reading,) = find_metric(name).readings(context)
    assert sum(counted) == reading.passes > 1


@pytest.mark.parametrize(("name", "texts"), [("prose-needle", 2), ("dialogue-memory", 2), ("many-passkeys", 3)])
def test_every_text_is_counted_as_it_is_read(name: str, texts: int) -> None:
    """As many as an estimate takes it to read; a text holds three of the questions at most, or two of the passkeys."""
    counted = list[int]()
    windows = np.arange(1600, dtype=np.int32).reshape(1, -1) % 300
    model = pico.make_model(num_hidden_layers=1)
    context = make_context(model, None, windows, needles=4, needles_per_text=3, passkeys=5, passkeys_per_text=2)
    context = replace(context, passed=counted.append)
    scores_of(name, context)
    assert counted == [1] * texts
    assert [reading.passes for reading in find_metric(name).readings(context)] == [texts]


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("prose-needle", "prose.build_prose"),
        ("many-passkeys", "many_passkeys.build_many_passkeys"),
        ("needle", "needles.build_needles"),
        ("passkey", "passkey.build_passkeys"),
    ],
)
def test_prompts_are_built_a_few_times_for_all_methods(
    name: str, builder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For their fingerprint, their names and their number; then for each method's passes, and not for what is kept."""
    built: list[int] = []
    module, _, function = builder.partition(".")
    before(monkeypatch, sys.modules[f"longrope.evaluation.{module}"], function, lambda *_: built.append(1))
    model = pico.make_model(num_hidden_layers=1)
    tokens = np.random.default_rng(0).integers(0, 300, 1600).astype(np.int32)
    few = MeasureRecipe(lengths=(800,), metrics=(name,), windows=2, passkeys=2, needles=2)
    evaluating = Evaluation(TokenText(tokens, "measure"), few, name_subject(model, None))
    methods = [name_subject(model, None, method) for method in ("one", "two", "three")]
    first = [evaluating.measure(method) for method in methods]
    made, at_most = len(built), 3 + 1  # these methods read alike, so that one pass serves all
    assert 1 < made <= at_most
    assert [evaluating.measure(method) for method in methods] == first
    assert len(built) == made
    other = replace(evaluating, seed=1).measure(methods[0])
    assert len(built) > made
    assert other[0].texts_fingerprint != first[0][0].texts_fingerprint
