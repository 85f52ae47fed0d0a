"""A loaded language model: its network, its tokenizer and its rotary tables."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from longrope.data import TextSketch
from longrope.errors import ModelError
from longrope.models.parts import as_registered
from longrope.models.tables import choose_table
from longrope.models.tuned_on import write_tuned_on
from longrope.reading import show_value
from longrope.rope import RopeSpec, RotaryTable


@dataclass
class Limits:
    """What was found of the memory while passes ran: the most tokens of a tile, 0 where nothing limits them."""

    tile_tokens: int = 0


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model: transformers' network and tokenizer, its rotary tables, and the name it was loaded by.

    ``choices`` are the automatic choices of its loading, with their reasons. ``compiled``: layers go through
    torch.compile where one process has a window whole; with gradients those that are recomputed and need no tiles.
    ``rope_table`` names the table that factors act on, where it is not that of the layers that see the whole window.
    ``tuned_on`` is a sketch of the texts that its weights were tuned on by this package. ``stored_dtype`` is the number
    format of the checkpoint that it was loaded from, such as ``bfloat16``; empty where there is none, or one that is
    quantized. ``quantized``: ``8bit`` or ``4bit`` where its weights were quantized while loading, to be searched and
    measured alone. ``limits`` changes when memory does not suffice for a pass (``engine.shrinking``).
    """

    network: Any
    tokenizer: Any
    tables: tuple[RotaryTable, ...]
    name: str
    choices: tuple[str, ...] = ()
    compiled: bool = False
    rope_table: str = ""
    tuned_on: TextSketch = field(default_factory=TextSketch, compare=False)
    stored_dtype: str = field(default="", compare=False)
    quantized: str = ""
    limits: Limits = field(default_factory=Limits, compare=False)

    @property
    def table(self) -> RotaryTable:
        """The rotary table that factors act on (see ``choose_table``; raises ModelError)."""
        return choose_table(self.tables, self.rope_table)

    @property
    def spec(self) -> RopeSpec:
        """The geometry of that table."""
        return self.table.geometry

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    @property
    def number_format(self) -> str:
        """That of its weights in memory: ``8bit``, ``4bit``, or as torch names it, such as ``torch.bfloat16``."""
        return self.quantized or str(next(self.network.parameters()).dtype)

    @property
    def end_tokens(self) -> set[int]:
        """The tokens that end an answer, by the model's generation config and by its tokenizer (raises ModelError)."""
        stated = self.network.generation_config.eos_token_id
        listed = stated if isinstance(stated, list) else [stated]
        if wrong := [token for token in listed if not isinstance(token, int | None)]:
            raise ModelError(
                f"The generation config of {self.name!r} states eos_token_id = {show_value(wrong[0])}.",
                "A token id or a list of token ids is needed.",
                "Correct generation_config.json, or remove it.",
            )
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}


def save_model(model: LanguageModel, folder: Path, max_shard_size: str = "5GB", dtype: str = "") -> None:
    """Write config, safetensors weights in files of at most this size, and tokenizer, as transformers opens them.

    Beside them lies a sketch of what the weights were tuned on. Of another number format than the network's, weights
    that it does not hold to the bit stay as they are. The config states the network's.
    """
    weights = _converted(model.network, dtype) if dtype else None
    model.network.save_pretrained(folder, max_shard_size=max_shard_size, state_dict=weights)
    if (registered := as_registered(model.network.config)) is not model.network.config:
        registered.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    write_tuned_on(folder, model.tuned_on)


def holds(dtype: str, weight: torch.Tensor) -> bool:
    """Whether a number format, such as ``bfloat16``, keeps every number of a tensor."""
    return as_kept(dtype, weight).equal(weight)


def as_kept(dtype: str, weight: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers as a number format keeps them, in the tensor's own."""
    return weight.to(getattr(torch, dtype)).to(weight.dtype)


def _converted(network: Any, dtype: str) -> dict[str, torch.Tensor]:
    """The weights in another number format where it holds them; a weight of two names stays one."""
    done: dict[Any, torch.Tensor] = {}
    weights = {name: ((weight.data_ptr(), weight.shape), weight) for name, weight in network.state_dict().items()}
    for place, weight in weights.values():
        if place not in done:
            fits = weight.is_floating_point() and weight.dtype.itemsize > 1 and holds(dtype, weight)
            done[place] = weight.to(getattr(torch, dtype)) if fits else weight
    return {name: done[place] for name, (place, _) in weights.items()}
