"""Export to a GGUF file that llama.cpp opens: a file with the factors put in, or the weights of a network.

A file of weights is opened again as `load_model` opens every GGUF file, and its logits are compared with ours on both
sides of the switch. Of two lists llama.cpp itself chooses one by the size of its context, once, so that its cache never
holds keys of both.
"""

from functools import partial
from pathlib import Path
from typing import Any

from longrope.data import Tokens, dump_sketch
from longrope.errors import ExportError
from longrope.exports.card import Origin, origin_of_model
from longrope.exports.comparison import (
    Arrays,
    ExportReport,
    check_agreement,
    compare_logits,
    logits_at,
    make_report,
)
from longrope.exports.gguf_layouts import choose_layout
from longrope.exports.gguf_patch import PatchReport, check_slides, rope_entries, write_patched
from longrope.exports.gguf_tokenizer import copy_tokenizer, write_tokenizer
from longrope.exports.gguf_weights import FORMATS, MODEL_TYPES, as_stored, choose_format, tensors_of
from longrope.exports.lists import NativeLists, native_lists, stated_lists
from longrope.exports.targets import check_not_source
from longrope.exports.unfinished import unfinished_file
from longrope.models import LanguageModel, check_not_quantized, load_model
from longrope.models.tuned_on import GGUF_KEY
from longrope.recipe import ExportRecipe
from longrope.rope import FactorTable, RescaleFactors, as_one


def write_gguf(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable,
    path: str | Path,
    *,
    settings: ExportRecipe | None = None,
    windows: Tokens | None = None,
    origin: Origin | None = None,
    layout: str = "",
    dtype: str = "",
) -> ExportReport | PatchReport:
    """Patch the GGUF file that a model was loaded from, or write its weights if they were tuned or ``dtype`` is given.

    The arguments are those of ``export_gguf``.
    """
    settings, origin, factors = settings or ExportRecipe(), origin or origin_of_model(model), as_one(factors)
    if origin.tuned or dtype or not origin.base_model.endswith(".gguf"):
        options: dict[str, Any] = {"windows": windows, "origin": origin, "layout": layout, "dtype": dtype}
        return export_gguf(model, factors, path, settings=settings, **options)
    lists = native_lists(model, factors, settings, windows)
    return write_patched(Path(origin.base_model), model.spec, lists, Path(path), layout)


def export_gguf(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable,
    path: str | Path,
    *,
    settings: ExportRecipe | None = None,
    windows: Tokens | None = None,
    origin: Origin | None = None,
    layout: str = "",
    dtype: str = "",
) -> ExportReport:
    """Write the weights of a model as a GGUF file, open it again, and compare.

    Args:
        model: a Llama, Mistral or Phi-3, as it was loaded, or tuned.
        factors: one set of factors.
        path: where to write; its name ends in ``.gguf``. A file that is there is replaced once the new one is checked.
        settings: one or two factor sets, and whether start tokens may be dropped.
        windows: [W, N] measuring windows, needed to measure what dropping start tokens changes.
        origin: of the weights, by default what the model was loaded from; the tokenizer of a GGUF file is taken over.
        layout: ``static`` or ``longrope``; if empty, the static one where it can hold the factors.
        dtype: f32, f16, bf16 or q8_0; if empty, the narrowest of the first three that holds the weights to the bit.

    Raises:
        ExportError: llama.cpp cannot hold this model, its tokenizer or its factors, the file gives other logits, or the
            path is the model's own.
    """
    settings, path, origin = settings or ExportRecipe(), Path(path), origin or origin_of_model(model)
    factors = as_one(factors)
    check_not_quantized(model, "An export")
    _check_supported(model, factors, path)
    for source in (origin_of_model(model).base_model, origin.base_model):
        check_not_source(path, source)
    gguf, dtype = _library(), choose_format(model, dtype)
    lists = native_lists(model, factors, settings, windows)
    layout = choose_layout(MODEL_TYPES[model.network.config.model_type], lists.factor_sets, layout)
    with unfinished_file(path) as unfinished:
        _write(gguf, model, lists, unfinished, origin, layout=layout, dtype=dtype)
        return verify_file(as_stored(gguf, model, dtype), lists, unfinished)


def verify_file(model: LanguageModel, lists: NativeLists, path: Path) -> ExportReport:
    """Open a GGUF file and compare its logits with the model's; raise ExportError if they differ."""
    differences = compare_logits(model, lists, partial(_reopen, path, str(model.device)))
    report = make_report(lists, differences)
    check_agreement(report, path, model.network.config.model_type)
    return report


def check_stated(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise LongRopeError if llama.cpp cannot hold a model or factors; nothing is written."""
    _check_supported(model, factors, Path("model.gguf"))
    choose_format(model)
    native_lists(model, factors, ExportRecipe(), None)


def _check_supported(model: LanguageModel, factors: RescaleFactors, path: Path) -> None:
    """Refuse what the architecture cannot hold, before anything is written (raises ExportError)."""
    network, config, spec = model.network, model.network.config, model.spec
    architecture = MODEL_TYPES.get(config.model_type)
    activation = getattr(config, "hidden_act", None)
    partly = spec.rotary_dim != spec.head_dim and architecture != "phi3"
    reasons = {
        f"The model type is {config.model_type!r}.": architecture is None,
        f"The model's activation is {activation!r}.": activation != "silu",
        "The model's projections have biases.": any(name.endswith(".bias") for name in network.state_dict()),
        f"The model rotates {spec.rotary_dim} of {spec.head_dim} entries.": partly,
        f"The file's name {path.name!r} does not end in .gguf.": path.suffix != ".gguf",
    }
    for reason, refused in reasons.items():
        if refused:
            raise ExportError(
                reason,
                "Weights can be written for plain Llama, Mistral and Phi-3 models, whose factors llama.cpp uses.",
                "Export a folder with --to hf, or patch a GGUF file of the model.",
            )
    check_slides(getattr(config, "sliding_window", None), factors.target_window)


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise ExportError(
            "The package gguf is not installed.", "It writes GGUF files.", "pip install 'longrope[gguf]'"
        ) from None
    return gguf


def _write(
    gguf: Any,
    model: LanguageModel,
    lists: NativeLists,
    path: Path,
    origin: Origin,
    *,
    layout: str,
    dtype: str,
) -> None:
    config = model.network.config
    architecture = MODEL_TYPES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"{origin.title}, context window {lists.long.target_window}")
    writer.add_file_type(gguf.LlamaFileType[FORMATS[dtype]])
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.spec.head_dim)
    writer.add_value_length(model.spec.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
    metadata, rows = rope_entries(model.spec, stated_lists(model.spec, lists), layout)
    for key, value in metadata.items():
        writer.add_key_value(f"{architecture}.{key}", value, kinds[type(value)])
    if model.tuned_on:
        writer.add_string(GGUF_KEY, dump_sketch(model.tuned_on))
    for name, row in rows.items():
        writer.add_tensor(name, row)
    if origin.base_model.endswith(".gguf"):
        copy_tokenizer(gguf, writer, Path(origin.base_model))
    else:
        write_tokenizer(gguf, writer, model)
    for tensor in tensors_of(gguf, model, dtype):
        writer.add_tensor(tensor.own_name, tensor.data, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _reopen(path: Path, device: str, probe: Arrays) -> Arrays:
    reopened = load_model(path, device=device, dtype="float32")
    return {side: logits_at(reopened, probe["tokens"], probe[side]) for side in probe if side != "tokens"}
