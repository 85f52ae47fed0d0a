"""What the docs say of results/evidence-64k follows from its records."""

from dataclasses import asdict
from operator import itemgetter
from typing import Any

import pytest
from documents import RESULTS, lines, scores, words
from recipe_scripts import load_script
from tables_cells import Records

RUN, SEEDS = "evidence-64k", "evidence-64k-seeds"
README, TEXT = words("README.md"), words("docs/results.md")
GRADIENT, TUNED = "longrope-gradient", "longrope-tuned"


@pytest.fixture(scope="module")
def untrained() -> dict[tuple[str, str, int], float]:
    return {place: line["value"] for place, line in scores(f"{RUN}/compare").items()}


@pytest.fixture(scope="module")
def shares() -> dict[str, float]:
    """Perplexities at 64k as shares of the gradient search's."""
    pairs = [line for line in lines(f"{RUN}/compare/paired.jsonl") if line["metric"] == "perplexity"]
    assert {(line["reference"], line["context_tokens"]) for line in pairs} == {(GRADIENT, 65536)}
    return {line["run"]: line["value"] for line in pairs}


def test_methods_of_attention_win_and_the_gradient_search_is_the_best_of_factors(
    untrained: dict[tuple[str, str, int], float], shares: dict[str, float]
) -> None:
    at = {method: value for (method, *place), value in untrained.items() if place == ["perplexity", 65536]}
    assert sorted(at, key=at.__getitem__)[:3] == ["self-extend", "dca", GRADIENT]
    for method, share in shares.items():
        assert share == pytest.approx(at[method] / at[GRADIENT], rel=1e-4)
    needles = [round(100 * untrained[method, "prose-needle", 65536]) for method in ("self-extend", "dca", GRADIENT)]
    assert "Self-Extend and DCA find {} and {} needles of 100, the searched factors {}.".format(*needles) in TEXT
    assert {f"{shares[method]:.2f}" for method in ("dca", "self-extend")} == {"0.91"}
    assert "DCA and Self-Extend, which change attention instead, have 0.91 times that perplexity." in README
    others = [f"{shares[method]:.3f}" for method in ("ntk-scan", "critical", "longrope2", "yarn")]
    said = (
        "the scan of two numbers has {} of its perplexity, the critical-pair rule {}, LongRoPE2's search {}, YaRN {}."
    )
    assert said.format(*others) in TEXT
    assert f"has {shares['longrope-evolution']:.3f}. In a second comparison" in TEXT
    again = {
        (s["method"], s["metric"]): s["value"]
        for s in lines("compare-64k/scores.jsonl")
        if s["context_tokens"] == 65536
    }
    both = [again[m, "perplexity"] for m in ("longrope-evolution", "longrope-gradient")]
    said = "has a perplexity of {:.2f}, the gradient search {:.2f} and the scan {:.2f};"
    assert said.format(*both, again["ntk-scan", "perplexity"]) in TEXT
    both = [again[m, "last-tokens-8191"] for m in ("longrope-evolution", "longrope-gradient")]
    assert "tokens the evolution has {:.2f} and the gradient search {:.2f}.".format(*both) in TEXT
    export = Records().content(f"{RUN}/searched/export.json")
    short = [export[f"perplexity_{name}"] for name in ("single", "original", "two")]
    said = "at 2,048 tokens is {:.2f} with the checkpoint's one list of factors, and {:.2f} with the model's own RoPE."
    assert said.format(*short) in README
    assert f"it is {short[2]:.2f}, since both share" in README
    (jet,) = (x for x in lines(f"{RUN}/compare/paired.jsonl") if x["run"] == "jet-long" and x["metric"] == "perplexity")
    found = round(100 * untrained["jet-long", "prose-needle", 65536])
    assert f"has {interval(jet, 3)} of the searched factors' perplexity and finds {found} needles." in TEXT


def test_the_facts_of_the_first_screen_have_their_intervals() -> None:
    pairs = [line for line in lines(f"{RUN}/compare/paired.jsonl") if line["metric"] == "perplexity"]
    scan, yarn = (
        "{value:.3f} ({low:.3f}-{high:.3f})".format(**next(line for line in pairs if line["run"] == method))
        for method in ("ntk-scan", "yarn")
    )
    said = scan.replace("(", "times that perplexity (95 % interval ")
    said = f"NTK with scanned base and attention factor has {said}, YaRN {yarn.replace('(', 'times (')}."
    assert said in README


def test_what_is_paid_is_stated(untrained: dict[tuple[str, str, int], float]) -> None:
    """At 8k."""
    short = [untrained[method, "perplexity", 8192] for method in (GRADIENT, "none")]
    assert "{:.2f} instead of {:.2f} at 8k above".format(*short) in README


def test_the_bars_that_are_missed_are_stated(untrained: dict[tuple[str, str, int], float]) -> None:
    with_8k = untrained["none", "last-tokens-8191", 8192]
    last = untrained[GRADIENT, "perplexity-last-8192", 65536]
    assert f"{last / with_8k:.3f} of the original's perplexity on the same last tokens" in TEXT
    assert f"with 8k of context has a perplexity of {with_8k:.2f}" in TEXT
    dca, extended = (untrained[name, "perplexity-last-8192", 65536] / with_8k for name in ("dca", "self-extend"))
    assert f"DCA has {dca:.3f} of it and Self-Extend {extended:.3f}" in TEXT
    assert f"DCA has {untrained['dca', 'ratio-to-none', 8192]:.3f} of its perplexity" in TEXT
    shuffled = [
        "{value:.3f} ({low:.3f}-{high:.3f})".format(**scores(f"{RUN}/compare")[method, "far-shuffled", 65536])
        for method in (GRADIENT, "yarn", "dca")
    ]
    for share in shuffled:
        assert share in TEXT
    trained = scores(f"{RUN}/searched")
    near, far = (trained["longrope-tuned", "prose-needle", length]["value"] for length in (8192, 65536))
    assert f"finds {100 * far / near:.0f} % of the share of needles that it finds at 8k" in TEXT
    assert f"and {100 * far:.0f} of 100 needles (the aim was 85)" in TEXT
    assert f"95 % of the share found at 8k (reached: {100 * far / near:.0f} %)" in README


@pytest.fixture(scope="module")
def arms() -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """Arms that were trained alike, each beside another."""
    pairs = lines(f"{RUN}/arms.jsonl")
    return {(line["run"], line["reference"], line["metric"], line["context_tokens"]): line for line in pairs}


def interval(line: dict[str, Any], digits: int = 4) -> str:
    return "{value:.{d}f} ({low:.{d}f}-{high:.{d}f})".format(**line, d=digits)


def value(found: dict[tuple[str, str, int], dict[str, Any]], metric: str) -> float:
    return float(found[TUNED, metric, 65536]["value"])


def test_arms_that_were_trained_alike_are_compared(arms: dict[tuple[str, str, str, int], dict[str, Any]]) -> None:
    others = ("yarn", "scan", "critical")
    whole, last, needles = (
        [arms["searched", other, metric, 65536] for other in others]
        for metric in ("perplexity", "perplexity-last-8192", "prose-needle")
    )
    assert all(line["high"] < 1 for line in whole)
    shares = [interval(line) for line in whole]
    first = shares[0].replace(" (", " of YaRN's perplexity at 64k (")
    second = shares[1].replace(" (", " of the scan's (")
    said = f"have {first}, {second} and "
    assert said + shares[2].replace(" (", " of the critical-pair rule's (") in TEXT
    ends = "{:.3f}, {:.3f} and {:.3f} ({:.4f}-{:.4f}, not separated".format(
        *(line["value"] for line in last), last[2]["low"], last[2]["high"]
    )
    assert f"Over the last 8,192 tokens these are {ends}" in TEXT
    assert last[1]["high"] < 1 < last[2]["high"]
    found = [
        round(100 * scores(f"{RUN}/{arm}")[TUNED, "prose-needle", 65536]["value"]) for arm in ("searched", *others)
    ]
    gaps = [[round(100 * line[key]) for key in ("value", "low", "high")] for line in needles]
    said = (
        "They find {} needles of 100, YaRN {} (a difference of {} points, {} to {}), the scan {} ({} points, "
        "{} to {}), the critical-pair rule {}."
    )
    assert said.format(found[0], found[1], *gaps[0], found[2], *gaps[1], found[3]) in TEXT
    assert f"the searched factors have {interval(whole[0], 3)} of YaRN's perplexity at 64k" in README
    for line, other in zip(whole[1:], ("the scan's", "the critical-pair rule's"), strict=True):
        assert f"{line['value']:.3f} of {other}" in README
    own = scores(f"{RUN}/own")[TUNED, "ratio-to-none", 8192]["value"]
    beside = arms["own", "yarn", "perplexity", 65536]["value"]
    assert f"the model has {own:.3f} of the original's perplexity at 8k" in TEXT
    assert f"perplexity at 64k is {beside:.3f} times that of the weights trained with YaRN's factors" in TEXT


def test_comparisons_of_arms_follow_from_the_summaries_of_their_samples() -> None:
    script, folder = load_script("arms"), RESULTS / RUN
    names = sorted(path.parent.name for path in folder.glob("*/sample-summaries.jsonl"))
    assert len(names) == 7
    for reference in ("yarn", "scan", "critical"):
        made = [asdict(line) for line in script.compare_arms(folder, names, reference)]
        kept = [line for line in lines(f"{RUN}/arms.jsonl") if line["reference"] == reference]
        place = itemgetter("run", "metric", "context_tokens")
        assert len(kept) == 42
        for one, other in zip(sorted(made, key=place), sorted(kept, key=place), strict=True):
            numbers = [[line.pop(key) for key in ("value", "low", "high")] for line in (one, other)]
            assert one == other
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


def test_arms_were_trained_on_the_same_windows() -> None:
    steps = [path.relative_to(RESULTS) for path in (RESULTS / RUN).glob("*/stages/2-tune*/train.jsonl")]
    windows = {tuple(line["texts_fingerprint"] for line in lines(f"{path}")) for path in steps}
    assert (len(steps), {len(each) for each in windows}, len(windows)) == (7, {100}, 1)


def test_what_a_repeated_training_changes_is_said() -> None:
    """By two of them, most of whose windows are the same."""
    changes, needles = [], []
    for arm in ("searched", "yarn"):
        first, again = (scores(f"{run}/{arm}") for run in (f"{RUN}-first", RUN))
        changes.append(value(again, "perplexity") / value(first, "perplexity") - 1)
        needles.append(round(100 * (value(first, "prose-needle") - value(again, "prose-needle"))))
        paths = [next((RESULTS / run / arm).glob("stages/2-tune*/train.jsonl")) for run in (f"{RUN}-first", RUN)]
        windows = [[line["texts_fingerprint"] for line in lines(f"{path.relative_to(RESULTS)}")] for path in paths]
        same = sum(one == other for one, other in zip(*windows, strict=True))
        assert f"Of the 100 windows {same} are the same to the token; the other {100 - same}" in TEXT
    said = "have {:.1f} and {:.1f} % more perplexity than the first, and YaRN's finds {} needles fewer"
    assert said.format(*(100 * change for change in changes), needles[1]) in TEXT


@pytest.fixture(scope="module")
def seeds() -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """The same comparisons with other seeds."""
    pairs = lines(f"{SEEDS}/arms.jsonl")
    return {(line["run"], line["reference"], line["metric"], line["context_tokens"]): line for line in pairs}


def test_other_seeds_say_the_same_of_yarn_and_of_the_critical_pair_rule(
    arms: dict[tuple[str, str, str, int], dict[str, Any]], seeds: dict[tuple[str, str, str, int], dict[str, Any]]
) -> None:
    found = {
        path.parent.name: scores(f"{SEEDS}/{path.parent.name}") for path in (RESULTS / SEEDS).glob("*/scores.jsonl")
    }
    assert sorted(found) == ["critical@1", "critical@2", "searched@1", "searched@2", "yarn@1", "yarn@2"]
    found |= {arm: scores(f"{RUN}/{arm}") for arm in ("searched", "yarn", "critical")}
    paired = seeds["searched@1", "yarn@1", "perplexity", 65536]
    assert paired["high"] < 1
    others = [paired["value"], value(found["searched@2"], "perplexity") / value(found["yarn@2"], "perplexity")]
    assert "{:.3f} and {:.3f} with two more seeds".format(*others) in README
    shares = [arms["searched", "yarn", "perplexity", 65536]["value"], *others]
    assert {round(100 * (1 - share)) for share in shares} == {4, 5}
    gaps = [
        round(100 * (value(found[f"searched{seed}"], "prose-needle") - value(found[f"yarn{seed}"], "prose-needle")))
        for seed in ("", "@1", "@2")
    ]
    lead = seeds["searched@1", "yarn@1", "prose-needle", 65536]
    assert (
        "they find {}, {} and {} needles of 100 more (for seed 1 the interval is {:.0f} to {:.0f}).".format(
            *gaps, 100 * lead["low"], 100 * lead["high"]
        )
        in TEXT
    )
    assert (
        found["searched@2"][TUNED, "prose-needle", 65536]["low"] < found["yarn@2"][TUNED, "prose-needle", 65536]["high"]
    )
    whole, last = (
        [arms["searched", "critical", metric, 65536], seeds["searched@2", "critical@2", metric, 65536]]
        for metric in ("perplexity", "perplexity-last-8192")
    )
    assert f"have {interval(whole[0])} of its perplexity with seed 0 and {interval(whole[1])} with seed 2" in TEXT
    assert "{:.3f} and {:.3f}, not separated".format(*(line["value"] for line in last)) in TEXT
    assert all(line["high"] > 1 for line in last)
    needles = [
        round(100 * value(found[f"{arm}{seed}"], "prose-needle"))
        for seed in ("", "@2", "@1")
        for arm in ("searched", "critical")
    ]
    said = "They find {} needles with seed 0, the rule {}; with seed 2 {} and {}; with seed 1 {} and {}."
    assert said.format(*needles) in TEXT
    alone = (value(found[arm], "perplexity") for arm in ("critical@1", "searched@1"))
    assert "so it is not paired: {:.2f} beside {:.2f}.".format(*alone) in TEXT
    assert {value(each, "passkey") for each in found.values()} == {1.0}


def test_comparisons_and_windows_of_other_seeds_follow_from_their_records() -> None:
    script, folder = load_script("arms"), RESULTS / SEEDS
    names = sorted(path.parent.name for path in folder.glob("*/sample-summaries.jsonl"))
    assert names.pop(0) == "critical@1", "it was trained on other windows than the other arms of its seed"
    assert names == ["critical@2", "searched@1", "searched@2", "yarn@1"]
    made = [asdict(line) for other in ("yarn", "critical") for line in script.compare_arms(folder, names, other)]
    assert made == lines(f"{SEEDS}/arms.jsonl")
    trained = {
        path.parts[-4]: tuple(line["texts_fingerprint"] for line in lines(f"{path.relative_to(RESULTS)}"))
        for path in folder.glob("*/stages/2-tune*/train.jsonl")
    }
    assert trained["searched@1"] == trained["yarn@1"] != trained["searched@2"]
    assert trained["critical@1"] not in (trained["searched@1"], trained["searched@2"])
    assert trained["searched@2"] == trained["yarn@2"] == trained["critical@2"]
