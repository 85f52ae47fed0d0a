"""What an export says of its licence: the base's own words, and Gemma's notice wherever its weights come from."""

import json
from pathlib import Path
from typing import Any

import pico
import pytest
from gguf import GGUFWriter
from huggingface_hub import metadata_load
from recipe_scripts import RECIPES

from longrope.exports import Origin, export_hf, origin_of
from longrope.exports.card import format_card
from longrope.exports.comparison import ExportReport
from longrope.exports.licences import inherited, notice_of
from longrope.models import LanguageModel
from longrope.rope import baseline_factors

TERMS = "https://ai.google.dev/gemma/terms"
REPORT = ExportReport("single", 256, 64, 1e-6, 2e-6, 1e-6, 0, 0.0, "5.0")
GEMMA: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32, "head_dim": 16}


def write_gguf(path: Path, **general: str) -> Path:
    writer = GGUFWriter(path, "llama")
    for name, value in general.items():
        writer.add_string(f"general.{name.replace('_', '.')}", value)
    writer.add_uint32("llama.block_count", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_says_its_licence(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", license="other", license_name="mine", license_link="https://example.org")
    stated = inherited(str(file))
    assert stated == {"license": "other", "license_name": "mine", "license_link": "https://example.org"}
    assert notice_of(stated) == ""
    assert inherited(str(write_gguf(tmp_path / "b.gguf"))) == {}
    assert TERMS in notice_of(inherited(str(write_gguf(tmp_path / "c.gguf", license="gemma"))))


def test_the_base_of_trained_weights_says_it(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "c.gguf", license="gemma")
    (tmp_path / "trained_weights.json").write_text(json.dumps({"base_model_name_or_path": str(file)}))
    (tmp_path / "trained_weights.safetensors").touch()
    assert inherited(str(tmp_path)) == {"license": "gemma"}


def test_a_folder_of_trained_weights_is_its_base_trained_further(tmp_path: Path) -> None:
    """As what a training keeps and as adapters; the card names the base, and says that its weights were changed."""
    file = write_gguf(tmp_path / "gemma.gguf", license="gemma")
    model = pico.make_model("llama")
    factors = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    for kind, weights in (("trained_weights", "trained_weights"), ("adapter_config", "adapter_model")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / f"{kind}.json").write_text(json.dumps({"base_model_name_or_path": str(file)}))
        (folder / f"{weights}.safetensors").touch()
        origin = origin_of(str(folder))
        assert origin == Origin(str(file), tuned=True)
        card = format_card(model, factors, REPORT, origin, [])
        assert "# gemma, context window 256 tokens" in card
        assert "trained further on long texts" in card
        assert "longrope changed its config and its weights." in card
    assert origin_of("someone/base", "google/gemma-3-270m") == Origin("someone/base", hub_name="google/gemma-3-270m")


def test_every_recipe_of_gemma_names_its_terms() -> None:
    recipes = [
        path for path in sorted(RECIPES.iterdir()) if path.suffix in (".toml", ".sh") and path.name != "fetch.sh"
    ]
    of_gemma = {path.name: text for path in recipes if "gemma" in (text := path.read_text())}
    assert len(of_gemma) >= 7
    assert [name for name, text in of_gemma.items() if TERMS not in text] == []


@pytest.mark.parametrize(
    ("hub_name", "model_type", "licence"),
    [
        ("google/gemma-3-270m", "gemma3_text", "gemma"),
        ("google/gemma-4-e2b", "gemma4_text", ""),  # another licence
        ("someone/gemma-3-from-scratch", "gemma3_text", ""),
        ("", "gemma3_text", ""),
    ],
)
def test_gemmas_terms_are_known_by_its_name_on_the_hub(hub_name: str, model_type: str, licence: str) -> None:
    assert inherited("no/such/folder", hub_name, model_type).get("license", "") == licence


@pytest.mark.parametrize("tuned", [False, True])
def test_a_card_has_the_notice_and_the_licence(tmp_path: Path, tuned: bool) -> None:
    model = pico.make_model("llama")
    factors = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    file = write_gguf(tmp_path / "gemma.gguf", license="gemma")
    (tmp_path / "README.md").write_text(format_card(model, factors, REPORT, Origin(str(file), tuned=tuned), []))
    card = (tmp_path / "README.md").read_text()
    assert (metadata_load(tmp_path / "README.md") or {})["license"] == "gemma"
    notice, _, changed = card.partition("## Licence")[2].partition("This checkpoint is a derivative of it: ")
    assert TERMS in notice
    assert ("and its weights" in changed) == tuned
    assert "## Licence" not in format_card(model, factors, REPORT, Origin("pico-llama"), [])


@pytest.mark.slow
def test_an_exported_folder_has_the_notice_as_a_file(tmp_path: Path) -> None:
    model: LanguageModel = pico.make_model("gemma3_text", **GEMMA)
    factors = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    export_hf(model, factors, tmp_path / "gemma", origin=Origin(model.name, hub_name="google/gemma-3-270m"))
    assert TERMS in (tmp_path / "gemma/NOTICE").read_text()
