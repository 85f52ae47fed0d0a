"""How fast is attention forwards and backwards by each kernel, and a gradient step of SmolLM2's shape by each?

Run: python benchmarks/gradient_kernels.py OUT.jsonl --lengths 64k,256k
     torchrun --nproc-per-node 4 benchmarks/gradient_kernels.py OUT.jsonl --lengths 256k --parts step

A line a kernel and shape of heads: TFLOP/s of a whole window and of queries that are the last half of the keys, as in
shared windows; a backward pass counts two and a half forward ones. The kernels take turns; medians, under load. A line
a kernel and length: seconds of the gradients of all weights, random ones of SmolLM2-135M's shape, with recomputed
layers; under torchrun the processes share each window. The first step is left out.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope import distributed
from longrope.engine import graphs, kernels
from longrope.engine.backward import BACKWARDS, attend_aligned, backward_aligned
from longrope.engine.passes import weighted_loss_with_graph
from longrope.engine.trials import check_gradients
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, read_tables

HEADS = (kernels.Heads(9, 3, 64), kernels.Heads(16, 4, 128), kernels.Heads(4, 1, 256))
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Measure what was asked for and append one line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--lengths", default="64k,256k")
    parser.add_argument("--parts", default="kernel,step")
    parser.add_argument("--tokens", default="64k")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--layers", type=int, default=30)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        lines: list[dict[str, Any]] = []
        if "kernel" in asked.parts and distributed.ranks() == 1:
            for heads in HEADS:
                lines += measure_kernels(heads, parse_tokens(asked.tokens), asked.turns)
        if "step" in asked.parts:
            model = make_model(asked.layers)
            for length in (parse_tokens(text) for text in asked.lengths.split(",")):
                lines += measure_steps(model, length, asked.turns)
        if distributed.is_main():
            with asked.out.open("a") as out:
                out.writelines(json.dumps(line) + "\n" for line in lines)


def device_here() -> torch.device:
    """The GPU of this process, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def kernels_here() -> list[kernels.Kernel]:
    """Those that have a backward pass here."""
    return [kernel for kernel in kernels.list_kernels(device_here()) if kernel.name in BACKWARDS]


def say(line: dict[str, Any]) -> dict[str, Any]:
    """Print a line, and return it with what every line has."""
    if distributed.is_main():
        print(line, flush=True)
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "CPU"
    return line | {"device": name, "torch": torch.__version__, "processes": distributed.ranks()}


def measure_kernels(heads: kernels.Heads, tokens: int, turns: int) -> list[dict[str, Any]]:
    """TFLOP/s of each kernel forwards and backwards, or why it does not work."""
    device, lines = device_here(), []
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for part, queries in (("whole", tokens), ("last half", tokens // 2)):
        given = kernels.random_inputs((queries, tokens), device, dtype, heads)
        pairs = queries * (tokens - queries) + queries * (queries + 1) / 2
        flops = 4.0 * heads.queries * heads.dim * pairs
        works: dict[str, Callable[[], Any]] = {}
        for kernel in kernels_here():
            line = {"part": part, "kernel": kernel.name, "heads": [heads.queries, heads.keys, heads.dim]}
            try:
                check_gradients(kernel, device, dtype, heads, whole=queries == tokens)
                works |= both_ways(kernel, given, heads.dim**-0.5)
                lines.append(line | {"tokens": tokens})
            except (RuntimeError, NotImplementedError, ImportError) as error:
                lines.append(say(line | {"tokens": tokens, "fate": str(error).split("\n", maxsplit=1)[0][:200]}))
        seconds = take_turns(works, turns)
        for at, line in enumerate(lines):
            if line["part"] == part and "fate" not in line:
                way = line["kernel"]
                speeds = {
                    f"{way_part}_tflops": times * flops / seconds[f"{way} {way_part}"] / 1e12
                    for way_part, times in (("forward", 1.0), ("backward", 2.5))
                }
                lines[at] = say(line | speeds)
    return lines


def both_ways(kernel: kernels.Kernel, given: list[torch.Tensor], scale: float) -> dict[str, Callable[[], Any]]:
    """The forward pass, and the backward pass of one that is done."""
    query, key, value = given
    output, lse = attend_aligned(kernel, query, key, value, scale)
    return {
        f"{kernel.name} forward": lambda: attend_aligned(kernel, query, key, value, scale),
        f"{kernel.name} backward": lambda: backward_aligned(kernel, query, given, output, lse, scale),
    }


def take_turns(works: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The median seconds of each; their first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + 1):
        for name, work in works.items():
            wait()
            began = time.perf_counter()
            work()
            wait()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def wait() -> None:
    """Until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_model(layers: int) -> LanguageModel:
    """Random weights of SmolLM2-135M's shape."""
    config = AutoConfig.for_model("llama", **SMOLLM2_135M | {"num_hidden_layers": layers})
    with device_here():
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        network = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    network.requires_grad_(True)
    return LanguageModel(network, None, read_tables(config), "SmolLM2-135M's shape")


def measure_steps(model: LanguageModel, length: int, turns: int) -> list[dict[str, Any]]:
    """Seconds of the gradients of one window by each kernel, and by the one that is chosen here."""
    tokens = np.random.default_rng(0).integers(model.network.config.vocab_size, size=(1, length))
    ids = torch.from_numpy(tokens).to(model.device)
    weights = np.full((1, length - 1), 1 / (length - 1))
    lines = []
    for kernel in [*kernels_here(), None]:
        name = kernel.name if kernel else "chosen"
        line = {"part": "step", "kernel": name, "tokens": length, "layers": model.network.config.num_hidden_layers}
        choose = graphs.choose_for_gradients if kernel is None else lambda *_, kernel=kernel, **__: (kernel, "")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            with patch.object(graphs, "choose_for_gradients", choose):
                seconds = take_turns({name: lambda: step(model, ids, weights)}, min(turns, 2))[name]
            found: dict[str, Any] = {"seconds": seconds}
        except (RuntimeError, NotImplementedError, ImportError) as error:
            found = {"fate": str(error).split("\n", maxsplit=1)[0][:200]}
        if torch.cuda.is_available():
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        lines.append(say(line | found))
    return lines


def step(model: LanguageModel, ids: torch.Tensor, weights: np.ndarray) -> None:
    """Gradients of all weights."""
    weighted_loss_with_graph(model, ids, weights).backward()  # type: ignore[no-untyped-call]
    model.network.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
