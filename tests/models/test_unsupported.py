"""Model types that cannot be extended are refused with what their code does, before anything is built."""

from pathlib import Path

import families
import pytest

from longrope.errors import ModelError
from longrope.models import load_config, load_model, open_model, read_tables


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("blt", "reads bytes in patches: each of its four parts has a rotary table of its own"),
        ("gemma4_assistant", "drafts tokens for another model"),
        ("gemma4_unified_assistant", "drafts tokens for another model"),
        ("recurrent_gemma", "its attention sees the last tokens alone"),
        ("roformer", "keeps its angles in a table of weights"),
    ],
)
def test_the_reason_is_what_its_code_does(family: str, reason: str, tmp_path: Path) -> None:
    """By its config alone, and where it is loaded."""
    families.make_config(family).save_pretrained(tmp_path)
    for act in (load_config, load_model):
        with pytest.raises(ModelError, match=f"'{family}' .*{reason}"):
            act(tmp_path)


def test_falcon_with_alibi_is_refused_by_its_config(tmp_path: Path) -> None:
    """transformers keeps its rotary module, whose angles it then does not use; no weights lie in the folder."""
    families.make_config("falcon", alibi=True).save_pretrained(tmp_path)
    for act in (load_config, load_model, open_model):
        with pytest.raises(ModelError, match=r"'falcon' states alibi = true: .* rotates no queries or keys"):
            act(tmp_path)
    assert read_tables(families.make_config("falcon", alibi=False))


def test_recurrent_gemma_is_read_where_its_config_states_a_window() -> None:
    (table,) = read_tables(families.make_config("recurrent_gemma", max_position_embeddings=64))
    assert table.geometry.trained_window == 64


def test_what_the_reasons_say_of_transformers_code() -> None:
    """Blt has four rotary modules in four parts; RoFormer's table is a weight; an assistant asks for states."""
    blt = families.build_network("blt")
    places = {name.split(".")[1] for name, _ in blt.named_modules() if name.endswith("rotary_emb")}
    assert places == {"local_encoder", "global_transformer", "local_decoder", "patcher"}
    roformer = families.build_network("roformer")
    assert [name for name, _ in roformer.named_parameters() if name.endswith("embed_positions.weight")]
    with pytest.raises(ValueError, match="shared_kv_states cannot be None"):
        families.build_network("gemma4_assistant")(input_ids=None)
