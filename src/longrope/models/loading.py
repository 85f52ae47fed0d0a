"""Load a model through transformers' own classes, or refuse it.

Pickled weights and code that comes with a model are never loaded.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from longrope.checksums import check_files
from longrope.errors import ModelError, converting_errors
from longrope.models.adapters import find_adapter, merge_adapter
from longrope.models.bases import Trained, lost_base
from longrope.models.checks import check_moves_logits
from longrope.models.config_checks import check_config, describe_passed_over
from longrope.models.devices import choose_device, choose_dtype
from longrope.models.fitting import check_fits
from longrope.models.folders import check_folder, check_stated, check_tokenizer, has_tokenizer
from longrope.models.geometry import read_tables
from longrope.models.gguf_file import GgufFile, read_gguf
from longrope.models.gguf_loading import load_gguf_config, load_gguf_network, load_gguf_tokenizer
from longrope.models.hub import at_hand, check_path
from longrope.models.language_model import LanguageModel
from longrope.models.parts import NAMES_OF_TEXT, as_registered, describe_part, text_part, without_other_parts
from longrope.models.quantized import QUANTIZED, check_quantized, keep_differentiable, quantization_of
from longrope.models.tables import choose_table, describe_choice, slides_over
from longrope.models.trained_weights import find_trained_weights, put_trained_weights
from longrope.models.trained_window import describe_window, with_trained_window
from longrope.models.tuned_on import read_tuned_on
from longrope.models.vocabulary import fit_tokenizer
from longrope.models.weights import check_complete, check_finite, check_gguf_complete, gguf_dtype, stored_dtype
from longrope.rope.hf_legacy import with_present_names

EMBEDDED, ASSETS = "nano", Path(__file__).parents[1] / "assets"  # the name of the model that comes with the package


@dataclass(frozen=True)
class OpenedModel:
    """A model without its weights: its config and its tokenizer were read, and its files are there.

    Attributes:
        outline: the model with a network on torch's meta device, which has shapes and no numbers. It serves for what
            needs no pass: tokens of texts, lengths, names of weights.
        load: loads the weights, and raises ModelError where they are incomplete, unexpected or not finite.
    """

    outline: LanguageModel
    load: Callable[[], LanguageModel]


def load_model(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool = False,
    rope_table: str = "",
    trained_window: int = 0,
) -> LanguageModel:
    """Load a causal language model and check that its RoPE is one that we can rescale.

    Args:
        source: a hub name, a place on the hub (``hf://OWNER/NAME@REVISION/PATH``), a folder with safetensors weights,
            with a PEFT adapter (which is merged into its base) or with the trained part of the weights (which takes its
            place in the base), a GGUF file (which is dequantized), or ``nano``, which comes with the package. Pickled
            weights and code that comes with a model are never loaded. Of a model of text and images the text part is
            loaded.
        device: ``cpu``, ``cuda``, or ``auto``.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``float64``, or ``auto``; ``8bit`` or ``4bit`` quantize the
            weights, for searching and measuring.
        compiled: run it through torch.compile (see ``LanguageModel``).
        rope_table: the rotary table that factors act on, by name; that of the layers that see the whole window if left
            out.
        trained_window: the window in tokens that the model serves, where its config states another one.

    Raises:
        ModelError: the model cannot be loaded, has no RoPE, or several tables that could be meant; its weights are
            incomplete, unexpected or not finite.
    """
    how: dict[str, Any] = {"compiled": compiled, "rope_table": rope_table, "trained_window": trained_window}
    return open_model(source, device=device, dtype=dtype, **how).load()


def open_model(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool = False,
    rope_table: str = "",
    trained_window: int = 0,
) -> OpenedModel:
    """Read what ``load_model`` reads before the weights, by the same arguments, and refuse what it refuses by then."""
    place, place_reason = choose_device(device)
    number_format, format_reason = choose_dtype("auto" if dtype in QUANTIZED else dtype, place)
    name, source = str(source), at_hand(source)
    adapter, trained = find_adapter(source), find_trained_weights(source)
    own = adapter or trained
    base = own.base if own else source
    if Path(base).exists():
        check_files(Path(base), ModelError, whole=False)
    check_quantized(dtype, is_gguf=_gguf(base) is not None)
    whole = _load_base_config(own) if own else _load_whole_config(base)
    config = text_part(whole)
    stored = _stored_dtype(base, config, whole)
    tables = with_trained_window(read_tables(config), trained_window)
    table = choose_table(tables, rope_table)
    with _loading(base):
        if dtype not in QUANTIZED:
            check_fits(base, config, number_format, place)
        if not _gguf(base):
            check_folder(base)
        with torch.device("meta"):
            skeleton: Any = AutoModelForCausalLM.from_config(as_registered(config), dtype=number_format)
    tokenizer = _load_tokenizer(source if own and has_tokenizer(source) else base, whole)
    tokenizer, left_out = fit_tokenizer(source, tokenizer, _rows(skeleton))
    choices = (
        *(f"device {place} ({place_reason})", f"{number_format} ({format_reason})"),
        *((QUANTIZED[dtype],) if dtype in QUANTIZED else ()),
        *(
            *describe_part(config, whole),
            *describe_choice(tables, table, slides_over(config)),
            *describe_window(table, trained_window),
            *describe_passed_over(config),
            *left_out,
        ),
    )
    tuned_on = read_tuned_on(base if _gguf(base) else _locate(base), _gguf(base))
    tuned_on = tuned_on.merged(read_tuned_on(own.folder)) if own else tuned_on
    quantized = dtype if dtype in QUANTIZED else ""
    outline = LanguageModel(
        skeleton.requires_grad_(False).eval(),
        tokenizer,
        tables,
        name,
        choices,
        compiled,
        rope_table,
        tuned_on,
        stored,
        quantized,
    )

    def load() -> LanguageModel:
        with _loading(base):
            network = _load_network(base, config, number_format, place, dtype, is_part=config is not whole)
            network = merge_adapter(network, adapter) if adapter else network
            network = put_trained_weights(network, trained) if trained else network
            network = network if dtype in QUANTIZED else network.to(place)
        check_finite(source, network)
        fit_tokenizer(source, tokenizer, _rows(network))  # an adapter may have an embedding of its own
        model = replace(outline, network=network)
        check_moves_logits(model)
        return model

    return OpenedModel(outline, load)


def _rows(network: Any) -> int:
    """Of the embedding."""
    return int(network.get_input_embeddings().weight.shape[0])


def _stored_dtype(source: str | Path, config: Any, whole: Any) -> str:
    """The number format of the stored weights (see ``stored_dtype``), before transformers puts another one there."""
    if file := _gguf(source):
        return gguf_dtype(file)
    return stored_dtype(_locate(source), [getattr(each, "dtype", None) for each in (config, whole)])


def _load_network(
    source: str | Path, config: Any, dtype: torch.dtype, place: str, quantized: str, *, is_part: bool
) -> Any:
    """Load the weights into transformers' own class, ready to run on the CPU; refuse incomplete ones.

    Where they are quantized while loading, they are put on their device at once.
    """
    if file := _gguf(source):
        network, report = load_gguf_network(file, config, dtype)
    else:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            _locate(source),
            config=as_registered(config),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, by name
            key_mapping=NAMES_OF_TEXT if is_part else None,
            quantization_config=quantization_of(quantized, dtype),
            device_map={"": place} if quantized in QUANTIZED else None,
        )
        network, report = loaded
        if is_part:
            report = without_other_parts(report)
            vars(network).pop("_weight_conversions", None)  # by which it would be saved under the names of a part
    if hasattr(network, "peft_config"):  # of a hub name: transformers loads them without a word
        _refuse_adapter(source)
    check_complete(source, report)
    keep_differentiable(network)
    if file:
        check_gguf_complete(file, network)
    return network.requires_grad_(False).eval()


def load_config(source: str | Path) -> Any:
    """Load a model's config alone; of a model of text and images, that of its text part (raises ModelError).

    Of a GGUF file it has the RoPE scaling that the file declares.
    """
    source = at_hand(source)
    own = find_adapter(source) or find_trained_weights(source)
    return text_part(_load_base_config(own) if own else _load_whole_config(source))


def has_text_config(source: str | Path) -> bool:
    """Whether a model is opened by a config.json of its own that is of text alone (raises ModelError).

    That of text and images has a text part, a GGUF file none, and adapters and trained weights that of their base.
    """
    source = at_hand(source)
    if _gguf(source) or find_adapter(source) or find_trained_weights(source):
        return False
    whole = _load_whole_config(source)
    return text_part(whole) is whole


def _load_base_config(trained: Trained) -> Any:
    """The config of a base; where it was a folder that is gone, its name may still be that of the same on the hub."""
    try:
        return _load_whole_config(trained.base)
    except ModelError as error:
        if lost := lost_base(trained):
            raise lost from error
        raise


def _load_whole_config(source: str | Path) -> Any:
    check_path(source)
    with _loading(source):
        if file := _gguf(source):
            return load_gguf_config(file)
        if find_adapter(source):
            _refuse_adapter(source)
        location = _locate(source)
        stated, _ = PreTrainedConfig.get_config_dict(location)
        check_stated(source, stated)
        renamed = with_present_names(stated)  # of a scaling by a name that transformers no longer reads
        config = (
            AutoConfig.for_model(**renamed)
            if renamed
            else AutoConfig.from_pretrained(location, trust_remote_code=False)
        )
        check_config(source, stated, text_part(config))
        return config


def _load_tokenizer(source: str | Path, config: Any) -> Any:
    with _loading(source, "tokenizer of"):
        if file := _gguf(source):
            return load_gguf_tokenizer(file, config)
        check_tokenizer(source)
        return AutoTokenizer.from_pretrained(_locate(source), config=config, trust_remote_code=False)


def read_gguf_file(source: str | Path) -> GgufFile:
    """What a GGUF file states, without its weights (raises ModelError for all other sources)."""
    if file := _gguf(source):
        return file
    raise ModelError(f"{source} is no GGUF file.", "A file that ends in .gguf is needed.", "Correct the path.")


def silence_loading() -> None:
    """Turn off the progress bars and warnings that transformers prints while it loads."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _gguf(source: str | Path) -> GgufFile | None:
    """What a GGUF file states, None for a source of another kind."""
    path = Path(source)
    return read_gguf(path) if path.is_file() and path.suffix == ".gguf" else None


def _locate(source: str | Path) -> str:
    path = Path(source)
    if source == EMBEDDED:
        return str(ASSETS / EMBEDDED)
    if path.is_file():
        raise ModelError(f"{path} is a file, but no .gguf.", "A folder or a GGUF file is needed.", "Give its folder.")
    return str(source)


def _refuse_adapter(source: str | Path) -> None:
    raise ModelError(
        f"{str(source)!r} holds a PEFT adapter.",
        "A folder with an adapter can be given as MODEL, but no hub name of one, and none as the base of another.",
        "Download it and give its folder, or merge it with peft's merge_and_unload.",
    )


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
        else "Check the name; for a gated or private repository log in with hf auth login, or download the model first "
        "and give its folder.",
    )
