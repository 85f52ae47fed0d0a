"""A scale of the scores for each head beside YaRN's one for all: the bundled model, frozen; minutes on a CPU.

Run: python benchmarks/head_scales.py TEXTS [STEPS [SEED]]

From 256 to 1,024 tokens, with YaRN's factors. One scale for all heads of all layers, and one for each, take the same
steps of Adam on their logarithms over the same windows of the standard library's search part, from 0. They are compared
with YaRN window by window on its measuring part and on TEXTS, a folder of another kind of text. After AdaRoPE (arXiv
2607.19363), which learns a table and a scale for each head; ``layer_tables.py`` has tables.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from layer_tables import TARGET, WINDOWS, compare, descend
from torch import Tensor

from longrope.data import load_texts
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import baseline_factors


@contextmanager
def with_scales(model: LanguageModel, logs: Tensor) -> Iterator[None]:
    """Multiply the scores of each head by exp of its entry of ``logs`` [layers, heads], or of the only one [1, 1]."""
    layers, heads = model.network.model.layers, model.network.config.num_attention_heads
    scales = torch.exp(logs).expand(len(layers), heads)
    hooks = [
        layer.self_attn.q_proj.register_forward_hook(
            lambda _, __, queries, own=own: (queries.unflatten(-1, (heads, -1)) * own[:, None]).flatten(-2)
        )
        for layer, own in zip(layers, scales, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def main(folder: str, steps: int = 32, seed: int = 0) -> None:
    """Descend both and compare."""
    torch.set_num_threads(1)
    model = load_model("nano", device="cpu")
    model.network.requires_grad_(requires_grad=False)
    texts = load_texts(["stdlib"], model.tokenizer)
    other = load_texts((), model.tokenizer, measure=[folder]).measure
    searched = np.random.default_rng(seed).permutation(texts.search.windows(TARGET, steps))
    config = model.network.config
    scales = {"YaRN": torch.zeros(1, 1)}
    change = partial(with_scales, model)
    with rescaled(model, baseline_factors(model.spec, "yarn", TARGET).factor_sets[0]):
        for kind, shape in {
            "one scale": (1, 1),
            "a scale for each head": (config.num_hidden_layers, config.num_attention_heads),
        }.items():
            scales[kind] = descend(model, torch.zeros(shape), change, searched, steps)
            found = torch.exp(scales[kind])
            print(f"{kind}: {found.mean():.3f}, {found.min():.3f} to {found.max():.3f}", flush=True)
        for name, text in {"standard library": texts.measure, "other texts": other}.items():
            compare(model, scales, change, text.windows(TARGET, WINDOWS), name, "YaRN")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
