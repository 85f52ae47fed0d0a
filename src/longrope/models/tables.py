"""Where the rotary tables of a network are: the modules that hand cos and sin to its layers."""

from typing import Any

from longrope.models.rotary import RescaledRotary
from longrope.rope.hf_config import refusal


def find_rotary(network: Any) -> str:
    """The dotted name of a network's one rotary module, native or ours (raises ModelError for none or several)."""
    paths = [
        f"{path}.{name}".lstrip(".")
        for path, parent in network.named_modules()
        for name, child in parent.named_children()
        if "inv_freq" in child._buffers or isinstance(child, RescaledRotary)  # noqa: SLF001
    ]
    if len(paths) != 1:
        raise refusal({"model_type": network.config.model_type}, f"has {len(paths)} rotary modules")
    return paths[0]
