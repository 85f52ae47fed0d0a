"""Folders that clients beside the installed transformers open: what is written after ``save_pretrained``.

What transformers 4.57.6 makes of these folders was seen once by hand; here the entries stand that it read.
"""

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from longrope.errors import RecipeError
from longrope.exports import export_hf
from longrope.exports.portable import portable_tokenizer
from longrope.models import LanguageModel, load_config, rescaled
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors, load_factors
from longrope.rope.hf_legacy import older_entries

SU = (1 + np.log(4) / np.log(64)) ** 0.5  # for 256 instead of 64 tokens, by the formula of Phi-3's checkpoints
LAYERS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32}


def export(model: LanguageModel, folder: Path, attention: float = 1.2, **settings: Any) -> dict[str, Any]:
    """Export factors of 1 to 4 for 256 tokens, reopened in this process; return the content of config.json."""
    lambdas = tuple(np.linspace(1, 4, model.spec.num_pairs).tolist())
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=attention)
    export_hf(model, factors, folder, settings=ExportRecipe(**settings), reopen=sweep.reopen_here)
    return read(folder / "config.json")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


# config.json


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
def test_layer_types_in_both_spellings(family: str, tmp_path: Path) -> None:
    """transformers 4 has one rope_scaling, of the layers that see the whole window, and Gemma's local base apart."""
    rope = {"rope_type": "default", "rope_theta": 5e5}
    sliding = {**rope, "rope_theta": 2e4 if family == "gemma3_text" else 5e5}
    changes = {"rope_parameters": {"full_attention": rope, "sliding_attention": sliding}, **LAYERS}
    changes |= {"head_dim": 16, "query_pre_attn_scalar": 16} if family == "gemma3_text" else {}
    config = export(pico.make_model(family, **changes), tmp_path, factor_sets="two")
    newer = config["rope_parameters"]["full_attention"]
    assert config["rope_parameters"]["sliding_attention"] == sliding
    assert config["rope_theta"] == 5e5
    assert config.get("rope_local_base_freq") == (2e4 if family == "gemma3_text" else None)
    assert config["rope_scaling"] == {
        "type": "longrope",
        **{name: value for name, value in newer.items() if name != "rope_theta"},
    }
    assert newer["long_factor"][-1] == 4.0
    assert newer["short_factor"][-1] == 1.0
    assert (config["original_max_position_embeddings"], config["max_position_embeddings"]) == (64, 256)
    again = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert {name: value for name, value in again["full_attention"].items() if name != "type"} == newer
    assert again["sliding_attention"] == sliding


def test_layer_types_that_the_older_spelling_has_no_words_for() -> None:
    """Neither a younger model type, nor factors of the sliding layers, nor a base that older readers do not ask for."""
    plain, lists = {"rope_type": "default", "rope_theta": 1e4}, dict[str, Any](short_factor=[2.0], long_factor=[2.0])
    lists |= {"attention_factor": 0.5, "original_max_position_embeddings": 64}
    scaled: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4, **lists}
    whole = {"full_attention": scaled, "sliding_attention": plain}
    other = {"full_attention": scaled, "sliding_attention": {**plain, "rope_theta": 1e5}}
    olmo = {"model_type": "olmo3", "max_position_embeddings": 256}
    assert older_entries({**olmo, "rope_parameters": whole})["rope_theta"] == 1e4
    assert older_entries({"model_type": "mellum", "rope_parameters": whole}) == {}
    assert older_entries({**olmo, "rope_parameters": other}) == {}
    swapped = {"full_attention": plain, "sliding_attention": scaled}
    assert older_entries({"model_type": "gemma3_text", "rope_parameters": swapped}) == {}


def test_phi3_has_the_three_keys_that_transformers_4_demands(tmp_path: Path) -> None:
    """Every reader derives the attention factor, the one that the factors have."""
    model = pico.make_model("phi3")
    config = export(model, tmp_path, attention=SU)
    lists = [1.0, 2.0, 3.0, 4.0]
    assert config["rope_scaling"] == {"type": "longrope", "short_factor": lists, "long_factor": lists}
    assert (config["original_max_position_embeddings"], config["max_position_embeddings"]) == (64, 256)
    tokens = torch.randint(1, 320, (1, 150), generator=torch.Generator().manual_seed(5))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plain.model.rotary_emb.attention_scaling == pytest.approx(SU)
    with rescaled(model, RescaleFactors(tuple(lists), 256, model.spec.fingerprint, attention_factor=SU)):
        ours = model.network(tokens).logits
    assert (plain(tokens).logits - ours).abs().max() < 1e-4 * ours.std()


def test_phi3_with_another_attention_factor_has_all_keys(tmp_path: Path) -> None:
    """transformers 4 refuses them, and would read another factor from three."""
    config = export(pico.make_model("phi3"), tmp_path, attention=1.2)
    assert config["rope_scaling"]["attention_factor"] == 1.2
    assert len(config["rope_scaling"]) > 3


def test_gpt_neox_has_its_own_older_names(tmp_path: Path) -> None:
    """Its base and its share of rotated dimensions."""
    model = pico.make_model("gpt_neox", rope={"rope_theta": 2e4, "partial_rotary_factor": 0.5})
    config = export(model, tmp_path)
    assert (config["rotary_emb_base"], config["rotary_pct"]) == (2e4, 0.5)


def test_what_the_config_had_besides_is_kept(tmp_path: Path) -> None:
    """Also what transformers has no name for."""
    extra: dict[str, Any] = {"quantization_note": {"bits": [4, 8]}, "rms_norm_eps": 3e-6, "attention_bias": True}
    config = export(pico.make_model("llama", **extra), tmp_path)
    assert {name: config[name] for name in extra} == extra
    assert config["torch_dtype"] == config["dtype"] == "float32"


# The tokenizer


def test_a_tokenizer_of_every_version(tmp_path: Path) -> None:
    """A class that transformers 4 knows, nothing of the machine, and no cut at the former window."""
    model = pico.make_model("llama")
    model.tokenizer.model_max_length = 64
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    export(model, tmp_path)
    stated = read(tmp_path / "tokenizer_config.json")
    assert stated["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert stated["additional_special_tokens"] == ["<|user|>"]
    assert not {"extra_special_tokens", "backend", "is_local", "local_files_only"} & stated.keys()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 256
    text = pico.make_text(2000) + "<|user|>"
    assert again(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert len(again(text, truncation=True)["input_ids"]) == 256


@pytest.mark.parametrize(("stated", "kept"), [(64, 256), (20, 20), (4096, 4096), (None, None)])
def test_generation_does_not_stop_at_the_former_window(stated: int | None, kept: int | None, tmp_path: Path) -> None:
    """A bound that was the window is the longer one; another bound stays."""
    model = pico.make_model("llama")
    model.network.generation_config.max_length = stated
    export(model, tmp_path)
    assert read(tmp_path / "generation_config.json").get("max_length") == kept
    if stated == 64:
        network, tokens = AutoModelForCausalLM.from_pretrained(tmp_path), torch.arange(1, 101)[None]
        network.generation_config.eos_token_id = None
        assert network.generate(tokens, attention_mask=torch.ones_like(tokens)).shape[1] == 256


def test_what_older_versions_know_stays() -> None:
    """The class of a model type, a longer limit, extra tokens under names, and a missing limit."""
    known = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 10**30, "extra_special_tokens": {"image": "<i>"}}
    assert portable_tokenizer(known, 256) == known
    assert portable_tokenizer({}, 256) == {}


# Files


def test_weights_have_the_mode_of_the_other_files(tmp_path: Path) -> None:
    """By the umask, as all files of a program."""
    before = os.umask(0o027)
    try:
        export(pico.make_model("llama"), tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o640}, modes


def test_weights_in_files_of_a_size(tmp_path: Path) -> None:
    """The shards are no larger than asked for, and make the same model."""
    model = pico.make_model("llama")
    export(model, tmp_path, max_shard_size="40KB")
    sizes = [path.stat().st_size for path in tmp_path.glob("model-*.safetensors")]
    assert len(sizes) > 1
    assert max(sizes) < 44_000  # one tensor alone has 40,960 bytes
    native = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(native[name], weight) for name, weight in model.network.state_dict().items())


@pytest.mark.parametrize("size", ["", "5", "GB", "-1GB", "0GB", "1.5GB", "5gb", "1GB "])
def test_a_size_that_is_none(size: str) -> None:
    """Said before anything is written."""
    with pytest.raises(RecipeError, match="max_shard_size"):
        ExportRecipe(max_shard_size=size)


# The attention factor, where readers derive one


def derive(window: int, original: int) -> float:
    """The attention factor by the formula of mlx-lm, vLLM and SGLang."""
    ratio = window / original
    return 1.0 if ratio <= 1 else float(np.sqrt(1 + np.log(ratio) / np.log(original)))


@pytest.mark.parametrize(("attention", "sets"), [(1.2, "single"), (1.0, "single"), (SU, "single"), (SU, "two")])
def test_mlx_derives_our_attention_factor(attention: float, sets: str, tmp_path: Path) -> None:
    """From the window that the scaling itself states; what the switch is stands at the top, and is what we read."""
    config = export(pico.make_model("llama"), tmp_path, attention, factor_sets=sets)
    original = config["rope_scaling"]["original_max_position_embeddings"]
    assert derive(config["max_position_embeddings"], original) == pytest.approx(attention, rel=2e-4)
    assert config["original_max_position_embeddings"] == 64
    assert config["rope_parameters"]["original_max_position_embeddings"] == 64
    assert load_config(tmp_path).original_max_position_embeddings == 64
    if sets == "two":
        assert original == 64, "where the lists switch"


@pytest.mark.parametrize(("attention", "sets"), [(0.9, "single"), (1.2, "two")])
def test_attention_factors_that_no_window_gives(attention: float, sets: str, tmp_path: Path) -> None:
    """Below one, or of two lists, whose switch is the window before the scaling."""
    scaling = export(pico.make_model("llama"), tmp_path, attention, factor_sets=sets)["rope_scaling"]
    assert scaling["original_max_position_embeddings"] == 64


@pytest.mark.parametrize("sets", ["single", "two"])
def test_vllm_and_sglang_are_given_the_attention_factor(sets: str, tmp_path: Path) -> None:
    """They take the window at the top of the config for the one of the scaling, and would derive another factor."""
    config = export(pico.make_model("llama"), tmp_path, factor_sets=sets)
    assert derive(256, config["original_max_position_embeddings"]) != pytest.approx(1.2, rel=1e-2)
    assert [config["rope_scaling"][name] for name in ("short_mscale", "long_mscale")] == [1.2] * 2
    read_again = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert [read_again[name] for name in ("short_mscale", "long_mscale")] == [1.2] * 2


@pytest.mark.parametrize("unchecked", [True, False])
@pytest.mark.parametrize("sets", ["single", "two"])
def test_transformers_warns_of_no_key(
    sets: str, unchecked: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given the names of those that it does not know; without these names it warns."""
    config = export(pico.make_model("llama"), tmp_path, factor_sets=sets)
    assert config["ignore_keys_at_rope_validation"] == ["long_mscale", "short_mscale"]
    if not unchecked:
        pico.write_config(tmp_path, **{name: value for name, value in config.items() if "ignore_keys" not in name})
    logger = logging.getLogger("transformers.modeling_rope_utils")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, logger=logger.name):  # whatever others have silenced
            caplog.clear()
            AutoConfig.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert any("mscale" in record.getMessage() for record in caplog.records) != unchecked


def test_the_docs_state_the_demos_window() -> None:
    root = Path(__file__).parents[1]
    demo = load_factors(root / "results" / "demo" / "factors.json").factor_sets[-1]
    original = round(demo.target_window ** (1 / demo.attention_factor**2))
    assert f"({original} for the demo, whose window was 256;" in (root / "docs" / "verify.md").read_text()
