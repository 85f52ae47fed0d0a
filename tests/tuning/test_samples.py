"""What a training reads of a window: documents apart, skipped positions, short windows, against transformers."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pico
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from training_samples import LENGTH, QUICK, TEXT, losses_of, make_factors

from longrope.data import TokenText
from longrope.models import LanguageModel, rescaled
from longrope.recipe import TuneRecipe
from longrope.runs.records import TrainStep
from longrope.tuning import fine_tune
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder

RATES = [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]


SKIPPING = replace(QUICK, window_tokens=8, skipped_positions=20)


def make_reader(settings: TuneRecipe = QUICK, text: TokenText = TEXT, seed: int = 5) -> SampleBuilder:
    length = settings.window_tokens
    return SampleBuilder(Batches.cut(text, length, settings.batch_windows, seed), settings, pico.WINDOW)


def by_hand(model: LanguageModel, read_step: Any) -> list[tuple[float, int]]:
    """The mean loss and the scored tokens of each step of plain AdamW on what ``read_step(model, step)`` gives."""
    weights = list(model.network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
    messages = []
    for step, rate in enumerate(RATES):
        losses = torch.cat(read_step(model, step))
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        messages.append((losses.mean().item(), len(losses)))
    return messages


def check(settings: TuneRecipe, read_step: Any, text: TokenText = TEXT) -> None:
    """A training of ours has the losses, counts and weights of the loop by hand."""
    ours, hand = pico.make_model(), pico.make_model()
    steps: list[TrainStep] = []
    fine_tune(ours, make_factors(ours), text, settings=settings, seed=5, on_step=steps.append)
    messages = by_hand(hand, read_step)
    assert [record.loss_nats for record in steps] == pytest.approx([loss for loss, _ in messages], rel=1e-5)
    assert [record.num_tokens for record in steps] == [count for _, count in messages]
    assert [record.tokens_seen for record in steps] == np.cumsum([count for _, count in messages]).tolist()
    expected = dict(hand.network.named_parameters())
    for name, weight in ours.network.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-4, msg=name)


# Documents that do not see each other


@pytest.mark.parametrize("settings", [{"windows_at_once": 1}, {"windows_at_once": 3, "recompute": False}])
@pytest.mark.parametrize("bos", [None, 7])
def test_isolated_documents_are_trained_on_as_if_alone(settings: dict[str, Any], bos: int | None) -> None:
    """Each from position 0 on, so that start tokens are its own; the mean is over all tokens that have one before."""
    text, asked = replace(TEXT, bos=bos), replace(QUICK, isolate_documents=True, **settings)
    batches = Batches.cut(text, LENGTH, 4, seed=5)

    def read_step(model: LanguageModel, step: int) -> list[Tensor]:
        with rescaled(model, make_factors(model)):
            return [
                losses_of(model.network, window[first:last])
                for row, window in zip(batches.rows(step), batches.at(step), strict=True)
                for first, last in pairwise((*batches.documents(row), LENGTH))
                if last - first > 1
            ]

    check(asked, read_step, text)


def test_a_document_of_one_token_has_nothing_to_score() -> None:
    """And takes the beginning of the next one with it: both are known without anything before them."""
    text = replace(TEXT, documents=np.asarray([0, 40, 41, 2000], np.int64))
    reader = make_reader(replace(QUICK, isolate_documents=True), text)
    [row] = [row for row in range(reader.batches.epoch_windows) if len(reader.batches.documents(row)) == 3]
    [reading] = reader.read([row])
    assert reading.documents == ((0, 40, 41),)
    assert np.flatnonzero(~reading.scored[0]).tolist() == [39, 40]
    assert reading.positions is not None
    assert reading.positions[0].tolist() == [*range(40), 0, *range(55)]
    assert reader.num_scored([row]) == reading.scored.sum() == LENGTH - 3


def test_windows_are_read_whole_unless_reported_otherwise() -> None:
    for reading in make_reader().read(range(8)):
        assert (reading.documents, reading.positions) == (None, None)
        assert reading.scored.all()


# Skipped positions


def test_skipped_positions_are_trained_on_as_transformers_reads_them() -> None:
    settings = replace(QUICK, skipped_positions=1000)
    reader = make_reader(settings)

    def read_step(model: LanguageModel, step: int) -> list[Tensor]:
        readings = list(reader.read(reader.batches.rows(step)))
        with rescaled(model, make_factors(model)):
            return [
                losses_of(model.network, tokens, where)
                for reading in readings
                for tokens, where in zip(reading.tokens, reading.positions, strict=True)  # type: ignore[arg-type]
            ]

    check(settings, read_step)


def test_positions_are_skipped_once_in_each_window() -> None:
    """Anywhere in it, by any number that leaves its end within the imitated window; tokens are the same."""
    many, plain = np.concatenate(positions_of(range(4000))), replace(SKIPPING, skipped_positions=0)
    tokens = [[reading.tokens for reading in make_reader(way).read(range(40))] for way in (SKIPPING, plain)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    steps = np.diff(many) - 1
    assert (many[:, 0] == 0).all()
    assert ((steps > 0).sum(1) <= 1).all()
    skips, places = steps.max(1), steps[steps.max(1) > 0].argmax(1) + 1
    assert set(places.tolist()) == set(range(1, 8)), "every token but the first can begin the second part"
    assert set(skips.tolist()) == set(range(13)), "from no skip up to the end of the imitated window"
    assert np.bincount(skips).min() > 4000 / 13 * 0.75
    assert np.bincount(places)[1:].min() > 4000 / 7 * 0.75


def positions_of(rows: Any, seed: int = 5) -> list[np.ndarray]:
    return [reading.positions for reading in make_reader(SKIPPING, seed=seed).read(rows)]  # type: ignore[misc]


def test_positions_are_functions_of_seed_and_row() -> None:
    """In any order of asking and with any number at once."""
    rows = positions_of(range(20))
    np.testing.assert_array_equal(positions_of([7, 3]), [rows[7], rows[3]])
    together = replace(SKIPPING, windows_at_once=3, batch_windows=4)
    np.testing.assert_array_equal(
        np.concatenate([reading.positions for reading in make_reader(together).read(range(20))]), np.concatenate(rows)
    )
    assert not np.array_equal(positions_of(range(20), seed=6), rows)


# Short windows among long ones


def cut_by_hand(window: np.ndarray, bos: int | None) -> list[np.ndarray]:
    """The pieces of the trained window's length that fit into a window, each with the opening token before it."""
    opening = [] if bos is None else [bos]
    body, size = window[len(opening) :], pico.WINDOW - len(opening)
    return [np.asarray([*opening, *body[i : i + size]]) for i in range(0, len(body) - size + 1, size)]


@pytest.mark.parametrize("bos", [None, 7])
@pytest.mark.parametrize("settings", [{"windows_at_once": 1}, {"windows_at_once": 3, "recompute": False}])
def test_short_windows_are_trained_on_with_the_original_rope(settings: dict[str, Any], bos: int | None) -> None:
    """Two fifths of the windows, cut to the trained window, and the rest long with factors; one mean over all."""
    text = replace(TEXT, bos=bos)
    asked = replace(QUICK, window_tokens=160, short_share=0.4, **settings)
    batches = Batches.cut(text, 160, 4, seed=5)
    short = [2, 4, 7, 9, 12, 14]  # of 16

    def read_step(model: LanguageModel, step: int) -> list[Tensor]:
        losses = []
        for row, window in zip(batches.rows(step), batches.at(step), strict=True):
            if row in short:
                losses += [losses_of(model.network, piece) for piece in cut_by_hand(window, bos)]
            else:
                with rescaled(model, make_factors(model)):
                    losses.append(losses_of(model.network, window))
        return losses

    check(asked, read_step, text)


def test_short_windows_skip_no_positions() -> None:
    """The long ones among them do."""
    skipping = replace(QUICK, window_tokens=160, skipped_positions=1000, short_share=0.5)
    readings = list(make_reader(skipping).read(range(8)))
    ways = [(reading.positions is None, reading.own_rope) for reading in readings]
    assert ways == [(False, False)] * 4 + [(True, True)] * 4
    assert [reading.tokens.shape for reading in readings] == [(1, 160)] * 4 + [(2, 64)] * 4


@pytest.mark.parametrize("bos", [None, 7])
def test_documents_are_kept_apart_in_short_windows(bos: int | None) -> None:
    text = TokenText(np.arange(10, 3010, dtype=np.int32), "tune", bos, np.asarray([0, *range(5, 3000, 11)], np.int64))
    reader = make_reader(replace(QUICK, window_tokens=160, short_share=0.999, isolate_documents=True), text)
    rows = range(1, reader.batches.epoch_windows)
    readings, count = list(reader.read(rows)), 0
    for reading in readings:
        assert reading.own_rope
        assert reading.documents is not None
        for window, starts in zip(reading.tokens, reading.documents, strict=True):
            begun = [i for i, token in enumerate(window.tolist()) if token >= 15 and (token - 15) % 11 == 0]
            assert starts == (0, *(i for i in begun if i > (bos is not None)))
            count += len(window) - len(starts)
        assert reading.positions is not None
        assert reading.positions.shape == reading.tokens.shape
    assert reader.num_scored(rows) == count == sum(int(reading.scored.sum()) for reading in readings)


@given(share=st.floats(0, 0.999), rows=st.integers(1, 500))
def test_the_share_of_short_windows_is_held_at_every_step(share: float, rows: int) -> None:
    reader = make_reader(replace(QUICK, short_share=share))
    assert sum(map(reader.is_short, range(rows))) == math.floor(rows * share)


def test_a_training_within_the_trained_window_reads_its_short_windows_whole() -> None:
    reader = make_reader(replace(QUICK, window_tokens=40, short_share=0.5))
    assert [(reading.tokens.shape, reading.own_rope) for reading in reader.read(range(2))] == [
        ((1, 40), False),
        ((1, 40), True),
    ]
