"""How much of its GPUs a training step uses: the operations that the model needs, over the most that they can do."""

from collections.abc import Iterable
from typing import Any

from longrope.engine.kernels import causal_flops
from longrope.engine.memory import heads_of
from longrope.models import LanguageModel
from longrope.tuning.adapters import Weights, trained_weights

PEAK_FLOPS = {  # a second, dense, in bfloat16, by the name that torch has for it: NVIDIA's data sheets
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}


def flops_per_token(model: LanguageModel, weights: Weights) -> int:
    """Floating-point operations of a training step for each token, attention's own two products left out.

    A multiplication and an addition for each weight forward, as many for the gradient of its input, and as many for
    that of the weight if it is trained. An input embedding that is no head is looked up, not multiplied.
    """
    embedding, head = model.network.get_input_embeddings().weight, model.network.get_output_embeddings()
    looked_up = None if head is not None and head.weight is embedding else embedding

    def count(found: Weights) -> int:
        return sum(weight.numel() for weight in found.values() if weight is not looked_up)

    return 4 * count(trained_weights(model.network)) + 2 * count(weights)


def attention_flops(model: LanguageModel, lengths: Iterable[int]) -> float:
    """Operations of causal attention over sequences of these lengths in all layers, forward and (twice that) back."""
    layers, heads = int(model.network.config.num_hidden_layers), heads_of(model)
    return 3 * layers * sum(causal_flops(heads, length) for length in lengths)


def is_dense(config: Any) -> bool:
    """Whether every token meets every weight and all tokens before it, so that operations can be counted so."""
    kinds = getattr(config, "layer_types", None) or [
        "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    ]
    routed = [value for key, value in vars(config).items() if "experts" in key and isinstance(value, int)]
    return set(kinds) == {"full_attention"} and not any(routed)
