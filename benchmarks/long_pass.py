"""How fast and how small is a pass over a long text? Ours, transformers' own and Microsoft's way, and the bare kernels.

Run: python benchmarks/long_pass.py MODEL TOKENS OUT.jsonl --lengths 8k,64k --ways ours,plain,chunked,kernels

MODEL is anything that `longrope` loads, or a shape of `shapes.py` with random weights; TOKENS a .npy of token ids
(random ones where the file is missing). Under torchrun the processes share each window. One line a way and length;
up to 128k the ways take --turns turns, so that a GPU whose clock falls under load does so for all of them; with --rest
each run begins that many seconds after the last, on a GPU that has cooled down:

* ours: longrope.engine.passes.token_losses, the loss of every token; with --gradient a step's forward and backward pass
  for all weights
* compiled: the same by a model that was loaded to be compiled; beyond 128k, where a single run counts, its compiling
  is in it
* plain: network(ids, labels=ids) as transformers does it by default (sdpa, a cache, all logits)
* chunked: sdpa and no cache, everything whole but the logits, which are made 16,384 tokens at a time (as in the search
  of Microsoft's LongRoPE); with --gradient transformers' own activation checkpointing instead, and all logits
* fa4: as chunked, with FlashAttention 4 for torch's attention
* fast, fast-fa4: as chunked and fa4, each layer by torch.compile, with torch's limits of recompilations raised; where
  it runs a layer uncompiled all the same, the way ends with an error. Its line has the numbers of graphs that were
  compiled, of breaks between graphs, and of layers that were not compiled; compiling is in no time, for the first turn
  does not count
* whole: as chunked, the decoder by torch.compile, for which transformers makes a mask of all pairs of tokens
* kernels: attention alone, a call by each kernel for each layer without a sliding window; beyond 128k one call, times
  their number
* kernel: the same by the kernel that is chosen here
* products: the matrix products of all layers and the head alone, tile by tile
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pass_ways import FOUND, WAYS
from shapes import open_model

from longrope import distributed
from longrope.engine import kernels
from longrope.engine.backward import BACKWARDS, KernelPair, attend_with_backward
from longrope.engine.memory import choose_tile, estimate_memory, heads_of
from longrope.engine.passes import describe_pass
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel

SHORT = 2**17  # up to this length passes are repeated


def main() -> None:
    """Measure what was asked for and append one line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lengths", default="8k,64k")
    parser.add_argument("--ways", default="ours,plain,chunked,kernels")
    parser.add_argument("--gradient", action="store_true")
    parser.add_argument("--rest", type=float, default=0.0)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--layers", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        model = open_model(asked.model, asked.dtype, asked.layers)
        model.network.requires_grad_(asked.gradient)
        if distributed.is_main():
            print(describe_pass(model), flush=True)
        for length in (parse_tokens(text) for text in asked.lengths.split(",")):
            ids = read_tokens(asked.tokens, length, model)
            settings = {"gradient": asked.gradient, "rest": asked.rest, "turns": asked.turns}
            for line in measure(asked.ways.split(","), model, ids, **settings):
                if distributed.is_main():
                    print({k: v for k, v in line.items() if k not in ("device", "torch", "transformers")}, flush=True)
                    with asked.out.open("a") as out:
                        out.write(json.dumps(line) + "\n")


def read_tokens(path: Path, length: int, model: LanguageModel) -> torch.Tensor:
    """[1, N] ids on the model's device."""
    if path.exists():
        tokens = np.load(path)[:length].astype(np.int64)
        assert len(tokens) == length, f"{path} is shorter than {length:,} tokens"
    else:
        tokens = np.random.default_rng(0).integers(model.network.config.vocab_size, size=length)
    return torch.from_numpy(tokens)[None].to(model.device)


def measure(
    ways: list[str], model: LanguageModel, ids: torch.Tensor, *, gradient: bool, rest: float, turns: int
) -> list[dict[str, Any]]:
    """The lines of these ways at one length."""
    length = ids.shape[1]
    works = {way: partial(WAYS[way, gradient], model, ids) for way in ways if not way.startswith("kernel")}
    FOUND.clear()
    found = run(works, model.device, repeats=turns if length <= SHORT else 1, rest=rest)
    lines = [line_of(way, model, length, gradient=gradient) | {"rest_seconds": rest} | found[way] for way in works]
    for line in lines:
        line.update(FOUND[line["way"]])
        if line["way"] in ("ours", "compiled") and not gradient and distributed.ranks() == 1:
            read = replace(model, compiled=line["way"] == "compiled")
            line["estimate_gib"] = estimate_memory(read, length) / 2**30
            line["kernel"] = choose_kernel(model).name
    return lines + measure_kernels(model, length, list_kernels(model, ways, gradient=gradient), gradient=gradient)


def choose_kernel(model: LanguageModel) -> kernels.Kernel:
    """The kernel of passes without gradients."""
    return kernels.choose_kernel(model.device, model.network.dtype, heads_of(model))[0]


def count_layers(model: LanguageModel) -> int:
    """Layers that see the whole window; what those with a sliding window need grows with the length alone."""
    config = model.network.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return len(kinds) - kinds.count("sliding_attention")


def list_kernels(model: LanguageModel, ways: list[str], *, gradient: bool) -> list[kernels.Kernel]:
    """The kernels to be measured alone: all but the slowest, or the chosen one."""
    if "kernels" not in ways:
        return [choose_kernel(model)] * ("kernel" in ways)
    found = [kernel for kernel in kernels.list_kernels(model.device) if kernel is not kernels.EFFICIENT]
    return [kernel for kernel in found if not gradient or kernel.name in BACKWARDS]


def measure_kernels(
    model: LanguageModel, length: int, tried: list[kernels.Kernel], *, gradient: bool
) -> list[dict[str, Any]]:
    """Attention alone by kernels that take the shape, all layers of it."""
    heads = heads_of(model)
    layers = count_layers(model)
    shapes = [(1, count, length, heads.dim) for count in (heads.queries, heads.keys, heads.keys)]
    given = {"device": model.device, "dtype": model.network.dtype, "requires_grad": gradient}
    query, key, value = (torch.randn(shape, **given) for shape in shapes)  # type: ignore[call-overload]
    calls = 1 if gradient or length > SHORT else layers

    def work(kernel: kernels.Kernel) -> float:
        scale = heads.dim**-0.5
        if gradient:
            output = attend_with_backward(KernelPair(kernel, kernel), query, key, value, scale=scale)
            output.backward(torch.ones_like(output))
            return 0.0
        with torch.inference_mode():
            for _ in range(calls):
                kernels.partial_attention(kernel, query, key, value, causal=True, scale=scale)
        return 0.0

    works = {f"kernel {kernel.name}": partial(work, kernel) for kernel in tried}
    found = run(works, model.device, repeats=3 if length < 2**20 else 1, warm=True, times=layers // calls)
    return [line_of(way, model, length, gradient=gradient) | line for way, line in found.items()]


def run(
    works: dict[str, Callable[[], float]],
    device: torch.device,
    repeats: int,
    *,
    warm: bool = False,
    times: int = 1,
    rest: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Of each work: seconds of the fastest of some runs and of the median, memory, and the loss.

    The works take turns. Where they are repeated, or ``warm`` says so, their first runs do not count.
    """
    lines: dict[str, dict[str, Any]] = {name: {} for name in works}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + (warm or repeats > 1)):
        for name, work in works.items():
            if device.type == "cuda" and not turn:
                torch.cuda.empty_cache()
            if "fate" not in lines[name]:
                time.sleep(rest)
                lines[name] |= run_once(work, device, seconds[name])
    for name, line in lines.items():
        if "fate" not in line:
            counted = [times * taken for taken in seconds[name][-repeats:]]
            line |= {"seconds": min(counted), "median_seconds": statistics.median(counted), "runs": repeats}
    return lines


def run_once(work: Callable[[], float], device: torch.device, seconds: list[float]) -> dict[str, Any]:
    """Peak memory and loss of one run, or its fate; its time is added to the others."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    try:
        loss = work()
    except Exception as error:  # noqa: BLE001  # whatever ends one way, the others are measured
        return {"fate": str(error).split(". Please")[0].split(". Process")[0][:200]}
    if cuda:
        torch.cuda.synchronize(device)
    seconds.append(time.perf_counter() - began)
    return {"peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None, "loss_nats": loss}


def line_of(way: str, model: LanguageModel, length: int, *, gradient: bool) -> dict[str, Any]:
    """What every line tells."""
    cuda = model.device.type == "cuda"
    return {
        "model": model.name,
        "layers": model.network.config.num_hidden_layers,
        "way": way,
        "gradient": gradient,
        "tokens": length,
        "processes": distributed.ranks(),
        "attention_flops": kernels.causal_flops(heads_of(model), length)
        * count_layers(model)
        * (3.5 if gradient else 1),
        "tile_tokens": choose_tile(model)[0],
        "dtype": str(model.network.dtype),
        "device": torch.cuda.get_device_name(model.device) if cuda else "CPU",
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


if __name__ == "__main__":
    main()
