"""What the docs say of Gemma-3-270M follows from its records."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.engine.memory import estimate_memory
from longrope.models import LanguageModel, read_tables
from longrope.runs.records import Score, read_records

ROOT = Path(__file__).parent.parent
LOG = " ".join((ROOT / "docs/log.md").read_text().split())
RESULTS = " ".join((ROOT / "docs/results.md").read_text().split())
WRONG, WRONG_LONGER = "gemma3-64k-wrong-tokenizer", "gemma3-128k-wrong-tokenizer"
COSTS = json.loads((ROOT / f"results/{WRONG_LONGER}/costs.json").read_text())
PERFORMANCE = " ".join((ROOT / "docs/performance.md").read_text().split())
BASELINES = ("pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical", "ntk-scan")


COUNTED = {"longrope-gradient": (6, 15), "ntk-scan": (8, 13), "pi": (10, 14), "self-extend": (10, 18)}  # of 10 and 20
AT_128K = {
    "longrope-gradient": "the gradient search",
    "longrope-evolution": "the evolution",
    "ntk-scan": "the scan of base and attention factor",
}
Scores = dict[tuple[str, str, int], Score]


def scores_of(run: str) -> Scores:
    found = read_records(ROOT / "results" / run / "scores.jsonl", Score)
    return {(score.method, score.metric, score.context_tokens): score for score in found}


def test_at_64k_a_search_gains_nothing_over_two_numbers() -> None:
    scores = scores_of("gemma3-64k")
    shares = {method: score for (method, metric, _), score in scores.items() if metric == "ratio-to-self-extend"}
    ours, scan = shares["longrope-gradient"], shares["ntk-scan"]
    assert f"{ours.value:.4f} ({ours.low:.4f}-{ours.high:.4f}) of Self-Extend's perplexity" in RESULTS
    assert f"factor {scan.value:.4f} ({scan.low:.4f}-{scan.high:.4f})" in RESULTS
    factors = set(shares) - {"none", "ntk", "dynamic-ntk", "dca", "jet-long"}
    assert min(shares[method].value for method in factors) == scan.value
    assert all(shares[method].value / scan.value < 1.01 for method in factors)
    assert shares["dca"].high < scan.value
    costs = [scores["longrope-gradient", "ratio-to-none", length].value for length in (8192, 32768)]
    assert [round(100 * (cost - 1), 1) for cost in costs] == [0.5, 0.5]
    answered = {
        method: tuple(
            round(scores[method, metric, length].value * scores[method, metric, length].num_windows)
            for metric in ("passkey", "needle")
        )
        for method, length in {**dict.fromkeys(COUNTED, 65536), "none": 32768}.items()
    }
    assert answered == COUNTED | {"none": (7, 17)}
    difference = scores["longrope-gradient", "difference-to-self-extend", 65536]
    assert [round(-100 * x) for x in (difference.value, difference.high, difference.low)] == [40, 1, 69]


def test_the_log_has_the_numbers_with_the_wrong_tokenizer() -> None:
    scores = scores_of(WRONG)
    paired = scores["longrope-gradient", "ratio-to-ntk-scan", 65536]
    assert paired.low < 1 < paired.high
    assert f"{paired.value:.4f} of the scan's ({paired.low:.3f}-{paired.high:.3f})" in LOG
    tail = [scores[method, "perplexity-last-32768", 65536].value for method in ("longrope-gradient", "ntk-scan")]
    assert f"over the last half of the window {tail[0] / tail[1]:.3f}" in LOG
    others = [scores[method, "ratio-to-ntk-scan", 65536] for method in BASELINES if method != "ntk-scan"]
    assert all(score.low > paired.high for score in others)


def test_needles_are_counted() -> None:
    scores = scores_of(WRONG)

    def found(method: str, length: int = 65536) -> int:
        score = scores[method, "needle", length]
        assert score.num_windows == 20
        return round(20 * score.value)

    nine = {found(method) for method in ("ntk-critical", "yarn", "longrope-evolution")}
    assert nine == {9}
    counts = f"{found('longrope-gradient')} of 20 by the searched factors, 9 by NTK by critical dimension, YaRN and the"
    assert f"{counts} evolution, {found('ntk-scan')} by the scan" in LOG
    assert f"found by the original in {found('none', 32768)} of 20 texts" in LOG


def test_at_128k_the_searched_factors_are_ahead_of_all_factors() -> None:
    scores = scores_of("gemma3-128k")
    shares = {method: score for (method, metric, _), score in scores.items() if metric == "ratio-to-self-extend"}
    factors = set(shares) - {"none", "ntk", "dynamic-ntk", "dca", "jet-long"}
    assert sorted(factors, key=lambda method: shares[method].value)[:3] == list(AT_128K)
    for method, words in AT_128K.items():
        share = shares[method]
        ends = f"({share.low:.4f}-{share.high:.4f})"
        assert f"{words} {share.value:.4f} {ends}" in RESULTS
    near = {method for method in factors if shares[method].low < shares["longrope-gradient"].high}
    assert near == {*AT_128K, "critical", "ntk-critical"}, "the five whose intervals overlap"
    for method, words in (
        ("critical", "the critical-pair rule"),
        ("ntk-critical", "NTK by critical dimension"),
        ("yarn", "YaRN"),
    ):
        assert f"{words} {shares[method].value:.4f}" in RESULTS
    assert shares["dca"].value < shares["longrope-gradient"].value
    cost = scores["longrope-gradient", "ratio-to-none", 32768].value
    assert f"At 32k the factors of the gradient search cost {100 * (cost - 1):.1f} %" in RESULTS

    def found(method: str, length: int = 131072) -> tuple[int, int]:
        passkeys, needles = (round(20 * scores[method, metric, length].value) for metric in ("passkey", "needle"))
        return passkeys, needles

    assert "{} of 20 passkeys and {} of 20 needles at 128k, NTK".format(*found("longrope-gradient")) in RESULTS
    others = [*found("ntk-critical"), *found("pi"), *found("self-extend")]
    assert "NTK by critical dimension {} and {}, PI {} and {}, Self-Extend {} and {}".format(*others) in RESULTS
    assert "In 32k the original finds {} and {}. An earlier".format(*found("none", 32768)) in RESULTS


def test_at_128k_a_formula_won_with_the_wrong_tokenizer() -> None:
    found = read_records(ROOT / f"results/{WRONG_LONGER}/scores.jsonl", Score)
    paired = {score.method: score for score in found if score.metric == "ratio-to-ntk-critical"}
    ours = paired["longrope-gradient"]
    assert ours.low > 1
    share = f"{ours.value:.4f} of its perplexity ({ours.low:.4f}-{ours.high:.4f})"
    assert share in LOG
    assert all(score.low > ours.high for name, score in paired.items() if name in BASELINES and name != "ntk-critical")
    keys = {score.method: score.value for score in found if (score.metric, score.context_tokens) == ("passkey", 131072)}
    assert {name for name, share in keys.items() if share == 1} == {"longrope-evolution", "pi"}
    held_out = {line["method"]: line["validation_loss_nats"] for line in COSTS}
    assert f"({held_out['longrope-gradient']:.4f} nats, {held_out['ntk-scan']:.4f})" in LOG


def test_the_pass_over_a_million_tokens_is_stated() -> None:
    """Seconds, the share of the kernel's, and the peak, before and after."""
    for name in ("gemma3-before", "gemma3"):
        lines = [json.loads(line) for line in (ROOT / f"results/benchmarks/{name}.jsonl").read_text().splitlines()]
        ours, kernel = (
            next(x for x in lines if x["tokens"] == 2**20 and x["way"] == way) for way in ("ours", "kernel cuDNN")
        )
        share = f"{ours['seconds'] / kernel['seconds']:.2f} of"
        assert re.search(rf"{ours['seconds']:.1f} seconds( at first)?, {re.escape(share)}", LOG)
        (loss,) = (x["loss_nats"] for x in lines if x["tokens"] == 65536 and x["way"] == "ours")
        assert f"{loss:.4f} {'nats before' if 'before' in name else 'now'}" in LOG
    assert f"peak {ours['peak_gib']:.1f} GiB" in LOG
    lines = [json.loads(line) for line in (ROOT / "results/benchmarks/gemma3-h100.jsonl").read_text().splitlines()]
    seconds = {line["way"]: line["seconds"] for line in lines if line["tokens"] == 2**20}
    share = seconds["ours"] / seconds["kernel cuDNN"]
    assert f"One H100 takes {seconds['ours']:.1f} seconds for 1,048,576 tokens, {share:.2f} of" in PERFORMANCE


def test_the_estimated_memory_is_near_the_peak() -> None:
    """A network of that shape that holds no numbers: two rotary tables, each with its cos and sin of all positions."""
    sizes = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "vocab_size": 262144}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512}
    config = AutoConfig.for_model("gemma3_text", **sizes, **heads, max_position_embeddings=32768)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = LanguageModel(network, None, read_tables(config), "shape")
    lines = (ROOT / "results/benchmarks/gemma3.jsonl").read_text().splitlines()
    peak = next(x["peak_gib"] for x in map(json.loads, lines) if x["tokens"] == 2**20 and x["way"] == "ours")
    assert estimate_memory(model, 2**20) / 2**30 == pytest.approx(peak, rel=0.1)
