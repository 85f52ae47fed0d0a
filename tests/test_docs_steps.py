"""Numbers in the text about training steps and passes beside other programs are those of the committed records."""

import json
import tomllib

import pytest
from documents import RESULTS, ROOT, lines, words

LOG = words("docs/log.md")
README, SPEED, OWN_MODEL = (words(name) for name in ("README.md", "docs/performance.md", "docs/own-model.md"))
OURS = ("ours", "ours-compiled", "compiled")


def seconds(name: str, tokens: int, windows: int = 1) -> dict[str, float]:
    """The fastest passes, or medians of steps, by way."""
    found = [x for x in lines(f"benchmarks/{name}.jsonl") if x["tokens"] == tokens and x.get("windows", 1) == windows]
    return {x["way"]: x["seconds"] for x in found if "lora" not in x["way"] and not x["way"].startswith("kernel")}


def fastest_other(found: dict[str, float]) -> float:
    return min(x for way, x in found.items() if way not in OURS)


def test_readme_compares_with_the_fastest_of_the_others() -> None:
    passes, steps = seconds("h200-passes", 65536), seconds("h200-steps", 65536)
    times = [fastest_other(passes) / passes[way] for way in ("compiled", "ours")]
    shares = [steps[way] / fastest_other(steps) for way in ("ours-compiled", "ours")]
    assert fastest_other(passes) == passes["fast-fa4"]
    assert fastest_other(steps) == steps["trl-fa4"]
    assert (
        f"{times[1]:.2f} times as fast as compiled transformers with FlashAttention 4, and {times[0]:.2f} times with"
        in README
    )
    said = f"with `--compile`. A training step takes {shares[1]:.2f} of TRL's time, and {shares[0]:.2f} with"
    assert f"{said} `--compile`." in README


def test_short_passes_before_replayed_layers_are_stated() -> None:
    before = seconds("h200-passes-before", 8192)
    stated = f"took {before['ours']:.4f} s, {before['ours'] / fastest_other(before):.2f} of the fastest other's"
    assert stated in SPEED


@pytest.mark.parametrize(
    ("aim", "name", "tokens", "way", "bar"),
    [
        ("step of 65,536 tokens: at most 0.8", "h200-steps", 65536, "ours-compiled", 0.8),
        ("pass of 65,536 tokens", "h200-passes", 65536, "compiled", 1 / 1.2),
    ],
)
def test_aims_are_met_as_the_table_says(aim: str, name: str, tokens: int, way: str, bar: float) -> None:
    found = seconds(name, tokens)
    shares = [found[each] / fastest_other(found) for each in (way, "ours")]
    row = next(part for part in SPEED.split(" | | ") if aim in part)
    assert f"{shares[0]:.3g} with `--compile`, {shares[1]:.3g} without" in row
    met = [share <= bar for share in shares]
    verdict = "| met" if all(met) else "met with `--compile` alone" if met[0] else "missed"
    assert verdict in row
    assert ("alone" in row) == (met == [True, False])


def test_short_passes_are_told_by_their_fastest_and_by_their_medians() -> None:
    found = {x["way"]: x for x in lines("benchmarks/h200-passes.jsonl") if x["tokens"] == 8192}
    cells, slower = [], []
    for key in ("seconds", "median_seconds"):
        other = min(x[key] for way, x in found.items() if way not in OURS)
        shares = [found[way][key] / other for way in ("compiled", "ours")]
        cells.append("{:.3g} with `--compile`, {:.3g} without".format(*shares))
        slower.append(max(shares) > 1)
    row = next(part for part in SPEED.split(" | | ") if "pass of 8,192 tokens" in part)
    assert "; by medians ".join(cells) in row
    assert slower == [True, False]
    assert "| met by the medians alone" in row


def test_what_a_backward_kernel_of_our_own_would_need_follows_from_the_record() -> None:
    found = {
        x["kernel"]: x
        for x in lines("benchmarks/h200-gradient-kernels.jsonl")
        if x["part"] == "whole" and x["heads"][2] == 64
    }
    needed = 1.05 * found["FlashAttention 4"]["backward_sustained_tflops"]
    share = 100 * needed / found["longrope"]["forward_sustained_tflops"]
    assert f"it would need {needed:.0f} TFLOP/s sustained, {share:.0f} % of what our forward pass reaches" in SPEED


def test_what_the_layers_of_the_large_shape_take_beside_their_parts_is_of_one_run() -> None:
    found = {x["way"]: x for x in lines("benchmarks/h200-llama-layers.jsonl") if x["tokens"] == 2**20}
    ours, kernel, products = (found[way]["seconds"] for way in ("ours", "kernel longrope", "products"))
    assert {x["layers"] for x in found.values()} == {4}
    assert f"{ours:.1f} s, where the bare kernel takes {kernel:.1f} s and the products alone {products:.1f} s" in SPEED
    assert ours / (kernel + products) <= 1.08
    assert f"| {ours / (kernel + products):.2f} for four layers and the head;" in SPEED


def test_where_the_time_of_shared_gradients_goes() -> None:
    found = {x["processes"]: x for x in lines("benchmarks/h200x2-gradient.jsonl") if x["part"] == "profile"}
    spent = {ranks: line["device_seconds"] for ranks, line in found.items()}
    idle = {ranks: found[ranks]["seconds"] - sum(spent[ranks].values()) for ranks in found}
    one, two = (spent[ranks]["attention"] for ranks in (1, 2))
    assert f"{two:.2f} s are {two / (one / 2):.2f} of half of {one:.2f}." in SPEED
    rest, half = found[2]["seconds"] - two, (found[1]["seconds"] - one) / 2
    assert f"The rest takes {rest:.2f} s, where half would be {half:.2f}:" in SPEED
    copies = spent[2]["copies"] - spent[1]["copies"] / 2
    added = (spent[2]["communication"], idle[2] - idle[1] / 2, copies)
    assert "communication adds {:.2f}, waiting for kernels {:.2f}, and copies {:.2f}".format(*added) in SPEED
    kernels = {
        (x["kernel"], x["part"]): x
        for x in lines("benchmarks/h100-gradient-kernels.jsonl")
        if x.get("heads") == [9, 3, 64]
    }
    share = kernels["flash", "last half"]["backward_tflops"] / kernels["cuDNN", "whole"]["backward_tflops"]
    assert f"whose backward pass has {share:.2f} of the speed of cuDNN's" in SPEED


def test_factors_searched_with_few_bits_are_as_good_as_they_say() -> None:
    found = {x["asked"]: x for x in lines("benchmarks/h200-quantized.jsonl")}
    whole, four, eight = (found[name]["searched, own number format"]["value"] for name in ("auto", "4bit", "8bit"))
    assert eight / whole == pytest.approx(1, abs=1e-4)
    assert f"the factors found with 4 bits are {four / whole - 1:.1%} worse".replace("%", " %") in OWN_MODEL
    lost = [found[name]["original at its own window"]["value"] for name in ("4bit", "auto")]
    assert f"with 4 bits perplexity is {lost[0] / lost[1]:.2f} times as high in the trained window" in OWN_MODEL


def test_the_last_call_of_cuda_tests_is_told_as_it_was() -> None:
    last = json.loads((RESULTS / "benchmarks" / "cuda-tests.json").read_text())[-1]
    part = tomllib.loads((ROOT / "benchmarks" / "gpu.toml").read_text())["tests"]
    assert f"-m pytest {last['tests']} " in part["run"]
    assert last["failed"] == 0
    assert f"All CUDA tests passed in one call, {last['passed']}, with {last['skipped']} skipped." in LOG
