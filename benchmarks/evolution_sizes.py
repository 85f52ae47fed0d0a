"""How much do the population, mutations and crossovers of the evolution matter? Three seeds on the bundled model.

Run, in about 25 minutes of one CPU core: python benchmarks/evolution_sizes.py OUT.jsonl [PART PARTS]

From 256 to 1,024 tokens of the standard library's search part. Every evolution but one makes 112 candidates, so that a
larger population leaves fewer generations. The paper makes 1,344. The factors found are judged as in
search_ablations.py, on windows that no search reads. A seed draws the order of the search windows and the candidates.
Lines that are there are not made again. With PART 0 of PARTS 8, the first of every eight lines alone is made.
"""

import sys
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

from search_ablations import EVOLUTION, SEEDS, Judge, evolve, formula

from longrope.data import load_texts
from longrope.models import load_model
from longrope.recipe import EvolutionRecipe

CANDIDATES = 112
BASE = replace(EVOLUTION, generations=12)  # a population of 16, and 4 mutations and 4 crossovers a generation
CHANGES: dict[str, dict[str, int]] = {
    "base": {},
    "half the population": {"population": 8},
    "twice the population": {"population": 32},
    "four times the population": {"population": 64},
    "half the children a generation": {"mutations": 2, "crossovers": 2},
    "twice the children a generation": {"mutations": 8, "crossovers": 8},
    "mostly mutations": {"mutations": 7, "crossovers": 1},
    "mostly crossovers": {"mutations": 1, "crossovers": 7},
    "twice the candidates": {"generations": 26},
}
SIZES = ("population", "mutations", "crossovers", "generations")


def changed(**sizes: int) -> EvolutionRecipe:
    """The evolution with these sizes and as many generations as give the candidates of all."""
    evolution = replace(BASE, **sizes)
    if "generations" in sizes:
        return evolution
    children = evolution.mutations + evolution.crossovers
    generations, rest = divmod(CANDIDATES - evolution.population, children)
    assert rest == 0
    return replace(evolution, generations=generations)


def main() -> None:
    """Judge every evolution with every seed, and YaRN, which each begins with; one JSON line each."""
    model = load_model("nano")
    texts = load_texts(["stdlib"], model.tokenizer)
    judged = Judge(Path(sys.argv[1]), model, texts.tune)
    yarn = formula(model, "yarn")
    part, parts = map(int, sys.argv[2:] or (0, 1))
    if part == 0:
        judged("yarn", 0, lambda: (yarn, 0))
    for seed, name in [*product(SEEDS, CHANGES)][part::parts]:
        evolution = changed(**CHANGES[name])
        sizes = {key: number for key, number in asdict(evolution).items() if key in SIZES}
        judged(name, seed, partial(evolve, model, texts.search, evolution, seed), **sizes)


if __name__ == "__main__":
    main()
