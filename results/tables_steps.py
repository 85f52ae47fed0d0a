"""Tables of training steps, passes and kernels beside the fastest others, all measured in one run on one GPU."""

from collections.abc import Sequence

from tables_cells import Line, Records, table

STEPS, PASSES, KERNELS = "h200-steps", "h200-passes", "h200-gradient-kernels"
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
    "fast": "transformers, logits in chunks, layers compiled",
}
OURS = {
    "ours": "longrope",
    "ours-compiled": "longrope, `--compile`",
    "ours-lora": "longrope, LoRA",
    "compiled": "longrope, `--compile`",
}
KINDS = {(65536, 1): "one window of 65,536", (8192, 8): "eight windows of 8,192"}
WIDTHS = (64, 128, 256)


def steps_of(records: Records, tokens: int, windows: int, *, lora: bool = False) -> dict[str, Line]:
    """The steps of one kind by way, of all weights or of adapters."""
    lines = [x for x in records.benchmark(STEPS) if (x["tokens"], x["windows"]) == (tokens, windows) and "seconds" in x]
    return {x["way"]: x for x in lines if ("lora" in x["way"]) == lora}


def passes_of(records: Records, tokens: int) -> dict[str, Line]:
    """The passes of one length by way."""
    return {x["way"]: x for x in records.benchmark(PASSES) if x["tokens"] == tokens and "median_seconds" in x}


def best_other(found: dict[str, Line], key: str) -> Line:
    """The fastest of the ways that are not ours."""
    return min((line for way, line in found.items() if way in OTHERS), key=lambda line: float(line[key]))


def steps_table(records: Records) -> str:
    """Seconds and memory of training steps; times the fastest of the others in the same kind of steps."""
    rows = []
    for (tokens, windows), kind in KINDS.items():
        for lora in (False, True):
            rows += _ranked(f"{kind}{', adapters' * lora}", steps_of(records, tokens, windows, lora=lora), "seconds")
    return table(["step", "", "seconds", "of the fastest other's", "peak GiB"], rows)


def passes_table(records: Records) -> str:
    """Median seconds and memory of passes, times the fastest of the others at the same length."""
    rows = []
    for tokens in sorted({line["tokens"] for line in records.benchmark(PASSES)}):
        rows += _ranked(f"{tokens:,}", passes_of(records, tokens), "median_seconds")
    return table(["tokens", "", "seconds", "of the fastest other's", "peak GiB"], rows)


def _ranked(kind: str, found: dict[str, Line], key: str) -> list[list[str]]:
    """A row for each way, ours first."""
    if not found:
        return []
    best = best_other(found, key)[key] if any(way in OTHERS for way in found) else None
    rows = []
    for way, label in {**OURS, **OTHERS}.items():
        if way in found:
            seconds = found[way][key]
            share = f"{seconds / best:.2f}" if best else "-"
            rows.append([kind, label, f"{seconds:.3g}", share, f"{found[way]['peak_gib']:.1f}"])
    return rows


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
    rows = [
        _aim("step of 65,536 tokens: at most 0.8 of the fastest other's", long, "seconds", 0.8, "ours-compiled"),
        [
            "step of 65,536 tokens: at most 1.25 s",
            f"{long['ours-compiled']['seconds']:.2f} s with `--compile`, {long['ours']['seconds']:.2f} s without",
            _verdict(long["ours-compiled"]["seconds"] <= 1.25, long["ours"]["seconds"] <= 1.25),
        ],
        _aim("eight windows of 8,192 a step: no slower than the others", short, "seconds", 1.0, "ours-compiled"),
        _aim("pass of 65,536 tokens: at most 0.83", passes_of(records, 65536), "median_seconds", 1 / 1.2, "compiled"),
        _aim("pass of 8,192 tokens: no slower", passes_of(records, 8192), "median_seconds", 1.0, "compiled"),
    ]
    backwards, bars = fastest_backwards(records), (500, 580, 380)
    met = all(backwards[dim] >= bar for dim, bar in zip(WIDTHS, bars, strict=True))
    found = " / ".join(f"{backwards[dim]:.0f}" for dim in WIDTHS)
    rows.append(
        ["attention backwards, heads of 64 / 128 / 256, sustained: at least 500 / 580 / 380", found, _verdict(met, met)]
    )
    rows += [[aim, "not measured", "open"] for aim in UNMEASURED]
    return table(["aim", "one H200", ""], rows)


UNMEASURED = (
    "gradients of 262,144 tokens on 4 GPUs: at least 85 % of the fastest one-GPU gradient in the same run",
    "Qwen3-0.6B's shape, step of 1,048,576 tokens on 4 GPUs: at most 210 s and 28 GB each",
    "Llama-3-8B's shape, pass of 1,048,576 tokens: at most 1.08 of attention and matrix products, 36 GiB",
    "Llama-3-8B's shape, LoRA step of 262,144 tokens without offload",
)


def _aim(aim: str, found: dict[str, Line], key: str, bar: float, compiled: str) -> list[str]:
    """A row for an aim that is a share of the fastest other's seconds."""
    best = best_other(found, key)[key]
    with_it, without = (found[way][key] / best for way in (compiled, "ours"))
    return [aim, f"{with_it:.2f} with `--compile`, {without:.2f} without", _verdict(with_it <= bar, without <= bar)]


def _verdict(*met: bool) -> str:
    labels: Sequence[str] = ("met with `--compile` alone", "met without `--compile` alone")
    if all(met):
        return "met"
    return "missed" if not any(met) else labels[0] if met[0] else labels[1]
