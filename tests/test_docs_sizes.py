"""What docs/results.md says of the sizes of the evolution is what the committed records hold."""

import re
from itertools import groupby
from statistics import fmean, stdev

from documents import lines, words

from longrope.recipe import EvolutionRecipe

LINES = lines("evolution-sizes/nano.jsonl")
(YARN,) = (line for line in LINES if line["variant"] == "yarn")
FOUND = [line for line in LINES if line is not YARN]
BASE = {each["seed"]: each for each in FOUND if each["variant"] == "base"}
TEXT = words("docs/results.md")
T = 4.302653  # two degrees of freedom, two-sided 95 %


def test_every_evolution_but_the_last_makes_the_same_number_of_candidates() -> None:
    made = [each["population"] + each["generations"] * (each["mutations"] + each["crossovers"]) for each in FOUND]
    paper = EvolutionRecipe().filled(1024)
    whole = paper.population + paper.generations * (paper.mutations + paper.crossovers)
    assert f"All evolutions but the last have the same number of candidates, {made[0]}, so" in TEXT
    others = {number for each, number in zip(FOUND, made, strict=True) if each["variant"] != "twice the candidates"}
    assert others == {made[0]}
    assert set(made) - others == {2 * made[0]}
    assert f"(the paper makes {whole:,})" in TEXT


def test_no_difference_is_shown() -> None:
    """Every interval contains 0; the differences of three seeds would have to be about 0.03 nats."""
    halves = []
    for variant in {each["variant"] for each in FOUND} - {"base"}:
        changes = [each["loss"] - BASE[each["seed"]]["loss"] for each in FOUND if each["variant"] == variant]
        assert len(changes) == 3
        halves.append(T * stdev(changes) / 3**0.5)
        assert abs(fmean(changes)) < halves[-1]
    assert f"{fmean(halves):.2f}" == "0.03"
    assert "about 0.03 nats to be seen" in TEXT


def test_the_seeds_say_what_the_text_says() -> None:
    orders, widths = set(), []
    for _, of_seed in groupby(FOUND, lambda each: each["seed"]):
        ranked = sorted(of_seed, key=lambda each: each["loss"])
        orders.add(tuple(each["variant"] for each in ranked))
        widths.append(ranked[-1]["loss"] - ranked[0]["loss"])
    assert len(orders) == 3
    assert f"lie {min(widths):.3f} to {max(widths):.3f} apart" in TEXT
    assert re.search(rf"YaRN, from which all of them begin, has {YARN['loss']:.3f}", TEXT)
    below = sum(each["loss"] < YARN["loss"] for each in FOUND)
    assert f"{below} of the {len(FOUND)} evolutions are below it, and all {len(FOUND)} are worse" in TEXT
    assert all(each["answers"] > YARN["answers"] for each in FOUND)
    doubled = [each["loss"] - BASE[each["seed"]]["loss"] for each in FOUND if each["variant"] == "twice the candidates"]
    losses = [each["loss"] for each in BASE.values()]
    assert max(map(abs, doubled)) < max(losses) - min(losses)
