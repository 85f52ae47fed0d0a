"""Layers that are recorded and replayed: on the CPU work stands for its recording; on a GPU with ``-k cuda``."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pico
import pytest
import torch
from long_passes import FAMILIES, TOKENS, needs_gpu
from torch import Tensor

from longrope.engine import replaying
from longrope.engine.context import ForwardContext, run_decoder
from longrope.engine.passes import token_losses
from longrope.engine.replaying import Recordings, ReplayedPass, recordings_of
from longrope.engine.tiling import changed_layers
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors


class Recorder:
    """Makes recordings that do the work again, and counts."""

    def __init__(self, *, fails: bool = False) -> None:
        """None yet."""
        self.fails, self.made, self.replayed = fails, 0, 0

    def __call__(self, work: Callable[[], None], _: Recordings) -> Callable[[], None]:
        """A recording."""
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.made += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def states(model: LanguageModel, ids: Tensor, kept: Recordings | None, recorder: Recorder) -> Tensor:
    """Of one pass; without ``kept`` by layers as they are."""
    context = ForwardContext(model.network, {})
    if kept is not None:
        replayed = ReplayedPass(kept, recorder)

        def change(forward: Any, index: int) -> Callable[..., Any]:
            return replayed.change(forward, forward.__self__, index)

        context.forwards |= changed_layers(model.network, change)
    with torch.inference_mode():
        return run_decoder(context, {"input_ids": ids})


def passes(seed: int, shape: tuple[int, int]) -> Tensor:
    return torch.randint(1, 97, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "qwen3"])
def test_replayed_passes_give_what_layers_give(family: str) -> None:
    """Windows of two shapes that take turns, also where some layers see windows and are not recorded."""
    model, kept, recorder = pico.make_model(family), Recordings(), Recorder()
    for seed in range(10):
        ids = passes(seed, (2, 24) if seed % 2 else (1, 31))
        assert torch.equal(states(model, ids, kept, recorder), states(model, ids, None, recorder))
    layers = model.network.config.num_hidden_layers
    assert 0 < recorder.made <= 2 * layers
    assert recorder.replayed == 3 * recorder.made


def test_other_factors_are_used_in_replayed_passes() -> None:
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    found = []
    for scale in (1.0, 1.0, 1.0, 2.0, 3.0):
        factors = RescaleFactors((scale,) * model.spec.num_pairs, 256, model.spec.fingerprint)
        with rescaled(model, factors):
            found.append(states(model, TOKENS, kept, recorder).clone())
            assert torch.equal(found[-1], states(model, TOKENS, None, recorder))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[2], found[3])
    assert recorder.replayed == 3 * recorder.made > 0


@pytest.mark.parametrize("how", ["elsewhere", "in place"])
def test_other_weights_are_used_in_replayed_passes(how: str) -> None:
    """In place they are read where they were; elsewhere their layer alone is recorded again."""
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    for _ in range(3):
        before = states(model, TOKENS, kept, recorder).clone()
    made, weight = recorder.made, model.network.model.layers[0].mlp.up_proj.weight
    if how == "in place":
        with torch.no_grad():
            weight.mul_(2)
    else:
        weight.data = 2 * weight.data
    after = states(model, TOKENS, kept, recorder)
    assert torch.equal(after, states(model, TOKENS, None, recorder))
    assert not torch.equal(before, after)
    assert recorder.made - made == (how == "elsewhere")


def scale_attention(layer: Any) -> None:
    layer.self_attn.scaling *= 3


def wrap_matrix(layer: Any) -> None:
    layer.mlp.up_proj = torch.nn.Sequential(layer.mlp.up_proj, torch.nn.Tanh())


def replace_forward(layer: Any) -> None:
    layer.mlp.forward = torch.zeros_like


@pytest.mark.parametrize("change", [scale_attention, wrap_matrix, replace_forward])
def test_a_layer_that_is_changed_is_recorded_again(change: Callable[[Any], None]) -> None:
    """A setting of a module, another module in its place, another forward."""
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    for _ in range(3):
        before = states(model, TOKENS, kept, recorder).clone()
    made = recorder.made
    change(model.network.model.layers[1])
    for _ in range(2):
        after = states(model, TOKENS, kept, recorder)
        assert torch.equal(after, states(model, TOKENS, None, recorder))
        assert not torch.equal(before, after)
    assert recorder.made == made + 1


def test_a_layer_that_changes_in_every_pass_runs_as_it_is() -> None:
    model, kept, recorder = pico.make_model("llama", num_hidden_layers=1), Recordings(), Recorder()
    for _ in range(5 + replaying.MOST_TIMES):
        model.network.model.layers[0].self_attn.scaling *= 1.1
        expected = states(model, TOKENS, None, recorder)
        assert torch.equal(states(model, TOKENS, kept, recorder), expected)
    assert recorder.made == replaying.MOST_TIMES


def test_hooks_of_parts_are_called_in_every_pass() -> None:
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    for _ in range(3):
        states(model, TOKENS, kept, recorder)
    seen: list[int] = []
    handle = model.network.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    replayed = recorder.replayed
    for _ in range(2):
        states(model, TOKENS, kept, recorder)
    assert len(seen) == 2
    layers = model.network.config.num_hidden_layers
    assert recorder.replayed - replayed == 2 * (layers - 1)
    handle.remove()
    states(model, TOKENS, kept, recorder)
    assert recorder.replayed - replayed == 2 * (layers - 1) + layers


def test_a_layer_that_cannot_be_recorded_runs_as_it_is() -> None:
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder(fails=True)
    expected = states(model, TOKENS, None, recorder)
    for _ in range(5):
        assert torch.equal(states(model, TOKENS, kept, recorder), expected)
    assert not kept.recorded


def test_layers_with_experts_are_not_recorded() -> None:
    model, kept, recorder = pico.make_model("mixtral", **FAMILIES["mixtral"]), Recordings(), Recorder()
    for _ in range(4):
        states(model, TOKENS, kept, recorder)
    assert not recorder.made


@pytest.mark.parametrize("times", [2, 3])
def test_recordings_of_too_many_shapes_begin_anew(times: int) -> None:
    """Also where windows of a shape come twice, and so are not recorded."""
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    for tokens in range(10, 10 + 2 * replaying.MOST_SHAPES):
        for seed in range(times):
            ids = passes(seed, (1, tokens))
            assert torch.equal(states(model, ids, kept, recorder), states(model, ids, None, recorder))
        assert len([name for name, *_ in kept.buffers if name == "hidden"]) <= replaying.MOST_SHAPES + 1
    assert bool(recorder.made) == (times > 2)


def test_shapes_that_came_once_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MOST_SEEN", 5)
    model, kept, recorder = pico.make_model("llama"), Recordings(), Recorder()
    for tokens in range(10, 22):
        states(model, passes(0, (1, tokens)), kept, recorder)
    assert len(kept.seen) <= 5 + model.network.config.num_hidden_layers


def test_nothing_is_recorded_on_a_cpu() -> None:
    model = pico.make_model("llama")
    for _ in range(4):
        token_losses(model, TOKENS)
    assert not recordings_of(model.network).recorded


@needs_gpu
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "qwen3", "mixtral"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_replayed_passes_on_cuda(family: str, *, compiled: bool) -> None:
    """Losses are those of first passes, in which nothing is replayed; then with other weights, elsewhere."""
    model = replace(pico.make_model(family, dtype=torch.bfloat16), compiled=compiled)
    model.network.to("cuda")
    for scale in (1.0, 1.5):
        for weight in model.network.parameters():
            weight.data = scale * weight.data
        expected = []
        for seed in range(6):
            replaying.forget(model.network)
            expected.append(token_losses(model, passes(seed, (3, 40))))
        replaying.forget(model.network)
        for seed in range(6):
            found = token_losses(model, passes(seed, (3, 40)))
            torch.testing.assert_close(found, expected[seed], rtol=0, atol=1e-2 if compiled else 0)
        assert bool(recordings_of(model.network).recorded) == (family != "mixtral")
