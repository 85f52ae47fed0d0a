"""Metrics whose texts are read once and asked several things: each text that was read is counted."""

from dataclasses import replace

import numpy as np
import pico
import pytest
from measuring import make_context, scores_of

from longrope.evaluation import find_metric


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
