"""Gradients with every n-th hidden state alone held, against those with all of them."""

import gc
import weakref
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pico
import pytest
import torch
from long_passes import gradients, set_room
from torch import Tensor
from trainings import QUICK, train

from longrope.engine import held_states
from longrope.engine.held_states import HeldStates, Holding
from longrope.engine.kernels import CPU
from longrope.engine.memory import attention_bytes, estimate_training_memory
from longrope.errors import RecipeError
from longrope.pipeline.stages import YOUNGER
from longrope.recipe import TuneRecipe
from longrope.tuning import UNNAMED_BY_DEFAULT

LAYERS = 5


@pytest.mark.parametrize("room", [2**32, 0], ids=["outputs of attention kept", "none kept"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_gradients_are_the_same_bit_for_bit(family: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows in some layers of one family; groups of layers that do not divide their number, and one of all."""
    model = pico.make_model(family, num_hidden_layers=LAYERS)
    set_room(monkeypatch, room)
    expected = gradients(model)
    for every in (2, 3, LAYERS, 10):
        assert torch.equal(gradients(model, holding=Holding(every)), expected), every


@pytest.mark.parametrize(
    ("every", "runs"), [(1, [2, 2, 2, 2, 2]), (2, [3, 2, 3, 2, 2]), (3, [3, 3, 2, 3, 2]), (5, [3, 3, 3, 3, 2])]
)
def test_layers_run_once_more_and_attention_not(every: int, runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer but the last of its group runs a third time; attention is worked out as often as without groups."""
    model, found = pico.make_model("llama", num_hidden_layers=LAYERS), Counter[int]()
    run, calls = CPU.run, []

    def counted(*given: Any, **settings: Any) -> Any:
        calls.append(1)
        return run(*given, **settings)

    object.__setattr__(CPU, "run", counted)
    hooks = [
        layer.input_layernorm.register_forward_pre_hook(lambda *_, at=at: found.update([at]))
        for at, layer in enumerate(model.network.model.layers)
    ]
    try:
        for room, times in ((0, 2), (2**32, 1)):
            found.clear()
            calls.clear()
            set_room(monkeypatch, room)
            gradients(model, holding=Holding(every))
            assert [found[at] for at in range(LAYERS)] == runs
            assert len(calls) == times * LAYERS
    finally:
        object.__setattr__(CPU, "run", run)
        for hook in hooks:
            hook.remove()


def test_a_state_that_something_else_has_worked_on_is_held() -> None:
    """The layer before it would not make it again; a layer that must not run again is not asked to."""
    states, asked = HeldStates(Holding(every=4)), list[str]()
    x = torch.ones(3, requires_grad=True)
    given, saved = [], []

    def doubled(name: str, state: Tensor) -> Tensor:
        asked.append(name)
        return 2 * state

    for name in "abcde":
        with states.before(x, None if name == "d" else partial(doubled, name)):
            saved.append(torch.square(x).grad_fn)
        given.append(x.detach())
        output = 2 * x
        states.after((output, None) if name == "b" else output)
        x = output + 1 if name == "a" else output
    states.end()
    assert asked == []
    for at, known in ((4, ""), (3, "bc"), (2, "bc"), (1, "bc"), (0, "bc"), (3, "bcbc")):
        assert torch.equal(saved[at]._saved_self, given[at])  # type: ignore[union-attr]
        assert "".join(asked) == known


def test_nothing_but_the_graph_holds_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the backward pass they are gone without Python's collector, which runs when it likes."""
    held: list[weakref.ref[Tensor]] = []
    put = HeldStates._put

    def seen(states: HeldStates, hidden: Tensor) -> Any:
        found = put(states, hidden)
        assert isinstance(found, Tensor)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(held_states.HeldStates, "_put", seen)
    model = pico.make_model("llama", num_hidden_layers=LAYERS)
    gc.disable()
    try:
        gradients(model, holding=Holding(2))
        assert len(held) == 3
        assert all(state() is None for state in held)
    finally:
        gc.enable()


def test_less_memory_is_estimated_for_fewer_states() -> None:
    """States are the largest part of a long window's step; a group's own states and outputs of attention are in it."""
    model = pico.make_model("llama", num_hidden_layers=12)
    tokens, size = 2**22, 4
    state = size * tokens * model.network.config.hidden_size
    whole = estimate_training_memory(model, tokens, adapters=True)
    per_layer = attention_bytes(model, tokens) // 12
    for every, states in ((2, 6 + 1), (3, 4 + 2), (4, 3 + 3), (12, 1 + 11), (100, 1 + 11)):
        found = estimate_training_memory(model, tokens, adapters=True, holding=Holding(every))
        assert whole - found == state * (12 - states) - per_layer * (min(every, 12) - 1)
    assert estimate_training_memory(model, tokens, adapters=True, holding=Holding(offload=True)) == whole, "on a CPU"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("every", [1, 3])
def test_states_in_the_cpus_memory_give_the_same_gradients_on_cuda(every: int) -> None:
    """Bit for bit, several times, so that copies that are not waited for would show; the GPU holds fewer states."""
    model = pico.make_model("llama", num_hidden_layers=LAYERS, dtype=torch.bfloat16, head_dim=64)
    model.network.cuda()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        expected = gradients(model)
        for _ in range(5):
            torch.testing.assert_close(gradients(model, holding=Holding(every, offload=True)), expected)
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_a_training_holds_states_as_it_is_set_and_learns_the_same() -> None:
    """Resumed as one of an earlier version, where the settings have their defaults."""
    settings = replace(QUICK, steps=3)
    expected = train(settings=settings)
    found = train(settings=replace(settings, recompute_layers=2, offload=True))
    assert [step.loss_nats for step in found] == [step.loss_nats for step in expected]
    for name in ("recompute_layers", "offload"):
        assert name in UNNAMED_BY_DEFAULT
        assert name in YOUNGER


@pytest.mark.parametrize("change", [{"recompute_layers": 2}, {"offload": True}, {"recompute_layers": 0}])
def test_settings_that_do_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"tune.{next(iter(change))} = "):
        TuneRecipe(recompute=False, **change)
