"""Put factors into a GGUF file, quantized or not: every byte of its weights and of its tokenizer stays.

Only the keys and tensors of the rotary embedding change. So llama.cpp, which dequantizes in its own way, computes with
the very weights that the file had; and nothing of it has to fit into memory. The new file is read again before it
appears under its name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longrope.errors import ExportError, ModelError, describe_error
from longrope.exports.gguf_layouts import LONGROPE, choose_layout
from longrope.exports.lists import NativeLists, lists_of, stated_lists
from longrope.exports.unfinished import unfinished_file
from longrope.models import read_gguf_file, read_gguf_spec
from longrope.models.gguf_file import GgufFile, TensorPlace
from longrope.recipe import ExportRecipe
from longrope.rope import FactorLists, FactorTable, RescaleFactors, RopeSpec, as_one, gguf_metadata

COMPARED_AT_ONCE = 2**24  # bytes

FINETUNED = "rope.scaling.finetuned"


@dataclass(frozen=True)
class PatchReport:
    """What a patched file holds.

    Attributes:
        layout: ``static`` or ``longrope``.
        factor_sets: ``single`` or ``two``.
        target_window: what it states, in tokens.
        switch_tokens: the length above which the long list is taken, of two factor sets.
        start_tokens_dropped: start tokens that it does not carry.
        loss_change_nats: what dropping them changed in the mean loss per token on the measuring windows.
        source: the name of the file that was patched.
        tensors: how many tensors of it were found unchanged in the new file.
        bytes: of these tensors.
    """

    layout: str
    factor_sets: str
    target_window: int
    switch_tokens: int
    start_tokens_dropped: int
    loss_change_nats: float
    source: str
    tensors: int
    bytes: int


def patch_gguf(
    source: str | Path,
    factors: RescaleFactors | FactorTable,
    path: str | Path,
    *,
    spec: RopeSpec | None = None,
    settings: ExportRecipe | None = None,
    layout: str = "",
) -> PatchReport:
    """Write a GGUF file with other factors and the same weights; they are not loaded.

    Args:
        source: a GGUF file of any quantization.
        factors: one set of factors, made for its geometry.
        path: where to write; its name ends in ``.gguf``.
        spec: the geometry that the factors were made for; by default the one that the file states.
        settings: one or two factor sets.
        layout: ``static`` or ``longrope``; if empty, the static one where it can hold the factors.

    Raises:
        ModelError: the file cannot be read.
        FactorsError: the factors belong to another geometry.
        ExportError: llama.cpp would not use them, or the file cannot be written.
    """
    spec = spec or read_gguf_spec(read_gguf_file(source))
    lists = lists_of(spec, as_one(factors), (settings or ExportRecipe()).factor_sets)
    return write_patched(Path(source), spec, lists, Path(path), layout)


def write_patched(source: Path, spec: RopeSpec, lists: NativeLists, path: Path, layout: str = "") -> PatchReport:
    """As ``patch_gguf``, with lists that are made already, for a geometry that is known."""
    file = read_gguf_file(source)
    layout = choose_layout(file.architecture, lists.factor_sets, layout)
    _check_paths(file, path)
    check_slides(file.stated.get("attention.sliding_window"), lists.long.target_window)
    _check_scaling_alone(file)
    stated = stated_lists(spec, lists)
    with unfinished_file(path) as unfinished:
        _copy(file, unfinished, *rope_entries(spec, stated, layout))
        compared = _check(file, read_gguf_file(unfinished), stated)
    return PatchReport(
        layout=layout,
        factor_sets=lists.factor_sets,
        target_window=lists.long.target_window,
        switch_tokens=lists.switch_tokens,
        start_tokens_dropped=lists.start_tokens_dropped,
        loss_change_nats=lists.loss_change_nats,
        source=source.name,
        tensors=len(compared),
        bytes=sum(place.num_bytes for place in compared),
    )


def rope_entries(spec: RopeSpec, stated: FactorLists, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys, without the architecture's name before them, and the tensors of a layout."""
    write = gguf_metadata.write_longrope if layout == LONGROPE else gguf_metadata.write_static
    return write(spec, stated)


def check_slides(sliding: Any, window: int) -> None:
    """Raise ExportError if attention slides over less than the window of the factors; None and 0 do not slide."""
    if sliding and min(sliding if isinstance(sliding, list) else [sliding]) < window:
        raise ExportError(
            f"The model's attention slides over {sliding} tokens.",
            f"Layers that see all of the {window:,} tokens that the factors are for are needed.",
            "Export a folder with --to hf.",
        )


def _check_paths(file: GgufFile, path: Path) -> None:
    if path.suffix != ".gguf" or path.is_dir():
        raise ExportError(
            f"{path} was given to write to.", "The name of a file that ends in .gguf is needed.", "Give another path."
        )
    if path.exists() and path.samefile(file.path):
        raise ExportError(f"{path} is the file to be patched itself.", "It is not changed.", "Give another path.")


def _check_scaling_alone(file: GgufFile) -> None:
    """Refuse files in which llama.cpp reads keys of the scaling for something else, which a patch would change."""
    temperature = file.stated.get("attention.temperature_scale")
    if file.architecture == "granite" and file.stated.get(FINETUNED) is False:
        found = f"states granite.{FINETUNED} = false, by which llama.cpp rotates nothing"
    elif temperature:
        found = (
            f"states an attention.temperature_scale of {temperature:g}, which counts from the window before the scaling"
        )
    else:
        return
    raise ExportError(
        f"{file.path} {found}.", "A model whose attention is by RoPE alone is needed.", "Export a folder."
    )


def _copy(file: GgufFile, path: Path, keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write the keys and the tensors of a file in their order, those of the rotary embedding replaced."""
    import gguf

    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
    try:
        reader = gguf.GGUFReader(file.path)
    except ValueError as error:  # such as a type of tensor that it does not know
        raise ModelError(
            f"{file.path} cannot be read by the gguf package ({describe_error(error)}).",
            "It must know every type of tensor in the file.",
            "Update it with pip install --upgrade gguf.",
        ) from error
    writer = gguf.GGUFWriter(path, file.architecture)
    writer.data_alignment = int(reader.alignment)
    before = f"{file.architecture}."
    kept = (gguf_metadata.DIMENSION, gguf_metadata.THETA)  # the same number, as the file writes it
    new = {before + key: value for key, value in keys.items() if key not in kept}
    for name, field in reader.fields.items():
        if name in new or name == "general.architecture" or name.startswith("GGUF."):
            continue
        if not gguf_metadata.is_scaling(name.removeprefix(before)):
            writer.add_key_value(name, *_value(gguf, file, field))
    for name, value in new.items():
        writer.add_key_value(name, value, kinds[type(value)])
    own = [tensor for tensor in reader.tensors if not gguf_metadata.is_scaling(tensor.name)]
    for tensor in own:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    for name, row in tensors.items():
        writer.add_tensor_info(name, row.shape, row.dtype, row.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in (*(tensor.data for tensor in own), *tensors.values()):
        writer.write_tensor_data(data)
    writer.close()


def _value(gguf: Any, file: GgufFile, field: Any) -> tuple[Any, Any, Any]:
    """What a key has: its value, with texts as the bytes of the file, its type, and the type of an array's entries."""
    kind, *inner = field.types
    if kind != gguf.GGUFValueType.ARRAY:
        return (bytes(field.parts[-1]) if kind == gguf.GGUFValueType.STRING else field.contents()), kind, None
    if len(inner) != 1:
        raise ExportError(
            f"{field.name} in {file.path} is an array without entries, or one of arrays.",
            "The gguf package cannot write these.",
            "Remove the key with gguf_new_metadata.py --remove-metadata, of that package.",
        )
    if inner[0] == gguf.GGUFValueType.STRING:
        return [bytes(field.parts[index]) for index in field.data], kind, inner[0]
    return field.contents(), kind, inner[0]


def _check(before: GgufFile, after: GgufFile, stated: FactorLists) -> list[TensorPlace]:
    """Compare a patched file with the one that it was made of; return the tensors that both hold.

    Raises:
        ExportError: a weight has other bytes, or other angles are read of the new file than those meant.
    """
    spec, places = read_gguf_spec(after), {place.name: place for place in after.tensors}
    own = [place for place in before.tensors if not gguf_metadata.is_scaling(place.name)]
    changed = [place.name for place in own if not _same_bytes(before, place, after, places.get(place.name))]
    lengths = {stated.switch_tokens: stated.short, stated.target_window: stated.long}
    angles = all(np.allclose(spec.lambdas_at(tokens), row, rtol=1e-6, atol=0) for tokens, row in lengths.items())
    if changed or not angles or not np.isclose(spec.attention_factor, stated.attention_factor, rtol=1e-6):
        found = f"other weights in {', '.join(changed[:3])}" if changed else "other angles or another attention factor"
        raise ExportError(
            f"The patched file, read again, has {found}.",
            "Only its keys and tensors of the rotary embedding may differ, by these factors.",
            "Please report it, with the name of the file.",
        )
    return own


def _same_bytes(before: GgufFile, place: TensorPlace, after: GgufFile, other: TensorPlace | None) -> bool:
    if other is None or (place.shape, place.type_number) != (other.shape, other.type_number):
        return False
    ours, theirs = before.read_bytes(place), after.read_bytes(other)
    starts = range(0, len(ours), COMPARED_AT_ONCE)
    return all(np.array_equal(ours[i : i + COMPARED_AT_ONCE], theirs[i : i + COMPARED_AT_ONCE]) for i in starts)
