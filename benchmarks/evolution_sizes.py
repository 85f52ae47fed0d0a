"""How much do the population, mutations and crossovers of the evolution matter? Two seeds on the bundled model.

Run, in about eight minutes of one CPU core: python benchmarks/evolution_sizes.py OUT.jsonl

From 256 to 1,024 tokens of the standard library's search part. Every evolution makes 112 candidates, so that a larger
population leaves fewer generations. The paper makes 1,344. The factors found are judged as in search_ablations.py, on
windows that no search reads. A seed draws the order of the search windows and the candidates. Lines that are there are
not made again.
"""

import sys
from dataclasses import asdict, replace
from functools import partial
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
    "mostly mutations": {"mutations": 7, "crossovers": 1},
    "mostly crossovers": {"mutations": 1, "crossovers": 7},
}
SIZES = ("population", "mutations", "crossovers", "generations")


def changed(**sizes: int) -> EvolutionRecipe:
    """The evolution with these sizes and as many generations as give the candidates of all."""
    evolution = replace(BASE, **sizes)
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
    judged("yarn", 0, lambda: (yarn, 0))
    for seed in SEEDS[:2]:
        for name, change in CHANGES.items():
            evolution = changed(**change)
            sizes = {key: number for key, number in asdict(evolution).items() if key in SIZES}
            judged(name, seed, partial(evolve, model, texts.search, evolution, seed), **sizes)


if __name__ == "__main__":
    main()
