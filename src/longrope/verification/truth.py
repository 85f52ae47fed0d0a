"""What a client is to apply: by the record that an export leaves beside a checkpoint, else by its own config.

So a config that was changed since, or a file that a converter made without the factors, is found out; of checkpoints
that come without a record, their own config is the truth, as our strict reader reads it.

Shape legend: P = rotated pairs.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from longrope.checksums import describe_files, record_path
from longrope.errors import ExportError, LongRopeError, describe_error
from longrope.models import LanguageModel, config_entries, load_config, read_gguf_file, read_gguf_spec, read_spec
from longrope.reading import read_json
from longrope.rope import NativeScaling, RopeSpec
from longrope.rope.hf_config import read_switch
from longrope.runs.files import unfinished_file
from longrope.verification.clients import FILE, kind_of

FORMAT = "longrope-rope/1"


@dataclass(frozen=True)
class Truth:
    """The RoPE of a checkpoint.

    Attributes:
        stated: its geometry with the scaling that is to be applied.
        original: that of the model that was extended; without scaling where that is not known.
        switch_tokens: the original window, above which two lists switch.
        source: where it was read.
    """

    stated: RopeSpec
    original: RopeSpec
    switch_tokens: int
    source: str

    @property
    def window_tokens(self) -> int:
        """The longest sequence that the checkpoint is meant for."""
        return self.stated.trained_window


def write_record(checkpoint: Path, original: RopeSpec, switch_tokens: int) -> None:
    """Write down what a checkpoint states, and its checksums, right after it was written and compared with the model.

    Args:
        checkpoint: a folder, or a GGUF file.
        original: the geometry of the model that was extended.
        switch_tokens: the original window.
    """
    is_file = kind_of(checkpoint) == FILE
    stated = read_gguf_spec(read_gguf_file(checkpoint)) if is_file else read_spec(load_config(checkpoint))
    content = {"format": FORMAT, "stated": asdict(stated), "original": asdict(original), "switch_tokens": switch_tokens}
    content["files"] = describe_files(checkpoint)
    with unfinished_file(record_path(checkpoint), ExportError) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_truth(checkpoint: Path, model: LanguageModel, reference: Path | None = None) -> Truth:
    """What is to be applied to a checkpoint.

    Args:
        checkpoint: a folder, or a GGUF file.
        model: the same, loaded.
        reference: another checkpoint, or its record, that states what is to be applied.

    Raises:
        ExportError: the record cannot be read, is of another geometry, or nothing states a scaling.
    """
    record = record_path(reference or checkpoint) if (reference or checkpoint).suffix != ".json" else reference
    if record and record.is_file():
        truth = _read_record(record)
    elif reference:
        kind_of(reference)
        truth = _own(load_config(reference), read_spec(load_config(reference)), str(reference))
    else:
        truth = _own(model.network.config, model.spec, "its own config", model.table.layer_type)
    widths = {(spec.head_dim, spec.rotary_dim) for spec in (truth.stated, model.spec)}
    if len(widths) > 1:
        raise ExportError(
            f"{truth.source} rotates {truth.stated.rotary_dim} of {truth.stated.head_dim} entries of a head, and "
            f"{checkpoint} {model.spec.rotary_dim} of {model.spec.head_dim}.",
            "The truth must be of the same model.",
            "Give another --reference.",
        )
    if truth.stated.native is None:
        raise ExportError(
            f"{truth.source} states no RoPE scaling ({checkpoint}).",
            "Without one there is nothing that a client could ignore.",
            "Give a checkpoint with a scaling, or one that states what this one should have: --reference RUN/hf.",
        )
    return truth


def _own(config: Any, spec: RopeSpec, source: str, layer_type: str | None = None) -> Truth:
    native = spec.native
    stated = config_entries(config, layer_type) if layer_type or "rope_type" in config.rope_parameters else {}
    switch = (native.switch_tokens if native else 0) or (read_switch(stated) if stated else spec.trained_window)
    return Truth(spec, replace(spec, native=None), switch, source)


def _read_record(path: Path) -> Truth:
    def refuse(reason: str) -> ExportError:
        return ExportError(
            f"{path} cannot be read ({reason}).",
            f"A record of the format {FORMAT} is needed, as an export writes it.",
            "Export again, or remove the file: then the checkpoint's own config counts.",
        )

    content = read_json(path, refuse)
    try:
        if content["format"] != FORMAT:
            raise KeyError(f"format {content['format']!r}")
        stated, original = (_spec(content[name]) for name in ("stated", "original"))
        return Truth(stated, original, int(content["switch_tokens"]), str(path))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, LongRopeError) as error:
        raise refuse(describe_error(error)) from None


def _spec(content: dict[str, Any]) -> RopeSpec:
    native = content["native"]
    if native is not None:
        lists = {name: tuple(native[name]) for name in ("lambdas", "short") if native[name] is not None}
        native = NativeScaling(**{**native, **lists})
    return RopeSpec(**{field.name: content[field.name] for field in fields(RopeSpec)} | {"native": native})
