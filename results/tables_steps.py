"""Tables of training steps, passes and kernels beside the fastest others, all measured in one run on one GPU."""

from collections.abc import Sequence

from tables_cells import Line, Records, table
from tables_speed import shared_gradient_share

STEPS_BEFORE, STEPS, PASSES, KERNELS = "h200-steps-before", "h200-steps", "h200-passes", "h200-gradient-kernels"
STEPS_WITHOUT, KERNELS_FA3, KERNELS_256 = "h200-steps-without-fa4", "h200-kernels-fa3", "h200-kernels-256"
LLAMA, LLAMA_LAYERS, LLAMA_OFFLOAD = "h200-llama", "h200-llama-layers", "h200-llama-offload"
OTHERS = {
    "trl": "TRL",
    "trl-fa4": "TRL, FlashAttention 4",
    "trl-selective-fa4": "TRL, its selective checkpoints, FlashAttention 4",
    "trl-lora-fa4": "TRL, LoRA, FlashAttention 4",
    "trainer": "transformers' Trainer",
    "trainer-fa4": "transformers' Trainer, FlashAttention 4",
    "plain": "transformers, default settings",
    "chunked": "transformers, logits in chunks",
    "fa4": "transformers, logits in chunks, FlashAttention 4",
    "fast": "transformers, logits in chunks, compiled layers",
    "fast-fa4": "transformers, logits in chunks, compiled layers, FlashAttention 4",
}
OURS = {
    "ours": "longrope",
    "ours-compiled": "longrope, `--compile`",
    "ours-lora": "longrope, LoRA",
    "compiled": "longrope, `--compile`",
}
KINDS = {(65536, 1): "one window of 65,536", (8192, 8): "eight windows of 8,192"}
WIDTHS = (64, 128, 256)


def steps_of(records: Records, tokens: int, windows: int, *, lora: bool = False, run: str = STEPS) -> dict[str, Line]:
    """The steps of one kind in one run by way, of all weights or of adapters."""
    lines = [x for x in records.benchmark(run) if (x["tokens"], x["windows"]) == (tokens, windows) and "seconds" in x]
    return {x["way"]: x for x in lines if ("lora" in x["way"]) == lora}


def passes_of(records: Records, tokens: int, run: str = PASSES) -> dict[str, Line]:
    """The passes of one length by way."""
    return {x["way"]: x for x in records.benchmark(run) if x["tokens"] == tokens and "seconds" in x}


def best_other(found: dict[str, Line], key: str = "seconds") -> float:
    """Seconds of the fastest of the ways that are not ours."""
    return min(float(line[key]) for way, line in found.items() if way in OTHERS)


def steps_table(records: Records) -> str:
    """Seconds of training steps in three runs, each also as a share of the fastest of the others in that run."""
    rows = []
    for (tokens, windows), kind in KINDS.items():
        for lora in (False, True):
            names = (STEPS_BEFORE, STEPS, STEPS_WITHOUT)
            runs = [steps_of(records, tokens, windows, lora=lora, run=name) for name in names]
            for way, label in {**OURS, **OTHERS}.items():
                if any(way in found for found in runs):
                    peak = next(runs[i][way]["peak_gib"] for i in (1, 0, 2) if way in runs[i])
                    cells = [_share(found, way) for found in runs]
                    rows.append([f"{kind}{', adapters' * lora}", label, *cells, f"{peak:.1f}"])
    return table(["step", "", "before", "after", "without FlashAttention 4", "peak GiB"], rows)


def passes_table(records: Records) -> str:
    """Seconds and memory of passes, times the fastest of the others at the same length."""
    rows = []
    for tokens in sorted({line["tokens"] for line in records.benchmark(PASSES)}):
        found = passes_of(records, tokens)
        for way, label in {**OURS, **OTHERS}.items():
            if way in found:
                rows.append([f"{tokens:,}", label, _share(found, way), f"{found[way]['peak_gib']:.1f}"])
    return table(["tokens", "", "seconds", "peak GiB"], rows)


def _share(found: dict[str, Line], way: str) -> str:
    """Seconds of a way, and what share they are of the fastest other's."""
    if way not in found:
        return "-"
    seconds = found[way]["seconds"]
    return f"{seconds:.3g} ({seconds / best_other(found):.2f})" if OTHERS.keys() & found.keys() else f"{seconds:.3g}"


def kernels_table(records: Records) -> str:
    """TFLOP/s of each kernel for whole windows: single calls, and sustained."""
    lines = [line for line in records.benchmark(KERNELS) if line["part"] == "whole"]
    rows = []
    for kernel in dict.fromkeys(line["kernel"] for line in lines):
        cells = []
        for dim in WIDTHS:
            line = next(x for x in lines if x["kernel"] == kernel and x["heads"][2] == dim)
            for way in ("forward", "backward"):
                found = [line.get(f"{way}_{kind}") for kind in ("tflops", "sustained_tflops")]
                cells.append(", ".join(f"{x:.0f}" for x in found if x) or "-")
        rows.append([kernel, *cells])
    return table(["", *(f"{way}, {dim}" for dim in WIDTHS for way in ("forward", "backward"))], rows)


def other_kernels_table(records: Records) -> str:
    """The same for forward passes beside FlashAttention 3 in one run, and for heads of 256 in another."""
    runs = [records.benchmark(run) for run in (KERNELS_FA3, KERNELS_FA3, KERNELS_256, KERNELS_256)]
    columns = list(zip(runs, (64, 128, 256, 256), ("forward", "forward", "forward", "backward"), strict=True))
    rows = []
    for kernel in dict.fromkeys(line["kernel"] for line in runs[-1]):
        cells = []
        for lines, dim, way in columns:
            found = [x for x in lines if (x["part"], x["kernel"], x["heads"][2]) == ("whole", kernel, dim)]
            speeds = [x.get(f"{way}_{kind}") for x in found for kind in ("tflops", "sustained_tflops")]
            cells.append(", ".join(f"{speed:.0f}" for speed in speeds if speed) or "-")
        rows.append([kernel, *cells])
    return table(["", "forward, 64", "forward, 128", "forward, 256", "backward, 256"], rows)


def fastest_backwards(records: Records) -> dict[int, float]:
    """Sustained TFLOP/s of the fastest backward pass by the size of heads."""
    lines = [line for line in records.benchmark(KERNELS) if "backward_sustained_tflops" in line]
    return {dim: max(x["backward_sustained_tflops"] for x in lines if x["heads"][2] == dim) for dim in WIDTHS}


def aims_table(records: Records) -> str:
    """What was aimed at, what was found, and whether that is met."""
    long, short = steps_of(records, 65536, 1), steps_of(records, 8192, 8)
    seconds = [long[way]["seconds"] for way in ("ours-compiled", "ours")]
    backwards, bars = fastest_backwards(records), (500, 580, 380)
    rows = [
        ["step of 65,536 tokens: at most 0.8 of the fastest other's", *_aim(long, 0.8, "ours-compiled")],
        ["step of 65,536 tokens: at most 1.25 s", _both(seconds), _verdict(*(x <= 1.25 for x in seconds))],
        ["step of eight windows of 8,192 tokens: no slower than the fastest other", *_aim(short, 1.0, "ours-compiled")],
        [
            "attention backwards, heads of 64 / 128 / 256, sustained: at least 500 / 580 / 380 TFLOP/s",
            " / ".join(f"{backwards[dim]:.0f}" for dim in WIDTHS),
            _verdict(all(backwards[dim] >= bar for dim, bar in zip(WIDTHS, bars, strict=True))),
        ],
        [
            "pass of 65,536 tokens: at most 0.83 of the fastest other's, compiled ones too",
            *_aim(passes_of(records, 65536), 1 / 1.2),
        ],
        ["pass of 8,192 tokens: no slower than the fastest other, compiled ones too", *_short_pass(records)],
        *_large_model(records),
    ]
    ranks, share = shared_gradient_share(records)
    aim = "gradients of 262,144 tokens on 4 GPUs: at least 85 % of the fastest one-GPU gradient in the same run"
    rows.append([aim, f"{share:.0%} on {ranks} GPUs, 4 not measured", "open"])
    return table(["aim", "one H200", ""], [*rows, *([aim, "not measured", "open"] for aim in UNMEASURED)])


UNMEASURED = ("Qwen3-0.6B's shape, step of 1,048,576 tokens on 4 GPUs: at most 210 s and 28 GB each",)


def _short_pass(records: Records) -> tuple[str, str]:
    """By the fastest of the passes and by their medians, which say different things."""
    found, texts, met = passes_of(records, 8192), [], []
    for key in ("seconds", "median_seconds"):
        shares = [found[way][key] / best_other(found, key) for way in ("compiled", "ours")]
        texts.append(_both(shares))
        met.append(all(share <= 1 for share in shares))
    verdict = "met" if all(met) else "met by the medians alone" if met[1] else "missed"
    return f"{texts[0]}; by medians {texts[1]}", verdict


def large_model(records: Records) -> dict[str, Line]:
    """A pass over 1,048,576 tokens, its matrix products, and a training step, by way."""
    return {line["way"]: line for line in records.benchmark(LLAMA)}


def share_of_parts(records: Records) -> float:
    """Seconds of the pass of some of its layers and the head, in those of bare attention and of the matrix products.

    All in one run.
    """
    found = {line["way"]: line["seconds"] for line in records.benchmark(LLAMA_LAYERS) if line["tokens"] == 2**20}
    return float(found["ours"] / (found["kernel longrope"] + found["products"]))


def _large_model(records: Records) -> list[list[str]]:
    found, share = large_model(records), share_of_parts(records)
    ours, lora = found["ours"], found["ours-lora"]
    (long,) = records.benchmark(LLAMA_OFFLOAD)
    return [
        [
            "Llama-3-8B's shape, pass of 1,048,576 tokens: at most 1.08 of attention and matrix products, 36 GiB",
            f"{share:.2f} for four layers and the head; all: {ours['peak_gib']:.1f} GiB, {ours['seconds']:.0f} s",
            f"{_verdict(share <= 1.08 and ours['peak_gib'] <= 36)}, the ratio of four layers alone",
        ],
        [
            "Llama-3-8B's shape, LoRA step of 262,144 tokens without offload on an H200",
            f"{lora['seconds']:.0f} s, {lora['peak_gib']:.1f} GiB",
            _verdict(lora["tokens"] == 2**18 and "seconds" in lora),
        ],
        [
            "Llama-3-8B's shape, the longest LoRA step that fits with offload",
            f"{long['tokens']:,} tokens, {long['layers']} layers: {long['seconds']:.1f} s, {long['peak_gib']:.1f} GiB",
            "a lower bound",
        ],
    ]


def _aim(found: dict[str, Line], bar: float, compiled: str = "compiled") -> tuple[str, str]:
    """What share of the fastest other's seconds ours are, and whether that is at most a bar."""
    shares = [found[way]["seconds"] / best_other(found) for way in (compiled, "ours")]
    return _both(shares), _verdict(*(share <= bar for share in shares))


def _both(numbers: Sequence[float]) -> str:
    return "{:.3g} with `--compile`, {:.3g} without".format(*numbers)


def _verdict(*met: bool) -> str:
    """For one number, or for one with and one without --compile."""
    if all(met):
        return "met"
    return "met with `--compile` alone" if met[0] else "missed"
