"""Packed documents that do not see each other, and given positions, against each alone and against transformers."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pico
import pytest
import torch
from long_passes import (
    DOCUMENTS,
    FAMILIES,
    TOKENS,
    every_family,
    every_tile,
    get_gradients,
    make_factors,
    mean_loss_with_graph,
    needs_gpu,
    set_chunk,
    set_tile,
)
from torch import Tensor

from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.errors import LongRopeError, ModelError
from longrope.models import LanguageModel, rescaled

# Documents that do not see each other


def lengths_of(row: int) -> list[tuple[int, int]]:
    """Where the documents of a window begin and end."""
    return list(pairwise((*DOCUMENTS[row], TOKENS.shape[1])))


def told_by_their_documents() -> Tensor:
    """[B, N - 1] which next tokens have one before them in their document."""
    return torch.tensor([[at + 1 not in starts for at in range(TOKENS.shape[1] - 1)] for starts in DOCUMENTS])


def losses_alone(network: Any) -> Tensor:
    """Losses that transformers gives for each document by itself, at its positions in the window, row after row."""
    found = []
    for row in range(len(TOKENS)):
        for first, last in lengths_of(row):
            own, positions = TOKENS[row : row + 1, first:last], torch.arange(first, last)[None]
            logits = network(own, position_ids=positions, use_cache=False).logits.double()[:, :-1]
            targets = logits.gather(-1, own[:, 1:, None])[..., 0]
            found.append((logits.exp().sum(-1).log() - targets)[0])
    return torch.cat(found)


@every_family
@every_tile
def test_documents_are_read_as_if_alone(
    family: str, tile: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several in a row, one in all of it, one of one token; with sliding windows and in tiles that they do not meet."""
    model = make(family)
    set_tile(monkeypatch, tile)
    with rescaled(model, make_factors(model)), torch.no_grad():
        losses = token_losses(model, TOKENS, documents=DOCUMENTS)
        expected, together = losses_alone(model.network), token_losses(model, TOKENS)
    known = told_by_their_documents()
    torch.testing.assert_close(losses[known].double(), expected, rtol=5e-5, atol=5e-5)
    assert (losses - together)[0, 5:].abs().max() > 0.1, "the documents must have something to hide"


@pytest.mark.parametrize("settings", [{"recompute": True}, {"recompute": False}])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "mixtral"])
def test_gradients_of_documents_are_those_of_each_alone(
    family: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every weight and of lambda, whether layers run again in the backward pass or not."""
    set_chunk(monkeypatch)
    set_tile(monkeypatch, 7)
    known, gradients = told_by_their_documents(), []
    shares = np.random.default_rng(4).random(known.shape) * known.numpy()
    for plainly in (True, False):
        model = pico.make_model(family, **FAMILIES[family])
        model.network.requires_grad_(True)
        with rescaled(model, make_factors(model), learnable=True) as module:
            if plainly:
                loss = (losses_alone(model.network) * torch.from_numpy(shares)[known]).sum()
            else:
                loss = weighted_loss_with_graph(model, TOKENS, shares, documents=DOCUMENTS, **settings)
            loss.backward()
            gradients.append({name: weight.grad for name, weight in model.network.named_parameters()})
            gradients[-1] |= {"loss": loss.detach().float(), "factors": get_gradients(module)}
    plain, ours = gradients
    for name, expected in plain.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_documents_are_those_of_a_block_diagonal_mask(kind: str) -> None:
    """Also where transformers is handed a mask of all windows at once."""
    model = pico.make_model("llama")
    owners = torch.stack([(torch.arange(48) >= torch.tensor(starts)[:, None]).sum(0) for starts in DOCUMENTS])
    seen = (owners[:, :, None] == owners[:, None]) & torch.ones(48, 48).tril().bool()
    model.network.set_attn_implementation(kind)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model.network(TOKENS, attention_mask=mask[:, None], use_cache=False).logits.double()[:, :-1]
    expected = logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]
    model.network.set_attn_implementation("sdpa")
    given = token_losses(model, TOKENS, documents=DOCUMENTS)
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


def test_documents_whose_positions_begin_anew_are_those_that_transformers_packs() -> None:
    """It takes a position that does not follow the one before as the beginning of another sequence."""
    model = pico.make_model("llama")
    positions = torch.cat([torch.arange(last - first) for row in range(3) for first, last in lengths_of(row)])
    with rescaled(model, make_factors(model)), torch.no_grad():
        logits = model.network(TOKENS, position_ids=positions.view(3, 48), use_cache=False).logits.double()[:, :-1]
        expected = logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]
        given = token_losses(model, TOKENS, documents=DOCUMENTS, positions=positions.view(3, 48))
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


@needs_gpu
def test_cuda_documents_are_read_as_if_alone() -> None:
    """By the GPU's kernels, which see parts of the keys, down to documents of one and two tokens; gradients, too."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    model.network.to("cuda").requires_grad_(True)
    alone = [
        token_losses(model, TOKENS[row : row + 1, a:b])[0] for row in range(3) for a, b in lengths_of(row) if b > a + 1
    ]
    known = told_by_their_documents()
    losses = token_losses(model, TOKENS, documents=DOCUMENTS)[known]
    torch.testing.assert_close(losses, torch.cat(alone), rtol=0.02, atol=0.1)
    assert losses.mean().item() == pytest.approx(torch.cat(alone).mean().item(), abs=0.01)
    norms = []
    for recompute in (True, False):
        shares = known.double().numpy() / known.sum().item()
        loss = weighted_loss_with_graph(model, TOKENS, shares, recompute=recompute, documents=DOCUMENTS)
        loss.backward()
        assert loss.item() == pytest.approx(losses.mean().item(), abs=0.01)
        gradients = [weight.grad.float().flatten() for weight in model.network.parameters() if weight.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        model.network.zero_grad()
    assert norms[0] > 0
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


def test_windows_of_one_document_are_read_together(make: Callable[..., LanguageModel]) -> None:
    """To the bit as where no documents are told."""
    model = make("llama")
    assert torch.equal(token_losses(model, TOKENS, documents=[[0]] * 3), token_losses(model, TOKENS))


def test_a_pass_without_a_scored_token_has_no_loss(make: Callable[..., LanguageModel]) -> None:
    """As one over documents of one token each."""
    assert weighted_loss_with_graph(make("llama"), TOKENS, np.zeros((3, 47)), recompute=False).item() == 0


@pytest.mark.parametrize(
    "documents",
    [
        *([], [[0]] * 2, [[0]] * 2 + [[]], [[0], [0], [1]]),
        *([[0, 5]] * 2, [[0, 5, 5]] * 3, [[0, 48]] * 3, [[0, 9, 7]] * 3),
    ],
)
@pytest.mark.parametrize("way", [token_losses, mean_loss_with_graph])
def test_documents_that_do_not_fit_are_refused(
    way: Callable[..., Tensor], documents: list[list[int]], make: Callable[..., LanguageModel]
) -> None:
    with pytest.raises(LongRopeError, match="in 3 windows of 48 tokens"):
        way(make("llama"), TOKENS, documents=documents)


def test_recurrent_layers_would_carry_over_documents() -> None:
    model = pico.make_model("falcon_h1", mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8)
    with pytest.raises(ModelError, match=r"'falcon_h1' has recurrent layers\. .* documents cannot be kept apart"):
        token_losses(model, TOKENS, documents=DOCUMENTS)
    assert token_losses(model, TOKENS, documents=[[0]] * 3).shape == (3, 47)


# Positions that are given


def losses_at(network: Any, positions: Tensor) -> Tensor:
    """Losses by transformers at these positions; its mask is given, or it would take a skip for another sequence."""
    distance = torch.arange(48)[:, None] - torch.arange(48)
    reach = getattr(network.config, "sliding_window", None) or 48
    masks = [torch.zeros(3, 1, 48, 48).masked_fill((distance < 0) | (distance >= n), -torch.inf) for n in (48, reach)]
    gemma = network.config.model_type == "gemma2"
    mask: Any = dict(zip(("full_attention", "sliding_attention"), masks, strict=True)) if gemma else masks[0]
    logits = network(TOKENS, attention_mask=mask, position_ids=positions, use_cache=False).logits.double()[:, :-1]
    return logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]  # type: ignore[no-any-return]


POSITIONS = torch.arange(48).repeat(3, 1)
POSITIONS[0, 11:] += 100
POSITIONS[2, 40:] += 7


@every_family
def test_losses_at_positions_are_those_of_transformers(
    family: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ones in each row, in tiles and with gradients; sliding windows go by tokens, not by positions."""
    model = make(family)
    set_tile(monkeypatch, 7)
    with rescaled(model, make_factors(model), learnable=True) as module:
        reference = losses_at(model.network, POSITIONS)
        reference.mean().backward()
        expected = get_gradients(module)
    with rescaled(model, make_factors(model), learnable=True) as module:
        mean_loss_with_graph(model, TOKENS, positions=POSITIONS).backward()
        losses = token_losses(model, TOKENS, positions=POSITIONS.numpy())
        plain = token_losses(model, TOKENS)
        given = get_gradients(module)
    torch.testing.assert_close(losses.double(), reference.detach(), rtol=5e-5, atol=5e-5)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert (losses - plain)[0].abs().max() > 0.01
    torch.testing.assert_close(losses[1], plain[1], rtol=1e-4, atol=1e-4)
