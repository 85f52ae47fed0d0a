"""Keys of a GGUF file that change attention or positions are held by its config, or the file is refused by them."""

from collections.abc import Callable
from pathlib import Path

import pico
import pytest
from gguf import GGUFWriter

from longrope.errors import ModelError
from longrope.models import load_config

Describe = Callable[[GGUFWriter], None]

REFUSED: dict[str, tuple[Describe, str]] = {
    "a window that the config lacks": (lambda w: w.add_sliding_window(16), r"attention\.sliding_window = 16"),
    "another scale": (lambda w: w.add_attention_scale(0.5), r"attention\.scale = 0\.5"),
    "biases by distance": (lambda w: w.add_max_alibi_bias(8.0), r"attention\.max_alibi_bias = 8"),
    "both directions": (lambda w: w.add_causal_attention(False), r"attention\.causal = False"),
    "other heads": (lambda w: w.add_value_length(16), r"attention\.value_length = 16"),
    "a cap": (lambda w: w.add_attn_logit_softcapping(50.0), r"attn_logit_softcapping = 50"),
    "axes": (lambda w: w.add_rope_dimension_sections([2, 1, 1, 0]), r"rope\.dimension_sections = \[2, 1, 1, 0\]"),
    "a key of the future": (lambda w: w.add_float32("llama.attention.bend", 2.0), r"attention\.bend = 2"),
}


def save(folder: Path, describe: Describe, architecture: str = "llama") -> Path:
    writer = GGUFWriter(folder / "x.gguf", architecture)
    pico.describe_shape(writer, pico.make_config("llama"))
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(320)
    describe(writer)
    pico.close_gguf(writer)
    return folder / "x.gguf"


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_config_does_not_hold_is_refused_by_its_key(case: str, tmp_path: Path) -> None:
    describe, named = REFUSED[case]
    with pytest.raises(ModelError, match=named):
        load_config(save(tmp_path, describe))


def describe_alike(writer: GGUFWriter) -> None:
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_causal_attention(True)
    writer.add_max_alibi_bias(0.0)


def test_what_the_config_holds_is_no_fault(tmp_path: Path) -> None:
    assert load_config(save(tmp_path, describe_alike)).head_dim == 8


@pytest.mark.parametrize("pattern", [6, [True] * 5 + [False]], ids=["period", "flags"])
def test_layers_that_slide_as_the_config_has_them(pattern: int | list[bool], tmp_path: Path) -> None:
    """Gemma-3's: transformers takes every sixth layer to see everything, whatever a file states."""

    def describe(writer: GGUFWriter) -> None:
        writer.add_uint32("gemma3.block_count.of_six", 6)
        writer.add_sliding_window(16)
        writer.add_key_length(8)
        writer.add_value_length(8)
        writer.add_rope_freq_base_swa(2e4)
        writer.add_sliding_window_pattern(pattern)

    def save_six(described: Describe) -> Path:
        writer = GGUFWriter(tmp_path / "x.gguf", "gemma3")
        pico.describe_shape(writer, pico.make_config("llama", num_hidden_layers=6))
        writer.add_rope_freq_base(1e6)
        writer.add_vocab_size(320)
        described(writer)
        pico.close_gguf(writer)
        return tmp_path / "x.gguf"

    rope = load_config(save_six(describe)).rope_parameters
    assert {kind: one["rope_theta"] for kind, one in rope.items()} == {"sliding_attention": 2e4, "full_attention": 1e6}
    other = 3 if isinstance(pattern, int) else pattern[::-1]

    def describe_other(writer: GGUFWriter) -> None:
        writer.add_sliding_window(16)
        writer.add_key_length(8)
        writer.add_sliding_window_pattern(other)

    with pytest.raises(ModelError, match="sliding_window_pattern"):
        load_config(save_six(describe_other))
