"""One pass over a text of any length: the perplexity of its last tokens with all before them, seconds and memory.

Run: python recipes/far_pass.py MODEL OUT.jsonl TOKENS.npy ... --tokens 4096k
                                [--method ntk-critical] [--factors RUN] [--last 32767]

MODEL is anything that `longrope` loads, RUN/stages/.../adapter too. The arrays are joined as they are given, and the
last of their tokens are read, so that two lengths end with the same ones. The factors are those of a formula for this
length, or the long ones of a run, beyond their window, too. The same last tokens are read by the model's own RoPE in
its own window for comparison. Under torchrun the processes share the window.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longrope import baseline_factors, distributed, load_factors, load_model
from longrope.cli.options import factors_file
from longrope.data import Tokens, opening_tokens
from longrope.engine.passes import describe_pass, token_losses
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors

TAIL = 4096


def read_ending(paths: list[Path], tokens: int, opening: tuple[int, ...]) -> Tokens:
    """[1, N] the last tokens of arrays that are joined, after the tokens that open every text."""
    joined = np.concatenate([np.load(path) for path in paths]).astype(np.int32)
    kept = tokens - len(opening)
    if len(joined) < kept:
        raise SystemExit(f"{len(joined):,} tokens are there, {kept:,} are needed: give more arrays")
    return np.concatenate([np.asarray(opening, np.int32), joined[len(joined) - kept :]])[None]


def chosen_factors(model: LanguageModel, run: Path | None, method: str, tokens: int) -> RescaleFactors:
    """The long factors of a run, or those of a formula for a length in tokens."""
    table = load_factors(run) if run else baseline_factors(model.spec, method, tokens)
    return table.factor_sets[-1]


def perplexities(losses: torch.Tensor, last: int) -> dict[str, Any]:
    """Of the last tokens, of the last 4,096 of them, and of all by position: from each power of two to the next."""
    count = losses.shape[-1]
    ends = [*(2**power for power in range(10, 40) if 2**power < count), count]
    parts = {"last": losses[..., -last:], f"last_{TAIL}": losses[..., -min(TAIL, last) :]}
    by_position = zip([0, *ends[:-1]], ends, strict=True)
    return {name: math.exp(part.double().mean()) for name, part in parts.items()} | {
        "by_position": {str(end): math.exp(losses[..., begin:end].double().mean()) for begin, end in by_position}
    }


def read(model: LanguageModel, factors: RescaleFactors | None, window: Tokens, last: int) -> dict[str, Any]:
    """One pass: perplexities, seconds, and the memory of the GPU at its peak."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    began = time.perf_counter()
    with rescaled(model, factors):
        losses = token_losses(model, window)
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else 0
    return perplexities(losses, last) | {"seconds": seconds, "peak_bytes": peak}


def main(arguments: list[str] | None = None) -> None:
    """Read the end of a text near and far, and append a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("arrays", type=Path, nargs="+")
    parser.add_argument("--tokens", type=parse_tokens, required=True)
    parser.add_argument("--method", default="ntk-critical")
    parser.add_argument("--factors", type=lambda given: factors_file(Path(given)))
    parser.add_argument("--last", type=int, default=0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        model = load_model(given.model, device=given.device)
        factors = chosen_factors(model, given.factors, given.method, given.tokens)
        window = read_ending(given.arrays, given.tokens, tuple(opening_tokens(model.tokenizer)))
        near_tokens = min(model.spec.trained_window, given.tokens)
        last = given.last or near_tokens - 1
        opened = len(opening_tokens(model.tokenizer))
        near = np.concatenate([window[:, :opened], window[:, opened - near_tokens :]], axis=1)
        line = {
            "model": given.model,
            "tokens": given.tokens,
            "factors_method": factors.method,
            "factors_window": factors.target_window,
            "last_tokens": last,
            "near": read(model, None, near, last),
            "whole": read(model, factors, window, last),
            "processes": distributed.ranks(),
            "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu",
            "pass": describe_pass(model),
            "torch": torch.__version__,
        }
        if distributed.is_main():
            print(json.dumps(line), flush=True)
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
