"""The verdict of a run: by records written by hand, and by those of published runs, whose numbers stand here."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from longrope.registry import TUNED
from longrope.report import describe_outcome
from longrope.report.contents import read_run
from longrope.runs.records import Score, append_records
from longrope.runs.run_dir import RunDir
from longrope.verdict import Verdict, conclude, describe_verdict

RESULTS = Path(__file__).parents[1] / "results"
GRADIENT: dict[str, Any] = {"method": "longrope-gradient", "chosen_by": "longrope-gradient"}


def score(metric: str, value: float, low: float, high: float, tokens: int = 512, **fields: Any) -> Score:
    known: dict[str, Any] = {"method": "yarn", "num_tokens": 100, "num_windows": 3, "seed": 0, "model": "pico"}
    known |= {"texts_fingerprint": metric, "factors_fingerprint": "f", "seconds": 1.0, "context_tokens": tokens}
    return Score(metric, value, low, high, **(known | fields))


BASELINES = [score("perplexity", 5.0, 4.0, 6.0), score("perplexity", 7.0, 6.0, 8.0, method="pi")]
FOUND = score("perplexity", 4.5, 3.5, 5.5, **GRADIENT)
ORIGINAL = score("perplexity", 100.0, 80.0, 120.0, method="none")


def pair(low: float, value: float, high: float, kind: str = "ratio-to-", other: str = "yarn") -> Score:
    return score(f"{kind}{other}", value, low, high, **GRADIENT)


def outcomes(verdict: Verdict | None) -> dict[str, str]:
    assert verdict
    return {each.metric: each.outcome for each in verdict.comparisons}


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [(0.85, 0.9, 0.95, "ahead"), (1.01, 1.1, 1.2, "behind"), (0.98, 0.99, 1.01, "alike"), (1.0, 1.1, 1.2, "alike")],
)
def test_the_paired_interval_decides(low: float, value: float, high: float, outcome: str) -> None:
    """Not the overlap of the methods' own intervals, which is large here."""
    verdict = conclude([*BASELINES, FOUND, pair(low, value, high)])
    assert outcomes(verdict) == {"perplexity": outcome}
    assert verdict
    said = describe_verdict(verdict)
    expected = {
        "ahead": "LongRoPE, gradient against the best baseline, YaRN: LongRoPE, gradient is ahead in perplexity [",
        "behind": "LongRoPE, gradient against the best baseline, YaRN: the baseline is ahead in perplexity [",
        "alike": "the best baseline, YaRN: there is no difference beyond the intervals in perplexity [",
    }
    assert expected[outcome] in said
    assert f"[4.5 against 5, ratio {value:.4g} ({low:.4g}-{high:.4g})]" in said


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.1, 0.5, "ahead"), (-0.5, -0.1, "behind"), (-0.1, 0.5, "alike")]
)
def test_more_passkeys_are_better(low: float, high: float, outcome: str) -> None:
    keys = pair(low, (low + high) / 2, high, "difference-to-")
    verdict = conclude([*BASELINES, FOUND, pair(0.8, 0.9, 1.1), keys])
    assert outcomes(verdict) == {"perplexity": "alike", "passkey": outcome}


def test_without_a_pair_the_intervals_of_both_decide() -> None:
    """And the sentence says that they are not paired; other texts are not compared."""
    needles = [score("needle", 0.2, 0.1, 0.3), score("needle", 0.6, 0.4, 0.8, **GRADIENT)]
    verdict = conclude([*BASELINES, FOUND, *needles])
    assert outcomes(verdict) == {"perplexity": "alike", "needle": "ahead"}
    assert verdict
    assert "is ahead in needles found [60% against 20%, unpaired]" in describe_verdict(verdict)
    others = [replace(each, texts_fingerprint=each.method) for each in needles]
    assert outcomes(conclude([*BASELINES, FOUND, *others])) == {"perplexity": "alike"}


def test_pairs_of_other_measures_decide_theirs() -> None:
    last = [score("last-tokens-63", 3.0, 2.0, 4.0), score("last-tokens-63", 2.0, 1.0, 3.0, **GRADIENT)]
    prose = [score("prose-needle", 0.9, 0.8, 1.0), score("prose-needle", 0.6, 0.5, 0.7, **GRADIENT)]
    pairs = [pair(0.6, 0.7, 0.8, "last-tokens-ratio-to-"), pair(-0.4, -0.3, -0.1, "prose-needle-difference-to-")]
    last += [score("longppl-by-big", 3.0, 2.0, 4.0), score("longppl-by-big", 3.1, 2.0, 4.0, **GRADIENT)]
    pairs.append(pair(0.9, 1.1, 1.2, "longppl-ratio-to-"))
    kinds = [score("prose-needle-name", 0.9, 0.8, 1.0), score("prose-needle-name", 0.1, 0.0, 0.2, **GRADIENT)]
    verdict = conclude([*BASELINES, FOUND, *last, *prose, *pairs, *kinds])
    assert outcomes(verdict) == {
        "perplexity": "alike",
        "last-tokens-": "ahead",
        "longppl-by-": "alike",
        "prose-needle": "behind",
    }
    assert verdict
    said = describe_verdict(verdict)
    assert "ahead in perplexity of the same last 63 tokens [2 against 3, ratio 0.7 (0.6-0.8)]; the baseline" in said
    assert "is ahead in needles in prose found [60% against 90%, difference -30% (-40% to -10%)]" in said


def test_the_best_of_what_was_found_is_compared_with_the_best_baseline() -> None:
    evolved: dict[str, Any] = {"method": "longrope-evolution", "chosen_by": "longrope-evolution"}
    other = [score("perplexity", 4.0, 3.0, 5.0, **evolved), score("ratio-to-yarn", 0.8, 0.7, 0.9, **evolved)]
    verdict = conclude([*BASELINES, FOUND, pair(0.85, 0.9, 0.95), *other])
    assert verdict
    assert (verdict.ours.method, verdict.theirs.method) == ("longrope-evolution", "yarn")


def test_the_values_beside_a_paired_comparison_are_of_the_same_texts() -> None:
    """Also where a method was measured on other texts later."""
    later = replace(FOUND, value=9.0, low=8.0, high=10.0, texts_fingerprint="others")
    verdict = conclude([*BASELINES, FOUND, pair(0.85, 0.9, 0.95), later])
    assert verdict
    assert "perplexity [4.5 against 5, ratio 0.9 (0.85-0.95)]" in describe_verdict(verdict)


def test_a_baseline_of_other_texts_is_not_the_best_one() -> None:
    """It was measured earlier, on easier text: PI is the best of those on the text of both."""
    easier = score("perplexity", 1.5, 1.0, 2.0, texts_fingerprint="easier")
    verdict = conclude([easier, BASELINES[1], FOUND])
    assert verdict
    assert (verdict.theirs.method, verdict.comparisons[0].theirs) == ("pi", BASELINES[1])
    again = [replace(one, texts_fingerprint="again", value=9.0) for one in (easier, BASELINES[1], FOUND)]
    latest = conclude([easier, BASELINES[1], FOUND, *again])
    assert latest
    assert [each.value for each in (latest.comparisons[0].ours, latest.comparisons[0].theirs) if each] == [9.0, 9.0]


def test_a_pair_of_earlier_texts_does_not_stand_beside_later_values() -> None:
    """A comparison pairs on one text; measured again one by one on another, nothing is paired."""
    earlier = [replace(one, texts_fingerprint="a") for one in (BASELINES[0], FOUND, pair(0.88, 0.89, 0.9))]
    yarn, found = (
        replace(one, texts_fingerprint="b", value=x, low=x - 0.1, high=x + 0.1)
        for one, x in ((BASELINES[0], 10.0), (FOUND, 12.0))
    )
    verdict = conclude([*earlier, yarn, found])
    assert verdict
    (only,) = verdict.comparisons
    assert (only.pair, only.outcome, only.ours, only.theirs) == (None, "behind", found, yarn)
    paired = conclude([*earlier, replace(yarn, metric="passkey"), replace(found, metric="passkey")])
    assert paired
    assert paired.comparisons[0].pair == earlier[2], "another metric of other texts changes nothing"


def test_what_it_costs_is_by_the_last_score() -> None:
    """On other texts, or more of them."""
    retained = [score("ratio-to-none", x, x, x, 64, texts_fingerprint=f"{x}", **GRADIENT) for x in (1.068, 1.027)]
    verdict = conclude([*BASELINES, FOUND, *retained])
    assert verdict
    assert verdict.short
    assert verdict.short.ratio == 1.027
    short = [score("perplexity", 3.0, 2.0, 4.0, 64, texts_fingerprint=one, **GRADIENT) for one in ("a", "b")]
    original = [
        score("perplexity", x, 1.0, 4.0, 64, texts_fingerprint=one, method="none")
        for one, x in zip("ab", (1.5, 2.0), strict=True)
    ]
    verdict = conclude([*BASELINES, FOUND, *short, *original])
    assert verdict
    assert verdict.short
    assert verdict.short.ratio == 1.5


def test_a_scan_is_a_baseline() -> None:
    scanned: dict[str, Any] = {"method": "ntk-scan", "chosen_by": "ntk-scan"}
    assert conclude([*BASELINES, score("perplexity", 1.0, 1.0, 1.0, **scanned)]) is None


def test_without_baselines_the_original_model_is_what_is_compared_with() -> None:
    verdict = conclude([ORIGINAL, FOUND])
    assert verdict
    said = describe_verdict(verdict)
    assert said.startswith("At 512 tokens, LongRoPE, gradient against the original model: LongRoPE, gradient is ahead")
    assert "; no baseline was measured; " in said


def test_a_formula_in_the_place_of_a_search_is_compared_with_the_other_baselines(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "recipe.toml").write_text('model = "m"\ntarget_tokens = 512\ndata = ["x"]\n[search]\nmethod = "pi"\n')
    append_records(run.scores, [*BASELINES, ORIGINAL])
    assert describe_outcome(run).startswith("At 512 tokens, PI against the best baseline, YaRN: there is no difference")
    (tmp_path / "recipe.toml").write_text('model = "m"\ntarget_tokens = 512\ndata = ["x"]\n')
    assert describe_outcome(run) == "", "no search has found anything yet"


def test_a_formula_with_another_attention_factor_is_no_baseline(tmp_path: Path) -> None:
    """It is what the run found, and is compared with the formula itself, too."""
    run, recipe = RunDir(tmp_path), 'model = "m"\ntarget_tokens = 512\ndata = ["x"]\n[search]\nmethod = "yarn"\n'
    (tmp_path / "recipe.toml").write_text(f"{recipe}attention_factor = 1.3\n")
    append_records(run.scores, [*BASELINES, ORIGINAL, replace(FOUND, method="yarn+attention factor 1.3", chosen_by="")])
    said = describe_outcome(run)
    assert said.startswith("At 512 tokens, YaRN + attention factor 1.3 against the best baseline, YaRN: ")


def test_nothing_to_compare_has_no_verdict() -> None:
    for scores in ([], [FOUND], BASELINES, [replace(FOUND, context_tokens=64), *BASELINES]):
        assert conclude(scores) is None


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "outcome"),
    [
        ("last-tokens-63", (4.0, 3.0, 4.5), (6.0, 5.0, 7.0), "ahead"),
        ("longppl-by-big", (6.0, 5.0, 7.0), (4.0, 3.0, 4.5), "behind"),
        ("prefix-perplexity", (4.0, 3.0, 4.5), (6.0, 5.0, 7.0), "ahead"),
        ("position-perplexity", (6.0, 5.0, 7.0), (4.0, 3.0, 4.5), "behind"),
        ("many-passkeys", (0.9, 0.8, 1.0), (0.2, 0.1, 0.3), "ahead"),
        ("chat-needle", (0.2, 0.1, 0.3), (0.9, 0.8, 1.0), "behind"),
        ("many-shot-4", (0.4, 0.3, 0.5), (0.45, 0.35, 0.55), "alike"),
        ("planted-summary", (0.9, 0.8, 1.0), (0.2, 0.1, 0.3), "ahead"),
    ],
)
def test_whatever_was_measured_has_a_verdict(
    metric: str, ours: tuple[float, float, float], theirs: tuple[float, float, float], outcome: str
) -> None:
    """By other metrics where that is all there is; they change nothing where there are those of most runs."""
    other = [score(metric, *ours, **GRADIENT), score(metric, *theirs, method="none")]
    verdict = conclude(other)
    assert verdict
    ((name, found),) = outcomes(verdict).items()
    assert (metric.startswith(name), found) == (True, outcome)
    assert describe_verdict(verdict).startswith("At 512 tokens, LongRoPE, gradient against the original model: ")
    always = {name: outcome} if name in ("last-tokens-", "longppl-by-") else {}
    assert outcomes(conclude([*other, ORIGINAL, FOUND])) == {**always, "perplexity": "ahead"}


SHORT = [score("perplexity", 2.2, 2.0, 2.4, 64, **GRADIENT), score("perplexity", 2.0, 1.8, 2.2, 64, method="none")]


def test_what_it_costs_at_short_lengths() -> None:
    """By the exported checkpoint, else by paired retention, else by both perplexities."""
    scores = [*BASELINES, FOUND, pair(0.85, 0.9, 0.95)]
    retained = score("ratio-to-none", 1.05, 1.02, 1.08, 64, **GRADIENT)
    export = {
        "factor_sets": "two",
        "short_tokens": 48,
        "perplexity_original": 2.0,
        "perplexity_single": 9.0,
        "perplexity_two": 2.5,
    }
    said = [
        describe_verdict(verdict)
        for verdict in (
            conclude(scores),
            conclude([*scores, *SHORT]),
            conclude([*scores, *SHORT, retained]),
            conclude([*scores, replace(retained, low=0.99)]),
            conclude([*scores, *SHORT, retained], export),
            conclude([*scores, *SHORT], {"factor_sets": "single", "target_window": 512}),
            conclude(
                [replace(each, method=TUNED, chosen_by="") if each in scores[-2:] else each for each in scores], export
            ),
            conclude([*scores, replace(FOUND, value=5.5, method=TUNED, chosen_by="")], export),  # behind the untrained
        )
        if verdict
    ]
    within, trained = "beyond the interval", "what the same weights have with the model's own RoPE"
    assert [sentence.rpartition("; ")[2] for sentence in said] == [
        "what it costs at short lengths was not measured.",
        "perplexity at 64 tokens differs from the original model's by +10.0% (unpaired).",
        "perplexity at 64 tokens differs from the original model's by +5.0% (+2.0% to +8.0%).",
        f"perplexity at 64 tokens does not differ from the original model's {within} (+5.0%, -1.0% to +8.0%).",
        "perplexity of the exported checkpoint at 48 tokens differs from the original model's by +25.0%.",
        "perplexity at 64 tokens differs from the original model's by +10.0% (unpaired).",
        *[f"perplexity of the exported checkpoint at 48 tokens differs from {trained} by +25.0%."] * 2,
    ]


def test_a_run_without_scores_has_no_sentence(tmp_path: Path) -> None:
    assert describe_outcome(RunDir(tmp_path)) == ""


def test_one_sentence_of_one_line() -> None:
    verdict = conclude([*BASELINES, FOUND, pair(0.8, 0.9, 1.1), pair(0, 0.1, 0.2, "difference-to-"), *SHORT])
    assert verdict
    said = describe_verdict(verdict)
    assert said.endswith(".")
    assert "\n" not in said
    assert ". " not in said
    assert set(asdict(verdict)) == {"context_tokens", "ours", "theirs", "comparisons", "short"}


PUBLISHED = {
    "gemma3-64k": (
        "At 65,536 tokens, LongRoPE, gradient against the best baseline, Self-Extend: the baseline is ahead in "
        "perplexity [10.93 against 10.87, ratio 1.006 (1.004-1.007)] and passkeys found [60% against 100%, difference "
        "-40% (-69% to -1%)]; there is no difference beyond the intervals in needles found [75% against 90%, "
        "unpaired]; perplexity at 8,192 tokens differs from the original model's by +0.5% (+0.4% to +0.5%)."
    ),
    "gemma3-128k": (
        "At 131,072 tokens, LongRoPE, gradient against the best baseline, Self-Extend: the baseline is ahead in "
        "perplexity [10.74 against 10.61, ratio 1.012 (1.007-1.016)]; there is no difference beyond the intervals in "
        "passkeys found [80% against 90%, difference -10% (-33% to +12%)] and needles found [75% against 90%, "
        "unpaired]; perplexity at 32,768 tokens differs from the original model's by +2.0% (+1.6% to +2.4%)."
    ),
    "smollm2-64k": (
        "At 65,536 tokens, LongRoPE, gradient against the best baseline, YaRN: LongRoPE, gradient is ahead in "
        "perplexity [21.44 against 29.48, ratio 0.7275 (0.7219-0.7333)]; there is no difference beyond the intervals "
        "in passkeys found [88% against 66%, unpaired]; perplexity at 8,192 tokens differs from the original model's "
        "by +14.4% (unpaired)."
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_verdicts_of_published_runs(name: str) -> None:
    """Their numbers are in the records and in docs/results.md."""
    contents = read_run(RunDir(RESULTS / name))
    verdict = conclude(contents.scores, contents.export)
    assert verdict
    assert describe_verdict(verdict) == PUBLISHED[name]


def test_the_page_begins_with_the_sentence(tmp_path: Path) -> None:
    from longrope.report import write_report

    run = RunDir(tmp_path)
    append_records(run.scores, [*BASELINES, FOUND, pair(0.85, 0.9, 0.95)])
    sentence = describe_outcome(run)
    page = write_report(run).read_text(encoding="utf-8")
    assert sentence.startswith("At 512 tokens, LongRoPE, gradient against the best baseline, YaRN: ")
    assert page.index("<h1>") < page.index(sentence.replace("'", "&#39;")) < page.index('<p class="lead">')


def test_a_model_card_begins_with_the_sentence_of_the_page(tmp_path: Path) -> None:
    """With what short texts cost in the checkpoint; and a card without scores has none."""
    import pico

    from longrope.exports import ExportReport, Origin, dump_report
    from longrope.exports.card import format_card
    from longrope.exports.short_cost import ShortCost
    from longrope.rope import RescaleFactors

    model = pico.make_model()
    factors = RescaleFactors((1.0, 1.5, 3.0, 4.0), 512, model.spec.fingerprint, method="longrope-gradient")
    own: dict[str, Any] = {"model": model.name, "factors_fingerprint": factors.fingerprint}
    scores = [*BASELINES, *(replace(each, **own) for each in (FOUND, pair(0.85, 0.9, 0.95)))]
    report = ExportReport("single", 512, 64, 0.001, 0.002, 0.001, 0, 0.0, "5.23.0", ShortCost(64, 2.0, 2.1, None))
    run = RunDir(tmp_path)
    append_records(run.scores, scores)
    run.export_report.write_text(dump_report(report))
    card = format_card(model, factors, report, Origin("pico"), scores)
    sentence = describe_outcome(run)
    assert sentence.endswith("of the exported checkpoint at 64 tokens differs from the original model's by +5.0%.")
    shown = card.replace("\\", "")  # Markdown's brackets are escaped there
    assert f"context window 512 tokens\n\n{sentence}\n\nThe weights of" in shown
    assert "against the" not in format_card(model, factors, report, Origin("pico"), [])
