"""What extrapolation costs: factors searched at one window and extrapolated to another, beside a search made there.

Run: python benchmarks/extrapolation_rule.py nano stdlib OUT.jsonl --lengths 1k,2k,4k,8k

Factors are searched at every length. Those of each shorter one are extrapolated to it (``rope.extrapolate``), and both
read the same measuring windows. One line for each pair of lengths: both perplexities, and their ratio with an interval
paired by token. The weights are the model's own.
"""

import argparse
import json
import time
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import torch

from longrope.data import Tokens, fingerprint, load_texts
from longrope.evaluation.perplexity import window_losses
from longrope.evaluation.statistics import perplexity, ratio_interval
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, load_model
from longrope.recipe import GradientRecipe, SearchRecipe
from longrope.rope import RescaleFactors, extrapolate
from longrope.search import find_factors

SEARCH = SearchRecipe(validation_windows=2, gradient=GradientRecipe(steps=8, scan_windows=1))


def main() -> None:
    """Search at every length, then compare every pair; one JSON line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--lengths", default="1k,2k,4k,8k")
    parser.add_argument("--windows", type=int, default=6, help="of the longest length; the shorter ones divide them")
    asked = parser.parse_args()
    lengths = sorted(parse_tokens(length) for length in asked.lengths.split(","))
    model = load_model(asked.model, device="cpu")
    texts = load_texts([asked.texts], model.tokenizer)
    found, seconds = {}, {}
    for length in lengths:
        began = time.perf_counter()
        found[length] = find_factors(model, texts.search, length, settings=SEARCH)
        seconds[length] = round(time.perf_counter() - began, 1)
        print(f"searched at {length:,} tokens in {seconds[length]} s", flush=True)
    same = {
        "model": model.name,
        "texts": asked.texts,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for first, to in combinations(lengths, 2):
        windows, documents = (
            text.divided(text.windows(lengths[-1], asked.windows), to)
            for text in (texts.measure, texts.measure.numbered())
        )
        line = compare(model, (found[first], found[to]), windows, documents)
        line |= {"search_seconds": seconds[first], "search_there_seconds": seconds[to], **same}
        print(json.dumps(line), flush=True)
        with asked.out.open("a") as out:
            out.write(json.dumps(line) + "\n")


def compare(
    model: LanguageModel, searched: tuple[RescaleFactors, RescaleFactors], windows: Tokens, documents: Tokens
) -> dict[str, float | int | str]:
    """The first factors, extrapolated to the window of the second ones, as a share of these on windows [W, N]."""
    first, there = searched
    carried = extrapolate(first, model.spec, there.target_window)
    losses = [window_losses(model, factors, windows) for factors in (carried, there)]
    ratio = ratio_interval(*losses, documents[:, 1:], seed=0)
    return {
        "searched_tokens": first.target_window,
        "tokens": there.target_window,
        "perplexity_carried": perplexity(losses[0]),
        "perplexity_searched": perplexity(losses[1]),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "resampled": ratio.resampled,
        "num_windows": len(windows),
        "num_tokens": losses[0].size,
        "texts_fingerprint": fingerprint(windows),
        "lambdas_carried": list(carried.lambdas),
        "lambdas_searched": list(there.lambdas),
        "attention_factors": [carried.attention_factor, there.attention_factor],
    }


if __name__ == "__main__":
    main()
