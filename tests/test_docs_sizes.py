"""What docs/results.md says of the sizes of the evolution is what the committed records hold."""

import re

from documents import lines, words

from longrope.recipe import EvolutionRecipe

LINES = lines("evolution-sizes/nano.jsonl")
(YARN,) = (line for line in LINES if line["variant"] == "yarn")
FOUND = [line for line in LINES if line is not YARN]
TEXT = words("docs/results.md")


def test_every_evolution_makes_the_same_number_of_candidates() -> None:
    made = {each["population"] + each["generations"] * (each["mutations"] + each["crossovers"]) for each in FOUND}
    paper = EvolutionRecipe().filled(1024)
    whole = paper.population + paper.generations * (paper.mutations + paper.crossovers)
    assert f"for the same {made.pop()} candidates" in TEXT
    assert not made
    assert f"(the paper makes {whole:,})" in TEXT


def test_the_seeds_say_what_the_text_says() -> None:
    first, second = ([each for each in FOUND if each["seed"] == seed] for seed in (0, 1))
    assert {each["seed"] for each in FOUND} == {0, 1}
    losses = [each["loss"] for each in first]
    assert f"lie between {min(losses):.3f} and {max(losses):.3f}" in TEXT
    assert max(losses) < YARN["loss"]
    assert re.search(rf"YaRN, from which all of them begin, has {YARN['loss']:.3f}", TEXT)
    assert len({tuple(each["lambdas"]) for each in second}) == 1
    assert len(second) == len(first) == 5
    assert f"the same mutant of the first population ({second[0]['loss']:.3f})" in TEXT
    assert min(first, key=lambda each: each["loss"])["variant"] == "half the population"
    assert all(each["answers"] > YARN["answers"] for each in FOUND)
