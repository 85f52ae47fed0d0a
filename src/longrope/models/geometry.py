"""The rotary tables of a model, as its config states them and its own rotary modules compute them."""

import copy
import re
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from longrope.errors import LongRopeError, ModelError, converting_errors, describe_error
from longrope.models.layouts import computes, pairing_of, read_layout
from longrope.models.parts import as_registered
from longrope.models.tables import Place, choose_table, find_places, find_users, make_alone, sliding_layers
from longrope.models.unsupported import refuse_unsupported
from longrope.rope import Layout, RopeSpec, RotaryTable
from longrope.rope.hf_config import ENTRIES, read_geometry, refusal


def read_tables(config: Any) -> tuple[RotaryTable, ...]:
    """Read the rotary tables that a config states, and check them against the model's own rotary modules.

    Each module is built alone on the CPU, asked for its cos and sin, and compared with our formulas. So partial rotary,
    the layout and every native scaling are seen, not assumed.

    Raises:
        ModelError: no RoPE, or one whose angles do not follow from the config.
    """
    with converting_errors(
        ModelError,
        f"The rotary embedding of the model type {getattr(config, 'model_type', '?')!r} cannot be read",
        "Needed: a config that states one, with all numbers that its kind takes.",
        "Correct the config, or report this model type; LONGROPE_DEBUG=1 shows the traceback.",
    ):
        return _read_tables(config)


def read_spec(config: Any, rope_table: str = "") -> RopeSpec:
    """Read the geometry of the rotary table that factors act on (see ``choose_table``; raises ModelError)."""
    return choose_table(read_tables(config), rope_table).geometry


def config_entries(config: Any, layer_type: str | None = None) -> dict[str, Any]:
    """What a config object states of its RoPE, as its config.json does; of one layer type if it states several."""
    own = config if layer_type is None else _of_layer_type(config, layer_type)
    entries = {name: getattr(own, name) for name in ENTRIES if hasattr(own, name)}
    if layer_type is not None:
        entries["rope_parameters"] = entries["rope_parameters"][layer_type]
    return entries


def with_entries(config: Any, changed: dict[str, Any], layer_type: str | None) -> dict[str, Any]:
    """What must change of a whole config for the RoPE of one layer type (None: of all) to be stated anew.

    transformers checks the lists of longrope against the head dimension of the whole config. Where that differs by
    layer (Gemma-4), it raises an error unless the config allows to read it.
    """
    if layer_type is None:
        return changed
    own = {**config.rope_parameters, layer_type: changed["rope_parameters"]}
    others = {name: value for name, value in changed.items() if name != "head_dim"}  # that of all types
    by_layer = "head_dim" in (getattr(config, "per_layer_attributes", None) or ())
    allowed = {"allow_global_per_layer_attribute_access": True} if by_layer else {}
    return {**allowed, **others, "rope_parameters": own}


def _layer_types(config: Any) -> list[str | None]:
    """The layer types that have RoPE parameters of their own; None alone where all layers share them."""
    stated = getattr(config, "rope_parameters", None) or {}
    apart = [name for name, own in stated.items() if isinstance(own, dict)]
    types = set(getattr(config, "layer_types", None) or ())
    return [name for name in apart if name in types] or apart or [None]


def _of_layer_type(config: Any, layer_type: str) -> Any:
    """The config of the layers of one type: of its own where they differ in more than their RoPE (Gemma-4)."""
    try:
        return config.per_layer_config[layer_type]
    except (AttributeError, ValueError, KeyError, TypeError):  # as transformers' own formulas do
        return config


def _read_tables(config: Any) -> tuple[RotaryTable, ...]:
    refuse_unsupported(config)
    for layer_type in _layer_types(config):  # before transformers is to build what cannot be
        read_geometry(config_entries(config, layer_type))
    small = _shallow(config)
    skeleton = _build_skeleton(small)
    places = find_places(skeleton)
    if not places:  # the first layers may have none, without an entry that we know to say so
        small, skeleton = config, _build_skeleton(config)
        places = find_places(skeleton)
    if not places:
        raise refusal(config_entries(config), "has no rotary position embedding, or one of its own kind")
    modules = {place: skeleton.get_submodule(place.path) for place in places}
    users = find_users(skeleton, places)
    users = users or {place: set(range(small.num_hidden_layers)) for place in places}  # the first pass will tell
    slides = sliding_layers(config)
    found: dict[tuple[Any, ...], RotaryTable] = {}
    used = sorted(users, key=lambda place: (min(users[place]), places.index(place)))
    types = {place.layer_type for place in used} - {None}
    others = [place for place in places if place not in users and place.layer_type in types]  # modules of those tables
    for place in (*used, *others):
        table = replace(_read_table(place, modules[place], config), layers=tuple(sorted(users.get(place, ()))))
        key = (table.name, table.geometry)
        found[key] = _joined(found[key], table) if key in found else table
    if len(found) == 1 and small.num_hidden_layers < config.num_hidden_layers:  # few layers stood for all
        found = {key: replace(table, layers=tuple(range(config.num_hidden_layers))) for key, table in found.items()}
    return tuple(replace(table, slides=slides >= set(table.layers)) for table in found.values())


def _joined(one: RotaryTable, other: RotaryTable) -> RotaryTable:
    """One table that two modules hold."""
    paths = dict.fromkeys((*one.path.split(", "), *other.path.split(", ")))
    return replace(one, path=", ".join(paths), layers=tuple(sorted({*one.layers, *other.layers})))


def _build_skeleton(config: Any) -> Any:
    """The network of a config without weights."""
    registered = as_registered(config)
    if type(registered) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal(config_entries(config), "has no causal language model class in transformers")
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(registered)
    except Exception as error:
        raise ModelError(
            f"The model type {config.model_type!r} cannot be built by transformers from this config "
            f"({describe_error(error)}).",
            "Needed: a config from which transformers builds a causal language model.",
            "Take the config.json that belongs to the weights.",
        ) from error


def _read_table(place: Place, module: Any, config: Any) -> RotaryTable:
    """The table that a config states, with its layout as the model's own rotary module shows it."""
    stated = config_entries(getattr(module, "config", None) or config, place.layer_type)
    geometry = read_geometry(stated)
    tokens = geometry.trained_window
    try:
        alone = make_alone(module, config)
        layout = read_layout(alone, place.layer_type, geometry.frequencies_at(tokens), tokens)
        wrong = [] if layout is None else _wrong_lengths(alone, place.layer_type, layout, geometry)
    except LongRopeError:
        raise
    except Exception as error:
        raise refusal(stated, f"has a rotary module of another kind ({describe_error(error)})") from error
    native = geometry.native
    if layout is None and native and native.short:
        below = geometry.frequencies_at(native.switch_tokens)
        if read_layout(alone, place.layer_type, below, tokens):
            raise _never_long(stated["model_type"], native.switch_tokens)
    if layout is None or wrong:
        raise refusal(stated, f"computes other angles than its config states{_where(geometry, wrong)}")
    path = re.sub(r"(?<=\.)\d+(?=\.)", "*", place.path)
    return RotaryTable(path, (), replace(geometry, pairing=pairing_of(layout)), place.layer_type, layout)


def _never_long(model_type: str, switch: int) -> ModelError:
    """As of PhiMoE, whose rotary module asks for its frequencies without a length."""
    return ModelError(
        f"The model type {model_type!r} in transformers {version('transformers')} turns sequences of more than "
        f"{switch:,} tokens by its short factors, although its config states long ones for them.",
        "Factors are searched relative to the model's own, so these must be at work.",
        "Take another version of transformers if one applies the long factors, or another model.",
    )


def _wrong_lengths(module: Any, layer_type: str | None, layout: Layout, geometry: RopeSpec) -> list[int]:
    """The lengths at which a module computes other angles than the scaling that is stated: all that it knows apart."""
    lengths = {geometry.trained_window}
    if geometry.native and geometry.native.switch_tokens:
        lengths |= {geometry.native.switch_tokens, geometry.native.switch_tokens + 1}
    if geometry.native and geometry.native.growth:
        lengths |= {2 * geometry.trained_window}
    scale = geometry.attention_factor
    return [
        tokens
        for tokens in sorted(lengths)
        if not computes(module, layer_type, layout, geometry.frequencies_at(tokens), scale, tokens)
    ]


def _where(geometry: RopeSpec, wrong: list[int]) -> str:
    """For which sequences, where the angles that are stated depend on their length."""
    if not geometry.by_length:
        return ""
    tokens = wrong[0] if wrong else geometry.trained_window
    long = geometry.native and 0 < geometry.native.switch_tokens < tokens
    return f" for sequences of {tokens:,} tokens{' (of its long factors)' if long else ''}"


def _shallow(config: Any) -> Any:
    """The config with two layers where nothing says that layers differ, enough to find the rotary modules."""
    small = copy.deepcopy(config)
    count = getattr(small, "num_hidden_layers", None)
    lists = [value for value in vars(small).values() if isinstance(value, list | tuple) and len(value) == count]
    if isinstance(count, int) and not lists and not getattr(small, "layer_types", None):
        small.num_hidden_layers = min(2, count)
    return small
