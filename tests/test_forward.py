"""The long pass against whole logits, plain autograd and transformers' own greedy decoding.

The logits are made in chunks that do not divide the windows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pico
import pytest
import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from longrope import forward
from longrope.factors import RescaleFactors
from longrope.forward import greedy_answers, token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel, rescaled

VOCABULARY = pico.BASE["vocab_size"]
TOKENS = torch.randint(1, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(3))
FAMILIES: dict[str, dict[str, Any]] = {
    **{family: {} for family in pico.FAMILIES},
    "mixtral": {},  # experts
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
}
CHUNKS = {"whole": 2**28, "uneven": VOCABULARY * 3 * 7, "single": 1}  # logits a chunk: all, 7 tokens of 3 rows, 1 token
every_family = pytest.mark.parametrize("family", FAMILIES)
every_chunk = pytest.mark.parametrize("chunk", CHUNKS)


def mean_loss_with_graph(model: LanguageModel, tokens: Tensor, tail_tokens: int = 0) -> Tensor:
    """Equal weights for all next tokens, or for a tail of each window."""
    weights = np.zeros((len(tokens), tokens.shape[1] - 1))
    weights[:, -tail_tokens:] = 1
    return weighted_loss_with_graph(model, tokens, weights / weights.sum())


@pytest.fixture(scope="module")
def make() -> Callable[..., LanguageModel]:
    """Pico models that are made once and never changed."""
    made: dict[tuple[str, torch.dtype], LanguageModel] = {}

    def get(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
        if (family, dtype) not in made:
            made[family, dtype] = pico.make_model(family, dtype=dtype, **FAMILIES[family])
        return made[family, dtype]

    return get


def make_factors(model: LanguageModel) -> RescaleFactors:
    lambdas = tuple(2.0 + i for i in range(model.spec.num_pairs))
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, start_tokens=5, attention_factor=1.1)


def compute_losses(network: Any, tokens: Tensor) -> Tensor:
    """[B, N - 1] nats from whole logits: log of the sum of exponentials less the target's logit, in float64."""
    logits = network(tokens, use_cache=False).logits.double()[:, :-1]
    targets = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return logits.exp().sum(-1).log() - targets  # type: ignore[no-any-return]


@every_family
@every_chunk
def test_token_losses_are_those_of_whole_logits(
    family: str, chunk: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loss per token but the first, with the family's own caps and scales, however the logits are cut."""
    model = make(family)
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS[chunk])
    losses = token_losses(model, TOKENS)
    assert losses.shape == (3, 47)
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)


@every_family
def test_token_losses_in_bfloat16(
    family: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 logits become float32 before the loss; the mean is right to a hundredth, each entry to the rounding."""
    model = make(family, torch.bfloat16)
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    losses, reference = token_losses(model, TOKENS), compute_losses(model.network, TOKENS)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), reference, rtol=0.02, atol=0.1)
    assert losses.mean().item() == pytest.approx(reference.mean().item(), abs=0.01)


def test_caps_and_scales_matter(make: Callable[..., LanguageModel]) -> None:
    """Gemma-2's soft cap and the scales of Cohere and Granite change the logits, so an absence is noticed."""
    for family in ("gemma2", "cohere", "granite"):
        network = make(family).network
        hidden = network.base_model(TOKENS, use_cache=False).last_hidden_state
        bare = network.lm_head(hidden)
        assert (bare - network(TOKENS, use_cache=False).logits).abs().max() > 0.1, family


def test_head_that_asks_its_decoder() -> None:
    """Falcon-H1's head multiplies by a number that its decoder holds, while the decoder stands aside."""
    model = pico.make_model(
        "falcon_h1", lm_head_multiplier=0.5, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8
    )
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)


def test_windows_do_not_see_each_other(make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses do not depend on the order of the windows or on how many go through at once."""
    model = make("llama")
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    together = token_losses(model, TOKENS)
    torch.testing.assert_close(token_losses(model, TOKENS.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([token_losses(model, row[None]) for row in TOKENS])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_losses_see_only_what_comes_before(make: Callable[..., LanguageModel]) -> None:
    """A changed token changes its own loss and the later ones, and no earlier one."""
    model, changed = make("llama"), TOKENS.clone()
    changed[:, 30] = (changed[:, 30] + 1) % VOCABULARY
    difference = (token_losses(model, changed) - token_losses(model, TOKENS)).abs()
    assert difference[:, :29].max() < 1e-5
    assert difference[:, 29:].min(0).values.max() > 1e-3
    assert difference[:, 29].min() > 1e-5


def test_losses_of_a_rescaled_model(make: Callable[..., LanguageModel]) -> None:
    """The pass runs the model as it is at the moment."""
    model = make("llama")
    with rescaled(model, make_factors(model)):
        losses, reference = token_losses(model, TOKENS), compute_losses(model.network, TOKENS).detach()
    torch.testing.assert_close(losses.double(), reference, rtol=1e-5, atol=1e-5)
    assert (losses - token_losses(model, TOKENS)).abs().max() > 0.1


def test_no_logits_of_a_whole_window_are_made(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head never gets more tokens than a chunk holds."""
    model, sizes = make("llama"), []
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    hook = model.network.lm_head.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape)))
    try:
        token_losses(model, TOKENS)
    finally:
        hook.remove()
    assert sizes == [(3, 7, VOCABULARY)] * 6 + [(3, 5, VOCABULARY)]


def test_network_is_whole_after_the_pass(make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder that stood aside for the head is back, an exception included."""
    model = make("llama")
    decoder, names = model.network.model, [name for name, _ in model.network.named_modules()]

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    token_losses(model, TOKENS)
    monkeypatch.setattr(model.network.lm_head, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        token_losses(model, TOKENS)
    assert model.network.model is decoder
    assert [name for name, _ in model.network.named_modules()] == names


# The loss with a graph


def get_gradients(module: Any) -> Tensor:
    return torch.cat([module.lambdas.grad.flatten(), module.attention_factor.grad.flatten()])


@every_family
@pytest.mark.parametrize("tail_tokens", [0, 10])
def test_loss_and_gradients_are_those_of_plain_autograd(
    family: str, tail_tokens: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints and chunks change neither the loss nor what reaches lambda and the attention factor."""
    model = make(family)
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    with rescaled(model, make_factors(model), learnable=True) as module:
        reference = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean()
        reference.backward()
        expected = get_gradients(module)
    with rescaled(model, make_factors(model), learnable=True) as module:
        loss = mean_loss_with_graph(model, TOKENS, tail_tokens)
        loss.backward()
        given = get_gradients(module)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert expected[0].abs() > 1e-4
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_gradients_of_weights(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight of a network that is tuned gets the gradient of plain autograd."""
    monkeypatch.setattr(forward, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    gradients = []
    for plainly in (True, False):
        model = pico.make_model(family)
        model.network.requires_grad_(True)
        loss = compute_losses(model.network, TOKENS).mean() if plainly else mean_loss_with_graph(model, TOKENS)
        loss.backward()
        gradients.append({name: weight.grad for name, weight in model.network.named_parameters()})
    plain, ours = gradients
    for name, expected in plain.items():
        assert ours[name] is not None, name
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("tail_tokens", [1, 46, 47, 48, 1000])
def test_tail_counts_exactly_the_last_tokens(tail_tokens: int, make: Callable[..., LanguageModel]) -> None:
    """The mean is over so many last tokens of each window, over all of them where there are no more."""
    model = make("llama")
    expected = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean().item()
    assert mean_loss_with_graph(model, TOKENS, tail_tokens).item() == pytest.approx(expected, rel=1e-5)


def test_layers_are_recomputed_and_then_as_before(make: Callable[..., LanguageModel]) -> None:
    """Each layer runs once forwards and once more in the backward pass; afterwards its own forward is back."""
    model, runs = make("llama"), []
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert len(layers) == 2
    hooks = [
        layer.get_submodule("input_layernorm").register_forward_pre_hook(lambda *_, at=at: runs.append(at))
        for at, layer in enumerate(layers)
    ]
    try:
        with rescaled(model, make_factors(model), learnable=True):
            loss = mean_loss_with_graph(model, TOKENS)
            assert runs == [0, 1]
            assert all("forward" not in vars(layer) for layer in layers)
            loss.backward()
        assert runs == [0, 1, 1, 0]
    finally:
        for hook in hooks:
            hook.remove()


def test_layers_are_as_before_after_an_exception(make: Callable[..., LanguageModel]) -> None:
    """A failed pass leaves no checkpointed layer behind."""
    model = make("llama")
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    before = token_losses(model, TOKENS)
    with pytest.raises(IndexError):
        mean_loss_with_graph(model, TOKENS + VOCABULARY)  # ids beyond the vocabulary
    assert all("forward" not in vars(layer) for layer in layers)
    assert torch.equal(token_losses(model, TOKENS), before)


# Greedy answers


def generate(model: LanguageModel, prompts: Tensor, count: int) -> Tensor:
    """[B, count] what transformers' own greedy decoding answers, with its cache and without a stop."""
    model.network.generation_config.eos_token_id = None
    sequences = model.network.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=count, do_sample=False
    )
    return sequences[:, prompts.shape[1] :]  # type: ignore[no-any-return]


@every_family
def test_greedy_answers_are_those_of_generate(family: str, make: Callable[..., LanguageModel]) -> None:
    """What generate answers is the greedy answer; an answer that differs in any one token is not."""
    model, count = make(family), 4
    prompts = TOKENS[:, :20]
    with rescaled(model, make_factors(model)):
        answers = generate(model, prompts, count)
        assert greedy_answers(model, torch.cat((prompts, answers), dim=1), count).tolist() == [True] * 3
        for at in range(count):
            altered = answers.clone()
            altered[1, at] = (altered[1, at] + 1) % VOCABULARY
            found = greedy_answers(model, torch.cat((prompts, altered), dim=1), count)
            assert found.tolist() == [True, False, True], at


def test_greedy_answers_in_bfloat16(make: Callable[..., LanguageModel]) -> None:
    """The same on a bfloat16 model, one token at a time, where no two logits tie."""
    model = make("llama", torch.bfloat16)
    prompts = TOKENS[:, :20]
    answers = generate(model, prompts, 1)
    top = model.network(prompts, use_cache=False).logits[:, -1].topk(2).values
    assert (top[:, 0] > top[:, 1]).all(), "choose other prompts: this one ties"
    assert greedy_answers(model, torch.cat((prompts, answers), dim=1), 1).all()
    assert not greedy_answers(model, torch.cat((prompts, (answers + 1) % VOCABULARY), dim=1), 1).any()


def test_only_the_answer_is_compared(make: Callable[..., LanguageModel]) -> None:
    """Prompts need not be greedy continuations of themselves, and one answer token is enough to ask for."""
    model = make("llama")
    prompts = TOKENS[:, :20]
    answers = generate(model, prompts, 3)
    whole = torch.cat((prompts, answers), dim=1)
    assert not greedy_answers(model, whole, 10).any()
    assert greedy_answers(model, whole, 1).all()
    assert greedy_answers(model, whole[:, :-1], 2).all()
