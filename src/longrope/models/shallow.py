"""A small random model of a config: its kinds of layers and heads, with few layers and a small vocabulary."""

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from longrope.errors import ModelError
from longrope.models.geometry import read_tables
from longrope.models.language_model import LanguageModel
from longrope.models.parts import as_registered
from longrope.models.tables import choose_table
from longrope.models.trained_window import with_trained_window

VOCABULARY = 64
MLP = 64
MOST_WEIGHTS = 400_000_000  # 1.6 GB


def make_shallow(config: Any, rope_table: str = "", trained_window: int = 0) -> LanguageModel:
    """Build a random model that does what a model of a config does, to be asked what works with it.

    Args:
        config: of the text part of a model.
        rope_table: as in ``load_model``.
        trained_window: as in ``load_model``.

    Raises:
        ModelError: its layers are too wide to be built for a question, or its tables cannot be read.
    """
    small = _shrink(config)
    registered = as_registered(small)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(registered).parameters())
    if size > MOST_WEIGHTS:
        raise ModelError(
            f"Even with few layers the model has {size:,} weights.",
            f"At most {MOST_WEIGHTS:,} are built to see what works.",
            "It is seen when the model is loaded.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = AutoModelForCausalLM.from_config(registered, dtype=torch.float32)
        for weight in network.parameters():
            if not weight.any():  # zeros of gates and biases would hide what they do
                torch.nn.init.normal_(weight, std=0.2)
    tables = with_trained_window(read_tables(small), trained_window)
    choose_table(tables, rope_table)
    return LanguageModel(network.requires_grad_(False).eval(), None, tables, "random", rope_table=rope_table)


def _shrink(config: Any) -> Any:
    small = copy.deepcopy(config)
    count = small.num_hidden_layers
    types = list(getattr(small, "layer_types", None) or ())
    kept = max([2, *(types.index(kind) + 1 for kind in set(types))])
    by_layer = {name for name, value in vars(small).items() if isinstance(value, list | tuple) and len(value) == count}
    if kept < count and by_layer <= {"layer_types"}:  # other lists may say more than that layers differ
        small.num_hidden_layers = kept
        if types:
            small.layer_types = types[:kept]
    small.vocab_size = min(small.vocab_size, VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, 0)  # of some types None is refused
    if isinstance(getattr(small, "intermediate_size", None), int):
        small.intermediate_size = min(small.intermediate_size, MLP)
    if hasattr(small, "initializer_range"):
        small.initializer_range = 1.6 * small.hidden_size**-0.5  # so that every part of a layer matters to the next
    return small
