"""DeepSeek-V4: queries see the last tokens one by one, and compressed entries of all before them.

The oracle is transformers' own pass with its own masks.
"""

from itertools import pairwise
from typing import Any

import families
import pytest
import torch
from attending import TOKENS, eager_losses
from long_passes import set_scores
from torch import Tensor, nn

from longrope import distributed
from longrope.engine.context import ForwardContext, run_decoder
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.errors import ModelError
from longrope.models import LanguageModel

PIECES = (0, 5, 19, 20, 21, 22, 33, 34, 48)
MEAN = torch.full((2, 47), 1 / 94).double().numpy()


def make_model(**changes: Any) -> LanguageModel:
    """Entries of 8 and of 4 tokens, of which an indexer chooses 4, and a window of 10; sinks as large as scores."""
    model = families.make_model("deepseek_v4", eager=True, **changes)
    for name, weight in model.network.named_parameters():
        if name.endswith("sinks"):
            nn.init.normal_(weight)
    return model


@pytest.mark.parametrize("scores", [2**26, 2000, 1])
def test_losses_are_transformers_own(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For blocks of a window, of a few queries and of one."""
    set_scores(monkeypatch, scores)
    model = make_model()
    losses = token_losses(model, TOKENS).double()
    torch.testing.assert_close(losses, eager_losses(model.network), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("changes", [{"index_topk": 12}, {"sliding_window": 48}], ids=["choice", "window"])
def test_what_it_attends_by_shows_in_its_losses(changes: dict[str, Any]) -> None:
    """So that its absence is noticed by the tests of this file."""
    assert (eager_losses(make_model(**changes).network) - eager_losses(make_model().network)).abs().max() > 0.01


@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_are_transformers_own(recompute: bool) -> None:
    """Of the embedding, which reaches keys, entries and queries, and of the sinks."""
    model = make_model()
    wanted = [weight for name, weight in model.network.named_parameters() if name.endswith(("sinks", "position_bias"))]
    wanted = [*wanted, model.network.get_input_embeddings().weight]
    wanted = [weight.requires_grad_() for weight in wanted]
    ours = weighted_loss_with_graph(model, TOKENS, MEAN, recompute=recompute)
    found, expected = (
        torch.autograd.grad(loss, wanted, allow_unused=True) for loss in (ours, eager_losses(model.network).mean())
    )
    assert [x is None for x in found] == [x is None for x in expected]  # no gradient chooses entries
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


def read(model: LanguageModel, cache: KeyValueCache, *ends: int) -> list[Tensor]:
    """Logits [V] at the end of each piece."""
    return [prefill(model, TOKENS[:1, begin:end], cache)[0] for begin, end in pairwise(ends)]


def test_pieces_have_the_logits_of_the_whole() -> None:
    """Also after the cache has gone back to where it was kept."""
    model = make_model()
    with torch.inference_mode():
        whole = model.network(TOKENS[:1], use_cache=False).logits[0, [end - 1 for end in PIECES[1:]]]
    cache = KeyValueCache(model, 48)
    first = read(model, cache, *PIECES[:4])
    cache.rewind(20)
    for _ in range(2):
        rest = read(model, cache, *PIECES[3:])
        torch.testing.assert_close(torch.stack(first + rest), whole, rtol=1e-4, atol=1e-4)
        cache.rewind(20)
    assert cache.num_bytes > 0


def test_processes_do_not_share_its_windows() -> None:
    """Entries are made of tokens that stand side by side."""
    model, shard = make_model(), distributed.Shard(0, 2, None)
    with pytest.raises(ModelError, match="'deepseek_v4' has layers with compressed tokens"):
        run_decoder(ForwardContext(model.network, {}, shard=shard), {"input_ids": TOKENS})


def test_its_tables_are_found_by_name_wherever_their_modules_are() -> None:
    """Layers that slide turn by one of them, those with entries and their compressors by the other."""
    main, compress = make_model().tables
    assert (main.name, main.layers, main.slides) == ("main", (0,), True)
    assert (compress.name, compress.layers, compress.slides) == ("compress", (1, 2), False)
    assert compress.path.split(", ") == [
        "model.rotary_emb",
        "model.layers.*.self_attn.compressor.rotary_emb",
        "model.layers.*.self_attn.compressor.indexer.rotary_emb",
    ]
