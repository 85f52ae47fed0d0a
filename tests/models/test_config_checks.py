"""Keys of a config that change attention or positions and that transformers ignores are refused; others are not."""

import shutil
from pathlib import Path
from typing import Any

import pico
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from longrope.errors import ModelError
from longrope.models import load_config, load_model

SIZES = {name: value for name, value in pico.BASE.items() if name != "initializer_range"}
LINEAR = {"type": "linear", "factor": 2.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0}


def stating(folder: Path, model_type: str, **keys: Any) -> Path:
    return pico.write_config(folder, **{**SIZES, "model_type": model_type, **keys})


IGNORED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window that Llama has not": ("llama", {"sliding_window": 16}, "sliding_window = 16"),
    "Baichuan's biases": ("llama", {"alibi": True}, "alibi = True"),
    "Qwen's older logits": ("qwen2", {"use_logn_attn": True}, "use_logn_attn = True"),
    "Granite's scale": ("llama", {"attention_multiplier": 0.0078125}, "attention_multiplier = 0.0078125"),
    "Gemma's cap": ("mistral", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    "another pairing": ("llama", {"rope_interleaved": True}, "rope_interleaved = True"),
    "a ratio of ChatGLM": ("llama", {"rope_ratio": 8.0}, "rope_ratio = 8.0"),
    "another share": ("stablelm", {"rope_pct": 0.5, "partial_rotary_factor": 0.25}, "rope_pct = 0.5"),
    "a key in the scaling": (
        "llama",
        {"rope_scaling": {**LINEAR, "temperature": 0.5}},
        "temperature in the linear scaling = 0.5",
    ),
    "a factor without a kind": ("llama", {"rope_scaling": {"factor": 4.0}}, "factor in the default scaling = 4.0"),
    "a key of one layer type": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6, "bend": 2.0}}},
        "bend in the default scaling = 2.0",
    ),
    "a slope of DeepSeek's attention": (
        "llama",
        {"rope_scaling": {**LONG, "mscale_all_dim": 1.0}},
        "mscale_all_dim in the longrope scaling = 1.0",
    ),
    "the same without a scaling": (
        "deepseek_v3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mscale_all_dim": 1.0}},
        "mscale_all_dim in the default scaling = 1.0",
    ),
    "layers that slide": (
        "qwen3_moe",
        {"max_window_layers": 1, "use_sliding_window": True, "sliding_window": 16},
        "max_window_layers = 1",
    ),
    "another window": ("gemma2", {"sliding_window_size": 32, "sliding_window": 16}, "sliding_window_size = 32"),
    "another width": ("hunyuan_v1_dense", {"attention_head_dim": 16, "head_dim": 8}, "attention_head_dim = 16"),
    "linear attention": ("minimax_m2", {"attn_type_list": [1, 0]}, "attn_type_list = [1, 0]"),
    "another share of Nemotron's": ("nemotron", {"rope_percent": 0.25, "partial_rotary_factor": 0.5}, "rope_percent"),
    "DBRX's base": ("dbrx", {"attn_config": {"rope_theta": 5e5, "kv_n_heads": 2}}, "attn_config.rope_theta"),
    "two of them": ("llama", {"alibi": True, "sliding_window": 16}, "alibi = True, sliding_window = 16"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_keys_that_transformers_ignores_are_refused_by_name(case: str, tmp_path: Path) -> None:
    model_type, keys, named = IGNORED[case]
    with pytest.raises(ModelError) as caught:
        load_config(stating(tmp_path / "odd", model_type, **keys))
    assert named in caught.value.found
    assert repr(model_type) in caught.value.needed


def test_values_that_are_fixed_in_the_code_of_a_type_are_said_to_be_unknown(tmp_path: Path) -> None:
    """As MiMo-V2-Flash is published: its code has such a base and such sinks in sliding layers, and reads neither."""
    keys = {"swa_rope_theta": 10_000, "add_swa_attention_sink_bias": True}
    with pytest.raises(ModelError) as caught:
        load_config(stating(tmp_path / "odd", "mimo_v2_flash", **keys))
    assert caught.value.found.endswith("states swa_rope_theta = 10000, add_swa_attention_sink_bias = True.")
    assert "values that are fixed in its code and may be others" in caught.value.needed
    assert caught.value.remedy.startswith("Remove it from config.json if they are, or if the model was trained without")


HARMLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2": ("llama", {"is_llama_config": True, "rope_interleaved": False, "rope_theta": 1e5, "rope_scaling": None}),
    "Vicuna": (
        "llama",
        {"_flash_attn_2_enabled": True, "max_sequence_length": 2048, "pretraining_tp": 1, "rope_scaling": LINEAR},
    ),
    "Llama-3": (
        "llama",
        {
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_type": "llama3",
            },
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_implementation": "flash_attention_2",
        },
    ),
    "Yarn-Llama-2": (
        "llama",
        {
            "rope_scaling": {
                "factor": 2.0,
                "finetuned": True,
                "original_max_position_embeddings": 32,
                "type": "yarn",
            }
        },
    ),
    "Qwen2.5": (
        "qwen2",
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 2, "use_mrope": False},
    ),
    "StableLM": ("stablelm", {"rope_pct": 0.25, "partial_rotary_factor": 0.25, "use_qkv_bias": True}),
    "Pythia": ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True}),
    "Phi-3": ("phi3", {"attention_bias": False, "embd_pdrop": 0.0, "original_max_position_embeddings": 64}),
    "Gemma-2": ("gemma2", {"attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 8, "cache_implementation": "x"}),
    "Gemma-3": (
        "gemma3_text",
        {"rope_local_base_freq": 1e4, "rope_theta": 1e6, "sliding_window_pattern": 6, "sliding_window": 16},
    ),
    "an export of DeepSeek-V3": (
        "deepseek_v3",
        {"rope_parameters": {**LONG, "rope_theta": 1e4, "mscale_all_dim": 1.0}},
    ),
    "Mistral": ("mistral", {"sliding_window": 16, "rope_theta": 1e4}),
    "Phi-4-mini": ("phi3", {"full_attn_mod": 1, "original_max_position_embeddings": 64, "sliding_window": 262144}),
    "SmolLM3": ("smollm3", {"max_window_layers": 2, "use_sliding_window": False, "sliding_window": None}),
    "Qwen3-30B-A3B": ("qwen3_moe", {"max_window_layers": 2, "use_sliding_window": False, "sliding_window": None}),
    "the first Gemma-2": ("gemma2", {"sliding_window_size": 16, "sliding_window": 16}),
    "Command R7B": ("cohere2", {"position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "sliding_window": 16}),
    "StarCoder2": ("starcoder2", {"scale_attn_weights": True}),
    "Nemotron-4": ("nemotron", {"rope_percent": 0.5, "partial_rotary_factor": 0.5}),
    "Hunyuan": ("hunyuan_v1_dense", {"attention_head_dim": 8, "head_dim": 8, "use_rotary_pos_emb": True}),
    "MiniMax-M2": ("minimax_m2", {"attn_type_list": [1, 1]}),
    "StableLM-3B-4E1T": ("stablelm", {"rotary_scaling_factor": 1.0}),
    "a part of another model": ("mistral", {"is_composition": True}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_keys_of_published_configs_are_no_fault(case: str, tmp_path: Path) -> None:
    """Those of the models named, which transformers reads, or which change nothing."""
    model_type, keys = HARMLESS[case]
    assert load_config(stating(tmp_path / "plain", model_type, **keys)).model_type == model_type


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, ("4", "3")),
        ({"hidden_size": 36, "num_attention_heads": 8, "num_key_value_heads": 8}, ("36", "8")),
    ],
    ids=["groups", "width"],
)
def test_heads_that_do_not_divide_are_refused_by_their_numbers(
    sizes: dict[str, int], numbers: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        load_config(stating(tmp_path / "odd", "qwen2", **sizes))
    assert all(number in caught.value.found for number in ("heads", *numbers))


def test_a_tokenizer_with_more_ids_than_rows_is_refused(pico_folder: Path, tmp_path: Path) -> None:
    """That of another model, with 330 entries for 320 rows."""
    folder = shutil.copytree(pico_folder, tmp_path / "mixed", ignore=shutil.ignore_patterns("token*"))
    words = Tokenizer(WordLevel({f"word{i}": i for i in range(330)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"ids up to 329 .*'word320' is one of 10 .* the embedding has 320 rows"):
        load_model(folder, device="cpu")


def test_a_special_token_without_a_row_is_left_out(pico_folder: Path, tmp_path: Path) -> None:
    """It is said, and a text that names it is read by its letters; everything else stays."""
    folder = shutil.copytree(pico_folder, tmp_path / "padded")
    tokenizer = pico.make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(folder)
    model = load_model(folder, device="cpu")
    assert any("without a row" in choice and "[PAD]" in choice for choice in model.choices)
    assert model.tokenizer.pad_token is None
    assert model.tokenizer.eos_token == "<|end|>"
    assert model.tokenizer.chat_template == "{{ messages }}"
    text = pico.make_text(60) + "[PAD]<|end|>"
    ids = model.tokenizer(text)["input_ids"]
    assert max(ids) < 320
    assert ids == pico.make_tokenizer()(text)["input_ids"]
    assert ids[-1] == 0
