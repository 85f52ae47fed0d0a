"""Where the rotary tables of a network are: the modules that hand cos and sin to its layers."""

from typing import Any

from longrope.models.rotary import RescaledRotary
from longrope.rope.hf_config import refusal


def rotary_paths(network: Any) -> list[str]:
    """Dotted names of a network's rotary modules, its own ones and those that took their place."""
    return [
        path
        for path, module in network.named_modules(remove_duplicate=False)
        if "inv_freq" in module._buffers or isinstance(module, RescaledRotary)  # noqa: SLF001
    ]


def find_rotary(network: Any) -> str:
    """The dotted name of a network's one rotary module (raises ModelError if there are others, or none)."""
    paths = rotary_paths(network)
    if len(paths) != 1:
        raise refusal({"model_type": network.config.model_type}, f"has {len(paths)} rotary modules")
    return paths[0]
