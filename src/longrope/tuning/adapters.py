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
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # in which peft adapts no such projections:
MAMBA_PROJECTIONS = ("conv1d", "out_proj")
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
            yield from (part for part in layer.modules() if "Attention" in type(part).__name__)


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
        RecipeError: peft is not installed, or ``settings.parameters`` choose nothing that can be trained so.
    """
    weights = chosen_weights(network, settings.parameters)
    if not settings.lora_rank:
        yield weights
        if folder and settings.parameters:
            save_trained_weights(network, weights, base, folder)
        return
    targets = choose_matrices(network, settings)
    from peft import LoraConfig, get_peft_model

    alpha = settings.lora_alpha or 2 * settings.lora_rank
    config = LoraConfig(r=settings.lora_rank, lora_alpha=alpha, **targets)
    installed = {name for name, _ in network.named_parameters()} - trained_weights(network).keys()
    before = hash_weights(network, installed)
    with torch.random.fork_rng(), _taken_out_on_error(network):
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


def choose_matrices(network: Any, settings: TuneRecipe) -> dict[str, Any]:
    """Which modules get adapters, as settings of peft: all linear layers but the head, or what the parameters choose.

    Linear layers of a class of their own, such as routers that choose experts, get none: peft would call them as plain
    ones.

    Raises:
        RecipeError: peft is not installed, or ``settings.parameters`` choose nothing that can have an adapter.
    """
    try:
        import peft  # noqa: F401  # what needs it comes after other work
    except ImportError:
        raise RecipeError(
            f"tune.lora_rank = {settings.lora_rank}, and peft is not installed.",
            "LoRA needs it.",
            "pip install 'longrope[lora]'",
        ) from None
    modules = dict(network.named_modules())
    if not settings.parameters:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        unable = [name for name in linear if not _is_adaptable(network, name, modules[name])]
        return {"target_modules": "all-linear", "exclude_modules": unable or None}
    weights = chosen_weights(network, settings.parameters)
    chosen = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    found = [name for name in chosen if _is_adaptable(network, name, modules[name])]
    if not found:
        raise RecipeError(
            f"tune.parameters = {list(settings.parameters)} chooses no matrix that can have an adapter.",
            f"tune.lora_rank = {settings.lora_rank} needs linear layers or embeddings.",
            "Give patterns of their names, or leave tune.lora_rank out to train the weights.",
        )
    return {"target_modules": found}


def _is_adaptable(network: Any, name: str, module: nn.Module) -> bool:
    """Whether peft can put an adapter into a module."""
    refused = MAMBA_PROJECTIONS if network.config.model_type in MAMBA else ()
    plain = type(module) is nn.Linear or isinstance(module, nn.Embedding)
    return plain and name.rpartition(".")[2] not in refused


@contextmanager
def _taken_out_on_error(network: Any) -> Iterator[None]:
    """Take out what peft has put into a network if it fails in this block."""
    try:
        yield
    except Exception:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(network.named_modules()):
            if isinstance(module, BaseTunerLayer):
                network.set_submodule(name, module.get_base_layer())
        raise


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
