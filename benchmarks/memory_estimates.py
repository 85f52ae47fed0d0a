"""How near are the estimates of memory to the peak? A pass, a gradient of factors, and a training step, by length.

Run: python benchmarks/memory_estimates.py OUT.jsonl --device cpu --lengths 2k,4k,8k
     python benchmarks/memory_estimates.py OUT.jsonl --device cuda --lengths 16k,64k,256k --shape smollm2-135m

On a model of that shape with random weights. The peak is what torch had allocated on a GPU, or what the process had
resident on a CPU (Linux says it), beyond what it had before the model was made: workspaces of libraries are there by
then. On a CPU every tensor has pages of its own, so that nothing that was freed counts.
"""

import argparse
import ctypes
import gc
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.engine.gradients import factor_gradient
from longrope.engine.memory import estimate_memory, estimate_training_memory
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, read_tables
from longrope.rope import baseline_factors
from longrope.tuning.training import in_float32

MMAP_THRESHOLD = -3  # glibc: allocations from that size on have pages of their own
SHAPES: dict[str, dict[str, Any]] = {
    "pico": {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
    "small": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "vocab_size": 16384,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    """Measure, print and append a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--lengths", default="2k,4k,8k")
    parser.add_argument("--works", default=";".join(WORKS))
    asked = parser.parse_args()
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)
    for run, _ in WORKS.values():
        run(make_model("pico", asked.device, asked.dtype), 64)  # what libraries take once
    for work in asked.works.split(";"):
        for tokens in map(parse_tokens, asked.lengths.split(",")):
            line = json.dumps(measure(asked.shape, tokens, work, asked.device, asked.dtype))
            print(line, flush=True)
            with asked.out.open("a") as out:
                out.write(line + "\n")


def measure(shape: str, tokens: int, work: str, device: str, dtype: str) -> dict[str, Any]:
    """One line: the peak of a work at a length, and its estimate, both in GiB."""
    run, estimate = WORKS[work]
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # give back what C's library keeps of the last measurement
    before = torch.cuda.memory_allocated() if device == "cuda" else resident("VmRSS")
    model = make_model(shape, device, dtype)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    run(model, tokens)
    peak = (torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")) - before
    estimated = estimate(model, tokens)
    return {
        "work": work,
        "shape": shape,
        "tokens": tokens,
        "peak_gib": round(peak / 2**30, 4),
        "estimate_gib": round(estimated / 2**30, 4),
        "share": round(estimated / peak, 3),
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
    }


def resident(name: str) -> int:
    """Bytes that this process has resident (VmRSS), or had at its peak (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def make_model(shape: str, device: str, dtype: str) -> LanguageModel:
    """A Llama of a shape with random weights."""
    config = AutoConfig.for_model("llama", **SHAPES[shape], max_position_embeddings=1024)
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    return LanguageModel(network.requires_grad_(False), None, read_tables(config), shape)


def ids(model: LanguageModel, tokens: int) -> np.ndarray:
    """[1, tokens] random token ids."""
    return np.random.default_rng(0).integers(model.network.config.vocab_size, size=(1, tokens))


def run_gradient(model: LanguageModel, tokens: int) -> None:
    """As a step of a search by gradient."""
    factors = baseline_factors(model.spec, "yarn", max(tokens, 2048)).factor_sets[0]
    factor_gradient(model, factors, ids(model, tokens), np.full((1, tokens - 1), 1 / tokens))


def run_training(model: LanguageModel, tokens: int, *, recompute: bool | None = None) -> None:
    """As two steps of a training of all weights: before the second, the optimizer has its moments."""
    weights = dict(model.network.named_parameters())
    with in_float32(model, weights):
        optimizer = torch.optim.AdamW(weights.values(), fused=model.device.type == "cuda")
        for _ in range(2):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
                weights_of_losses = np.full((1, tokens - 1), 1 / tokens)
                loss = weighted_loss_with_graph(model, ids(model, tokens), weights_of_losses, recompute=recompute)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


WORKS: dict[str, tuple[Callable[[LanguageModel, int], object], Callable[[LanguageModel, int], int]]] = {
    "pass": (lambda model, tokens: token_losses(model, ids(model, tokens)), estimate_memory),
    "gradient": (run_gradient, partial(estimate_training_memory, adapters=True)),
    "training": (run_training, partial(estimate_training_memory, adapters=False)),
    "training, recomputed": (
        partial(run_training, recompute=True),
        partial(estimate_training_memory, adapters=False, recompute=True),
    ),
}


if __name__ == "__main__":
    main()
