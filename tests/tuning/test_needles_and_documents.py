"""Mixed windows as LongRoPE2 has them: long ones whole, with needles, and short ones whose documents are kept apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest

from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.recipe import TuneRecipe
from longrope.tuning import fine_tune
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder

TOKENIZER = pico.make_tokenizer()
TOKENS = np.asarray(TOKENIZER(pico.make_text(6000))["input_ids"], np.int32)
TEXT = TokenText(TOKENS, "tune", documents=np.arange(0, len(TOKENS), 50, dtype=np.int64))
MIXED = TuneRecipe(
    window_tokens=1400,
    steps=1,
    batch_windows=2,
    warmup_steps=0,
    learning_rate=1e-3,
    short_share=0.5,
    needle_weight=0.5,
    isolate_documents=True,
)


def read(settings: TuneRecipe) -> dict[bool, Any]:
    """The samples of the first two windows, by whether they are short."""
    batches = Batches.cut(TEXT, settings.window_tokens, 2, seed=5)
    builder = SampleBuilder(batches, settings, 64, TOKENIZER)
    samples = list(builder.read(range(2)))
    assert builder.num_scored(range(2)) == sum(int(sample.scored.sum()) for sample in samples)
    return {sample.own_rope: sample for sample in samples}


def test_documents_of_short_windows_alone_are_kept_apart_where_there_are_needles() -> None:
    """Each kind is what it is where the other setting is off."""
    both = read(MIXED)
    needles, apart = read(replace(MIXED, isolate_documents=False)), read(replace(MIXED, needle_weight=0.0))
    long, short = both[False], both[True]
    assert long.documents is None
    assert np.array_equal(long.tokens, needles[False].tokens)
    assert np.array_equal(long.answers, needles[False].answers)
    assert long.answers.any()
    assert short.answers is None
    assert short.documents == apart[True].documents
    assert any(len(starts) > 1 for starts in short.documents)
    assert np.array_equal(short.positions, apart[True].positions)
    assert np.array_equal(short.tokens, apart[True].tokens)


def test_a_training_of_both_counts_what_it_scores() -> None:
    steps: list[Any] = []
    model = pico.make_model()
    fine_tune(model, None, TEXT, settings=MIXED, seed=5, on_step=steps.append)
    batches = Batches.cut(TEXT, MIXED.window_tokens, 2, seed=5)
    builder = SampleBuilder(batches, MIXED, model.spec.trained_window, TOKENIZER)
    assert [step.num_tokens for step in steps] == [sum(int(s.scored.sum()) for s in builder.read(range(2)))]
    assert np.isfinite(steps[0].loss_nats)


def test_without_short_windows_the_two_settings_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match=r"needle_weight = 0\.5 with tune\.isolate_documents") as caught:
        replace(MIXED, short_share=0.0)
    assert "short_share" in caught.value.remedy
