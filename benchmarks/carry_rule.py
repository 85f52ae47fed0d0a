"""What the carry-on rule costs: factors searched at one window and carried on to another, beside a search made there.

Run: python benchmarks/carry_rule.py nano stdlib OUT.jsonl --lengths 1k,2k,4k,8k

Factors are searched at every length. Those of each shorter one are carried on to it (``factors.carried_on``), and both
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

from longrope.evaluation.perplexity import kept_losses, measure_ratio
from longrope.evaluation.samples import Samples
from longrope.evaluation.statistics import perplexity
from longrope.factors import RescaleFactors, as_table, carried_on
from longrope.models import LanguageModel, load_model
from longrope.recipe import GradientRecipe, SearchRecipe, parse_tokens
from longrope.search import find_factors
from longrope.texts import Tokens, load_texts

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
    samples = Samples()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for first, to in combinations(lengths, 2):
        windows = texts.measure.divided(texts.measure.windows(lengths[-1], asked.windows), to)
        line = compare(model, (found[first], found[to]), windows, samples)
        line |= {"search_seconds": seconds[first], "search_there_seconds": seconds[to], **same}
        print(json.dumps(line), flush=True)
        with asked.out.open("a") as out:
            out.write(json.dumps(line) + "\n")


def compare(
    model: LanguageModel, searched: tuple[RescaleFactors, RescaleFactors], windows: Tokens, samples: Samples
) -> dict[str, float | int | str]:
    """The first factors, carried on to the window of the second ones, as a share of these on windows [W, N]."""
    first, there = searched
    tables = as_table(carried_on(first, model.spec, there.target_window)), as_table(there)
    methods = f"carried from {first.target_window}", "searched"
    ratio = measure_ratio(model, tables, windows, methods=methods, samples=samples)
    carried, direct = (
        perplexity(kept_losses(model, table, windows, method=method, samples=samples))
        for table, method in zip(tables, methods, strict=True)
    )
    return {
        "searched_tokens": first.target_window,
        "tokens": there.target_window,
        "perplexity_carried": carried,
        "perplexity_searched": direct,
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "num_windows": ratio.num_windows,
        "num_tokens": ratio.num_tokens,
        "texts_fingerprint": ratio.texts_fingerprint,
        "lambdas_carried": list(tables[0].tiers[0].lambdas),
        "lambdas_searched": list(there.lambdas),
        "attention_factors": [tables[0].tiers[0].attention_factor, there.attention_factor],
    }


if __name__ == "__main__":
    main()
