"""RoPE in the configs of Hugging Face: ``rope_parameters``, read and written as dicts; ``hf_legacy`` has older ones.

A dict is the content of a config.json, or the same entries of a config object. transformers computes the angles; here
only what it is given stands, so that nothing is known in one place and written in another.

Shape legend: P = rotated pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from longrope.errors import ExportError, ModelError
from longrope.rope.geometry import FactorLists, NativeScaling, RopeSpec
from longrope.rope.hf_legacy import TWO_MSCALES, from_legacy
from longrope.rope.scaling import (
    Lambdas,
    llama3_lambdas,
    ntk_lambdas,
    pi_lambdas,
    su_attention_factor,
    yarn_attention_factor,
    yarn_lambdas,
)

Config = Mapping[str, Any]
ENTRIES = (  # what is read of a config object; one that an object lacks is left out of the dict
    *("model_type", "rope_parameters", "head_dim", "hidden_size", "num_attention_heads", "partial_rotary_factor"),
    *("max_position_embeddings", "original_max_position_embeddings", "qk_rope_head_dim"),
    "rotary_dim",
)
MSCALES = ("short_mscale", "long_mscale")
ATTENTION_KEYS = ("attention_factor", *MSCALES)  # transformers reads the first, vLLM the others
SCALING_KEYS = (  # of the scalings that longrope takes the place of; whatever else a config states beside them is kept
    *("type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "max_position_embeddings"),
    *("attention_factor", "attn_factor", "short_factor", "long_factor", "short_mscale", "long_mscale"),
    *("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor", "alpha"),
)
TEMPERATURE = "llama_4_scaling_beta"  # queries grow by the position as a multiple of the window before the scaling
NEEDED = {  # what a kind of scaling cannot do without
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
UNTURNED = 1e30  # slows a pair so much that it never turns: a proportional embedding's pairs with frequency 0


def read_geometry(config: Config) -> RopeSpec:
    """Read the geometry that a config states, with the scaling that the model carries (its long factors).

    The pairing is not stated in any config: it is ``half`` here, and the model's own module shows the true one.

    Raises:
        ModelError: no RoPE, several of them, or a scaling that we do not know.
    """
    parameters = _stated_parameters(config)
    head_dim = read_head_dim(config)
    partial = parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    rotary_dim, theta = parameters.get("rotary_dim") or int(head_dim * partial), float(parameters["rope_theta"])
    if parameters["rope_type"] == "proportional":  # its exponents are shares of the whole head, not of what turns
        rotary_dim = 2 * int(partial * head_dim // 2)
        theta = theta ** (rotary_dim / head_dim)
    plain = RopeSpec(
        head_dim=head_dim, rotary_dim=rotary_dim, theta=theta, trained_window=_trained_window(config, parameters)
    )
    return replace(plain, native=_native_scaling(config, parameters, plain))


def read_head_dim(config: Config) -> int:
    """Width of one attention head, or of its rotated part where that is apart (multi-head latent attention)."""
    rotated, whole = config.get("qk_rope_head_dim"), config.get("head_dim")
    share = (config.get("rope_parameters") or {}).get("partial_rotary_factor")
    if rotated and whole and share and int(whole * share) == rotated:
        return int(whole)  # the rotated part is stated as a share of it, too
    return int(rotated or whole or config["hidden_size"] // config["num_attention_heads"])


def refusal(config: Config, reason: str) -> ModelError:
    """The error for a model whose RoPE cannot be described here."""
    return ModelError(
        f"The model type {config.get('model_type', '?')!r} {reason}.",
        "Needed: rotary position embedding whose angles follow from the config, in modules that its layers are given.",
        "Llama, Mistral, Qwen2, Qwen3, Phi-3, Gemma-2, OLMo-2, StableLM, GPT-NeoX and their like are supported.",
    )


def write_longrope(config: Config, spec: RopeSpec, lists: FactorLists) -> dict[str, Any]:
    """The entries of a config that must change for a model to carry these factors natively.

    Args:
        config: the model's own; what it has besides, such as ``partial_rotary_factor``, is kept.
        spec: the model's geometry.
        lists: relative to plain RoPE.
    """
    own = config.get("rope_parameters")
    if own is None:
        raise ExportError(
            f"The model type {config.get('model_type')!r} states no RoPE parameters in its config: transformers' code "
            "for it computes a table with a fixed base, which no checkpoint holds.",
            "A config cannot state factors there.",
            "Run it with `longrope.rescaled` instead.",
        )
    native = {
        **{key: value for key, value in own.items() if key not in SCALING_KEYS},
        "rope_type": "longrope",
        "rope_theta": own.get("rope_theta", spec.theta),
        "factor": max(1.0, lists.target_window / lists.switch_tokens),
        **dict.fromkeys(ATTENTION_KEYS, lists.attention_factor),
        "short_factor": list(lists.short),
        "long_factor": list(lists.long),
        "original_max_position_embeddings": lists.switch_tokens,
    }
    if own.get("rope_type") == "proportional":
        native.pop("partial_rotary_factor", None)
        still = [UNTURNED] * (spec.head_dim // 2 - spec.num_pairs)
        native |= {"short_factor": [*lists.short, *still], "long_factor": [*lists.long, *still]}
    if config.get("qk_rope_head_dim") and own.get("mscale_all_dim"):  # by these two its attention scales its logits
        native |= {"mscale_all_dim": own["mscale_all_dim"], "factor": own["factor"]}
    if own.get(TEMPERATURE):
        native["original_max_position_embeddings"] = _own_switch(config, lists)
    changed = {"rope_parameters": native, "max_position_embeddings": lists.target_window}
    if "original_max_position_embeddings" in config:  # it would override the one beside the lists
        changed["original_max_position_embeddings"] = lists.switch_tokens
    if "head_dim" in config:  # transformers checks the lists against it, also where the config left it out
        changed["head_dim"] = spec.head_dim
    return changed


def _own_switch(config: Config, lists: FactorLists) -> int:
    """The window before the scaling, from which the temperature of the queries is counted, too."""
    if lists.short != lists.long:
        raise ExportError(
            f"The model type {config.get('model_type')!r} scales its queries by {TEMPERATURE}.",
            "Its config counts that from the length where the factors switch, so that length cannot be moved.",
            "Export a single factor set.",
        )
    return read_switch(config)


def _stated_parameters(config: Config) -> dict[str, Any]:
    parameters = config.get("rope_parameters") or from_legacy(config)
    if not parameters:
        reason = "states no rope_parameters: it has no rotary position embedding, or one of its own kind"
        raise refusal(config, reason)
    for name in ("rope_theta", "rope_type"):
        if parameters.get(name) is None:
            raise refusal(config, f"states no rope_parameters[{name!r}]")
    _check_numbers(config, parameters)
    return parameters


def _check_numbers(config: Config, parameters: Config) -> None:
    """Refuse, by its name, a number that is missing or none."""
    kind = parameters["rope_type"]
    needed = () if kind == "dynamic" and parameters.get("alpha") else NEEDED.get(kind, ())
    for name in needed:
        if parameters.get(name) is None:
            raise refusal(config, f"states no rope_parameters[{name!r}], which the RoPE scaling {kind!r} needs")
    for name, value in parameters.items():
        values = value if name in ("short_factor", "long_factor") and isinstance(value, list | tuple) else [value]
        a_number = value is not None and name in SCALING_KEYS and name not in ("type", "rope_type")
        if a_number and not all(isinstance(each, int | float) and math.isfinite(each) for each in values):
            raise refusal(config, f"states rope_parameters[{name!r}] = {value!r}, which is no number")
    widths = () if config.get("head_dim") or config.get("qk_rope_head_dim") else ("hidden_size", "num_attention_heads")
    for name in ("max_position_embeddings", *widths):
        if not isinstance(config.get(name), int):
            raise refusal(config, f"states no {name}")


def read_switch(config: Config) -> int:
    """The window before the scaling, above which long factors are taken.

    An entry at the top, as Phi-3 has it, goes before the one beside the lists; without either it is the whole window.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    stated = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    return int(stated or config["max_position_embeddings"])


def _trained_window(config: Config, parameters: Config) -> int:
    """The window that the model serves without longrope's factors, a native YaRN scaling included."""
    window = int(config["max_position_embeddings"])
    if parameters["rope_type"] == "yarn" and parameters.get("factor"):
        window = max(window, round(read_switch(config) * parameters["factor"]))
    return window


def _native_scaling(config: Config, parameters: Config, plain: RopeSpec) -> NativeScaling | None:
    """The scaling in the config, None for plain RoPE."""
    kind, original = parameters["rope_type"], read_switch(config)
    if kind == "default" or (kind == "proportional" and parameters.get("factor", 1.0) == 1):
        return None
    if kind == "dynamic":
        return _dynamic(parameters, plain)
    ratio = parameters.get("factor") or config["max_position_embeddings"] / original
    attention = 1.0
    if kind in ("linear", "proportional"):
        lambdas = pi_lambdas(plain.num_pairs, parameters["factor"])
    elif kind == "longrope":
        lambdas = _long_factors(config, parameters, plain)
        attention = su_attention_factor(ratio, original)
    elif kind == "yarn":
        lambdas = _yarn(parameters, plain, original, ratio)
        attention = _yarn_attention(parameters, ratio)
    elif kind == "llama3":
        turns = {"low_turns": parameters["low_freq_factor"], "high_turns": parameters["high_freq_factor"]}
        lambdas = llama3_lambdas(plain.frequencies, parameters["factor"], original, **turns)
    else:
        raise refusal(config, f"carries the RoPE scaling {kind!r}")
    if kind in ("longrope", "yarn") and parameters.get("attention_factor") is not None:
        attention = parameters["attention_factor"]
    if kind == "longrope" and config.get("model_type") in TWO_MSCALES:
        attention = _shared_mscale(config, parameters)
    if kind == "longrope":
        return NativeScaling(kind, tuple(lambdas.tolist()), attention, tuple(parameters["short_factor"]), original)
    return NativeScaling(kind, tuple(lambdas.tolist()), attention)


def _shared_mscale(config: Config, parameters: Config) -> float:
    """The one attention factor of a model type that states one for each list, and reads no other."""
    short, long = (parameters.get(name) for name in MSCALES)
    if short is None or long is None or short != long:
        raise refusal(
            config, f"states short_mscale = {short} and long_mscale = {long}, and both lists share a factor here"
        )
    return float(long)


def _dynamic(parameters: Config, plain: RopeSpec) -> NativeScaling:
    """Dynamic NTK, or the fixed NTK that HunYuan's configs name so (``alpha``)."""
    if parameters.get("alpha"):
        return NativeScaling("dynamic", tuple(ntk_lambdas(plain.num_pairs, parameters["alpha"]).tolist()), 1.0)
    return NativeScaling("dynamic", (1.0,) * plain.num_pairs, 1.0, growth=float(parameters["factor"]))


def _long_factors(config: Config, parameters: Config, plain: RopeSpec) -> Lambdas:
    pairs = plain.num_pairs
    if len(parameters["long_factor"]) != pairs or len(parameters["short_factor"]) != pairs:
        raise refusal(config, f"carries longrope lists that do not have {pairs} entries")
    return np.asarray(parameters["long_factor"], dtype=np.float64)


def _yarn(parameters: Config, plain: RopeSpec, original: int, ratio: float) -> Lambdas:
    return yarn_lambdas(
        plain.theta,
        plain.num_pairs,
        original,
        ratio,
        beta_fast=parameters.get("beta_fast") or 32.0,
        beta_slow=parameters.get("beta_slow") or 1.0,
        truncate=parameters.get("truncate", True),
    )


def _yarn_attention(parameters: Config, ratio: float) -> float:
    """YaRN's factor, or the quotient of two such with slopes of their own (``mscale``, as DeepSeek's models have)."""
    slope, slope_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if not slope or not slope_all or ratio <= 1:
        return yarn_attention_factor(ratio)
    return float((0.1 * slope * math.log(ratio) + 1.0) / (0.1 * slope_all * math.log(ratio) + 1.0))
