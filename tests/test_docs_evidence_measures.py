"""What the docs say of results/evidence-64k-measures follows from its records."""

from dataclasses import asdict
from typing import Any

import pytest
from documents import RESULTS, lines, scores, words
from recipe_scripts import load_script

RUN, TUNED = "evidence-64k-measures", "longrope-tuned"
README, TEXT, LOG = words("README.md"), words("docs/results.md"), words("docs/log.md")
Found = dict[tuple[str, int], dict[str, Any]]


def of(arm: str, method: str = TUNED) -> Found:
    """The scores of an arm; LongPPL without the name of its evaluator."""
    found = scores(f"{RUN}/{arm}").items()
    return {(metric.partition("-by-")[0], at): line for (by, metric, at), line in found if by == method}


@pytest.fixture(scope="module")
def arms() -> tuple[Found, Found]:
    return of("searched"), of("yarn")


def percents(arms: tuple[Found, Found], metric: str, length: int = 65536) -> list[int]:
    return [round(100 * arm[metric, length]["value"]) for arm in arms]


def interval(line: dict[str, Any], digits: int) -> str:
    return "{value:.{d}f} ({low:.{d}f}-{high:.{d}f})".format(**line, d=digits)


def test_comparisons_follow_from_the_summaries() -> None:
    made = [asdict(line) for line in load_script("arms").compare_arms(RESULTS / RUN, ["searched", "yarn"], "yarn")]
    assert made == lines(f"{RUN}/arms.jsonl")


def test_the_windows_are_those_of_the_first_trainings_and_the_search_that_of_the_second() -> None:
    for arm in ("searched", "yarn"):
        paths = [next((RESULTS / run / arm).glob("stages/2-tune*/train.jsonl")) for run in (RUN, "evidence-64k-first")]
        ours, first = ([x["texts_fingerprint"] for x in lines(f"{path.relative_to(RESULTS)}")] for path in paths)
        assert ours == first
    factors = [(RESULTS / run / "searched/factors.json").read_text() for run in (RUN, "evidence-64k")]
    assert factors[0] == factors[1]


def test_the_lead_in_perplexity_is_kept_and_that_in_needles_is_not(arms: tuple[Found, Found]) -> None:
    pairs = {(line["metric"], line["context_tokens"]): line for line in lines(f"{RUN}/arms.jsonl")}
    whole, last, needles = (pairs[name, 65536] for name in ("perplexity", "perplexity-last-8192", "prose-needle"))
    assert f"{interval(whole, 4)} of YaRN's over all tokens, {interval(last, 3)} over the last 8,192" in TEXT
    assert round(100 * (1 - whole["value"])) == 5
    assert whole["high"] < 1
    gap = [round(100 * needles[key]) for key in ("value", "low", "high")]
    found = [*percents(arms, "prose-needle"), *gap, *percents(arms, "ruler-subset")]
    said = (
        "they find {} needles of 100, YaRN {} (a difference of {} point, {} to {}), and {} % of RULER's answers, "
        "YaRN {} %."
    )
    assert said.format(*found) in TEXT
    single, several = (percents(arms, f"ruler-niah_{task}") for task in ("single_2", "multiquery"))
    shares = (
        f"single needles ({single[1]} % and {single[0]} %) and of several questions ({several[1]} % and {several[0]} %)"
    )
    assert f"{shares}; all these intervals overlap" in TEXT
    for metric in ("prose-needle", "ruler-subset", "ruler-niah_single_2", "ruler-niah_multiquery"):
        ours, theirs = (arm[metric, 65536] for arm in arms)
        assert ours["low"] < theirs["high"]
        assert theirs["low"] < ours["high"]
    assert "In RULER and with 20 needles a text, YaRN is not behind." in README


def test_longppl_and_its_evaluator_are_stated(arms: tuple[Found, Found]) -> None:
    ours, theirs = (arm["longppl", 65536] for arm in arms)
    assert f"perplexity of {ours['num_tokens']:,} key tokens" in TEXT
    assert ours["num_tokens"] == theirs["num_tokens"]
    assert f"The searched factors have {interval(ours, 2)}, YaRN {interval(theirs, 2)}." in TEXT
    traced = percents(arms, "ruler-vt", 8192)
    assert f"traces {traced[0]} % of the variables after training with the searched factors, and {traced[1]} %" in TEXT
    names = {metric for _, metric, _ in scores(f"{RUN}/searched") if metric.startswith("longppl")}
    (fingerprint,) = {line["factors_fingerprint"] for line in lines("evidence-64k/compare/scores.jsonl") if
                      line["method"] == "longrope-gradient"}  # fmt: skip
    assert names == {f"longppl-by-data/SmolLM2-135M-Instruct.Q4_1.gguf+{fingerprint}"}


def test_the_effective_length_is_a_low_bar(arms: tuple[Found, Found]) -> None:
    least = 0.85 * of("yarn", "none")["accuracy", 8192]["value"]
    assert f"85 % of the accuracy of the original at 8k is {100 * least:.0f} %" in TEXT
    assert {arm["effective-length", 65536]["value"] for arm in arms} == {65536}
    kept = [100 * arm["accuracy", 65536]["value"] / arm["accuracy", 8192]["value"] for arm in arms]
    assert "they keep {:.0f} % and {:.0f} % at 64k".format(*kept) in TEXT


def test_far_context_is_read(arms: tuple[Found, Found]) -> None:
    ours, theirs = (interval(arm["far-context", 65536], 3) for arm in arms)
    shuffled = "{:.3f} and {:.3f}".format(*(arm["far-shuffled", 65536]["value"] for arm in arms))
    assert f"have {ours} of the perplexity that they have with 8k of context, with YaRN's factors {theirs}" in TEXT
    assert f"takes a part of it away ({shuffled})" in TEXT


def test_the_log_has_the_same_numbers(arms: tuple[Found, Found]) -> None:
    needles, ruler = percents(arms, "prose-needle"), percents(arms, "ruler-subset")
    assert f"Needles with 20 in a text: {needles[0]} and {needles[1]} of 100" in LOG
    assert f"RULER's six tasks: {ruler[0]} % and {ruler[1]} %." in LOG
    again, before = (
        scores(f"{run}/yarn@2")[TUNED, "prose-needle", 65536]["value"]
        for run in ("evidence-64k-seeds-again", "evidence-64k-seeds")
    )
    assert f"needles {100 * again:.0f}, before {100 * before:.0f}" in LOG


def test_the_step_with_offload_is_that_of_its_record() -> None:
    (line,) = lines("benchmarks/h200-llama-offload.jsonl")
    said = f"of {line['tokens']:,} tokens in {line['seconds']:.1f} s a step at a peak of {line['peak_gib']:.1f} GiB"
    performance = words("docs/performance.md")
    assert said in performance
    assert (
        f"longrope had estimated {line['estimate_gib']:.1f} GiB" in performance
    )  # test_docs_memory.py has that of now
