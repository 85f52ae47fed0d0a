"""Cos and sin of coarser positions are made once for all layers that read the same queries and keys."""

from typing import Any

import pico
import pytest
import torch

from longrope.engine.near_exact import dca
from longrope.engine.parted import Turning
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel

IDS = torch.arange(1, 201)[None] * 37 % 300


def made_by(model: LanguageModel, patch: pytest.MonkeyPatch, passes: list[int]) -> tuple[int, list[torch.Tensor]]:
    """How many tables passes over so many tokens make within one block, and the losses."""
    calls: list[int] = []
    tables = Turning.tables

    def counted(self: Turning, own: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(own))
        return tables(self, own, *others)

    with dca(model, 200):
        token_losses(model, IDS)  # the trial of how the model turns has been made
    with patch.context() as within, dca(model, 200):
        within.setattr(Turning, "tables", counted)
        losses = [token_losses(model, IDS[:, :tokens]) for tokens in passes]
    return len(calls), losses


def test_more_layers_make_no_more_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (made_by(pico.make_model(num_hidden_layers=layers), monkeypatch, [200])[0] for layers in (1, 3))
    assert few == many > 3


def test_passes_over_other_tokens_make_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And have the losses of passes in blocks of their own."""
    model = pico.make_model()
    alone = [made_by(model, monkeypatch, [tokens]) for tokens in (200, 150)]
    count, losses = made_by(model, monkeypatch, [200, 150, 150])
    assert count == sum(calls for calls, _ in alone)
    for found, (_, (expected,)) in zip(losses, [*alone, alone[1]], strict=True):
        assert torch.equal(found, expected)


def test_tables_that_take_much_memory_are_made_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico.make_model(num_hidden_layers=3)
    shared, losses = made_by(model, monkeypatch, [200])
    monkeypatch.setattr("longrope.engine.parted.MOST_KEPT", 0)
    alone, same = made_by(model, monkeypatch, [200])
    assert alone == 3 * shared
    assert torch.equal(losses[0], same[0])
