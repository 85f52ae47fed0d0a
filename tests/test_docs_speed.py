"""Numbers in the text about time and memory are those of the committed records."""

import html
import json
import re
import statistics

import pytest
import torch
from documents import DOCS, RESULTS, lines, passes, sections, words
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.engine import kernels
from longrope.engine.memory import estimate_memory
from longrope.models import LanguageModel, read_tables

README, LOG, SPEED = words("README.md"), words("docs/log.md"), words("docs/performance.md")
SPEEDS = ("docs/log.md", "docs/performance.md")  # of weights that were not extended
EXTENDED = ("2048k.md", "gemma3-2048k", "smollm2-2048k")  # a chapter that names one of these is about weights that were


@pytest.mark.parametrize("name", DOCS)
def test_passes_over_two_million_tokens_are_called_speeds(name: str) -> None:
    """Where they are of weights that were not extended, each chapter that names them says so."""
    naming = [part for part in sections(name) if re.search(r"\b2,097,152\b|(?<![\d.])2M\b", part)]
    speeds = [part for part in naming if name != "docs/2048k.md" and not any(word in part for word in EXTENDED)]
    assert bool(speeds) == (name in SPEEDS)
    assert [part[:60] for part in speeds if "a speed, not a capability" not in part] == []


def test_the_picture_of_long_passes_shows_the_records() -> None:
    """The numbers in its description are those of the passes on the GPU."""
    picture = (RESULTS / "long-pass.svg").read_text()
    assert "](../results/long-pass.svg)" in DOCS["docs/performance.md"]
    shown = json.loads(html.unescape(re.findall(r"<desc>(.*?)</desc>", picture)[0]))
    measured = passes("h200")
    for key in ("seconds", "peak_gib"):
        drawn = {(way, tokens): value for way, points in shown[key].items() for tokens, value in points}
        assert drawn == {at: round(line[key], 3) for at, line in measured.items() if at[0] != "kernel flash"}
    longest = measured["ours", 2**21]["seconds"] / measured["kernel cuDNN", 2**21]["seconds"]
    assert f"| 2,097,152 | 360 | 5,819 | {longest:.2f} | 422 | 5.3 |" in DOCS["docs/performance.md"]


def test_estimated_memory_is_near_the_measured_peaks() -> None:
    """Within a fifth of the peaks on the GPU, for a network of that model's shape that holds no numbers."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **shape, **heads, max_position_embeddings=8192)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = LanguageModel(network, None, read_tables(config), "shape")
    peaks = {tokens: line["peak_gib"] for (way, tokens), line in passes("h200").items() if way == "ours"}
    assert len(peaks) == 5
    del peaks[8192]  # whose two chunks of logits are of one size by now
    for tokens, peak in peaks.items():
        assert estimate_memory(model, tokens) / 2**30 == pytest.approx(peak, rel=0.2)
    on_a_gpu = OnGpu(network, None, model.tables, "shape", compiled=True)  # where the loss reads logits of 16 bits
    peaks = {tokens: line["peak_gib"] for (way, tokens), line in passes("compiled").items() if way == "compiled"}
    assert sorted(peaks) == [16384, 65536]
    for tokens, peak in peaks.items():
        estimated = estimate_memory(on_a_gpu, tokens, kernel=kernels.FLASH, tile=2**16)
        assert estimated / 2**30 == pytest.approx(peak, rel=0.2)
    for line in lines("benchmarks/hopper.jsonl"):
        if line["way"] in ("ours", "compiled"):
            read = on_a_gpu if line["way"] == "compiled" else model
            estimated = estimate_memory(read, line["tokens"], kernel=kernels.HOPPER, tile=2**16)  # it copies the keys
            assert estimated / 2**30 == pytest.approx(line["peak_gib"], rel=0.1)


class OnGpu(LanguageModel):
    """A network that holds no numbers, as if it were on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def test_64k_tokens_are_read_at_the_stated_speed_and_in_the_stated_memory() -> None:
    """At least 1.4 times as fast as transformers, by medians of runs without a pause."""
    records = lines("benchmarks/hopper.jsonl")
    speed = {}
    for name in ("H100", "H200"):
        way = {x["way"]: x for x in records if name in x["device"] and x["tokens"] == 65536}
        assert {way[x]["rest_seconds"] for x in ("plain", "ours", "compiled")} == {0.0}
        speed[name] = [way["plain"]["median_seconds"] / way[x]["median_seconds"] for x in ("compiled", "ours")]
        assert speed[name][0] >= 1.4
        assert way["plain"]["peak_gib"] / way["compiled"]["peak_gib"] == pytest.approx(33, abs=0.5)
    sentence = "64k tokens are read at {:.2f} times transformers' speed on an H100 and {:.2f} times on an H200"
    assert sentence.format(speed["H100"][0], speed["H200"][0]) in SPEED
    assert f"`--compile` at {speed['H100'][1]:.2f} and {speed['H200'][1]:.2f} times" in SPEED
    longest = {x["way"]: x for x in records if x["tokens"] == 2**21}
    share = longest["ours"]["seconds"] / longest["kernel longrope"]["seconds"]
    assert share < 1.1
    assert f"2,097,152 tokens in 252 s, in {share:.2f} times the kernel's own time and 5.6 GiB" in SPEED
    assert longest["ours"]["seconds"] == pytest.approx(252, abs=0.5)
    assert longest["ours"]["peak_gib"] == pytest.approx(5.6, abs=0.05)


def test_memory_is_stated_beside_whole_logits_and_logits_in_chunks() -> None:
    chunked = passes("h200")["chunked", 65536]["peak_gib"]
    peaks = {x["way"]: x["peak_gib"] for x in lines("benchmarks/hopper.jsonl") if x["tokens"] == 65536}
    plain, ours, compiled = (peaks[way] for way in ("plain", "ours", "compiled"))
    assert f"keeps all logits in memory, {plain:.1f} GiB, {plain / compiled:.0f} times ours with `--compile`" in SPEED
    shares = f"{chunked / ours:.1f} times ours without `--compile` and {chunked / compiled:.1f} times ours with it"
    assert f"needs {chunked:.1f} GiB at the same speed (the first table), {shares}" in SPEED
    now = passes("h200-passes")["ours", 65536]["peak_gib"]
    own = f"A pass of SmolLM2-135M's shape over 64k tokens peaks at {now:.1f} GiB"
    assert f"{own}. transformers needs {plain:.1f} GiB by default and {chunked:.1f} with logits in chunks" in README
    assert f"{chunked / compiled:.1f} times less than with logits in chunks ({chunked:.1f} GiB)" in LOG
    assert f"{chunked / ours:.1f} times less than with logits in chunks" in LOG
    same = passes("h200")["chunked", 65536]["seconds"] / passes("h200")["plain", 65536]["seconds"]
    assert same == pytest.approx(1, abs=0.01)


def test_passes_over_two_million_tokens_took_the_stated_time() -> None:
    fa3, hopper = passes("h200-fa3"), passes("hopper")
    seconds = f"{fa3['ours', 2**21]['seconds']:.0f}"
    assert f"({seconds} s with FlashAttention 3)" in SPEED
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


def test_mean_losses_of_long_passes_are_recorded() -> None:
    hopper, fa3 = passes("hopper"), passes("h200-fa3")
    compiled, pair = passes("compiled"), lines("benchmarks/h200x2.jsonl")
    near = [hopper[way, 65536]["loss_nats"] for way in ("ours", "compiled", "plain")]
    near += [compiled[way, 65536]["loss_nats"] for way in ("ours", "compiled")]
    sentence = "is {:.4f} (compiled {:.4f}), transformers {:.4f}, FlashAttention 3 {:.4f} (compiled {:.4f})"
    assert sentence.format(*near) in LOG
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


def test_gradients_and_several_gpus_took_the_stated_time() -> None:
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


def test_kernels_of_gradients_are_as_fast_as_they_say() -> None:
    own = lines("benchmarks/h100-gradient-kernels.jsonl")
    speeds = {(x["part"], x["kernel"], x["heads"][2]): x for x in own if x["part"] != "step"}

    def said(part: str, kernel: str, way: str) -> list[str]:
        return [f"{speeds[part, kernel, dim][f'{way}_tflops']:.0f}" for dim in (64, 128, 256)]

    four, cudnn, flash = "FlashAttention 4", "cuDNN", "flash"
    forward = said("whole", four, "forward"), said("whole", cudnn, "forward")
    assert "64, 128 and 256: {}, {} and {} TFLOP/s, cuDNN {}, {} and {}".format(*forward[0], *forward[1]) in LOG
    back = [number for kernel in (four, cudnn, flash) for number in said("whole", kernel, "backward")]
    assert "Backward: {}, {} and {}, cuDNN {}, {} and {}, torch's flash kernel {}, {} and {}".format(*back) in LOG
    last = [number for kernel in (four, cudnn) for number in said("last half", kernel, "backward")]
    assert "as in shared windows: {}, {} and {}, cuDNN {}, {} and {}".format(*last) in LOG
    steps = {x["kernel"]: f"{x['seconds']:.2f} s" for x in own if x["part"] == "step"}
    assert f"take {steps[four]} with it, {steps[cudnn]} with cuDNN, {steps[flash]} with flash" in LOG
    assert steps["chosen"] in (steps[four], "1.45 s")
