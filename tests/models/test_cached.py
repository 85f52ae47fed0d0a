"""A model by its name on the hub is read from the cache where there is no network."""

from pathlib import Path

import pico
import pytest
from huggingface_hub import constants

from longrope import load_model
from longrope.errors import ModelError


def test_a_name_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As huggingface_hub lays it out; all tests run with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--pico"
    pico.save_pico(repository / "snapshots" / ("a" * 40), max_position_embeddings=192)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    model = load_model("someone/pico", device="cpu")
    assert (model.name, model.spec.trained_window) == ("someone/pico", 192)
    assert model.tokenizer("The river")["input_ids"] == pico.make_tokenizer()("The river")["input_ids"]
    with pytest.raises(ModelError, match="someone/other") as caught:
        load_model("someone/other", device="cpu")
    assert "for a gated or private repository log in with hf auth login" in caught.value.remedy
