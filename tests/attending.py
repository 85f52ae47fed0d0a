"""Tiny models of families that attend in ways of their own, and windows for them.

Their own eager attention with whole masks is the oracle.
"""

from typing import Any

import numpy as np
import pico
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from longrope import distributed
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel, read_tables

TOKENS = torch.randint(1, 320, (2, 48), generator=torch.Generator().manual_seed(3))
SMALL: dict[str, Any] = {
    **pico.BASE,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "head_dim": 16}
SHARING = {**MIXED, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2}
YARN_LIKE = {"rope_type": "default", "rope_theta": 1e4, "original_max_position_embeddings": 16}
LATENT = {
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim", "head_dim"), 16),
    **dict.fromkeys(("moe_intermediate_size", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    "num_key_value_heads": 4,
    "index_n_heads": 8,
    "index_topk": 10,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "falcon": {"alibi": False},
    "gpt_neox_japanese": {},
    "gpt_oss": {"head_dim": 16},
    "granite_swa": {},
    "mimo_v2_flash": {},  # values are narrower than keys, and sliding layers alone have sinks
    "gemma3_text": MIXED,
    "gemma3n_text": {
        **SHARING,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [64] * 4,
    },
    "gemma4_text": {**SHARING, "global_head_dim": 16},
    "llama4_text": {
        "head_dim": 16,
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        "no_rope_layers": [1, 1, 1, 0],
        "sliding_window": None,
        "attention_chunk_size": 8,
        "floor_scale": 10,
    },
    "ministral3": {
        "head_dim": 16,
        "sliding_window": None,
        "rope_parameters": {**YARN_LIKE, "llama_4_scaling_beta": 0.3},
    },
    "qwen2_moe": {"use_sliding_window": True, "max_window_layers": 2},  # its window stands in its masks alone
    "deepseek_v32": LATENT,
    "glm_moe_dsa": {**LATENT, "indexer_types": ["full", "shared"] * 2},
    "hy_v4": {**LATENT, "indexer_types": ["full", "shared"] * 2},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "mlp_layer_types": ["dense"] * 4,
        "dense_intermediate_size": 32,
        "head_dim": 16,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 4,
        "index_topk_blocks": 3,
    },
}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        **LINEAR,
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_5_text": {**LINEAR, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"] * 2},
    "olmo_hybrid": {},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
}
RECURRENT_GEMMA = {"lru_width": 64, "head_dim": 16, "num_key_value_heads": 1}
CHANGES: dict[str, dict[str, Any]] = {  # what each of these attends by; without it, other losses come out
    "gemma3_text": {"sliding_window": 48},
    "gemma3n_text": {"sliding_window": 48},
    "gemma4_text": {"sliding_window": 48},
    "gpt_oss": {"sliding_window": 48},
    "granite_swa": {"sliding_window": 48},
    "mimo_v2_flash": {"sliding_window": 48},
    "llama4_text": {"attention_chunk_size": 48},
    "ministral3": {"rope_parameters": {**YARN_LIKE, "llama_4_scaling_beta": 0.0}},
    "qwen2_moe": {"sliding_window": 48},
    **{family: {"index_topk": 48} for family in ("deepseek_v32", "glm_moe_dsa", "hy_v4")},
    "minimax_m3_vl_text": {"index_topk_blocks": 12},
}


def make_network(family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random network in eval mode with transformers' eager attention; its sinks are of the size of its scores."""
    torch.manual_seed(0)
    wanted = {**SMALL, **FAMILIES.get(family, {}), **HYBRIDS.get(family, {}), **changes}
    config = AutoConfig.for_model(family, **wanted)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    for sinks in sinks_of(network):
        nn.init.normal_(sinks)
    return network.eval().requires_grad_(False)


def sinks_of(network: Any) -> list[nn.Parameter]:
    """The sinks of all layers that have some."""
    return [weight for name, weight in network.named_parameters() if name.endswith("sinks")]


def as_model(network: Any) -> LanguageModel:
    """The network with the rotary tables of its config."""
    return LanguageModel(
        network, pico.make_tokenizer(), read_tables(network.config), f"tiny {network.config.model_type}"
    )


def eager_losses(network: Any, tokens: Tensor = TOKENS) -> Tensor:
    """[B, N - 1] nats by transformers' own eager attention with its own masks."""
    assert network.config._attn_implementation == "eager"
    logits = network(tokens, use_cache=False).logits.double()[:, :-1]
    targets = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return logits.logsumexp(-1) - targets  # type: ignore[no-any-return]


def gradients(loss: Tensor, weights: list[Any]) -> list[Tensor]:
    """Of a loss for each of the weights."""
    return list(torch.autograd.grad(loss, weights))


def shared_pass(family: str) -> tuple[Any, Any]:
    """Losses of windows that processes share, and the gradients of their mean for sinks and embedding."""
    model = as_model(make_network(family))
    losses = token_losses(model, TOKENS)
    wanted = [*sinks_of(model.network), model.network.get_input_embeddings().weight]
    for weight in wanted:
        weight.requires_grad_()
    weighted_loss_with_graph(model, TOKENS, np.full((2, 47), 1 / 94), recompute=True).backward()
    shard = distributed.shard()
    assert shard
    shard.sum_gradients(wanted)
    return losses, [weight.grad for weight in wanted]
