"""Tiny networks of every causal model type that the installed transformers knows, made from its own config classes.

A config class takes those of ``SIZES`` that it has fields for, by their names; kinds of layers are taken from its
defaults, one layer of each. ``CHANGES`` holds what a model type needs besides.
"""

import dataclasses
import importlib
import inspect
import re
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from longrope.models import LanguageModel, read_tables

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY, WINDOW = 320, 64
MOST_WEIGHTS = 4_000_000
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "intermediate_size", "ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings",), WINDOW),
    **dict.fromkeys(("sliding_window",), WINDOW // 2),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.2,  # so that attention is far from uniform and factors move the logits
    # experts
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "dense_intermediate_size", "moe_latent_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers", "n_shared_experts"), 1),
    # latent attention, and indexers that choose some tokens of the tests
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim"), 16),
    "index_n_heads": 8,
    "index_topk": 12,
    # recurrent layers
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "mamba_d_ssm": 128,
    "mamba_n_groups": 1,
    # the parts that see and hear
    **dict.fromkeys(("depth", "encoder_layers", "num_blocks"), 1),
    **dict.fromkeys(("image_size", "crop_size"), 32),
    **dict.fromkeys(("patch_size", "nemo_conv_channels", "downsample_hidden_size"), 16),
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size", "out_hidden_size"), 64),
    **dict.fromkeys(("ext_pw_out_channel", "depthwise_separable_out_channel", "hidden_size_global"), 64),
    "num_heads": 4,
}
FULL_ROPE = {"rope_type": "default", "rope_theta": 1e4}
HALF_ROPE = {**FULL_ROPE, "partial_rotary_factor": 0.5}
CHANGES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3, 4]},
    "codegen": {"rotary_dim": 8},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "cohere2_moe": {"logit_scale": 0.5},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": FULL_ROPE | {"mrope_section": [4, 2, 2]}},
        "num_key_value_heads": 2,
    },
    "deepseek_v4": {
        "head_dim": 64,  # of which it turns an eighth
        "layer_types": ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["moe"] * 3,
        "num_hidden_layers": 3,
        "compress_rates": {"heavily_compressed_attention": 8, "compressed_sparse_attention": 4},
        "sliding_window": 10,
        "index_topk": 4,
    },
    "dots3_note_text": {
        "use_sliding_window": False,  # its sliding layers have sizes of their own
        "layer_types": ["indexed_attention"] * 2,
        "shared_experts_intermediate_size": 32,
    },
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [64] * 4,
    },
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "position_embedding_type": "rope"},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"], "num_attention_heads_per_layer": None},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"num_hidden_layers": 4, "layer_types": None, "moe_layers": [1, 3], "intermediate_size_mlp": 64},
    "longcat_flash": {
        "num_layers": 2,
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 32,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mellum": {"layer_types": ["full_attention", "sliding_attention"]},
    "mimo_v2_flash": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), HALF_ROPE)},
    "minimax_m3_vl_text": {
        "mlp_layer_types": ["dense", "sparse"],
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "index_n_heads": 2,  # as many as key/value heads
        "index_block_size": 4,
        "index_topk_blocks": 3,
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 12,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "smollm3": {"no_rope_layers": [1, 0]},
    "zamba2": {"use_mem_rope": True},
    "zaya": {"num_experts_per_tok": 1},
}
# Their source names rotary embeddings and uses none: their tokens know no positions, or relative ones by other means.
NAMED_ALONE = {"inkling2_loop_text", "inkling2_text", "inkling_text", "jamba", "kimi_linear", "nemotron_h"}
KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")


def make_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A config of a few thousand weights (raises whatever the config class does)."""
    return _make(CONFIG_MAPPING[model_type], {**CHANGES.get(model_type, {}), **changes})


def make_default(model_type: str) -> PreTrainedConfig:
    """The config that a model type has by itself."""
    return CONFIG_MAPPING[model_type]()


def build_network(model_type: str, **changes: Any) -> Any:
    """A random float32 network, ready to run on the CPU (raises whatever transformers does, and for a large one)."""
    config = make_config(model_type, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            weights = sum(x.numel() for x in AutoModelForCausalLM.from_config(config).parameters())
        if weights > MOST_WEIGHTS:
            raise MemoryError(f"{weights:,} weights")
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for weight in network.parameters():
            if not weight.any():  # zeros of biases, norms and gates would hide what they do
                torch.nn.init.normal_(weight, std=0.2)
    return network.eval().requires_grad_(False)


def has_rope(model_type: str) -> bool:
    """Whether transformers' source of a model type, or of its text part, names rotary embeddings, and uses them."""
    if model_type in NAMED_ALONE:
        return False
    config_class = CONFIG_MAPPING[model_type]
    if "text_config" in config_class.sub_configs:
        config_class = type(make_config(model_type).get_text_config())
    module = config_class.__module__.replace(".configuration_", ".modeling_")
    if find_spec(module) is None:  # its class is another type's
        module = AutoModelForCausalLM._model_mapping[config_class].__module__
    source = inspect.getsource(importlib.import_module(module))
    return bool(re.search(r"rotary|_rope|\brope", source, re.IGNORECASE))


def _make(config_class: Any, changes: dict[str, Any]) -> PreTrainedConfig:
    """A config with the sizes that its class has fields for, and these changes; those of nested ones are dicts."""
    fields = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    sizes = {name: value for name, value in SIZES.items() if name in fields}
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # latent attention has a key head a query head
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    sizes |= _kinds(config_class) | changes
    for name in config_class.sub_configs:
        own, given = getattr(_defaults(config_class), name, None), dict(changes.get(name, {}))
        named = given.pop("model_type", "")
        below = CONFIG_MAPPING[named] if named else type(own) if isinstance(own, PreTrainedConfig) else None
        if below:
            sizes[name] = _make(below, CHANGES.get(below.model_type, {}) | given)
    return config_class(**sizes)  # type: ignore[no-any-return]


@cache
def _defaults(config_class: Any) -> Any:
    """The config that a class makes by itself, None where its own defaults contradict each other."""
    try:
        return config_class()
    except StrictDataclassClassValidationError:
        return None


def _kinds(config_class: Any) -> dict[str, Any]:
    """One layer of each kind that the defaults of a config class have, and at least two layers."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    stated = {name: getattr(_defaults(config_class), name, None) for name in KINDS if name in fields}
    kinds = {name: list(dict.fromkeys(value)) for name, value in stated.items() if value}
    layers = max((2, *map(len, kinds.values())))
    rows = {name: (own + [own[-1]] * layers)[:layers] for name, own in kinds.items()}
    return {"num_hidden_layers": layers, **rows} if rows else {}


def make_model(family: str, *, eager: bool = False, **changes: Any) -> LanguageModel:
    """A tiny model without a tokenizer; ``eager``: its network attends as the oracle of masks does."""
    network = build_network(family, **changes)
    if eager:
        network.set_attn_implementation("eager")
    return LanguageModel(network, None, read_tables(network.config), family)
