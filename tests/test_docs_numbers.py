"""Numbers in the text of the docs are those of the committed records, read here without results/tables.py."""

import json
import math
import re
import statistics
import struct
from pathlib import Path
from typing import Any

import pytest

from longrope.recipe import EvolutionRecipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
DOCS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/log.md", "results/README.md")}
README, LOG, NOTES = (" ".join(text.split()) for text in DOCS.values())


def lines(name: str) -> list[dict[str, Any]]:
    """The records of one file of results/."""
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def passes(name: str, *, gradient: bool = False) -> dict[tuple[str, int], dict[str, Any]]:
    """The passes of a benchmark that came to their end, by way and length; one process each."""
    found = [line for line in lines(f"benchmarks/{name}.jsonl") if "seconds" in line and line["processes"] == 1]
    return {(line["way"], line["tokens"]): line for line in found if line["gradient"] == gradient}


def scores(run: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The scores of a run by method, metric and length."""
    return {(x["method"], x["metric"], x["context_tokens"]): x for x in lines(f"{run}/scores.jsonl")}


def minutes_of_stages(run: str) -> float:
    """What the stages of a run took."""
    stages = (json.loads(path.read_text()) for path in (RESULTS / run).glob("stages/*/stage.json"))
    return float(sum(stage["seconds"] for stage in stages)) / 60


def sections(name: str) -> list[str]:
    """The chapters of a file, each with its words apart by single spaces."""
    return [" ".join(part.split()) for part in re.split(r"^## ", DOCS[name], flags=re.MULTILINE)]


@pytest.mark.parametrize("name", DOCS)
def test_passes_over_two_million_tokens_are_told_as_speeds(name: str) -> None:
    """They are of weights that were not extended; each chapter that names them says so."""
    naming = [part for part in sections(name) if re.search(r"\b2,097,152\b|\b2M\b", part)]
    assert naming
    assert [part[:60] for part in naming if "a speed, not a capability" not in part] == []


def test_the_budget_of_the_evolution_is_told_beside_the_papers() -> None:
    """Passes over search windows, counted in the trials; the paper's number by its settings in the package."""
    paper = EvolutionRecipe().filled(65536)
    offspring = paper.generations * (paper.mutations + paper.crossovers)
    whole = f"{(paper.population + offspring) * paper.windows:,}"
    made = {}
    for run in ("smollm2-64k", "smollm2-64k-text", "smollm2-64k-text-needles", "smollm2-64k-needles"):
        trials = [x for x in lines(f"{run}/trials.jsonl") if x["method"] == "longrope-evolution"]
        made[run] = sum(x["token_passes"] for x in trials if x["kind"] == "search") // 65536
    assert made == {run: 192 if run == "smollm2-64k-text" else 112 for run in made}
    for text in (README, LOG):
        for count in (112, 192):
            assert f"{count} of the paper's {whole} window passes" in text
    assert f"had 112 window passes here; the paper's makes {whole}" in README
    assert f"112 window passes, 192 in `smollm2-64k-text`, where the paper's makes {whole}" in NOTES


def test_the_evolutions_better_run_is_shown_beside_the_gradients() -> None:
    """On one text its perplexity at 64k is the lower one."""
    long = scores("smollm2-64k-text")["longrope-evolution", "perplexity", 65536]
    ours = scores("smollm2-64k")["longrope-gradient", "perplexity", 65536]
    assert long["texts_fingerprint"] == ours["texts_fingerprint"]
    assert long["value"] < ours["value"]
    for text in (README, LOG):
        assert f"its perplexity was {long['value']:.2f}, below the gradient search's {ours['value']:.2f}" in text


def test_searches_whose_costs_are_compared_had_the_same_held_out_windows() -> None:
    """Both gave the same losses to PI, NTK and YaRN; in the evolution's longer run they did not."""

    def held_out(run: str) -> list[dict[str, float]]:
        found: dict[str, dict[str, float]] = {"longrope-evolution": {}, "longrope-gradient": {}}
        for x in lines(f"{run}/trials.jsonl"):
            if x["kind"] == "validation" and x["step"] == 0 and x["origin"] in ("pi", "ntk", "yarn"):
                found[x["method"]].setdefault(x["origin"], x["loss_nats"])
        return list(found.values())

    for run in ("smollm2-64k", "smollm2-64k-needles"):
        evolved, descended = held_out(run)
        assert evolved == pytest.approx(descended, rel=1e-6)
        assert len(evolved) == 3
    assert held_out("smollm2-64k-text")[0] != pytest.approx(held_out("smollm2-64k")[0], rel=1e-3)


def test_memory_is_told_beside_whole_logits_and_logits_in_chunks() -> None:
    chunked = passes("h200")["chunked", 65536]["peak_gib"]
    peaks = {x["way"]: x["peak_gib"] for x in lines("benchmarks/hopper.jsonl") if x["tokens"] == 65536}
    plain, ours, compiled = (peaks[way] for way in ("plain", "ours", "compiled"))
    assert f"keeps all logits in memory, {plain:.1f} GiB, {plain / compiled:.0f} times ours with `--compile`" in README
    shares = f"{chunked / ours:.1f} times ours without `--compile` and {chunked / compiled:.1f} times ours with it"
    assert f"needs {chunked:.1f} GiB at the same speed (the table above), {shares}" in README
    assert f"{chunked / compiled:.1f} times less than with logits in chunks ({chunked:.1f} GiB)" in LOG
    assert f"{chunked / ours:.1f} times less than with logits in chunks" in LOG
    same = passes("h200")["chunked", 65536]["seconds"] / passes("h200")["plain", 65536]["seconds"]
    assert same == pytest.approx(1, abs=0.01)


def test_intervals_of_passkeys_stand_beside_their_assumption() -> None:
    """Each chapter of the README that shows them says that they treat passkeys as independent."""
    shown = [part for part in sections("README.md") if re.search(r"\d+% \(\d+-\d+\)", part)]
    assert len(shown) == 3
    assert [part[:40] for part in shown if "independent" not in part] == []
    assert "They treat the passkeys of one depth as independent, which they are not" in NOTES
    assert "treat all passkeys as independent. Those of one depth are not" in sections("docs/log.md")[0]
    depths = [x for x in scores("smollm2-256k-tuned").values() if "-depth-" in x["metric"]]
    assert {x["num_windows"] for x in depths} == {1}  # so the README: each at a depth of its own


def test_the_demos_passkeys_are_told_by_python() -> None:
    made: dict[str, dict[str, dict[str, Any]]] = {}
    for x in lines("demo/whole.jsonl"):
        if x["metric"] == "passkey":
            made.setdefault(x["python"][:4], {})[x["method"]] = x
    assert list(made) == ["3.11", "3.12", "3.13"]
    pairs = [(both["longrope-gradient"], both["yarn"]) for both in made.values()]
    told = [f"({100 * ours['value']:.0f} against {100 * yarn['value']:.0f} %)" for ours, yarn in pairs]
    assert "with Python 3.11 {} and 3.12 {}, and fewer with 3.13 {}".format(*told) in README
    for ours, yarn in pairs:
        assert ours["low"] < yarn["high"]
        assert yarn["low"] < ours["high"]


def test_durations_in_the_readme_are_those_of_the_records() -> None:
    """Sums over stages, steps and scores, without the time to load models and texts."""
    demo = [x for x in lines("demo/scores.jsonl") if "-depth-" not in x["metric"]] + lines("demo/trials.jsonl")
    assert 60 < sum(x["seconds"] for x in demo) < 120
    assert "on two CPU cores in under two minutes" in README
    nano = minutes_of_stages("nano-16k") + sum(x["seconds"] for x in lines("nano-16k/scores.jsonl")) / 60
    assert nano == pytest.approx(11, abs=0.5)
    assert "in about eleven minutes of one core" in README
    assert minutes_of_stages("smollm2-256k-tuned") == pytest.approx(6, abs=0.5)
    assert "took the two GPUs six minutes" in README
    steps = [x["seconds"] for x in lines("smollm2-64k-tuned/stages/2-tune-64k-02b5cb2e/train.jsonl")]
    assert (len(steps), sum(steps) / 60) == (100, pytest.approx(3, abs=0.25))
    assert "tuned for 100 steps of one window of 65,536 tokens (about three minutes on one H200)" in README
    last = lines("smollm2-256k-tuned/stages/6-tune-256k-b73423d4/train.jsonl")
    step = f"{statistics.median(x['seconds'] for x in last):.1f} s a step"
    assert f"which two H200s shared ({step})" in README
    assert f"shared by two H200s at {step} and {last[-1]['memory_gib']:.1f} GiB each" in LOG
    assert f"The fifth step, of {last[4]['seconds']:.1f} s, was read short" in LOG


def test_the_sizes_of_the_bundled_model_are_told() -> None:
    with (ROOT / "src" / "longrope" / "assets" / "nano" / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    count = sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    assert f"a Llama of {count / 1e6:.1f} million parameters" in README
    steps = lines("nano/train.jsonl")
    told = f"{sum(x['seconds'] for x in steps):.0f} seconds of steps"
    assert told in NOTES
    assert f"loss at the end {steps[-1]['loss_nats']:.2f} nats" in NOTES
    assert f"its logits alone need {2**20 * 49152 * 4 / 1e9:.0f} GB in float32 at 1M" in NOTES


def test_passes_over_two_million_tokens_took_what_is_told() -> None:
    fa3, hopper = passes("h200-fa3"), passes("hopper")
    seconds = f"{fa3['ours', 2**21]['seconds']:.0f}"
    assert f"({seconds} s with FlashAttention 3)" in README
    assert f"(FlashAttention 3: {seconds})" in LOG
    ours, kernel = (hopper[way, 2**21] for way in ("ours", "kernel longrope"))
    share = f"{ours['seconds'] / kernel['seconds']:.2f} of the kernel's own time, with {ours['peak_gib']:.1f} GiB"
    assert f"in {ours['seconds']:.0f} s (FlashAttention 3: {seconds}), {share}" in LOG
    speeds = [
        fa3[way, 2**21]["attention_flops"] / fa3[way, 2**21]["seconds"] / 1e12 for way in ("ours", "kernel cuDNN")
    ]
    assert "{:.0f} TFLOP/s at 2,097,152 tokens, where cuDNN's single causal call had {:.0f}".format(*speeds) in LOG
    (four,) = (x for x in lines("benchmarks/h200x4.jsonl") if x["tokens"] == 2**21)
    efficiency = 100 * fa3["ours", 2**21]["seconds"] / (4 * four["seconds"])
    assert f"need {four['seconds']:.1f} s for 2M, {efficiency:.0f} % efficiency" in LOG
    whole = passes("llama-3-8b")["ours", 2**20]
    assert f"in {whole['seconds']:.0f} s with {whole['peak_gib']:.0f} GiB at the peak" in LOG
    assert f"(the estimate said {whole['estimate_gib']:.0f})" in LOG


def test_mean_losses_of_long_passes_are_told() -> None:
    hopper, fa3 = passes("hopper"), passes("h200-fa3")
    compiled, pair = passes("compiled"), lines("benchmarks/h200x2.jsonl")
    near = [hopper[way, 65536]["loss_nats"] for way in ("ours", "compiled", "plain")]
    near += [compiled[way, 65536]["loss_nats"] for way in ("ours", "compiled")]
    told = "is {:.4f} (compiled {:.4f}), transformers {:.4f}, FlashAttention 3 {:.4f} (compiled {:.4f})"
    assert told.format(*near) in LOG
    (shared,) = (x for x in pair if x["tokens"] == 2**21)
    once, twice = (x["loss_nats"] for x in pair if x["tokens"] == 2**18 and not x["gradient"])
    assert f"{once:.4f}" == f"{twice:.4f}"
    assert "The losses are those of one GPU to the last digit at 256k." in LOG
    far = [hopper["ours", 2**21]["loss_nats"], fa3["ours", 2**21]["loss_nats"], shared["loss_nats"]]
    assert "trained window, {:.4f}, FlashAttention 3 {:.4f}, cuDNN {:.4f}".format(*far) in LOG
    short = [compiled[way, 16384]["loss_nats"] for way in ("compiled", "ours", "plain")]
    assert "at 16,384 tokens is {:.4f} where the pass as it is has {:.4f} and transformers {:.4f}".format(*short) in LOG
    tiles = passes("h200")
    gap = tiles["ours", 262144]["loss_nats"] - tiles["plain", 262144]["loss_nats"]
    assert f"the mean loss of the tiled pass is {gap:.4f} nats above that of the whole one" in LOG


def test_gradients_and_several_gpus_took_what_is_told() -> None:
    now, before = passes("h200-gradient", gradient=True), passes("h200", gradient=True)
    times = [x["ours", n]["seconds"] for n in (65536, 262144) for x in (now, before)]
    assert "takes {:.2f} s at 65,536 tokens ({:.2f} before) and {:.1f} s at 262,144 ({:.1f})".format(*times) in LOG
    peaks = [x["ours", n]["peak_gib"] for n in (65536, 262144) for x in (now, before)]
    assert "with {:.1f} GiB ({:.1f}) and {:.1f} ({:.1f}) at the peak".format(*peaks) in LOG
    step = next(x for x in lines("benchmarks/train-step.jsonl") if x["way"] == "ours")
    assert f"a training step at 64k {step['seconds']:.2f} s (2.00) with {step['peak_gib']:.1f} GiB" in LOG
    median: dict[str, list[float]] = {}
    for x in lines("benchmarks/h200x2-train.jsonl"):
        median.setdefault(x["run"], []).extend([x["seconds"]] * (x["step"] > 0))
    took = {run: statistics.median(seconds) for run, seconds in median.items()}
    both = took["one"] / took["two"], took["one-lora"] / took["two-lora"]
    assert "are {:.2f} (all weights) and {:.2f} times as fast as one".format(*both) in LOG
    assert f"for adapters ({took['one-lora'] / took['shared-lora']:.2f} times)" in LOG


def test_what_extrapolated_factors_cost_is_told() -> None:
    """In percent of the perplexity of factors that were searched there."""
    rule = {(x["searched_tokens"], x["tokens"]): x for x in lines("benchmarks/carry-rule.jsonl")}
    cost = [100 * (rule[at]["ratio"] - 1) for at in ((2048, 4096), (2048, 8192), (4096, 8192))]
    assert (
        "(searched at 2k, {:.1f} % more perplexity than a search at 4k gives there, {:.1f} % at 8k".format(*cost)
        in README
    )
    assert "From 2k to 4k the rule costs {:.1f} %, to 8k {:.1f} %, from 4k to 8k {:.1f} %".format(*cost) in LOG
    factors = rule[2048, 8192]["attention_factors"]
    assert "(from 2k to 8k {:.3f}, searched {:.3f})".format(*factors) in LOG
    pair = [x for x in rule[1024, 8192]["lambdas_carried"] if 1 < x < 32]
    assert "the rule makes it {:.1f} and {:.1f} of 32 at 8k".format(*pair) in LOG
    assert "(1.7 and 3.3 where s is 4)" in LOG
    assert [x ** (math.log(4) / math.log(32)) for x in pair] == pytest.approx([1.7, 3.3], abs=0.05)
    assert f"a search at 8k already took {rule[1024, 8192]['search_there_seconds']:.0f} s" in LOG


def test_the_short_factors_of_the_tuned_model_are_told() -> None:
    stages = "smollm2-64k-tuned/stages"
    short, long = json.loads((RESULTS / "smollm2-64k-tuned" / "factors.json").read_text())["tiers"]
    power = math.log(short["lambdas"][-1]) / math.log(long["lambdas"][-1])
    assert f"about their power of {power:.2f} (the slowest pairs {short['lambdas'][-1]:.2f}" in LOG
    assert f"attention factor {short['attention_factor']:.3f})" in LOG
    held = lines(f"{stages}/3-recover-8k-4787c42e/trials.jsonl")
    losses = {x["origin"]: x["loss_nats"] for x in held if x["kind"] == "validation" and x["step"] == 0}
    best = min(x["loss_nats"] for x in held if x["kind"] == "validation")
    told = f"({best:.3f} nats) than the original RoPE ({losses['share-0']:.3f}) and than the long factors"
    assert f"{told} ({losses['share-1']:.3f})" in LOG
    further = lines(f"{stages}/4-search-128k-b1888cc3/trials.jsonl")
    losses = {x["origin"]: x["loss_nats"] for x in further if x["kind"] == "validation" and x["step"] == 0}
    best = min(x["loss_nats"] for x in further if x["kind"] == "validation")
    told = f"has {losses['critical']:.3f} on its held-out windows, the search found {best:.3f}"
    assert f"{told}, NTK {losses['ntk']:.3f}" in LOG


def test_what_is_told_of_searches_without_training_is_recorded() -> None:
    (chosen,) = json.loads((RESULTS / "smollm2-64k" / "factors-longrope-evolution.json").read_text())["tiers"]
    whole = json.loads((RESULTS / "smollm2-64k" / "rope.json").read_text())["pairs_that_turn_fully"]
    assert sum(x < 8 for x in chosen["lambdas"][whole:]) == 5
    assert "Five of its pairs from the critical one on are below s." in LOG
    tried = [x for x in lines("smollm2-64k-text-needles/trials.jsonl") if x["method"] == "longrope-gradient"]
    tried = [x for x in tried if x["kind"] == "validation"]
    gain = min(x["loss_nats"] for x in tried if not x["start_tokens"]) - min(x["loss_nats"] for x in tried)
    assert f"and the gradient search 256, for a gain of {gain:.4f} nats on the validation windows" in NOTES
    (promised,) = (x["keys"] for x in lines("far-keys/far.jsonl") if x["factors"] == "search, needles 3")
    given = scores("smollm2-64k-needles")["longrope-gradient", "passkey", 65536]["value"]
    told = f"it promised {100 * promised:.0f} % of the keys in the old judgement; on the measuring filler it gave"
    assert f"{told} {100 * given:.0f} %" in LOG


def test_what_is_told_of_the_tuned_models_is_recorded() -> None:
    full, lora = (scores(run) for run in ("smollm2-64k-tuned", "smollm2-64k-lora"))
    lengths = [2048 * 2**i for i in range(6)]
    pairs = [[x["longrope-tuned", "perplexity", n]["value"] for x in (full, lora)] for n in lengths]
    assert all(other / own < 1.01 for own, other in pairs)
    assert "LoRA comes within 1 % of full training in perplexity" in LOG
    ratios = [full["longrope-tuned", "ratio-to-none", n] for n in lengths[:3]]
    assert all(x["high"] - x["low"] < 0.005 for x in ratios)
    assert "each interval is narrower than 0.005" in LOG
    keys = [full["longrope-tuned", "passkey", n] for n in lengths]
    assert {(x["value"], x["num_windows"]) for x in keys} == {(1.0, 20)}  # so the README: two at each of ten depths


def test_passages_without_a_record_are_marked() -> None:
    """The mark is explained at the top of the log; figures known to have no record stand beside it."""
    assert "*By hand*: somebody measured them once" in LOG.split(" ## ")[0]
    for name, near in (("README", "85 % of the keys"), ("LOG", "85 % of keys"), ("LOG", "1.398 times")):
        text = {"README": README, "LOG": LOG}[name]
        at = text.index(near)
        assert "by hand" in text[at - 120 : at + 120], near
    assert "Every number in the docs" not in NOTES
