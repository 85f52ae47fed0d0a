"""How fast is attention forwards and backwards by each kernel, and a gradient step of SmolLM2's shape by each?

Run: python benchmarks/gradient_kernels.py OUT.jsonl --lengths 64k,256k
     torchrun --nproc-per-node 4 benchmarks/gradient_kernels.py OUT.jsonl --lengths 256k --parts step --kernels chosen

A line a kernel and shape of heads: TFLOP/s of a whole window and of queries that are the last half of the keys, as in
shared windows; a backward pass counts two and a half forward ones. First in single calls: the kernels take turns, with
a wait for each; the medians. Then, for whole windows, sustained: calls without a wait for --sustain seconds each.
Kernels without a backward pass are measured forwards. A line a kernel and length: seconds of the gradients of all
weights, random ones of a model of --shape, with recomputed layers; under torchrun the processes share each window. The
first step is left out, unless --turns is 0: then it is the only one. With --profile a line more: seconds of the
GPU that one more step spent in each kind of kernel and in the longest ones, on the first process, by torch.profiler.
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
from shapes import device_here, open_model
from torch.profiler import ProfilerActivity, profile

from longrope import distributed
from longrope.engine import graphs, kernels
from longrope.engine.backward import BACKWARDS, KernelPair, attend_aligned, backward_aligned
from longrope.engine.passes import weighted_loss_with_graph
from longrope.engine.trials import check_gradients
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel

EVENTS: list[Any] = []
KINDS = {  # kind of kernel -> parts of its names; the first kind that fits counts, and what fits none is "other"
    "communication": ("nccl", "c10d"),
    "attention": ("flash", "sdpa", "fmha", "attention", "attend"),
    "matrix products": ("gemm", "nvjet", "xmma", "cutlass", "::mm", "::addmm", "::bmm"),
    "copies": ("memcpy", "memset", "copy"),
}
HEADS = (kernels.Heads(9, 3, 64), kernels.Heads(16, 4, 128), kernels.Heads(4, 1, 256))


def main() -> None:
    """Measure what was asked for and append one line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--lengths", default="64k,256k")
    parser.add_argument("--parts", default="kernel,step")
    parser.add_argument("--tokens", default="64k")
    parser.add_argument("--widths", default="64,128,256")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sustain", type=float, default=1.5)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--kernels", default="")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        if "kernel" in asked.parts and distributed.ranks() == 1:
            for heads in (heads for heads in HEADS if str(heads.dim) in asked.widths.split(",")):
                append(asked.out, measure_kernels(heads, parse_tokens(asked.tokens), asked.turns, asked.sustain))
        if "step" in asked.parts:
            model = open_model(asked.shape, layers=asked.layers)
            model.network.requires_grad_(True)
            for length in (parse_tokens(text) for text in asked.lengths.split(",")):
                append(asked.out, measure_steps(model, length, asked.turns, asked.kernels))
                append(asked.out, [profile_step(model, length)] if asked.profile else [])


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Add lines to a file as they come, for what follows them may not end."""
    if distributed.is_main():
        with path.open("a") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)


def kernels_here(*, gradients: bool) -> list[kernels.Kernel]:
    """Those of this machine; with gradients those that have a backward pass here, else all but the slowest."""
    found = [kernel for kernel in kernels.list_kernels(device_here()) if kernel is not kernels.EFFICIENT]
    return [kernel for kernel in found if not gradients or kernel.name in BACKWARDS]


def say(line: dict[str, Any]) -> dict[str, Any]:
    """Print a line, and return it with what every line has."""
    if distributed.is_main():
        print(line, flush=True)
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "CPU"
    return line | {"device": name, "torch": torch.__version__, "processes": distributed.ranks()}


def measure_kernels(heads: kernels.Heads, tokens: int, turns: int, sustain: float) -> list[dict[str, Any]]:
    """TFLOP/s of each kernel forwards and backwards, or why it does not work."""
    device, lines = device_here(), []
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for part, queries in (("whole", tokens), ("last half", tokens // 2)):
        given = kernels.random_inputs((queries, tokens), device, dtype, heads)
        pairs = queries * (tokens - queries) + queries * (queries + 1) / 2
        flops = 4.0 * heads.queries * heads.dim * pairs
        works: dict[str, Callable[[], Any]] = {}
        fates: dict[str, str] = {}
        for kernel in kernels_here(gradients=False):
            try:
                works |= both_ways(kernel, given, heads)
            except (RuntimeError, NotImplementedError, ImportError) as error:
                fates[kernel.name] = str(error).split("\n", maxsplit=1)[0][:200]
        single = take_turns(works, turns)
        steady = {name: sustained(work, sustain) for name, work in works.items()} if part == "whole" and sustain else {}
        for kernel in kernels_here(gradients=False):
            line = {"part": part, "kernel": kernel.name, "heads": [heads.queries, heads.keys, heads.dim]}
            line |= {"tokens": tokens} | ({"fate": fates[kernel.name]} if kernel.name in fates else {})
            for way, times in (("forward", 1.0), ("backward", 2.5)):
                for name, seconds in ((f"{way}_tflops", single), (f"{way}_sustained_tflops", steady)):
                    if (found := seconds.get(f"{kernel.name} {way}")) is not None:
                        line[name] = times * flops / found / 1e12
            lines.append(say(line))
    return lines


def both_ways(kernel: kernels.Kernel, given: list[torch.Tensor], heads: kernels.Heads) -> dict[str, Callable[[], Any]]:
    """The forward pass, and the backward pass of one that is done, of a kernel that gives the right numbers."""
    query, key, value = given
    scale, backward = heads.dim**-0.5, kernel.name in BACKWARDS
    whole = query.shape[2] == key.shape[2]
    check_gradients(kernel, query.device, query.dtype, heads, whole=whole, backward=kernel if backward else None)
    output, lse = attend_aligned(kernel, query, key, value, scale)
    works: dict[str, Callable[[], Any]] = {
        f"{kernel.name} forward": lambda: attend_aligned(kernel, query, key, value, scale)
    }
    if backward:
        works[f"{kernel.name} backward"] = lambda: backward_aligned(kernel, query, given, output, lse, scale)
    return works


def sustained(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of a call, among calls without a wait that fill so many seconds, after as many that do not count."""
    wait()
    for counted in (False, True):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < (seconds if counted else seconds / 3):
            for _ in range(4):
                work()
            calls += 4
            wait_for_most()
        wait()
        taken = (time.perf_counter() - began) / calls
    return taken


def wait_for_most() -> None:
    """Until the device is done with all but the last calls, so that they neither pile up nor leave it idle."""
    if torch.cuda.is_available():
        EVENTS.append(torch.cuda.Event())
        EVENTS[-1].record()
        if len(EVENTS) > 2:
            EVENTS.pop(0).synchronize()


def take_turns(works: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The median seconds of each; their first turn does not count, unless it is the only one."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + 1):
        for name, work in works.items():
            wait()
            began = time.perf_counter()
            work()
            wait()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found[1:] or found) for name, found in seconds.items()}


def wait() -> None:
    """Until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_steps(model: LanguageModel, length: int, turns: int, wanted: str) -> list[dict[str, Any]]:
    """Seconds of the gradients of one window by each kernel, and by the one that is chosen here."""
    ids, weights = random_window(model, length)
    lines = []
    for kernel in [*kernels_here(gradients=True), None]:
        name = kernel.name if kernel else "chosen"
        if wanted and name not in wanted.split(","):
            continue
        line = {"part": "step", "model": model.name, "kernel": name, "tokens": length}
        line["layers"] = model.network.config.num_hidden_layers
        choose = (
            graphs.choose_for_gradients
            if kernel is None
            else lambda *_, kernel=kernel, **__: (KernelPair(kernel, kernel), "")
        )
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


def profile_step(model: LanguageModel, length: int) -> dict[str, Any]:
    """Seconds of the device in each kind of kernel during one step by the kernel that is chosen here."""
    cuda = torch.cuda.is_available()
    ids, weights = random_window(model, length)
    wait()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        step(model, ids, weights)
        wait()
        wall = time.perf_counter() - began
    spent = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        for event in found.key_averages()
    }
    kinds = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, seconds in spent.items():
        kinds[kind_of(name)] += seconds
    longest = sorted(spent.items(), key=lambda item: -item[1])[:12]
    line = {"part": "profile", "model": model.name, "tokens": length, "seconds": wall, "device_seconds": kinds}
    return say(line | {"longest": [[name[:120], round(seconds, 4)] for name, seconds in longest]})


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, parts in KINDS.items() if any(part in kernel.lower() for part in parts)), "other")


def random_window(model: LanguageModel, length: int) -> tuple[torch.Tensor, np.ndarray]:
    """Random tokens, (1, length), and equal weights of their losses."""
    tokens = np.random.default_rng(0).integers(model.network.config.vocab_size, size=(1, length))
    return torch.from_numpy(tokens).to(model.device), np.full((1, length - 1), 1 / (length - 1))


def step(model: LanguageModel, ids: torch.Tensor, weights: np.ndarray) -> None:
    """Gradients of all weights."""
    weighted_loss_with_graph(model, ids, weights).backward()  # type: ignore[no-untyped-call]
    model.network.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
