"""Numbers in the text about searches, training and the demo are those of the committed records."""

import json
import math
import re
import statistics
import struct
from typing import Any

import pytest
from documents import DOCS, RESULTS, ROOT, lines, minutes_of_stages, scores, sections, words

from longrope.recipe import EvolutionRecipe

README, LOG = words("README.md"), words("docs/log.md")
NOTES, TEXT = words("results/README.md"), words("docs/results.md")
GRADIENT, EVOLUTION = "longrope-gradient", "longrope-evolution"


def test_the_facts_of_the_first_screen_are_recorded() -> None:
    """The tuned model's share and its passkeys, and what factors for 64k cost at 8k."""
    made, tuned = scores("smollm2-64k"), scores("smollm2-64k-tuned")
    share = tuned["longrope-tuned", "perplexity", 65536]["value"] / tuned["none", "perplexity", 8192]["value"]
    assert tuned["longrope-tuned", "passkey", 65536]["value"] == 1
    assert f"At 64k the tuned model has {share:.3f} of the perplexity that the original has at 8k" in TEXT
    short = [made[method, "perplexity", 8192]["value"] for method in (GRADIENT, "none")]
    assert "cost perplexity at 8k: {:.2f} where the original has {:.2f}".format(*short) in TEXT
    at_64k = {x[0]: score["value"] for x, score in made.items() if x[1:] == ("perplexity", 65536)}
    assert min((method for method in at_64k if "longrope" not in method), key=at_64k.__getitem__) == "yarn"


def test_the_shares_of_the_tuned_models_follow_from_the_scores() -> None:
    """Each is a share of the original's perplexity at 8k on the same text, worked out from the raw lines."""
    made = scores("smollm2-64k-tuned") | scores("smollm2-256k-tuned")
    tuned, longer = "longrope-tuned", "longrope-tuned-256k"
    first = {made[tuned, "perplexity", n]["texts_fingerprint"] for n in (2048, 8192, 65536)}
    assert first == {made["none", "perplexity", 8192]["texts_fingerprint"]}
    second = {made[longer, metric, 8192]["texts_fingerprint"] for metric in ("perplexity", "ratio-to-none")}
    assert {made[tuned, "perplexity", n]["texts_fingerprint"] for n in (131072, 262144)} == second
    assert {made[longer, "perplexity", n]["texts_fingerprint"] for n in (65536, 262144)} == second != first
    value = {at: line["value"] for at, line in made.items()}
    original = value[longer, "perplexity", 8192] / value[longer, "ratio-to-none", 8192]
    near = value[tuned, "perplexity", 65536] / value["none", "perplexity", 8192]
    far, after, cost = (
        value[method, "perplexity", tokens] / original
        for method, tokens in ((tuned, 262144), (longer, 262144), (longer, 65536))
    )
    assert original == pytest.approx(18.05, abs=0.005)
    assert all(f"{share:.3f}" in LOG for share in (near, far, after, cost)), (near, far, after, cost)
    assert f"At 64k the tuned model has {near:.3f} of the perplexity that the original has at 8k on this text" in TEXT
    assert f"it has {far:.3f} of that perplexity. With the eight steps it has {after:.3f}." in TEXT
    both = f"it has {cost:.3f} of the original's perplexity at 8k, and the model tuned at 64k has {near:.3f}"
    assert f"for 256k, {both} on the first text" in TEXT
    paired = made[longer, "ratio-to-none", 8192]
    interval = f"({paired['low']:.3f}-{paired['high']:.3f})"
    assert f"The {paired['value']:.3f} at 8k is paired by token {interval}" in TEXT
    for text in (TEXT, LOG):
        assert f"{100 * (cost / near - 1):.0f} % more" in text
    assert f"| tuned at 64k, second search |  |  | 16.83 (0.932) | 18.86 ({far:.3f}) |" in DOCS["docs/results.md"]
    short = [value[tuned, "ratio-to-none", n] for n in (2048, 4096, 8192)]
    assert "it has {:.3f}, {:.3f} and {:.3f} of the original's".format(*short) in TEXT


def test_what_was_measured_is_stated() -> None:
    """Windows, steps and passkeys of the three runs on SmolLM2, and where the lost passkeys stand."""
    made, tuned, longer = (scores(run) for run in ("smollm2-64k", "smollm2-64k-tuned", "smollm2-256k-tuned"))
    windows = made[GRADIENT, "perplexity", 65536]["num_windows"]
    assert made[GRADIENT, "perplexity", 8192]["num_windows"] == 8 * windows
    assert f"perplexity on the same {windows * 65536:,} tokens at every length" in TEXT
    assert f"share of {made[GRADIENT, 'passkey', 65536]['num_windows']} passkeys found" in TEXT
    assert tuned["longrope-tuned", "perplexity", 65536]["num_windows"] == 5
    assert "five windows of 65,536 tokens of English prose" in TEXT
    assert longer["longrope-tuned-256k", "perplexity", 262144]["num_windows"] == 4
    assert "four windows of 262,144 tokens of English prose" in TEXT
    steps = len(lines("smollm2-64k-tuned/stages/2-tune-64k-02b5cb2e/train.jsonl"))
    assert f"tuned for {steps} steps" in TEXT
    assert len(lines("smollm2-256k-tuned/stages/6-tune-256k-b73423d4/train.jsonl")) == 8
    assert "The last row adds eight training steps in windows of 262,144 tokens" in TEXT
    assert 0.95 * 65536 > 62000
    assert "5 % of the text and more than 62,000 tokens back" in TEXT


def test_ratios_follow_from_the_scores() -> None:
    """The published ratios, worked out from the raw lines without the script."""
    made = scores("smollm2-64k")
    ours, evolved, yarn = (made[method, "perplexity", 65536]["value"] for method in (GRADIENT, EVOLUTION, "yarn"))
    original = made["none", "perplexity", 8192]["value"]
    paired = made[GRADIENT, "ratio-to-yarn", 65536]
    assert paired["value"] == pytest.approx(ours / yarn, rel=1e-6)
    assert paired["low"] < paired["value"] < paired["high"]
    interval = f"{ours / yarn:.4f} ({paired['low']:.4f}-{paired['high']:.4f})"
    budget = "24 gradient steps, 40 window passes"
    assert f"| LongRoPE, gradient ({budget}) | {ours:.2f} | {interval} | {ours / original:.3f} |" in TEXT
    budget = "112 of the paper's 6,720 window passes"
    shown = f"{evolved:.2f} | {evolved / yarn:.3f} | {evolved / original:.3f}"
    assert f"| LongRoPE, evolution ({budget}) | {shown} |" in TEXT
    assert f"{ours / yarn:.4f} of YaRN's perplexity (paired: {interval[8:-1]})" in LOG


def test_what_is_said_of_passkeys_follows_from_the_scores() -> None:
    """Shares in the text, counted anew over the depths, and that all methods lose every passkey at the deepest."""
    made = scores("smollm2-64k")
    shares = {}
    for method in (GRADIENT, EVOLUTION, "yarn"):
        whole = made[method, "passkey", 65536]
        by_depth = [made[method, f"passkey-depth-0.{5 + 10 * i:02}", 65536] for i in range(10)]
        assert by_depth[0]["value"] == 0
        found = sum(round(line["value"] * line["num_windows"]) for line in by_depth)
        assert sum(line["num_windows"] for line in by_depth) == whole["num_windows"] == 50
        shares[method] = f"{100 * found / 50:.0f} % ({100 * whole['low']:.0f}-{100 * whole['high']:.0f})"
        assert f"| {100 * found / 50:.0f}%{shares[method].split('%')[1]} |" in TEXT
    ours, evolved, yarn = shares.values()
    others = [made[method, "passkey-depth-0.05", 65536] for method in ("none", "pi", "ntk", "dynamic-ntk")]
    assert all(line["value"] == 0 for line in others)
    assert made["none", "passkey-depth-0.05", 8192]["value"] == 0
    share, interval = ours.split(" % ")
    assert f"answer {share} % of the passkeys at 64k {interval} and YaRN {yarn}" in TEXT
    assert int(share) < 95
    assert int(evolved.split()[0]) < int(yarn.split()[0]) < int(share)


def passes_of(run: str) -> int:
    """Window passes of the evolution over its search windows; looks at held-out windows come on top."""
    trials = [x for x in lines(f"{run}/trials.jsonl") if x["method"] == EVOLUTION and x["kind"] == "search"]
    return int(sum(x["token_passes"] for x in trials)) // 65536


def test_the_budget_of_the_evolution_is_stated_beside_the_papers() -> None:
    """Passes over search windows, counted in the trials; the paper's number by its settings in the package."""
    paper = EvolutionRecipe().filled(65536)
    offspring = paper.generations * (paper.mutations + paper.crossovers)
    whole = f"{(paper.population + offspring) * paper.windows:,}"
    runs = ("smollm2-64k", "smollm2-64k-text", "smollm2-64k-text-needles", "smollm2-64k-needles")
    made = {run: passes_of(run) for run in runs}
    assert made == {run: 192 if run == "smollm2-64k-text" else 112 for run in made}
    for text in (LOG, TEXT):
        for count in (112, 192):
            assert f"{count} of the paper's {whole} window passes" in text
    assert f"{passes_of('evidence-64k/compare')} of the paper's {whole} window passes" in README
    assert f"had 112 of the paper's {whole} window passes" in README
    assert f"112 window passes, 192 in `smollm2-64k-text`, where the paper's makes {whole}" in NOTES
    each = offspring // paper.generations
    candidates = f"scores {paper.population} candidates and {each} in each of {paper.generations} generations"
    assert f"The paper {candidates}, on five windows each: {whole} window passes. Ours had 112 passes, and 192" in TEXT
    assert paper.windows == 5


def test_the_evolutions_better_run_is_shown_beside_the_gradients() -> None:
    """On one text its perplexity at 64k is the lower one."""
    long = scores("smollm2-64k-text")["longrope-evolution", "perplexity", 65536]
    ours = scores("smollm2-64k")["longrope-gradient", "perplexity", 65536]
    assert long["texts_fingerprint"] == ours["texts_fingerprint"]
    assert long["value"] < ours["value"]
    short = scores("smollm2-64k")[EVOLUTION, "perplexity", 65536]["value"]
    assert f"With {passes_of('smollm2-64k')} its perplexity at 64k was {short:.2f}, and" in TEXT
    assert f"With {passes_of('smollm2-64k-text')} its perplexity was {long['value']:.2f}, below" in TEXT
    for text in (TEXT, LOG):
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


def test_intervals_of_passkeys_stand_beside_their_assumption() -> None:
    """Each chapter that shows them says that they treat passkeys as independent."""
    shown = {name: [part for part in sections(name) if re.search(r"\d+% \(\d+-\d+\)", part)] for name in DOCS}
    assert {name: len(parts) for name, parts in shown.items() if parts and name != "docs/log.md"} == {
        "README.md": 1,
        "docs/2048k.md": 1,
        "docs/results.md": 8,
        "docs/uses.md": 1,
    }
    for name in ("README.md", "docs/2048k.md", "docs/results.md", "docs/uses.md"):
        assert [part[:40] for part in shown[name] if "independent" not in part] == []
    assert "They treat the passkeys of one depth as independent, which they are not" in NOTES
    assert (
        "Before 2026-12-01, intervals treat all passkeys as independent. Those of one depth are not"
        in sections("docs/log.md")[0]
    )
    depths = [x for x in scores("smollm2-256k-tuned").values() if "-depth-" in x["metric"]]
    assert {x["num_windows"] for x in depths} == {1}  # so docs/results.md: each at a depth of its own


def test_the_demos_passkeys_are_stated_by_python() -> None:
    made: dict[str, dict[str, dict[str, Any]]] = {}
    for x in lines("demo/whole.jsonl"):
        if x["metric"] == "passkey":
            made.setdefault(x["python"][:4], {})[x["method"]] = x
    assert list(made) == ["3.11", "3.12", "3.13"]
    pairs = [(both["longrope-gradient"], both["yarn"]) for both in made.values()]
    sentence = [f"({100 * ours['value']:.0f} against {100 * yarn['value']:.0f} %)" for ours, yarn in pairs]
    assert "with Python 3.11 {} and 3.12 {}, and fewer with 3.13 {}".format(*sentence) in TEXT
    for ours, yarn in pairs:
        assert ours["low"] < yarn["high"]
        assert yarn["low"] < ours["high"]


def test_durations_are_those_of_the_records() -> None:
    """Sums over stages, steps and scores, without the time to load models and texts."""
    demo = [x for x in lines("demo/scores.jsonl") if "-depth-" not in x["metric"]] + lines("demo/trials.jsonl")
    assert 60 < sum(x["seconds"] for x in demo) < 120
    assert "on two CPU cores in about two minutes" in README
    assert minutes_of_stages("smollm2-256k-tuned") == pytest.approx(6, abs=0.5)
    assert "took the two GPUs six minutes" in TEXT
    steps = [x["seconds"] for x in lines("smollm2-64k-tuned/stages/2-tune-64k-02b5cb2e/train.jsonl")]
    assert (len(steps), sum(steps) / 60) == (100, pytest.approx(3, abs=0.25))
    assert "tuned for 100 steps of one window of 65,536 tokens (about three minutes on one H200)" in TEXT
    last = lines("smollm2-256k-tuned/stages/6-tune-256k-b73423d4/train.jsonl")
    step = f"{statistics.median(x['seconds'] for x in last):.1f} s a step"
    assert f"which two H200s shared ({step})" in TEXT
    assert f"shared by two H200s at {step} and {last[-1]['memory_gib']:.1f} GiB each" in LOG
    assert f"The fifth step, of {last[4]['seconds']:.1f} s, was read short" in LOG


def test_the_sizes_of_the_bundled_model_are_recorded() -> None:
    with (ROOT / "src" / "longrope" / "assets" / "nano" / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    count = sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    assert f"a Llama of {count / 1e6:.1f} million parameters" in TEXT
    steps = lines("nano/train.jsonl")
    sentence = f"{sum(x['seconds'] for x in steps):.0f} seconds of steps"
    assert sentence in NOTES
    assert f"loss at the end was {steps[-1]['loss_nats']:.2f} nats" in NOTES
    assert f"its logits alone need {2**20 * 49152 * 4 / 1e9:.0f} GB in float32 at 1M" in NOTES


def test_what_extrapolated_factors_cost_is_recorded() -> None:
    """In percent of the perplexity of factors that were searched there."""
    rule = {(x["searched_tokens"], x["tokens"]): x for x in lines("benchmarks/carry-rule.jsonl")}
    cost = [100 * (rule[at]["ratio"] - 1) for at in ((2048, 4096), (2048, 8192), (4096, 8192))]
    said = "have {:.1f} % more perplexity at 4k than factors that were searched there, and {:.1f} % more at 8k."
    assert f"Factors that were searched at 2k and extrapolated {said}".format(*cost) in TEXT
    assert f"The cost was up to {100 * (rule[1024, 8192]['ratio'] - 1):.0f} %" in TEXT
    assert "From 2k to 4k the rule costs {:.1f} %, to 8k {:.1f} %, from 4k to 8k {:.1f} %".format(*cost) in LOG
    factors = rule[2048, 8192]["attention_factors"]
    assert "(from 2k to 8k {:.3f}, searched {:.3f})".format(*factors) in LOG
    pair = [x for x in rule[1024, 8192]["lambdas_carried"] if 1 < x < 32]
    assert "the rule makes it {:.1f} and {:.1f} of 32 at 8k".format(*pair) in LOG
    assert "(1.7 and 3.3 where s is 4)" in LOG
    assert [x ** (math.log(4) / math.log(32)) for x in pair] == pytest.approx([1.7, 3.3], abs=0.05)
    assert f"a search at 8k already took {rule[1024, 8192]['search_there_seconds']:.0f} s" in LOG


def test_the_short_factors_of_the_tuned_model_are_recorded() -> None:
    stages = "smollm2-64k-tuned/stages"
    short, long = json.loads((RESULTS / "smollm2-64k-tuned" / "factors.json").read_text())["tiers"]
    power = math.log(short["lambdas"][-1]) / math.log(long["lambdas"][-1])
    assert f"about their power of {power:.2f} (the slowest pairs {short['lambdas'][-1]:.2f}" in LOG
    assert f"attention factor {short['attention_factor']:.3f})" in LOG
    held = lines(f"{stages}/3-recover-8k-4787c42e/trials.jsonl")
    losses = {x["origin"]: x["loss_nats"] for x in held if x["kind"] == "validation" and x["step"] == 0}
    best = min(x["loss_nats"] for x in held if x["kind"] == "validation")
    sentence = f"({best:.3f} nats) than the original RoPE ({losses['share-0']:.3f}) and than the long factors"
    assert f"{sentence} ({losses['share-1']:.3f})" in LOG
    further = lines(f"{stages}/4-search-128k-b1888cc3/trials.jsonl")
    losses = {x["origin"]: x["loss_nats"] for x in further if x["kind"] == "validation" and x["step"] == 0}
    best = min(x["loss_nats"] for x in further if x["kind"] == "validation")
    sentence = f"has {losses['critical']:.3f} on its held-out windows, the search found {best:.3f}"
    assert f"{sentence}, NTK {losses['ntk']:.3f}" in LOG


def test_what_is_recorded_of_searches_without_training_is_recorded() -> None:
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
    sentence = f"it promised {100 * promised:.0f} % of the keys in the old judgement; on the measuring filler it gave"
    assert f"{sentence} {100 * given:.0f} %" in LOG


def test_what_is_recorded_of_the_tuned_models_is_recorded() -> None:
    full, lora = (scores(run) for run in ("smollm2-64k-tuned", "smollm2-64k-lora"))
    lengths = [2048 * 2**i for i in range(6)]
    pairs = [[x["longrope-tuned", "perplexity", n]["value"] for x in (full, lora)] for n in lengths]
    assert all(other / own < 1.01 for own, other in pairs)
    assert "LoRA comes within 1 % of full training in perplexity" in LOG
    ratios = [full["longrope-tuned", "ratio-to-none", n] for n in lengths[:3]]
    assert all(x["high"] - x["low"] < 0.005 for x in ratios)
    assert "each interval is narrower than 0.005" in LOG
    keys = [full["longrope-tuned", "passkey", n] for n in lengths]
    assert {(x["value"], x["num_windows"]) for x in keys} == {
        (1.0, 20)
    }  # so docs/results.md: two at each of ten depths


def test_passages_without_a_record_are_marked() -> None:
    """The mark is explained at the top of the log; figures known to have no record stand beside it."""
    assert "*By hand*: somebody measured them once" in LOG.split(" ## ")[0]
    for name, near in (("TEXT", "85 % of the passkeys"), ("LOG", "85 % of keys"), ("LOG", "1.398 times")):
        text = {"TEXT": TEXT, "LOG": LOG}[name]
        at = text.index(near)
        assert "by hand" in text[at - 120 : at + 120], near
    assert "Every number in the docs" not in NOTES
