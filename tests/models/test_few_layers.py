"""Rotary tables are found in a few layers, or in all of them where the first ones have none."""

import families
import pytest
from transformers import RecurrentGemmaConfig

from longrope.models import read_tables


def test_a_table_of_the_third_layer_is_found_where_no_entry_names_the_kinds_of_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RecurrentGemma in transformers 5.17: its config has no ``layer_types``, and its first layers do not attend."""
    monkeypatch.setattr(RecurrentGemmaConfig, "attribute_map", {"sliding_window": "attention_window_size"})
    kinds = {"block_types": ["recurrent", "recurrent", "attention"], "num_hidden_layers": 6}
    (table,) = read_tables(families.make_config("recurrent_gemma", max_position_embeddings=64, **kinds))
    assert table.layers == (2, 5)
