"""Attention that differs from Llama's: values of another width, windows that the mask alone knows, chunks.

The oracle is transformers' own pass, whole, with its own masks.
"""

from typing import Any

import families
import pytest
import torch
from attention_oracle import attend_holding
from torch import Tensor
from torch.nn import functional

from longrope.engine.indexers import INDEXERS
from longrope.engine.passes import token_losses
from longrope.errors import ModelError

TOKENS = torch.randint(1, families.VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(5))


def plain_losses(network: Any, tokens: Tensor) -> Tensor:
    """[B, N - 1] by whole logits."""
    with torch.inference_mode():
        logits = network(tokens, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
        len(tokens), -1
    )


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("deepseek_v3", {}),
        ("minicpm3", {}),
        ("phimoe", {"sliding_window": 8}),
        ("phimoe", {"sliding_window": None}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("gemma3_text", {"sliding_window": 8}),
        ("llama4_text", {}),
        ("llama4_text", {"attention_chunk_size": 16}),
        ("moshi", {"sliding_window": 8}),  # its config has a window that its mask does not have
    ],
)
def test_losses_are_transformers_own(family: str, changes: dict[str, Any]) -> None:
    model = families.make_model(family, **changes)
    torch.testing.assert_close(token_losses(model, TOKENS), plain_losses(model.network, TOKENS), atol=2e-3, rtol=2e-3)


def test_the_window_of_the_mask_changes_the_losses() -> None:
    """So the test above would see a window that is left out."""
    narrow, wide = (plain_losses(families.make_model("phimoe", sliding_window=n).network, TOKENS) for n in (8, None))
    assert (narrow - wide).abs().max() > 0.01


def test_a_family_that_reads_its_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSeek-V3.2 would be without the help that its indexer has."""
    monkeypatch.delitem(INDEXERS, "deepseek_v32")
    with pytest.raises(ModelError, match="'deepseek_v32' fails in a long pass: "):
        token_losses(families.make_model("deepseek_v32"), TOKENS)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(
    ("queries", "keys", "window"), [(1000, 1000, 16), (900, 1300, 33), (5, 70, 64), (1, 40, 7), (64, 64, 64)]
)
def test_blocks_taken_together_see_what_each_would(queries: int, keys: int, window: int, softcap: float | None) -> None:
    """And have the same gradients, however many scores are held at once."""
    rng = torch.Generator().manual_seed(6)
    query = torch.randn(2, 4, queries, 8, generator=rng, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(2, 2, keys, 8, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    at, seen = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None]
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 3
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    shares = scores.masked_fill((seen > at) | (seen <= at - window), -torch.inf).softmax(-1)
    expected = shares @ value.repeat_interleave(2, 1)
    slope = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    slopes = torch.autograd.grad(expected, (query, key, value), slope)
    for most in (2**26, 2**16, 1):
        if most == 1 and queries > 100:  # block by block of one query: the small cases show it
            continue
        found = attend_holding(most, query, key, value, scale=1 / 3, window=window, softcap=softcap)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        for ours, theirs in zip(torch.autograd.grad(found, (query, key, value), slope), slopes, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
