"""GGUF files that are patched, and their content."""

from pathlib import Path
from typing import Any

import numpy as np
import pico
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quantize
from numpy.typing import NDArray

from longrope.models import read_gguf_file, read_gguf_spec
from longrope.rope import RescaleFactors

WINDOW = 256


LAMBDAS = (1.0, 1.5, 3.0, 4.0)


PROMPTS = np.random.default_rng(5).integers(1, 320, (3, 2 * WINDOW - 1))


def make_file(path: Path, describe: Any = lambda _: None, **tensors: NDArray[np.float32]) -> Path:
    return pico.save_gguf(path, pico.make_network("llama", max_position_embeddings=WINDOW), describe, **tensors)


def make_factors(source: Path, **fields: Any) -> RescaleFactors:
    settings = {"target_window": 4 * WINDOW, "attention_factor": 1.2, **fields}
    return RescaleFactors(LAMBDAS, spec_fingerprint=read_gguf_spec(read_gguf_file(source)).fingerprint, **settings)


def quantized(path: Path, source: Path, kind: GGMLQuantizationType, alignment: int = 64) -> Path:
    """The same model with quantized matrices, on another alignment, with keys of every type."""
    reader, writer = GGUFReader(source), GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_array("some.numbers", [1.5, 2.5])
    writer.add_bool("some.flag", True)
    writer.add_uint64("some.count", 2**40)
    writer.add_string("some.text", "naïve 🦙")
    for tensor in reader.tensors:
        matrix = tensor.data.ndim == 2 and tensor.data.shape[1] % 32 == 0
        own = kind if matrix else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(np.array(tensor.data), own), raw_dtype=own)
    pico.close_gguf(writer)
    return path


def describe(keys: dict[str, Any]) -> Any:
    adders: dict[type, Any] = {str: GGUFWriter.add_string, float: GGUFWriter.add_float32, int: GGUFWriter.add_uint32}
    return lambda writer: [adders[type(value)](writer, f"llama.{key}", value) for key, value in keys.items()]
