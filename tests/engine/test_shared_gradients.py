"""Gradients of attention in shared windows, whose queries stand before the end of the keys, against float64."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_oracle import SCALE, assert_right, make_inputs, oracle

from longrope.distributed import Shard
from longrope.engine import context
from longrope.engine.attention import attend_causal


@pytest.mark.usefixtures("with_backward")
@pytest.mark.parametrize("documents", [None, [(0, 7, 25)]], ids=["one", "documents"])
def test_gradients_of_all_processes_add_up(documents: list[tuple[int, ...]] | None) -> None:
    """Three processes with two chunks each, by merged parts; what keys and values get is summed over them."""
    query, key, value = (x.requires_grad_() for x in make_inputs((4, 2), (36, 36), rows=1))
    toward = torch.randn(query.shape, generator=torch.Generator().manual_seed(1))
    expected = oracle(query, key, value, starts=documents[0] if documents else (0,))[0]
    total: Any = 0
    for rank in range(3):
        shard = Shard(rank, 3, None)
        own = shard.positions(36)
        held: Any = SimpleNamespace(documents=documents, shard=shard)
        work = partial(attend_causal, scale=SCALE)
        output = context._attend(held, work, query[:, :, own], key, value, None)
        assert_right(output.detach(), expected[:, :, own].detach())
        total = total + (output * toward[:, :, own]).sum()
    found = torch.autograd.grad(total, (query, key, value))
    for ours, plain in zip(found, torch.autograd.grad(expected, (query, key, value), toward.double()), strict=True):
        assert_right(ours, plain.double())
