"""Pico models with each kind of scaling of their own, and an oracle that shares no code with the package.

The oracle is a fresh network of transformers that reads a whole sequence at once: it chooses by the length of that.
"""

from functools import cache
from typing import Any

import pico
import torch
from torch import Tensor

from longrope.models import LanguageModel
from longrope.rope import RescaleFactors

LENGTHS = (48, 64, 65, 160)  # below, at and above the switch; in two processes none is a whole number of chunks but 48
EXCESSES = (None, 0.0, 1e-9)  # of factors over 1; None for no factors
LISTS = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 5.0, 8.0]}
SWITCH = {"original_max_position_embeddings": 64}
WIDE = {"max_position_embeddings": 256}
OWN_MODULES = "moshi"  # whose layers turn by a module each: these have two, the others one
YARN = {"rope_type": "yarn", "factor": 4.0, **SWITCH}
HALF_LISTS = {**LISTS, "short_factor": [1.0, 1.1], "long_factor": [1.0, 6.0], "partial_rotary_factor": 0.5}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # family, entries of its RoPE, other changes
    "plain": ("llama", {}, {}),
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, WIDE),
    "yarn": ("llama", YARN, WIDE),
    "yarn with slopes": ("llama", {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, WIDE),
    "llama3": ("llama", {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}, WIDE),
    "longrope": ("llama", {**LISTS, **SWITCH}, WIDE),
    "longrope at the top": ("phi3", LISTS, {**WIDE, **SWITCH}),
    "longrope of a part": ("phi3", HALF_LISTS, {**WIDE, **SWITCH}),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 6.0}, {}),
    "dynamic of a part": ("stablelm", {"rope_type": "dynamic", "factor": 6.0}, {}),
    "fixed NTK": ("hunyuan_v1_dense", {"rope_type": "dynamic", "factor": 1.0, "alpha": 50.0}, {"head_dim": 8}),
    "longrope in layers": (OWN_MODULES, {**LISTS, **SWITCH}, {**WIDE, "ffn_dim": 64}),
    "dynamic in layers": (OWN_MODULES, {"rope_type": "dynamic", "factor": 6.0}, {"ffn_dim": 64}),
}


def make_network(kind: str) -> Any:
    """A network of transformers with a kind of scaling."""
    family, rope, changes = KINDS[kind]
    return pico.make_network(family, rope=rope or None, num_hidden_layers=layers_of(family), **changes)


def make_model(kind: str) -> LanguageModel:
    """The same network as a model of longrope."""
    family, rope, changes = KINDS[kind]
    return pico.make_model(family, rope=rope or None, num_hidden_layers=layers_of(family), **changes)


def layers_of(family: str) -> int:
    """How many layers a pico model has here."""
    return 2 if family == OWN_MODULES else 1


def make_ids(tokens: int) -> Tensor:
    """[1, N] token ids."""
    return (torch.arange(tokens) * 37 % 320)[None]


def factors_near_ones(model: LanguageModel, tokens: int, excess: float) -> RescaleFactors:
    """Factors of 1 + excess for sequences of so many tokens."""
    return RescaleFactors((1.0 + excess,) * model.spec.num_pairs, tokens, model.spec.fingerprint)


@cache
def pass_by_hand(kind: str, tokens: int) -> tuple[Tensor, Tensor]:
    """[N - 1] losses of a whole pass, and the gradient of their sum over N by the embeddings."""
    network, ids = make_network(kind), make_ids(tokens)
    embedding = network.get_input_embeddings().weight.requires_grad_(True)
    logits = network(ids, use_cache=False).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    (losses.sum() / tokens).backward()
    return losses.detach(), embedding.grad


@cache
def last_logits_by_hand(kind: str, tokens: int) -> Tensor:
    """[V] logits after the last token of a whole pass."""
    with torch.inference_mode():
        return make_network(kind)(make_ids(tokens), use_cache=False).logits[:, -1][0]  # type: ignore[no-any-return]
