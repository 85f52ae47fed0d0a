"""A table of lambdas for each layer or key head instead of one for all: the bundled model, frozen; minutes on a CPU.

Run: python benchmarks/layer_tables.py TEXTS [STEPS [SEED]]

From 256 to 1,024 tokens. Both start from YaRN's lambdas and attention factor and take the same steps of Adam on log
lambda over the same windows of the standard library's search part. They are compared window by window on its measuring
part and on TEXTS, a folder of another kind of text. After AdaRoPE (arXiv 2607.19363), which has a table for each head
and a scale that grows with the length; this is no reproduction of it. Query heads that share keys have one table here.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama import modeling_llama

from longrope.data import Tokens, load_texts
from longrope.models import LanguageModel, load_model
from longrope.rope import baseline_factors

TARGET, WINDOWS, RATE = 1024, 24, 0.03
Change = Callable[[Tensor], AbstractContextManager[None]]
"""Logarithms -> what holds in a block with them."""


@contextmanager
def with_tables(model: LanguageModel, log_lambdas: Tensor, attention: float) -> Iterator[None]:
    """Rotate by rows of log lambdas [R, P]: one for all, one for each layer, or one for each key head of each layer."""
    layers = model.network.model.layers
    plain = torch.tensor(model.spec.frequencies, dtype=torch.float32)
    angles = torch.arange(TARGET)[:, None] * (plain * torch.exp(-log_lambdas))[:, None]  # [R, N, P]
    both = torch.cat([angles, angles], -1)
    heads = max(1, len(log_lambdas) // len(layers))  # with a row each
    tables = [table.unflatten(0, (-1, heads)) for table in (both.cos() * attention, both.sin() * attention)]

    def rotate(row: int) -> Any:
        def change(_: object, args: Any, kwargs: dict[str, Any]) -> Any:
            size = kwargs["position_embeddings"][0].shape[1]
            return args, kwargs | {"position_embeddings": tuple(table[row, :, :size] for table in tables)}

        return change

    def turn(queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """Queries [B, heads, N, D] and keys [B, G, N, D] by cos and sin [G or 1, N, D]."""
        return tuple(  # type: ignore[return-value]
            x * own[0] + modeling_llama.rotate_half(x) * own[1]
            for x in (queries, keys)
            for own in ([part.repeat_interleave(x.shape[1] // len(part), 0) for part in (cos, sin)],)
        )

    hooks = [
        layer.register_forward_pre_hook(rotate(i % len(tables[0])), with_kwargs=True) for i, layer in enumerate(layers)
    ]
    own, modeling_llama.apply_rotary_pos_emb = modeling_llama.apply_rotary_pos_emb, turn
    try:
        yield
    finally:
        modeling_llama.apply_rotary_pos_emb = own
        for hook in hooks:
            hook.remove()


def loss_of(model: LanguageModel, window: Tokens) -> Tensor:
    """The mean loss in nats over the last half of a window, which is beyond what the model was trained on."""
    ids = torch.from_numpy(window)[None].long()
    logits = model.network(ids, use_cache=False).logits[0, TARGET // 2 - 1 : -1]
    return functional.cross_entropy(logits, ids[0, TARGET // 2 :])


def descend(model: LanguageModel, start: Tensor, change: Change, windows: Tokens, steps: int) -> Tensor:
    """What ``start`` becomes by some steps on it, a window each, in which ``change`` of it holds."""
    logs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        with change(logs):
            (logs.grad,) = torch.autograd.grad(loss_of(model, windows[step % len(windows)]), [logs])
        optimizer.step()
    return logs.detach()


def compare(
    model: LanguageModel, found: dict[str, Tensor], change: Change, windows: Tokens, name: str, reference: str
) -> None:
    """Print the mean loss of each, and how much it differs from that of ``reference``, with two standard errors."""
    losses = {}
    for kind, logs in found.items():
        with change(logs), torch.inference_mode():
            losses[kind] = np.asarray([loss_of(model, window).item() for window in windows])
    for kind, own in losses.items():
        gaps = own - losses[reference]
        error = 2 * gaps.std(ddof=1) / math.sqrt(len(gaps))
        print(f"{name}: {kind} {own.mean():.4f}, beside {reference} {gaps.mean():+.4f} ± {error:.4f}", flush=True)


def main(folder: str, steps: int = 40, seed: int = 0) -> None:
    """Descend both and compare."""
    torch.set_num_threads(1)
    model = load_model("nano", device="cpu")
    model.network.requires_grad_(requires_grad=False)
    texts = load_texts(["stdlib"], model.tokenizer)
    other = load_texts((), model.tokenizer, measure=[folder]).measure
    yarn = baseline_factors(model.spec, "yarn", TARGET).factor_sets[0]
    start = torch.log(torch.tensor(yarn.lambdas, dtype=torch.float32))[None]
    searched = np.random.default_rng(seed).permutation(texts.search.windows(TARGET, steps))
    layers, heads = len(model.network.model.layers), model.network.config.num_key_value_heads
    tables, change = {"YaRN": start}, partial(with_tables, model, attention=yarn.attention_factor)
    kinds = {"one table": 1, "a table for each layer": layers, "a table for each key head": layers * heads}
    for kind, rows in kinds.items():
        tables[kind] = descend(model, start.repeat(rows, 1), change, searched, steps)
    for name, text in {"standard library": texts.measure, "other texts": other}.items():
        compare(model, tables, change, text.windows(TARGET, WINDOWS), name, "one table")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
