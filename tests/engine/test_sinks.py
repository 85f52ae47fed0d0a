"""Attention with sinks and in chunks against a softmax in float64 that has one logit more, and its gradients."""

from typing import Any

import pytest
import torch
from attention_oracle import SCALE, make_inputs
from torch import Tensor

from longrope.engine.attention import attend, attend_causal, attend_within
from longrope.engine.merging import beside_sinks

LENGTHS = [(1, 1), (1, 9), (5, 5), (5, 9), (9, 9)]
HEADS = [(4, 4), (4, 2), (3, 1)]
WINDOWS: list[dict[str, Any]] = [{}, {"window": 3}, {"chunk": 4}, {"window": 2, "chunk": 4}, {"softcap": 1.5}]
SINKS = torch.tensor([-30.0, 0.7, 2.5, 30.0])  # of no weight, of some, of nearly all


def with_sinks(
    given: tuple[Tensor, Tensor, Tensor],
    sinks: Tensor | None,
    *,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """All scores at once, the sink among them as a column that is left out of the product."""
    query, key, value = (x.double() for x in given)
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    scores = query @ key.mT * SCALE
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    places = torch.arange(key.shape[2])
    own = places[-query.shape[2] :, None]
    seen = (places <= own) & (own - places < (window or 99))
    seen &= own // (chunk or 99) == places // (chunk or 99)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.double()[:, None, None].expand(*scores.shape[:3], 1)), dim=-1)
    return scores.softmax(-1)[..., : key.shape[2]] @ value


@pytest.mark.parametrize("pattern", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_output_with_sinks(heads: tuple[int, int], lengths: tuple[int, int], pattern: dict[str, Any]) -> None:
    given = make_inputs(heads, lengths)
    for sinks in (SINKS[: heads[0]], SINKS[-heads[0] :], None):
        output = attend_causal(*given, scale=SCALE, sinks=sinks, **pattern)
        torch.testing.assert_close(output.double(), with_sinks(given, sinks, **pattern), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("pattern", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_gradients_with_sinks(heads: tuple[int, int], lengths: tuple[int, int], pattern: dict[str, Any]) -> None:
    """Of queries, keys, values and sinks, in float64."""
    given = [x.requires_grad_() for x in make_inputs(heads, lengths, dtype=torch.float64)]
    sinks = SINKS[: heads[0]].double().requires_grad_()
    output = attend_causal(*given, scale=SCALE, sinks=sinks, **pattern)
    expected = with_sinks(tuple(given), sinks, **pattern)  # type: ignore[arg-type]
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    aim = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad((x * aim).sum(), [*given, sinks]) for x in (output, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_gradients_for_sinks_alone() -> None:
    """Where all else is frozen."""
    given, sinks = make_inputs((4, 2), (5, 9), dtype=torch.float64), SINKS.double().requires_grad_()
    found, wanted = (
        torch.autograd.grad(x.sum(), sinks)[0]
        for x in (attend(*given, scale=SCALE, sinks=sinks), with_sinks(given, sinks))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_sinks_of_documents() -> None:
    """Each document has the sinks, and none sees another."""
    given = make_inputs((4, 2), (9, 9), rows=1)

    def work(*parts: Tensor) -> Tensor:
        return attend_causal(*parts, scale=SCALE, sinks=SINKS, chunk=2)

    output = attend_within([(0, 5)], work, *given)
    for part in (slice(0, 5), slice(5, 9)):
        alone = with_sinks(tuple(x[:, :, part] for x in given), SINKS, chunk=2)  # type: ignore[arg-type]
        torch.testing.assert_close(output[:, :, part].double(), alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("width", [4, 12])
def test_values_of_another_width(lengths: tuple[int, int], width: int) -> None:
    """Narrower and wider than keys, with gradients and without."""
    query, key, _ = make_inputs((4, 2), lengths)
    given = query, key, torch.randn((2, 2, lengths[1], width), generator=torch.Generator().manual_seed(5))
    expected = with_sinks(given, SINKS, window=3)
    output = attend_causal(*given, scale=SCALE, sinks=SINKS, window=3)
    assert output.shape[3] == width
    torch.testing.assert_close(output.double(), expected, rtol=2e-5, atol=2e-5)
    query.requires_grad_()
    output = attend_causal(*given, scale=SCALE, sinks=SINKS)
    torch.testing.assert_close(output.double(), with_sinks(given, SINKS), rtol=2e-5, atol=2e-5)


def test_sinks_in_bfloat16_are_applied_in_float32() -> None:
    """The log-sum-exp of many keys has more digits than bfloat16."""
    output = torch.ones(1, 1, 1, 8, dtype=torch.bfloat16)
    lse, sinks = torch.full((1, 1, 1), 11.03), torch.tensor([11.0], dtype=torch.bfloat16)
    expected = 1 / (1 + torch.exp(torch.tensor(-0.03)))
    found = beside_sinks(output, lse, sinks)
    assert found.dtype == torch.bfloat16
    assert found.float().mean().item() == pytest.approx(expected.item(), rel=2**-8)
