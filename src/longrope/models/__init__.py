"""Language models: load one, read its rotary tables or refuse it, run it with rescaled RoPE, save it, build one."""

from longrope.models.building import build_model, build_tokenizer
from longrope.models.checks import check_moves_logits
from longrope.models.config_checks import describe_passed_over
from longrope.models.devices import choose_device, choose_dtype, describe_device
from longrope.models.geometry import config_entries, read_spec, read_tables, with_entries
from longrope.models.gguf_geometry import read_gguf_spec
from longrope.models.hub import read_place
from longrope.models.language_model import LanguageModel, as_kept, holds, save_model
from longrope.models.loading import (
    ASSETS,
    EMBEDDED,
    OpenedModel,
    has_text_config,
    load_config,
    load_model,
    open_model,
    read_gguf_file,
    silence_loading,
)
from longrope.models.quantized import check_not_quantized
from longrope.models.rescaling import at_length, check_not_rescaled, modules_in_layers, placed, rescaled
from longrope.models.rotary import RescaledRotary
from longrope.models.shallow import make_shallow
from longrope.models.tables import choose_table, describe_choice, describe_table, slides_over
from longrope.models.trained_window import describe_window, with_trained_window

__all__ = [
    "ASSETS",
    "EMBEDDED",
    "LanguageModel",
    "OpenedModel",
    "RescaledRotary",
    "as_kept",
    "at_length",
    "build_model",
    "build_tokenizer",
    "check_moves_logits",
    "check_not_quantized",
    "check_not_rescaled",
    "choose_device",
    "choose_dtype",
    "choose_table",
    "config_entries",
    "describe_choice",
    "describe_device",
    "describe_passed_over",
    "describe_table",
    "describe_window",
    "has_text_config",
    "holds",
    "load_config",
    "load_model",
    "make_shallow",
    "modules_in_layers",
    "open_model",
    "placed",
    "read_gguf_file",
    "read_gguf_spec",
    "read_place",
    "read_spec",
    "read_tables",
    "rescaled",
    "save_model",
    "silence_loading",
    "slides_over",
    "with_entries",
    "with_trained_window",
]
