"""Load a model through transformers' own classes, or refuse it.

Pickled weights and code that comes with a model are never loaded.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from longrope.errors import ModelError, converting_errors
from longrope.models.checks import check_moves_logits
from longrope.models.devices import choose_device, choose_dtype
from longrope.models.geometry import config_entries, read_tables
from longrope.models.language_model import LanguageModel
from longrope.models.weights import check_complete, check_finite, check_gguf_complete
from longrope.rope import gguf_metadata
from longrope.rope.hf_config import read_head_dim

EMBEDDED, ASSETS = "nano", Path(__file__).parents[1] / "assets"  # the name of the model that comes with the package
ADAPTER = "adapter_config.json"


def load_model(
    source: str | Path, *, device: str = "auto", dtype: str = "auto", compiled: bool = False
) -> LanguageModel:
    """Load a causal language model and check that its RoPE is one that we can rescale.

    Args:
        source: a hub name, a folder with safetensors weights, a GGUF file (which is dequantized), or ``nano``, which
            comes with the package. Pickled weights and code that comes with a model are never loaded.
        device: ``cpu``, ``cuda``, or ``auto``.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``float64``, or ``auto``.
        compiled: run it through torch.compile (see ``LanguageModel``).

    Raises:
        ModelError: the model cannot be loaded, has no RoPE, or has one that a single table of factors cannot describe;
            its weights are incomplete, unexpected or not finite, or are those of an adapter.
    """
    place, place_reason = choose_device(device)
    number_format, format_reason = choose_dtype(dtype, place)
    location = _locate(source)
    config = load_config(source)
    tables = read_tables(config)
    with _loading(source):
        network = _load_network(source, config, number_format).to(place)
    with _loading(source, "tokenizer of"):
        tokenizer = AutoTokenizer.from_pretrained(**location, trust_remote_code=False)
    check_finite(source, network)
    choices = (f"device {place} ({place_reason})", f"{number_format} ({format_reason})")
    model = LanguageModel(network, tokenizer, tables, str(source), choices, compiled)
    check_moves_logits(model)
    return model


def _load_network(source: str | Path, config: Any, dtype: torch.dtype) -> Any:
    """Load the weights into transformers' own class, ready to run on the CPU; refuse incomplete ones."""
    location = _locate(source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **location,
        config=config,
        dtype=dtype,
        use_safetensors=None if "gguf_file" in location else True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report, by name
    )
    network, report = loaded
    _refuse_adapter(source, here=hasattr(network, "peft_config"))
    check_complete(source, report)
    if "gguf_file" in location:
        check_gguf_complete(Path(source), network)
    if quantizer := getattr(network, "hf_quantizer", None):
        quantizer.remove_quantization_config(network)
    return network.requires_grad_(False).eval()


def _refuse_adapter(source: str | Path, *, here: bool) -> None:
    if here:
        raise ModelError(
            f"{str(source)!r} holds a PEFT adapter ({ADAPTER}).",
            "A whole model is needed.",
            "Merge the adapter into its base model with peft's merge_and_unload, and give the folder saved from it.",
        )


def load_config(source: str | Path) -> Any:
    """Load a model's config alone, with the RoPE scaling that a GGUF file declares (raises ModelError)."""
    location = _locate(source)
    with _loading(source):
        config = AutoConfig.from_pretrained(**location, trust_remote_code=False)
        if "gguf_file" in location and hasattr(config, "rope_parameters"):
            head_dim = read_head_dim(config_entries(config))
            config.rope_parameters = {**config.rope_parameters, **_read_gguf_rope(Path(source), head_dim)}
    return config


def silence_loading() -> None:
    """Turn off the progress bars and warnings that transformers prints while it loads."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _locate(source: str | Path) -> dict[str, str]:
    path = Path(source)
    if source == EMBEDDED:
        return {"pretrained_model_name_or_path": str(ASSETS / EMBEDDED)}
    if path.is_file() and path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_file():
        raise ModelError(f"{path} is a file, but no .gguf.", "A folder or a GGUF file is needed.", "Give its folder.")
    _refuse_adapter(source, here=(path / ADAPTER).is_file())
    return {"pretrained_model_name_or_path": str(source)}


def _loading(source: str | Path, part: str = "model") -> AbstractContextManager[None]:
    """Convert what other libraries raise while a part of a model is loaded (raises ModelError)."""
    path = Path(source)
    local = path.exists() or source == EMBEDDED
    kind = "folder" if path.is_dir() else "GGUF file" if local else "hub name (no such file or folder is here)"
    return converting_errors(
        ModelError,
        f"The {part} {str(source)!r}, taken as a {kind}, cannot be loaded",
        "Needed: a causal language model that transformers knows, with safetensors weights, or a GGUF file, "
        "and its tokenizer.",
        "Check its files; LONGROPE_DEBUG=1 shows the traceback."
        if local
        else "Check the name, or download the model first and give its folder.",
    )


def _read_gguf_rope(path: Path, head_dim: int) -> dict[str, Any]:
    """Read what a GGUF file states of its RoPE in metadata and tensors, in transformers' words.

    transformers drops most of it: the scaling, the base of some architectures, the rotated share of others.
    """
    from gguf import GGUFReader  # an extra that only GGUF files need

    reader = GGUFReader(str(path))
    arch = reader.get_field("general.architecture").contents()  # type: ignore[union-attr]  # transformers has read it
    stated = {name.removeprefix(f"{arch}."): field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: tensor.data.astype(np.float64).tolist() for tensor in reader.tensors if "rope" in tensor.name
    }
    return gguf_metadata.read_parameters(stated, tensors, head_dim, str(path))
