"""GGUF files: metadata and places of tensors, read in a fraction of a second; tensors are dequantized when asked for.

The reader of the gguf package makes an object of every entry of the vocabulary: 13 s of CPU time for 262,144 of them.
Here the arrays of the tokenizer are passed over. The layout is that of ggml's docs/gguf.md, versions 2 and 3.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.errors import ModelError, describe_error

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32  # bytes, where a file states no other
BLOCKS_AT_ONCE = 512  # in a row that gguf dequantizes; short rows take it several times longer


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a file: its name, its shape in torch's order, its type, and where its bytes are."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int  # bytes from the beginning of the data

    @property
    def type_name(self) -> str:
        """Such as ``Q4_K``; the number where the gguf package does not know it."""
        from gguf import GGMLQuantizationType  # an extra that only GGUF files need

        known = {int(kind): kind.name for kind in GGMLQuantizationType}
        return known.get(self.type_number, f"type {self.type_number}")

    @property
    def num_bytes(self) -> int:
        """What it takes in the file; 0 of a type that the gguf package does not know."""
        return _count_blocks(self) * _block_size(self)[1]


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file states.

    Attributes:
        path: the file.
        metadata: by whole key; of the arrays of the tokenizer only their lengths.
        tensors: in the order of the file.
        entries: each key with its value as the bytes of the file, but for the arrays of the tokenizer.
        tensor_table: the descriptions of the tensors as the bytes of the file.
        data_start: where the first tensor begins, in bytes.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[TensorPlace, ...]
    entries: tuple[bytes, ...]
    tensor_table: bytes
    data_start: int

    @property
    def architecture(self) -> str:
        """Such as ``llama``: the first part of the keys that describe the model."""
        return str(self.metadata["general.architecture"])

    @cached_property
    def stated(self) -> dict[str, Any]:
        """The metadata of the model, by its keys without the architecture before them."""
        before = f"{self.architecture}."
        return {key.removeprefix(before): value for key, value in self.metadata.items() if key.startswith(before)}

    def read_bytes(self, place: TensorPlace) -> NDArray[np.uint8]:
        """The bytes of one tensor of this file, read when they are used."""
        return np.memmap(self.path, np.uint8, "r", self.data_start + place.offset, (place.num_bytes,))

    def read_tensor(self, place: TensorPlace) -> NDArray[Any]:
        """Dequantize one tensor of this file, into float32 where it is quantized.

        Raises:
            NotImplementedError: the gguf package cannot dequantize its type.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        kind = GGMLQuantizationType(place.type_number)
        width = GGML_QUANT_SIZES[kind][1] * gcd(_count_blocks(place), BLOCKS_AT_ONCE)
        return dequantize(np.asarray(self.read_bytes(place)).reshape(-1, width), kind).reshape(place.shape)

    def write_header(self, path: Path) -> None:
        """Write a file that states the same, without the arrays of the tokenizer and with zeros for tensors (a hole).

        For readers that take long over these arrays. The length of the vocabulary stands in their place.
        """
        entries = list(self.entries)
        length, key = self.metadata.get("tokenizer.ggml.tokens"), f"{self.architecture}.vocab_size"
        if length is not None and key not in self.metadata:
            entries.append(_string(key) + struct.pack("<II", 4, length))
        counts = struct.pack("<IQQ", max(VERSIONS), len(self.tensors), len(entries))
        header = MAGIC + counts + b"".join(entries) + self.tensor_table
        start = _aligned(len(header), self.metadata)
        ends = [place.offset + place.num_bytes for place in self.tensors]
        with path.open("wb") as stream:
            stream.write(header)
            stream.truncate(start + max(ends, default=0))


def read_gguf(path: Path) -> GgufFile:
    """Read what a GGUF file states, without its tensors and its vocabulary.

    Raises:
        ModelError: no GGUF file of a version that we know, a part of one, or one that is cut off.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{path} does not begin as a GGUF file does.", "A GGUF file is needed.", NEXT)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                read = _Cursor(data, len(MAGIC)).read_file(path)
            except (struct.error, IndexError) as error:  # it ends in the middle of an entry
                raise _cut_off(path) from error
            except ModelError:
                raise
            except Exception as error:  # of whatever its bytes are taken for
                found = f"{path} states what no GGUF file states ({describe_error(error)})."
                raise ModelError(found, "A GGUF file is needed.", NEXT) from error
            size = len(data)
    kinds = {"general.architecture": str, "split.count": int}
    for key, kind in kinds.items():
        if not isinstance(read.metadata.get(key, kind()), kind) or (kind is str and not read.metadata.get(key)):
            raise ModelError(f"{path} states {key} = {read.metadata.get(key)!r}.", "A GGUF file is needed.", NEXT)
    if read.metadata.get("split.count", 0) > 1:
        raise ModelError(
            f"{path} is one of {read.metadata['split.count']} parts of a GGUF file.",
            "The whole file is needed.",
            "Join the parts with llama.cpp's llama-gguf-split --merge, and give the file that it writes.",
        )
    if any(read.data_start + place.offset + place.num_bytes > size for place in read.tensors):
        raise _cut_off(path)
    return read


NEXT = "Download the file again, or give the model's original safetensors folder."


def check_types(file: GgufFile) -> None:
    """Raise ModelError for tensors of types that the gguf package cannot dequantize; all of them are named."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    unknown = set()
    for kind, name in {(place.type_number, place.type_name) for place in file.tensors}:
        try:
            number = GGMLQuantizationType(kind)
            dequantize(np.zeros((1, GGML_QUANT_SIZES[number][1]), np.uint8), number)
        except (NotImplementedError, ValueError, KeyError):
            unknown.add(name)
    if unknown:
        raise ModelError(
            f"{file.path} holds tensors of {', '.join(sorted(unknown))}.",
            "The gguf package cannot dequantize these.",
            "Update it, take a file of another quantization such as Q8_0, or give the safetensors folder.",
        )


def _cut_off(path: Path) -> ModelError:
    return ModelError(f"{path} ends before what its header states.", "The whole file is needed.", NEXT)


def _count_blocks(place: TensorPlace) -> int:
    return prod(place.shape) // _block_size(place)[0]


def _block_size(place: TensorPlace) -> tuple[int, int]:
    """Numbers and bytes of one block; of a type that is refused by its name later, no bytes."""
    from gguf import GGML_QUANT_SIZES

    return {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}.get(place.type_number, (1, 0))


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(position: int, metadata: Mapping[str, Any]) -> int:
    step = int(metadata.get("general.alignment", ALIGNMENT))
    return -(-position // step) * step


class _Cursor:
    """A place in the bytes of a file, which moves on as it reads."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data, self.position = data, position

    def read_file(self, path: Path) -> GgufFile:
        version, tensor_count, key_count = self.unpack("<IQQ")
        if version not in VERSIONS:
            raise ModelError(
                f"{path} is of GGUF version {version}.", "Versions 2 and 3, little-endian, are read.", NEXT
            )
        metadata, entries = {}, []
        for _ in range(key_count):
            start = self.position
            key, (kind,) = self.read_string(), self.unpack("<I")
            passed_over = kind == ARRAY and key.startswith("tokenizer.")
            metadata[key] = self.skip_array() if passed_over else self.read_value(kind)
            if not passed_over:
                entries.append(self.data[start : self.position])
        start = self.position
        tensors = tuple(self.read_place() for _ in range(tensor_count))
        table = self.data[start : self.position]
        return GgufFile(path, metadata, tensors, tuple(entries), table, _aligned(self.position, metadata))

    def read_place(self) -> TensorPlace:
        name, (dimensions,) = self.read_string(), self.unpack("<I")
        shape = self.unpack(f"<{dimensions}Q")[::-1]  # the file has the fastest dimension first
        return TensorPlace(name, shape, *self.unpack("<IQ"))

    def read_value(self, kind: int) -> Any:
        if kind == STRING:
            return self.read_string()
        if kind == ARRAY:
            inner, count = self.unpack("<IQ")
            return [self.read_value(inner) for _ in range(count)]
        return self.unpack(f"<{SCALARS[kind]}")[0]

    def read_string(self) -> str:
        (length,) = self.unpack("<Q")
        self.position += length
        return self.data[self.position - length : self.position].decode()

    def skip_array(self) -> int:
        kind, count = self.unpack("<IQ")
        if kind in SCALARS:
            self.position += count * struct.calcsize(f"<{SCALARS[kind]}")
            return int(count)
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", self.data, self.position)
            self.position += 8 + length
        return int(count)

    def unpack(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return found
