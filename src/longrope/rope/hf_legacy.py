"""RoPE in the configs of Hugging Face before ``rope_parameters``: ``rope_scaling`` and the like, read and written.

A dict is the content of a config.json, as in ``hf_config``. Exports state their factors in this spelling, too, for
transformers 4, mlx-lm and others, which read nothing else and say nothing where it is missing.
"""

import math
from collections.abc import Mapping
from typing import Any

from longrope.rope.scaling import su_attention_factor

Config = Mapping[str, Any]
LEGACY_SHARES = ("partial_rotary_factor", "rotary_pct")
LEGACY_BASES = ("rope_theta", "rotary_emb_base")
FIXED_BASE = 10_000.0  # of GPT-J and CodeGen, which state the rotated width and no base
LOCAL_BASES = {"gemma3_text": "rope_local_base_freq", "gemma3n_text": "rope_local_base_freq"}
LAYER_TYPED = (*LOCAL_BASES, "olmo3")  # whose rope_scaling was that of the layers that see the whole window
OWN_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
BARE = ("type", "short_factor", "long_factor")
ONLY_BARE = ("phi3",)  # whose config in transformers 4 refuses any other number of keys
NEVER_LISTS = ("olmo", "olmo2")  # whose config in transformers 4 takes no lists
TWO_MSCALES = ("phimoe",)  # model types that read short_mscale and long_mscale in the place of one attention factor
LONGROPE_KEYS = {  # that transformers 5 knows
    *(*BARE, "rope_type", "rope_theta", "attention_factor", "factor", "original_max_position_embeddings"),
    "partial_rotary_factor",
}
UNCHECKED = "ignore_keys_at_rope_validation"  # an attribute of its configs
BARE_TOLERANCE = 1e-6  # of an attention factor that is not stated at all


def from_legacy(config: Config) -> dict[str, Any] | None:
    """The ``rope_parameters`` of a config of the years before them, None if it states no base of the frequencies."""
    base = next((config[name] for name in LEGACY_BASES if config.get(name) is not None), None)
    if base is None and config.get("rotary_dim") and "rope_parameters" not in config:
        return {"rope_type": "default", "rope_theta": FIXED_BASE, "rotary_dim": config["rotary_dim"]}
    if base is None:
        return None
    scaling = dict(config.get("rope_scaling") or {})
    older, newer = scaling.pop("type", None), scaling.pop("rope_type", None)
    parameters = {"rope_type": newer or older or "default", "rope_theta": base, **scaling}
    share = next((config[name] for name in LEGACY_SHARES if config.get(name) is not None), None)
    return parameters if share is None else {**parameters, "partial_rotary_factor": share}


def with_present_names(config: Config) -> dict[str, Any] | None:
    """A config whose scaling is called ``su``, as the first Phi-3 checkpoints called longrope, by its present name.

    Returns:
        None for all other configs.
    """
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key) or {}
        if "su" in (scaling.get("type"), scaling.get("rope_type")):
            named = {name: value for name, value in scaling.items() if name not in ("type", "rope_type")}
            return {**config, key: {**named, "rope_type": "longrope"}}
    return None


def to_legacy(parameters: Config) -> dict[str, Any]:
    """``rope_parameters`` as the entries of a config that runtimes before them read; ``from_legacy`` undoes it."""
    apart = ("rope_type", "rope_theta", "partial_rotary_factor")
    kind = parameters["rope_type"]
    scaling = {name: value for name, value in parameters.items() if name not in apart}
    top = {name: parameters[name] for name in apart[1:] if name in parameters}
    return {**top, "rope_scaling": None if kind == "default" else {"type": kind, "rope_type": kind, **scaling}}


def older_entries(config: Config) -> dict[str, Any]:
    """The entries by which readers before ``rope_parameters`` find the RoPE of a config.json that states those.

    They are ``to_legacy``, the window before the scaling, and what some model types call by other names. Phi-3's
    scaling has three keys alone where readers derive the attention factor that it has; with another factor all keys
    stand, which transformers 4 refuses for Phi-3. Of the other types see ``_deriving``.

    Returns:
        Empty where that spelling has no words: factors by layer type, of types that are younger than it, or factors
        of the layers with a sliding window.
    """
    parameters, local = dict(config.get("rope_parameters") or {}), {}
    model_type = config.get("model_type", "")
    if "rope_type" not in parameters:
        whole, sliding = (parameters.get(name) or {} for name in ("full_attention", "sliding_attention"))
        if model_type not in LAYER_TYPED or sliding.get("rope_type") != "default":
            return {}
        local = {LOCAL_BASES[model_type]: sliding["rope_theta"]} if model_type in LOCAL_BASES else {}
        if not local and sliding["rope_theta"] != whole["rope_theta"]:
            return {}
        parameters = whole
    entries = {**to_legacy(parameters), **local}
    entries |= {old: entries[name] for name, old in OWN_NAMES.get(model_type, {}).items() if name in entries}
    if "original_max_position_embeddings" in parameters:
        entries["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
    if parameters["rope_type"] == "longrope" and model_type not in TWO_MSCALES:
        entries["rope_scaling"] = _deriving(config, parameters, entries["rope_scaling"])
        if unknown := set(entries["rope_scaling"]) - LONGROPE_KEYS:  # transformers 5 would warn of them at every load
            entries[UNCHECKED] = sorted(unknown)
    return entries


def is_refused_by_older(model_type: str, attention: float, window: int, original: int) -> bool:
    """Whether transformers 4 (seen with 4.57.6) refuses longrope's lists in a config of a model type.

    Args:
        model_type: of the config.
        attention: the attention factor of the lists.
        window: that the config states, in tokens.
        original: the window before the scaling.
    """
    bare = math.isclose(attention, su_attention_factor(window / original, original), rel_tol=BARE_TOLERANCE)
    return model_type in NEVER_LISTS or (model_type in ONLY_BARE and not bare)


def _deriving(config: Config, parameters: Config, scaling: dict[str, Any]) -> dict[str, Any]:
    """Longrope's scaling in a form of which readers that derive the attention factor derive the one that it has.

    mlx-lm derives it as sqrt(ln W / ln L), with the whole window W and the L that the scaling itself states as the
    window before it. A single list switches nowhere, so its L may be the one that gives the factor; what was the window
    before stands at the top of the config, where vLLM and SGLang take it from. Two lists switch at L: transformers 5
    takes it from here, too. Where no L gives the factor, and where the config has another name for its window, the
    scaling stays as it is.
    """
    window, attention = config.get("max_position_embeddings"), parameters["attention_factor"]
    if not window:
        return scaling
    original = parameters["original_max_position_embeddings"]
    bare = config.get("model_type") in ONLY_BARE
    if bare:
        derived = su_attention_factor(window / original, original)
        fits = math.isclose(attention, derived, rel_tol=BARE_TOLERANCE)
        return {name: scaling[name] for name in BARE} if fits else scaling
    if parameters["short_factor"] == parameters["long_factor"]:
        original = deriving_window(window, attention) or original
    return {**scaling, "original_max_position_embeddings": original}


def deriving_window(window: int, attention: float) -> int:
    """The L of which sqrt(ln W / ln L) is an attention factor, to a whole number; 0 for a factor below one."""
    return max(2, round(window ** (1 / attention**2))) if attention >= 1 else 0


def needs_window(model_type: str, attention: float, window: int, original: int, *, two_lists: bool) -> bool:
    """Whether mlx-lm computes another attention factor than that of a checkpoint, unless it is given another L.

    The arguments are those of ``is_refused_by_older``.
    """
    derived = su_attention_factor(window / original, original)
    moved = not two_lists and attention >= 1 and model_type not in ONLY_BARE
    return not moved and not math.isclose(attention, derived, rel_tol=BARE_TOLERANCE)
