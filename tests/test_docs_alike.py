"""What the log says of methods that read alike follows from the records of the comparison at 64k."""

from dataclasses import replace

from documents import RESULTS, lines, scores, words

from longrope.recipe import load_recipe
from longrope.rope import RopeSpec
from longrope.search.cost import count_choice_passes, count_passes
from longrope.search.scan import count_scan_passes

RUN = "evidence-64k/compare"
LONG, SHORT = 65536, 8192
ALIKE = (("dynamic-ntk", "ntk", LONG), *((name, "none", SHORT) for name in ("dynamic-ntk", "self-extend", "jet-long")))
LOG = words("docs/log.md")


def seconds_of(method: str, length: int) -> float:
    """Of the passes of one method at one length, each counted once."""
    own = {metric: line["seconds"] for (m, metric, n), line in scores(RUN).items() if (m, n) == (method, length)}
    shuffled = own["far-shuffled"] - own["perplexity"] if length == LONG and "far-shuffled" in own else 0.0
    near = own.get("last-tokens-8191", 0.0) if length == SHORT else 0.0
    return float(sum(own.get(name, 0.0) for name in ("perplexity", "passkey", "prose-needle")) + shuffled + near)


def test_methods_that_read_alike_have_the_same_values_in_the_records() -> None:
    values = {place: (line["value"], line["low"], line["high"]) for place, line in scores(RUN).items()}
    for method, other, length in ALIKE:
        metrics = [metric for m, metric, n in values if (m, n) == (other, length)]
        differ = {metric for metric in metrics if values.get((method, metric, length)) != values[other, metric, length]}
        assert len(metrics) > 20
        assert differ <= {"far-context", "ratio-to-none"}


def test_what_reading_once_saves_is_counted_by_the_seconds_of_the_records() -> None:
    saved = [seconds_of(method, length) for method, _, length in ALIKE]
    text = "{:.0f} s for dynamic NTK at 64k, and {:.0f}, {:.0f} and {:.0f} s for the three at 8k".format(*saved)
    places = {(method, length) for method, _, length in scores(RUN)} - {("jet-long", LONG)}  # measured another day
    known = sum(seconds_of(*place) for place in places)  # and taken here for as much as Self-Extend
    searches = sum(line["seconds"] for line in lines(f"{RUN}/trials.jsonl"))
    whole = round((known + seconds_of("self-extend", LONG) + searches) / 10) * 10
    assert f"{text}, {sum(saved):.0f} of {whole}." in LOG


def test_the_passes_that_the_estimate_counts_are_nearly_those_of_the_records() -> None:
    """Of SmolLM2's table; LongRoPE2's search takes those of a scan."""
    recipe = load_recipe(RESULTS / RUN / "recipe.toml")
    spec = RopeSpec(64, 64, 100_000.0, SHORT)
    searches = [replace(recipe.search, method=method) for method in ("evolution", "gradient")]
    counted = sum(count_passes(one, LONG) + count_choice_passes(one) for one in searches)
    counted += 2 * count_scan_passes(spec, recipe)
    taken = sum(line["token_passes"] for line in lines(f"{RUN}/trials.jsonl")) / LONG
    assert f"the four searches together, {counted}, are {taken:.0f} in the records" in LOG
