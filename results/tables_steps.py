"""Tables of training steps, passes and kernels beside the fastest others, all measured in one run on one GPU."""

from collections.abc import Sequence

from tables_cells import Line, Records, table

STEPS_BEFORE, STEPS, PASSES, KERNELS = "h200-steps-before", "h200-steps", "h200-passes", "h200-gradient-kernels"
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


def best_other(found: dict[str, Line]) -> float:
    """Seconds of the fastest of the ways that are not ours."""
    return min(float(line["seconds"]) for way, line in found.items() if way in OTHERS)


def steps_table(records: Records) -> str:
    """Seconds of training steps in two runs, each also as a share of the fastest of the others in that run."""
    rows = []
    for (tokens, windows), kind in KINDS.items():
        for lora in (False, True):
            runs = [steps_of(records, tokens, windows, lora=lora, run=run) for run in (STEPS_BEFORE, STEPS)]
            for way, label in {**OURS, **OTHERS}.items():
                if any(way in found for found in runs):
                    peak = next(found[way]["peak_gib"] for found in reversed(runs) if way in found)
                    cells = [_share(found, way) for found in runs]
                    rows.append([f"{kind}{', adapters' * lora}", label, *cells, f"{peak:.1f}"])
    return table(["step", "", "before", "after", "peak GiB"], rows)


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


def fastest_backwards(records: Records) -> dict[int, float]:
    """Sustained TFLOP/s of the fastest backward pass by the size of heads."""
    lines = [line for line in records.benchmark(KERNELS) if "backward_sustained_tflops" in line]
    return {dim: max(x["backward_sustained_tflops"] for x in lines if x["heads"][2] == dim) for dim in WIDTHS}


def aims_table(records: Records) -> str:
    """What was aimed at, what was found, and whether that is met."""
    long, short = steps_of(records, 65536, 1), steps_of(records, 8192, 8)
    earlier = best_other(steps_of(records, 8192, 8, run=STEPS_BEFORE))
    seconds = [long[way]["seconds"] for way in ("ours-compiled", "ours")]
    backwards, bars = fastest_backwards(records), (500, 580, 380)
    rows = [
        ["step of 65,536 tokens: at most 0.8 of the fastest other's", *_aim(long, 0.8, "ours-compiled")],
        ["step of 65,536 tokens: at most 1.25 s", _both(seconds), _verdict(*(x <= 1.25 for x in seconds))],
        [
            "step of eight windows of 8,192 tokens: no slower than the fastest other",
            f"{short['ours']['seconds'] / earlier:.2f} without `--compile`, the other's of the earlier run",
            "met, in two runs" if short["ours"]["seconds"] <= earlier else "missed",
        ],
        [
            "attention backwards, heads of 64 / 128 / 256, sustained: at least 500 / 580 / 380 TFLOP/s",
            " / ".join(f"{backwards[dim]:.0f}" for dim in WIDTHS),
            _verdict(all(backwards[dim] >= bar for dim, bar in zip(WIDTHS, bars, strict=True))),
        ],
        [
            "pass of 65,536 tokens: at most 0.83 of the fastest uncompiled other's",
            *_aim(passes_of(records, 65536), 1 / 1.2),
        ],
        ["pass of 8,192 tokens: no slower than the fastest uncompiled other", *_aim(passes_of(records, 8192), 1.0)],
    ]
    return table(["aim", "one H200", ""], [*rows, *([aim, "not measured", "open"] for aim in UNMEASURED)])


UNMEASURED = (
    "both passes beside transformers with compiled layers",
    "gradients of 262,144 tokens on 4 GPUs: at least 85 % of the fastest one-GPU gradient in the same run",
    "Qwen3-0.6B's shape, step of 1,048,576 tokens on 4 GPUs: at most 210 s and 28 GB each",
    "Llama-3-8B's shape, pass of 1,048,576 tokens: at most 1.08 of attention and matrix products, 36 GiB",
    "Llama-3-8B's shape, LoRA step of 262,144 tokens without offload",
)


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
