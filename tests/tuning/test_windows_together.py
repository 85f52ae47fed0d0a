"""How many short windows of a training step go through the model together, and that the step stays the same."""

from dataclasses import replace

import pico
import pytest
from spying import before
from trainings import QUICK, train

from longrope import distributed
from longrope.engine.memory import MOST_TILE_TOKENS, estimate_training_memory, windows_together
from longrope.pipeline import estimates
from longrope.tuning import training

MODEL = pico.make_model()


@pytest.mark.parametrize("adapters", [True, False])
def test_as_many_as_fit_and_fill_a_tile(adapters: bool) -> None:
    """The largest number whose estimate is within the room; of long windows one, and one where none is known to fit."""
    for tokens, windows, most in ((8192, 32, 8), (8192, 3, 3), (40000, 8, 1), (65536, 8, 1), (2**20, 8, 1)):
        found = windows_together(MODEL, tokens, windows, adapters=adapters, room=2**60)
        assert found == most
        assert found * tokens <= max(tokens, MOST_TILE_TOKENS)
    takes = [estimate_training_memory(MODEL, count * 8192, adapters=adapters, recompute=True) for count in (1, 2, 3)]
    assert takes == sorted(set(takes))
    for room, count in ((takes[0] - 1, 1), (takes[1] - 1, 1), (takes[1], 2), (takes[2] - 1, 2), (takes[2], 3)):
        assert windows_together(MODEL, 8192, 8, adapters=adapters, room=room) == count
    assert windows_together(MODEL, 8192, 8, adapters=adapters) == 1, "a CPU has nothing to fill"


def let_fit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """So many windows fit into the memory together."""
    monkeypatch.setattr(training, "windows_together", lambda _model, _tokens, windows, **_: min(most, windows))


def test_a_step_is_the_same_however_many_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and norms to rounding; one by one on a CPU, so that what was trained before stays bit for bit."""
    settings = replace(QUICK, windows_at_once=1, steps=4)
    sizes: list[int] = []
    before(monkeypatch, training, "weighted_loss_with_graph", lambda _, tokens, *__, **___: sizes.append(len(tokens)))
    alone = train(settings=settings)
    assert sizes == [1] * 16
    let_fit(monkeypatch, 3)
    together = train(settings=settings)
    assert sizes[16:] == [3, 1] * 4
    for one, other in zip(alone, together, strict=True):
        assert one.loss_nats == pytest.approx(other.loss_nats, rel=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        assert (one.num_tokens, one.texts_fingerprint) == (other.num_tokens, other.texts_fingerprint)


def test_settings_ask_for_more_and_rows_of_processes_make_as_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    let_fit(monkeypatch, 4)
    for settings, count in (
        (replace(QUICK, windows_at_once=1), 4),
        (replace(QUICK, windows_at_once=8, batch_windows=8), 8),
        (replace(QUICK, windows_at_once=1, batch_windows=2), 2),
    ):
        assert training.choose_windows_at_once(MODEL, settings, 48) == count
    mixed = replace(QUICK, windows_at_once=1, short_share=0.5)
    assert training.choose_windows_at_once(MODEL, mixed, 48) == 4
    with distributed.entered(distributed.DistributedState(ranks=2)):
        assert training.choose_windows_at_once(MODEL, mixed, 48) == 1


def test_the_estimate_counts_all_that_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(QUICK, windows_at_once=1, recompute=True)
    for together in (1, 3):
        let_fit(monkeypatch, together)
        needed = estimates.estimate_tuning(settings, MODEL, lambda _: 1.0).bytes_needed
        assert needed == estimate_training_memory(MODEL, together * 48, adapters=False, recompute=True)


def test_windows_that_are_read_as_short_ones_take_their_time() -> None:
    """A quarter of eight windows is read as four short ones each; a step takes four passes."""
    short = MODEL.spec.trained_window
    settings = replace(QUICK, steps=4, batch_windows=2, windows_at_once=1, window_tokens=4 * short, short_share=0.25)
    cost = estimates.estimate_tuning(settings, MODEL, lambda tokens: float(tokens**2))
    assert cost.seconds == 4 * (6 * (4 * short) ** 2 + 2 * 4 * short**2)
