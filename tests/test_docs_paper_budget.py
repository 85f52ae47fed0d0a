"""What the docs say of the paper's whole budget on the bundled model follows from results/nano-paper."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from documents import RESULTS, lines, scores, words
from recipe_scripts import load_script
from tables_cells import Records

from longrope.runs.run_dir import RunDir

README, TEXT, LOG = words("README.md"), words("docs/results.md"), words("docs/log.md")
TARGET = 2048


def passes_of(run: str) -> int:
    method = f"longrope-{run.partition('-')[0]}"
    own = (trial for trial in lines(f"nano-paper/{run}/trials.jsonl") if trial["method"] == method)
    return int(sum(trial["token_passes"] for trial in own) // TARGET)


def beside(run: str, reference: str) -> tuple[str, int]:
    """The ratio of perplexities at the target with its interval, and how many passkeys of 40 more are found."""
    made = load_script("arms").compare_arms(RESULTS / "nano-paper", [run, reference], reference)
    pairs = {(line.metric, line.context_tokens): line for line in made}
    ratio, found = (pairs[metric, TARGET] for metric in ("perplexity", "passkey"))
    return f"{ratio.value:.4f} ({ratio.low:.4f}-{ratio.high:.4f})", round(40 * found.value)


def pairs_of(run: str) -> dict[tuple[str, int], dict[str, Any]]:
    made = [line for line in lines("nano-paper/arms.jsonl") if line["run"] == run]
    return {(line["metric"], line["context_tokens"]): line for line in made}


def test_comparisons_follow_from_the_summaries() -> None:
    made = load_script("arms").compare_arms(
        RESULTS / "nano-paper",
        ["evolution", "evolution-critical", "gradient-floor", "cma", "cma-tail", "gradient"],
        "gradient",
    )
    assert [asdict(line) for line in made] == lines("nano-paper/arms.jsonl")


def test_the_budget_is_the_papers() -> None:
    trials = [trial for trial in lines("nano-paper/evolution/trials.jsonl") if trial["method"] == "longrope-evolution"]
    kinds = Counter(trial["kind"] for trial in trials)
    assert kinds["search"] == 1344
    held_out = {trial["step"]: trial["loss_nats"] for trial in trials if trial["kind"] == "validation"}
    assert min(held_out, key=held_out.__getitem__) == 30
    assert "held-out loss was lowest after 30 of the 40 generations" in LOG


def test_the_evolution_leads_and_costs_more() -> None:
    pairs = pairs_of("evolution")
    whole, short = (
        "{value:.4f} ({low:.4f}-{high:.4f})".format(**pairs["perplexity", n]) for n in (TARGET, TARGET // 8)
    )
    assert f"{whole} of its perplexity at 2,048 tokens, {short} at 256, paired" in TEXT
    gap = pairs["passkey", TARGET]
    found = [
        round(40 * scores(f"nano-paper/{run}")[method, "passkey", TARGET]["value"])
        for run, method in (("evolution", "longrope-evolution"), ("gradient", "scan"))
    ]
    ends = [round(100 * gap[key]) for key in ("value", "low", "high")]
    said = "{} passkeys of 40 instead of {} (a difference of {} points, {} to {})"
    assert said.format(*found, *ends) in TEXT
    assert pairs["prose-needle", TARGET]["low"] < 0 < pairs["prose-needle", TARGET]["high"]
    times = round(passes_of("evolution") / passes_of("gradient"))
    assert f"It takes {times} times the window passes." in TEXT
    percent = round(100 * (1 - pairs["perplexity", TARGET]["value"]))
    again = round(100 * (1 - pairs_of("evolution-critical")["perplexity", TARGET]["value"]))
    said = f"{times} times the passes, has {percent} % less perplexity than the gradient search, in a second run"
    assert f"On the bundled model the evolution with the paper's whole budget, {said} {again} %." in README


def test_a_second_evolution_gains_less() -> None:
    found = scores("nano-paper/evolution-critical")["longrope-evolution", "passkey", TARGET]["value"]
    ratio, _ = beside("evolution-critical", "gradient")
    assert f"it has {ratio} of the gradient search's perplexity, and {round(40 * found)} passkeys;" in TEXT
    assert f"{beside('evolution-critical', 'evolution')[0]} of the first evolution's perplexity." in TEXT
    assert passes_of("evolution-critical") == 6796


def test_the_gradient_search_kept_factors_of_its_scan() -> None:
    factors = RunDir(RESULTS / "nano-paper/gradient").read_factors()
    assert factors is not None
    chosen = factors.factor_sets[-1]
    assert (chosen.method, chosen.chosen_by) == ("scan", "longrope-gradient")


def test_why_it_kept_them_is_said() -> None:
    trials = {
        run: [x for x in lines(f"nano-paper/{run}/trials.jsonl") if x["method"] == f"longrope-{run}"]
        for run in ("gradient", "evolution")
    }

    def least(run: str, kind: str, *origins: str) -> float:
        found = [x["loss_nats"] for x in trials[run] if x["kind"] == kind and (not origins or x["origin"] in origins)]
        return float(min(found))

    held_out = (
        least("gradient", "validation", "scan"),
        least("gradient", "validation"),
        least("evolution", "validation"),
    )
    assert (
        "fell from {:.3f} nats, after its scan, to {:.3f}, that of the evolution to {:.3f}.".format(*held_out) in TEXT
    )
    answers = [least("gradient", "needles", origin) for origin in ("scan", "gradient")]
    said = "({:.3f} nats, the descent's {:.3f}, the evolution's {:.3f})"
    assert said.format(*answers, least("evolution", "needles")) in TEXT


def test_what_a_scanned_floor_brings() -> None:
    pairs = pairs_of("gradient-floor")
    ratio = "{value:.4f} ({low:.4f}-{high:.4f})".format(**pairs["perplexity", TARGET])
    assert f"{ratio} of the default's perplexity at 2,048 tokens and finds as many passkeys" in TEXT
    assert pairs["passkey", TARGET]["value"] == 0
    assert pairs["prose-needle", TARGET]["low"] < 0 < pairs["prose-needle", TARGET]["high"]
    costs = Records(RESULTS).content("nano-paper/gradient-floor/costs.json")
    search = next(cost for cost in costs if cost["method"] != "ntk-scan")
    assert f"in {search['token_passes'] // TARGET} window passes" in TEXT
    ratio, more = beside("evolution", "gradient-floor")
    assert f"The first evolution has {ratio} of the perplexity with this floor, and {more} passkeys more." in TEXT
    ratio, more = beside("gradient-floor", "evolution-critical")
    assert f"has {ratio} of the second evolution's perplexity, and {more} passkeys more." in TEXT
    own, floor = (RunDir(RESULTS / f"nano-paper/{run}").read_factors() for run in ("evolution", "gradient-floor"))
    assert own
    assert floor
    lambdas, pair = own.factor_sets[-1].lambdas, 13  # the first that turns less than once
    assert "{:.2f} and {:.2f} at this pair and the next one".format(*lambdas[pair : pair + 2]) in TEXT
    assert f"and {lambdas[pair + 2]:.2f} or more from there on" in TEXT
    lambdas = floor.factor_sets[-1].lambdas
    assert max(lambdas[: pair + 2]) < 4
    assert min(lambdas[pair + 2 :]) >= 8


def test_the_factors_on_other_text() -> None:
    """By the summaries of the samples; the factors are those that were searched for the table above."""
    arms = ["gradient", "gradient-floor", "cma", "cma-tail", "evolution", "evolution-critical"]
    folder = RESULTS / "nano-paper-other"
    for arm in arms:
        own = RunDir(folder / arm).read_factors()
        assert own == RunDir(RESULTS / "nano-paper" / arm).read_factors()
        assert own
        measured = {line["factors_fingerprint"] for line in lines(f"nano-paper-other/{arm}/scores.jsonl")}
        assert measured == {own.fingerprint}
    compared = load_script("arms").compare_arms
    made = [asdict(line) for reference in ("gradient", "evolution") for line in compared(folder, arms, reference)]
    assert made == lines("nano-paper-other/arms.jsonl")
    found = {(x["run"], x["metric"]): x for x in made if (x["reference"], x["context_tokens"]) == ("gradient", TARGET)}

    def said(run: str, metric: str = "perplexity-last-1024") -> str:
        return "{value:.4f} ({low:.4f}-{high:.4f})".format(**found[run, metric])

    assert f"{said('gradient-floor', 'perplexity')} of the default's perplexity over all tokens of 2,048" in TEXT
    assert f"but {said('gradient-floor')} over the last half" in TEXT
    assert f"stays ahead: {said('evolution')} over the last half" in TEXT
    more = {run: [round(100 * found[run, "passkey"][end]) for end in ("value", "low", "high")] for run in arms[1:]}
    assert "{} passkeys more of 100 (a difference of {} to {} points)".format(*more["gradient-floor"]) in TEXT
    assert "{} passkeys more of 100 ({} to {} points)".format(*more["evolution"]) in TEXT


def test_what_a_scanned_floor_costs() -> None:
    made = lines("search-ablations/nano.jsonl")
    found = {
        kind: {line["seed"]: line for line in made if line["variant"] == f"descent from scan{kind}"}
        for kind in ("", ", floor scanned")
    }
    gains = sorted(found[""][seed]["loss"] - found[", floor scanned"][seed]["loss"] for seed in range(3))
    assert f"with each of three seeds, by {gains[0]:.3f} to {gains[-1]:.3f} nats" in TEXT
    answers = {kind: [own[seed]["answers"] for seed in range(3)] for kind, own in found.items()}
    assert all(more > less for less, more in zip(answers[""], answers[", floor scanned"], strict=True))
    means = [sum(answers[kind]) / 3 for kind in (", floor scanned", "")]
    assert "in the mean {:.3f} nats instead of {:.3f}".format(*means) in TEXT


def test_what_knots_bring() -> None:
    """Ratios and passkeys of the search by CMA-ES, on both texts."""
    compared = load_script("arms").compare_arms

    def pair(folder: str, run: str, reference: str, metric: str = "perplexity") -> Any:
        made = compared(RESULTS / folder, [run, reference], reference)
        return next(x for x in made if (x.metric, x.context_tokens) == (metric, TARGET))

    def share(*which: str, form: str = "{:.4f} ({:.4f}-{:.4f})") -> str:
        line = pair(*which)
        return form.format(line.value, line.low, line.high)

    def points(folder: str, run: str, reference: str) -> list[int]:
        line = pair(folder, run, reference, "passkey")
        return [round(100 * end) for end in (line.value, line.low, line.high)]

    first, other, tail = "nano-paper", "nano-paper-other", "perplexity-last-1024"
    assert f"It has {share(first, 'cma', 'gradient')} of the default's on the first text" in TEXT
    assert f"and {share(other, 'cma', 'gradient')} on the other one" in TEXT
    assert "finds {} passkeys more of 100 ({} to {} points)".format(*points(other, "cma", "gradient")) in TEXT
    alike = share(other, "cma", "gradient", tail, form="({:.4f}, {:.4f}-{:.4f})")
    assert f"not separated from the default {alike}. With the last half scored it is ahead there, too:" in TEXT
    assert f"too: {share(other, 'cma-tail', 'gradient', tail)}." in TEXT
    whole = [share(other, "cma", reference) for reference in ("evolution", "evolution-critical")]
    assert "has {} of the first run's perplexity and {} of the second's on the other text".format(*whole) in TEXT
    found = [points(other, "cma", name)[0] for name in ("evolution", "evolution-critical")]
    assert f"with {-found[0]} passkeys fewer and {found[1]} more" in TEXT
    for run in ("cma", "cma-tail"):
        assert pair(other, run, "gradient", "prose-needle").low < 0 < pair(other, run, "gradient", "prose-needle").high
        assert pair(first, run, "gradient", "passkey").low < 0
        assert all(pair(text, run, name).high < 1 for text in (first, other) for name in ("gradient", "gradient-floor"))
    assert passes_of("cma") == passes_of("cma-tail") == 506
    times = f"{506 / passes_of('gradient'):.1f} times"
    assert f"for {times} the passes" in TEXT
    percent = round(100 * (1 - pair(other, "cma", "gradient").value))
    assert f"CMA-ES (`--method cma`, {times} the passes) has {percent} % less." in README
    assert round(passes_of("evolution") / 506) == 13
