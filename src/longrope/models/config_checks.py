"""Keys of a config that change attention or positions are understood by transformers' code for the model, or refused.

transformers keeps keys that it does not know as attributes, and computes as if they were not there.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from longrope.errors import ModelError
from longrope.models.parts import as_registered
from longrope.reading import LARGEST_WHOLE, show_value
from longrope.rope.hf_legacy import UNCHECKED

CONCERNS = re.compile(
    "rope|rotary|alibi|sliding|window|(?<!com)position|yarn|ntk|logn|attn|attention|mscale|softcap|temperature|sinks?$"
)
HOW_IT_RUNS = re.compile(
    "implementation|flash|sdpa|dropout|pdrop|output_attention|memory_efficient|fp32|upcast|precision"
)
NEUTRAL: tuple[Any, ...] = (None, False, 0, "", [], {}, "rope", "rotary")
SHARED_KEYS = {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rope_local_base_freq"}
SHARED_KEYS |= {"max_position_embeddings", "original_max_position_embeddings", UNCHECKED}  # read of any model
SHARES = ("rope_pct", "rotary_pct", "rope_percent", "rope_percentage")  # older names of partial_rotary_factor
ALWAYS = ("rotary", "use_rotary_pos_emb", "scale_attn_weights")  # of models that do so always
FIXED_BY_TYPE: dict[str, dict[str, Any]] = {  # unread keys of published configs, with the value that is computed
    "phi3": {"full_attn_mod": 1},  # Phi-4-mini
    **{name: {"position_embedding_type": "rope_gptj"} for name in ("cohere2", "cohere2_moe")},  # interleaved pairs
    "longcat_flash": {"attention_method": "MLA"},
    "glm_moe_dsa": {"rope_interleave": True, "indexer_rope_interleave": True},
    **{name: {"attn_output_gate": True} for name in ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")},
}

SCALING_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
SCALING_KEYS |= {"finetuned", "mrope_section", "mrope_interleaved"}  # a note; and axes, which are equal for text
KEYS_BY_TYPE: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"factor", "short_factor", "long_factor", "attention_factor", "short_mscale", "long_mscale"},
}
KEYS_BY_TYPE["su"] = KEYS_BY_TYPE["longrope"]
OF_ANY_TYPE = set().union(*KEYS_BY_TYPE.values())
OF_ATTENTION = {"mscale_all_dim"}  # which the attention of DeepSeek and others reads of any scaling
PASSED_OVER = {  # keys of published checkpoints that transformers does not read, by kind
    "yarn": {"attn_factor"},  # DeepSeek-R1-0528-Qwen3-8B
    "dynamic": {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"},  # HunYuan, beside its alpha
}
MOST_LAYERS, MOST_HEAD_DIM = 10_000, 2**16  # beyond all that there is; building more takes minutes
UNBOUNDED = ("model_max_length", "max_length")  # which tokenizers and old configs have as "no bound"
ELSEWHERE = {"attn_factor": "; vLLM multiplies cos and sin by it"}


def check_config(source: str | Path, stated: Mapping[str, Any], config: Any) -> None:
    """Raise ModelError for keys that change attention or positions and that transformers does not read for this model.

    Heads that do not divide what they must divide are refused, too.

    Args:
        source: the model, for the error.
        stated: the content of its config.json.
        config: what transformers made of it, or of its text part.
    """
    _check_sizes(source, config)
    parts = [stated, *(value for key, value in stated.items() if key == "text_config" and isinstance(value, dict))]
    unread = [f"{key} = {value!r}" for part in parts for key, value in _unread_keys(part, config)]
    nested = stated.get("attn_config")  # of DBRX, whose base transformers 5 takes from rope_parameters alone
    base = nested.get("rope_theta") if isinstance(nested, dict) else None
    bases = [scaling.get("rope_theta") for scaling in _scalings(getattr(config, "rope_parameters", None))]
    if base and base not in bases:
        unread.append(f"attn_config.rope_theta = {base!r}")
    if unread:
        raise ModelError(
            f"The config of {str(source)!r} states {', '.join(unread)}.",
            f"transformers does not read this for a {config.model_type!r} model: it computes attention without it, or "
            "with values that are fixed in its code and may be others. Whether they are the same is not known here.",
            "Remove it from config.json if they are, or if the model was trained without it; otherwise the model "
            "cannot be loaded.",
        )


def describe_passed_over(config: Any) -> tuple[str, ...]:
    """The keys of a model's scaling that are read as transformers reads them: not at all."""
    stated = [
        f"{key} = {value!r} of the {scaling['rope_type']} scaling is not read, as in transformers"
        + ELSEWHERE.get(key, "")
        for scaling in _scalings(getattr(config, "rope_parameters", None))
        for key, value in scaling.items()
        if key in PASSED_OVER.get(scaling.get("rope_type", ""), ())
    ]
    return tuple(dict.fromkeys(stated))


def _check_sizes(source: str | Path, config: Any) -> None:
    """Raise ModelError for heads that do not divide the width, or key/value heads that do not divide the heads."""
    for place, value in _numbers(sizes := config.to_dict()):
        if abs(value) > LARGEST_WHOLE and place not in UNBOUNDED:
            _refuse_size(source, f"{place} = {show_value(value)}", "Sizes up to 2^53 are needed.")
    if isinstance(layers := sizes.get("num_hidden_layers"), int) and layers > MOST_LAYERS:
        _refuse_size(source, f"num_hidden_layers = {layers:,}", f"At most {MOST_LAYERS:,} layers can be loaded.")
    for place, value in _head_dims(sizes):
        if value > MOST_HEAD_DIM:
            needed = f"Heads of up to {MOST_HEAD_DIM:,} numbers can be loaded."
            _refuse_size(source, f"{place} = {value:,}", needed)
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    width, heads, groups, head_dim = (sizes.get(name) for name in names)
    found = ""
    if not sizes.get("rope_parameters"):
        return  # it is refused for that
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads and not head_dim:
        found = f"hidden_size = {width} is not divisible into num_attention_heads = {heads}"
    elif isinstance(heads, int) and isinstance(groups, int) and groups > 0 and heads % groups:
        found = f"num_attention_heads = {heads} is not divisible by num_key_value_heads = {groups}"
    if found:
        needed = "Every head has the same width, and every key/value head serves the same number of heads."
        _refuse_size(source, found, needed)


def _head_dims(sizes: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The widths of heads that a config states, and the one that follows from its width."""
    yield from ((place, value) for place, value in _numbers(sizes) if place.endswith("head_dim"))
    width, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        yield "hidden_size / num_attention_heads", width // heads


def _refuse_size(source: str | Path, found: str, needed: str) -> NoReturn:
    raise ModelError(f"The config of {str(source)!r}: {found}.", needed, "Correct config.json, or download it again.")


def _numbers(content: Any, place: str = "") -> Iterator[tuple[str, int]]:
    """The numbers of a config, with the key that each of them stands under."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _numbers(value, place)
    elif isinstance(content, int):
        yield place, content


def _unread_keys(stated: Mapping[str, Any], config: Any) -> Iterator[tuple[str, Any]]:
    """Keys that remained attributes without a meaning, and those of a scaling that its kind does not have."""
    code = _code_of(config)
    declared = _declared(config) | SHARED_KEYS
    for key, value in stated.items():
        concerns = CONCERNS.search(key.lower()) and not HOW_IT_RUNS.search(key.lower())
        if not concerns or key in declared or not hasattr(config, key) or value in NEUTRAL or _is_named(key, code):
            continue
        if not _says_what_is_done(key, value, config):
            yield key, value
    for scaling in _scalings(stated.get("rope_parameters") or stated.get("rope_scaling")):
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        for key, value in scaling.items() if kind in KEYS_BY_TYPE else ():
            neutral = value in (None, False) or (value == 1 and "factor" in key)
            acts = key not in OF_ANY_TYPE or (key in OF_ATTENTION and kind != "default")
            of_the_model = acts and _is_named(key, code)
            known = SCALING_KEYS | KEYS_BY_TYPE[kind] | PASSED_OVER.get(kind, set())
            if key not in known and not neutral and not of_the_model:
                yield f"{key} in the {kind} scaling", value


def _says_what_is_done(key: str, value: Any, config: Any) -> bool:
    """Whether a key that transformers does not read states what it computes all the same."""
    if key in SHARES:
        scalings = _scalings(getattr(config, "rope_parameters", None))
        return bool(scalings) and all((scaling.get("partial_rotary_factor") or 1.0) == value for scaling in scalings)
    if key in COMPUTED:
        return bool(value == COMPUTED[key](config))
    if key == "max_window_layers":  # layers from there on slide
        return not _window(config)
    if key == "attn_type_list":  # of MiniMax-M2: 1 is full attention
        return set(value) == {1} and not getattr(config, "layer_types", None)
    return (key in ALWAYS and value is True) or FIXED_BY_TYPE.get(config.model_type, {}).get(key) == value


def _window(config: Any) -> int:
    """The sliding window that is used, 0 for none."""
    return (getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)) or 0


def _width(config: Any) -> int:
    """Of a head."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def _turned(config: Any) -> float:
    """How many numbers of a head are turned."""
    (scaling, *_) = _scalings(getattr(config, "rope_parameters", None)) or [{}]
    return float(_width(config) * (scaling.get("partial_rotary_factor") or 1.0))


COMPUTED: dict[str, Callable[[Any], float]] = {  # unread keys that repeat what follows from others
    "sliding_window_size": _window,  # Gemma-2
    "attention_head_dim": _width,  # HunYuan
    "attn_rotary_emb": _turned,  # Bamba
    "rotary_scaling_factor": lambda _: 1,  # StableLM
}


def _scalings(stated: Any) -> list[dict[str, Any]]:
    """One for the model, or one for each layer type."""
    if not isinstance(stated, dict):
        return []
    nested = [value for value in stated.values() if isinstance(value, dict)]
    return nested or [stated]


def _declared(config: Any) -> set[str]:
    """The keys that a config class has by its declaration."""
    kind = type(config)
    names = set(getattr(kind, "__dataclass_fields__", ())) | set(inspect.signature(kind.__init__).parameters)
    return names | set(kind.attribute_map)


def _code_of(config: Any) -> str:
    """The source of the modules that define the config and the network of a model type."""
    kinds = [type(config), MODEL_FOR_CAUSAL_LM_MAPPING.get(type(as_registered(config)), None)]
    modules = [inspect.getmodule(kind) for kind in kinds if kind is not None]
    return "\n".join(inspect.getsource(module) for module in modules if module is not None)


def _is_named(key: str, code: str) -> bool:
    return re.search(rf"\b{re.escape(key)}\b", code) is not None
