"""Which weights are trained: all, chosen ones, or adapters that are merged at the end (LoRA, arXiv 2106.09685)."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from longrope.engine.kv_cache import decoder_layers
from longrope.errors import RecipeError
from longrope.models import RescaledRotary
from longrope.models.bases import hash_weights, write_base
from longrope.models.tables import sliding_layers
from longrope.models.trained_weights import save_trained_weights
from longrope.recipe import TuneRecipe
from longrope.tuning.low_rank import fuse_adapters

Weights = dict[str, nn.Parameter]
PEFT_PREFIX = "base_model.model."  # of the names of weights in its files
GLOBAL_ATTENTION = "global-attention"  # among patterns of names


def trained_weights(network: Any) -> Weights:
    """All parameters of a network by name, a shared one once; rescale factors that are installed are none of them."""
    rotary = [p for m in network.modules() if isinstance(m, RescaledRotary) for p in m.parameters()]
    installed = {id(parameter) for parameter in rotary}
    return {name: weight for name, weight in network.named_parameters() if id(weight) not in installed}


def chosen_weights(network: Any, parameters: tuple[str, ...]) -> Weights:
    """The parameters of a network that patterns of names choose; all of them without a pattern.

    ``global-attention`` stands for those of the attention of all layers that see the whole window.

    Raises:
        RecipeError: a pattern chooses none.
    """
    weights = trained_weights(network)
    chosen: set[str] = set()
    for pattern in parameters:
        found = {name for name in weights if fnmatchcase(name, pattern)}
        if pattern == GLOBAL_ATTENTION:
            inside = {id(weight) for part in _global_attention(network) for weight in part.parameters()}
            found = {name for name, weight in weights.items() if id(weight) in inside}
        if not found:
            raise RecipeError(
                f"tune.parameters: {pattern!r} chooses no weight of the model.",
                f"Its weights have names like {', '.join(list(weights)[:3])}.",
                f"Give patterns of such names, with * for any part of them, or {GLOBAL_ATTENTION}.",
            )
        chosen |= found
    return {name: weight for name, weight in weights.items() if name in chosen or not parameters}


def _global_attention(network: Any) -> Iterator[nn.Module]:
    """The attention modules of the layers that see the whole window."""
    sliding = sliding_layers(network.config)
    for index, layer in enumerate(decoder_layers(network)):
        if index not in sliding:
            yield from (part for part in layer.children() if "Attention" in type(part).__name__)


@contextmanager
def adapted(
    network: Any, settings: TuneRecipe, seed: int, folder: Path | None = None, base: str = ""
) -> Iterator[Weights]:
    """Put adapters into a network for the length of this block, and merge them into its weights at the end.

    They are those of peft, in all matrices of attention and MLPs, or in those that ``settings.parameters`` choose.
    Without a rank weights are trained.

    Args:
        network: transformers'.
        settings: rank, alpha, and what else is trained.
        seed: of the adapters' first weights.
        folder: where the adapters go in peft's format before they are merged, if no error ends the block, or the
            weights that were chosen (``models.trained_weights``).
        base: hub name or path of the model that all other weights are of.

    Yields:
        The weights to train, by name.

    Raises:
        RecipeError: peft is not installed, or ``settings.parameters`` choose nothing.
    """
    weights = chosen_weights(network, settings.parameters)
    if not settings.lora_rank:
        yield weights
        if folder and settings.parameters:
            save_trained_weights(network, weights, base, folder)
        return
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise RecipeError(
            f"tune.lora_rank = {settings.lora_rank}, and peft is not installed.",
            "LoRA needs it.",
            "pip install 'longrope[lora]'",
        ) from None
    matrices = [name.removesuffix(".weight") for name, weight in weights.items() if weight.ndim == 2]
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        target_modules=matrices if settings.parameters else "all-linear",
    )
    installed = {name for name, _ in network.named_parameters()} - trained_weights(network).keys()
    before = hash_weights(network, installed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(network, config)
    fuse_adapters(network)
    try:
        chosen = {id(weight) for weight in _trained_whole(network, settings.lora_also)}
        named = trained_weights(network).items()
        weights = {name: weight for name, weight in named if ".lora_" in name or id(weight) in chosen}
        yield weights
        if folder:
            _save(wrapped, weights, folder)
            write_base(folder, base, before)
    finally:
        wrapped.merge_and_unload()


def _save(wrapped: Any, weights: Weights, folder: Path) -> None:
    """Save adapters in peft's format, with what else was trained beside them, which peft opens as well."""
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    whole = {f"{PEFT_PREFIX}{name}": weight.detach() for name, weight in weights.items() if ".lora_" not in name}
    if whole:
        path = folder / "adapter_model.safetensors"
        save_file({**load_file(path), **whole}, path, metadata={"format": "pt"})


def _trained_whole(network: Any, parts: tuple[str, ...]) -> Iterator[nn.Parameter]:
    """The weights of norms and embeddings, a head that is no embedding included, as far as they are asked for."""
    if "norms" in parts:
        for module in network.modules():
            if "Norm" in type(module).__name__:
                yield from module.parameters(recurse=False)
    if "embeddings" in parts:
        for module in (network.get_input_embeddings(), network.get_output_embeddings()):
            if module is not None:
                yield from module.parameters(recurse=False)
