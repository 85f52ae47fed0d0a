"""The rotary tables of a model, as its config states them and its own rotary module computes them."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from longrope.errors import ModelError, converting_errors
from longrope.models.rotary import LAYOUTS
from longrope.models.tables import find_rotary
from longrope.rope import RopeSpec, RotaryTable
from longrope.rope.hf_config import ENTRIES, read_geometry, read_switch, refusal

PROBE_POSITIONS = 64


def read_tables(config: Any) -> tuple[RotaryTable, ...]:
    """Read the rotary tables that a config states, and check them against the model's own rotary module.

    The module is built alone on the CPU, asked for its cos and sin, and compared with our formulas. So partial rotary,
    the pairing and every native scaling are seen, not assumed.

    Raises:
        ModelError: no RoPE, several of them, or one whose angles do not follow from the config.
    """
    with converting_errors(
        ModelError,
        f"The rotary embedding of the model type {getattr(config, 'model_type', '?')!r} cannot be read",
        "Needed: a config that states one, with all numbers that its kind takes.",
        "Correct the config, or report this model type; LONGROPE_DEBUG=1 shows the traceback.",
    ):
        return (_check_against_module(config, read_geometry(config_entries(config))),)


def read_spec(config: Any) -> RopeSpec:
    """Read the geometry of the one rotary table that a config states (see ``read_tables``; raises ModelError)."""
    (table,) = read_tables(config)
    return table.geometry


def config_entries(config: Any) -> dict[str, Any]:
    """What a config object states of its RoPE, as its config.json does."""
    return {name: getattr(config, name) for name in ENTRIES if hasattr(config, name)}


def _check_against_module(config: Any, stated: RopeSpec) -> RotaryTable:
    """The table that a config states, with its place and pairing as the model's own rotary module shows them."""
    entries = config_entries(config)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(_shallow(config))
    path = find_rotary(skeleton)
    rotary = type(skeleton.get_submodule(path))(config=copy.deepcopy(config))
    positions = torch.arange(PROBE_POSITIONS)[None]
    if stated.native and stated.native.rope_type == "longrope":  # one far position selects the long list
        positions = torch.cat((positions, torch.tensor([[read_switch(entries)]])), dim=1)
    try:
        cos, sin = rotary(torch.zeros(1, positions.shape[1], stated.head_dim), positions)
        same = _same_numbers(rotary, stated)
    except Exception as error:
        raise refusal(entries, f"has a rotary module of another kind ({type(error).__name__}: {error})") from error
    given = torch.stack((cos, sin))[:, :, :PROBE_POSITIONS]
    for pairing, layout in LAYOUTS.items():
        angles = positions[:, :PROBE_POSITIONS, None].double() * torch.from_numpy(stated.frequencies)
        expected = torch.stack((layout(angles).cos(), layout(angles).sin())) * stated.attention_factor
        if same and given.shape == expected.shape and torch.allclose(given.double(), expected, atol=1e-4):
            return RotaryTable(path, tuple(range(config.num_hidden_layers)), replace(stated, pairing=pairing))
    raise refusal(entries, "computes other angles than its config states")


def _same_numbers(rotary: Any, stated: RopeSpec) -> bool:
    """Whether the module's own numbers are the stated ones (the slowest pairs hardly show in 64 positions)."""
    frequencies, attention = stated.frequencies, float(rotary.attention_scaling)
    return (
        rotary.inv_freq.shape == frequencies.shape
        and np.allclose(rotary.inv_freq.double(), frequencies, rtol=1e-4, atol=0)
        and math.isclose(attention, stated.attention_factor, rel_tol=1e-9)
    )


def _shallow(config: Any) -> Any:
    """The config with few layers, enough to find the rotary module."""
    small = copy.deepcopy(config)
    if isinstance(getattr(small, "num_hidden_layers", None), int) and not getattr(small, "layer_types", None):
        small.num_hidden_layers = min(2, small.num_hidden_layers)
    return small
