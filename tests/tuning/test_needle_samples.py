"""Needles in the windows of a training, and a training with all kinds of samples that is resumed."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from training_samples import QUICK, TEXT, TOKENIZER, losses_of, make_factors

from longrope.errors import RecipeError, TextsError
from longrope.models import rescaled
from longrope.recipe import TuneRecipe
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder

# Needles


def find_answers(window: np.ndarray) -> list[int]:
    """Where the tokens of the answers stand, by the characters that each token stands for."""
    pieces = [str(TOKENIZER.decode([token])) for token in window]
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [found.span(1) for found in re.finditer(r"\? The code of the \w+ is (\d{5})", "".join(pieces))]
    return [i for i, end in enumerate(ends) if any(a < end <= b for a, b in spans) and pieces[i]]


@pytest.mark.parametrize(
    "change", [{}, {"windows_at_once": 2}, {"short_share": 0.5}, {"skipped_positions": 4000}], ids=str
)
def test_answers_about_needles_are_weighed_beside_the_text(change: dict[str, Any]) -> None:
    """The mean over all tokens, plus the weight times the mean, over long windows, of the mean over their answers."""
    settings = replace(QUICK, window_tokens=1400, steps=2, batch_windows=2, needle_weight=0.7, **change)
    ours, hand = pico.make_model(), pico.make_model()
    text = replace(TEXT, documents=np.zeros(1, np.int64))
    reader = SampleBuilder(Batches.cut(text, 1400, 2, seed=5), settings, pico.WINDOW, TOKENIZER)
    steps: list[TrainStep] = []
    fine_tune(ours, make_factors(ours), text, settings=settings, seed=5, on_step=steps.append)
    weights = list(hand.network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
    for step, rate in enumerate((1e-3, 0.5e-3)):
        every, answers = [], []
        for reading in reader.read(reader.batches.rows(step)):
            for row, tokens in enumerate(reading.tokens):
                where = None if reading.positions is None else reading.positions[row]
                with rescaled(hand, None if reading.own_rope else make_factors(hand)):
                    losses = losses_of(hand.network, tokens, where)
                every.append(losses)
                if not reading.own_rope:
                    found = find_answers(tokens)
                    assert len(found) >= 8 * 5
                    answers.append(losses[torch.tensor(found) - 1].mean())
        assert len(answers) == (1 if settings.short_share else 2)
        loss = torch.cat(every).mean() + 0.7 * torch.stack(answers).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert steps[step].loss_nats == pytest.approx(loss.item(), rel=1e-5)
        assert steps[step].num_tokens == len(torch.cat(every))
    expected = dict(hand.network.named_parameters())
    for name, weight in ours.network.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("bos", [None, 7])
def test_needles_are_functions_of_seed_and_row(bos: int | None) -> None:
    """Other facts in each window, the same in any order of asking; what is not planted is the text."""
    text = replace(TEXT, bos=bos, documents=np.zeros(1, np.int64))

    def read(rows: list[int], seed: int = 5) -> list[np.ndarray]:
        settings = replace(QUICK, window_tokens=1400, needle_weight=1.0)
        reader = SampleBuilder(Batches.cut(text, 1400, 4, seed), settings, pico.WINDOW, TOKENIZER)
        return [reading.tokens[0] for reading in reader.read(rows)]

    rows = read([0, 1, 2])
    np.testing.assert_array_equal(read([2, 0]), [rows[2], rows[0]])
    assert not np.array_equal(read([0], seed=6)[0], rows[0])
    codes = [re.findall(r"\d{5}", str(TOKENIZER.decode(row.tolist()))) for row in rows]
    assert all(len(set(found)) == 8 and len(found) == 16 for found in codes)
    assert not set(codes[0]) & set(codes[1])
    plain = Batches.cut(text, 1400, 4, seed=5).window(0)
    assert np.isin(rows[0], plain).mean() > 0.5
    if bos is not None:
        assert rows[0][0] == bos
        assert (rows[0][1:] != bos).all()


def test_a_window_without_room_for_needles_is_refused() -> None:
    settings = replace(QUICK, window_tokens=96, needle_weight=0.5)
    with pytest.raises(TextsError, match="half of it at most") as caught:
        fine_tune(pico.make_model(), None, TEXT, settings=settings)
    assert "needle_weight = 0" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"needle_weight": -0.5}, "tune.needle_weight = -0.5"),
        ({"needle_weight": math.nan}, "tune.needle_weight = nan"),
        ({"needle_weight": 0.5, "isolate_documents": True}, "tune.needle_weight = 0.5 with tune.isolate_documents"),
    ],
)
def test_needles_that_cannot_be_are_refused_by_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TuneRecipe(**change)
    assert named in caught.value.found


# Resuming


@pytest.mark.parametrize("change", [{"isolate_documents": True}, {"short_share": 0.4}])
def test_a_resumed_training_counts_on(change: dict[str, Any], tmp_path: Path) -> None:
    """Steps score different numbers of tokens, and what was seen before a break is seen."""
    settings, runs = replace(QUICK, checkpoint_every=2, **change), []

    def stop(record: TrainStep) -> None:
        if record.step == 2:
            raise InterruptedError

    for broken in (False, True):
        runs.append(RunDir(tmp_path / str(broken)))
        if broken:
            with pytest.raises(InterruptedError):
                fine_tune(pico.make_model(), None, TEXT, settings=settings, run=runs[-1], on_step=stop)
        fine_tune(pico.make_model(), None, TEXT, settings=settings, run=runs[-1])
    whole, resumed = (
        [replace(record, seconds=0, tokens_per_second=0) for record in read_records(run.train, TrainStep)]
        for run in runs
    )
    assert resumed == whole
    assert len({record.num_tokens for record in whole}) > 1
