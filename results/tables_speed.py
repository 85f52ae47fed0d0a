"""Tables of time and memory: passes over one window, gradients, several GPUs, kernels."""

import math

from tables_cells import Line, Records, table

WAYS = {
    "ours": "longrope",
    "plain": "transformers, default settings",
    "chunked": "transformers, logits in chunks",
    "kernel cuDNN": "the attention kernel alone",
}
SHARED = "h200x2-gradient"


def pass_table(records: Records, name: str = "h200", kernel: str = "kernel cuDNN") -> str:
    """What a pass over one window costs: ours, transformers' own, one that saves the logits, and the bare kernel."""
    rows = []
    for tokens, by_way in _by_length(records.passes(name, gradient=False)).items():
        ours, bare = by_way["ours"], by_way[kernel]
        seconds, peak = ours["seconds"], ours["peak_gib"]
        row = [f"{tokens:,}", f"{seconds:.3g}", f"{tokens / seconds:,.0f}", f"{seconds / bare['seconds']:.2f}"]
        row += [f"{ours['attention_flops'] / seconds / 1e12:.0f}", f"{peak:.1f}"]
        rows.append([*row, *(_cost(by_way.get(way), ours) for way in ("plain", "chunked"))])
    head = ["tokens", "seconds", "tokens/s", "of the bare kernel's time", "TFLOP/s of attention", "peak GiB"]
    return table([*head, WAYS["plain"], WAYS["chunked"]], rows)


def gemma_table(records: Records) -> str:
    """Passes of Gemma-3-270M beside transformers' where it survives, and the kernel of its three global layers."""
    before = {(line["tokens"], line["way"]): line for line in records.benchmark("gemma3-before")}
    now = {(line["tokens"], line["way"]): line for line in records.benchmark("gemma3")}
    rows = []
    for tokens in sorted({tokens for tokens, _ in before}):
        found = [lines.get((tokens, way)) for lines in (before, now) for way in ("ours", "kernel cuDNN")]
        times = [_beside(*found[:2]), _beside(*found[2:])]
        others = [before.get((tokens, way)) for way in ("plain", "chunked")]
        rows.append([f"{tokens:,}", *times, *(_fate(line) for line in others)])
    head = ["tokens", "before", "with the fused loss and windows by flash", WAYS["plain"], WAYS["chunked"]]
    return table(head, rows)


def _beside(ours: Line | None, kernel: Line | None) -> str:
    if not ours or not kernel:
        return "not run"
    share = ours["median_seconds"] / kernel["median_seconds"]
    return f"{ours['median_seconds']:.3g} s ({share:.2f} of the kernel's), {ours['peak_gib']:.1f} GiB"


def _fate(line: Line | None) -> str:
    if not line:
        return "not run"
    return f"{line['median_seconds']:.3g} s, {line['peak_gib']:.1f} GiB" if "seconds" in line else "out of memory"


def step_table(records: Records) -> str:
    """What the gradients of all weights cost for one window; ours were measured later than the others."""
    rows = []
    others = _by_length(records.passes(gradient=True))
    for ours in records.passes("h200-gradient", gradient=True):
        tokens = ours["tokens"]
        row = [f"{tokens:,}", f"{ours['seconds']:.3g}", f"{ours['peak_gib']:.1f}"]
        rows.append([*row, *(_cost(others[tokens].get(way), ours) for way in ("plain", "chunked"))])
    return table(["tokens", "seconds", "peak GiB", WAYS["plain"], "with its checkpointing"], rows)


def compiled_table(records: Records, name: str = "compiled") -> str:
    """Passes through torch.compile beside transformers': medians of runs that took turns, and their fastest."""
    groups: list[dict[str, Line]] = []
    for line in records.benchmark(name):
        groups.extend([{"plain": line}] * (line["way"] == "plain"))
        if line["way"] in ("ours", "compiled") and line["tokens"] == groups[-1]["plain"]["tokens"]:
            groups[-1][line["way"]] = line
    rows = []
    for found in groups:
        plain, ours, compiled = (found[way] for way in ("plain", "ours", "compiled"))
        passes = "each after a second's rest" if plain.get("rest_seconds") else "without a pause"
        row = [_device(plain), f"{plain['tokens']:,}", passes]
        row += [f"{line['median_seconds']:.3g}" for line in (plain, ours, compiled)]
        row += [f"{plain[key] / compiled[key]:.2f}x" for key in ("median_seconds", "seconds")]
        rows.append([*row, *(f"{line['peak_gib']:.2f}" for line in (plain, ours, compiled))])
    ways = ["transformers", "longrope", "compiled"]
    times = [*(f"{way}, s" for way in ways), "transformers / compiled", "by the fastest runs"]
    return table(["GPU", "tokens", "passes", *times, *(f"{way}, GiB" for way in ways)], rows)


def kernels_table(records: Records) -> str:
    """The attention of all layers alone, by each kernel."""
    rows = []
    for line in records.benchmark("hopper"):
        if line["way"].startswith("kernel "):
            seconds = line["median_seconds"]
            row = [_device(line), f"{line['tokens']:,}", line["way"][7:]]
            rows.append([*row, f"{seconds:.3g}", f"{line['attention_flops'] / seconds / 1e12:.0f}"])
    return table(["GPU", "tokens", "kernel", "seconds", "TFLOP/s"], rows)


def ranks_table(records: Records) -> str:
    """Several GPUs: seconds, efficiency (the share of their time that one GPU would have needed) and memory of each."""
    longest = [line for line in records.curve("ours") if line["tokens"] == 2**21]
    pair = [*longest, *records.benchmark("h200x2")]
    gradients = [line for line in pair if line["gradient"] and line["processes"] == 1]
    alone = [line for line in records.passes("h200-fa3", gradient=False) if line["way"] == "ours"]
    four = [*alone, *gradients, *records.benchmark("h200x4")]
    now = [line | {"gradient": True} for line in records.benchmark(SHARED) if line["part"] == "step"]
    rows = [*_shared_rows(pair, "cuDNN"), *_shared_rows(four, "FlashAttention 3")]
    rows += _shared_rows(now, "", "longrope and FlashAttention 4")
    return table(["", "GPUs", "seconds on one", "on all", "efficiency", "peak GiB on one", "on each"], rows)


def shared_profile_table(records: Records) -> str:
    """Seconds of one GPU in each kind of kernel during a gradient step over a window, alone and shared."""
    lines = [line for line in records.benchmark(SHARED) if line["part"] == "profile"]
    rows = []
    for line in sorted(lines, key=lambda line: line["processes"]):
        spent = line["device_seconds"]
        idle = line["seconds"] - sum(spent.values())
        cells = [f"{seconds:.2f}" for seconds in (*spent.values(), idle)]
        rows.append([f"{line['processes']}", f"{line['seconds']:.2f}", *cells])
    return table(["GPUs", "seconds", *lines[0]["device_seconds"], "no kernel"], rows)


def shared_gradient_share(records: Records) -> tuple[int, float]:
    """How many GPUs shared a gradient, and the share of their time that one GPU needs."""
    steps = {line["processes"]: line["seconds"] for line in records.benchmark(SHARED) if line["part"] == "step"}
    ranks = max(steps)
    return ranks, steps[1] / (ranks * steps[ranks])


def _shared_rows(lines: list[Line], kernel: str, gradients: str = "cuDNN, shared flash") -> list[list[str]]:
    """A row for each line of several processes, beside the line of one process of the same work."""
    alone = {(line["gradient"], line["tokens"]): line for line in lines if line["processes"] == 1}
    shared = [line for line in lines if line["processes"] > 1]
    rows = []
    for line in sorted(shared, key=lambda line: (line["gradient"], line["tokens"])):
        one, ranks = alone[line["gradient"], line["tokens"]], line["processes"]
        work, used = ("gradients of all weights", gradients) if line["gradient"] else ("losses", kernel)
        times = [f"{ranks}", *(f"{x['seconds']:.3g}" for x in (one, line))]
        share = f"{one['seconds'] / (ranks * line['seconds']):.0%}"
        peaks = [f"{x['peak_gib']:.1f}" for x in (one, line)]
        rows.append([f"{work}, {line['tokens']:,} tokens, {used}", *times, share, *peaks])
    return rows


def llama_table(records: Records) -> str:
    """A model of Llama-3-8B's shape: seconds, the bare kernel's and transformers', the peak and its estimate."""
    rows = []
    for run, kernel in (("llama-3-8b", "cuDNN"), ("h200-llama", "longrope")):
        for tokens, by_way in _by_length(records.benchmark(run)).items():
            if ours := by_way.get("ours"):
                speed = ours["attention_flops"] / ours["seconds"] / 1e12
                row = [f"{tokens:,}", kernel, f"{ours['seconds']:.3g}", f"{speed:.0f}"]
                row += [f"{ours['peak_gib']:.1f}", f"{ours['estimate_gib']:.1f}", _cost(by_way.get("plain"), ours)]
                rows.append(row)
    return table(["tokens", "kernel", "seconds", "TFLOP/s of attention", "peak GiB", "estimated", WAYS["plain"]], rows)


def growth_table(records: Records) -> str:
    """The slopes of time and memory against length in a log-log plot, from 65,536 tokens on."""
    rows = []
    for way, label in WAYS.items():
        found = [line for line in records.curve(way) if line["tokens"] >= 65536]
        slopes = [_slope([(line["tokens"], line[key]) for line in found]) for key in ("seconds", "peak_gib")]
        rows.append([label, *(f"{value:.2f}" for value in slopes), f"{found[-1]['tokens']:,}"])
    return table(["", "slope of time", "slope of peak memory", "up to"], rows)


def cpu_table(records: Records) -> str:
    """The pass of the bundled model on a CPU, as multiples of our seconds."""
    rows = []
    for tokens, by_way in _by_length(records.benchmark("cpu")).items():
        found = {way.split()[0]: line["seconds"] for way, line in by_way.items()}
        others = [f"{found[way] / found['ours']:.2f}x" for way in ("plain", "chunked", "kernel")]
        rows.append([f"{tokens:,}", f"{found['ours']:.2f}", *others])
    return table(["tokens", "seconds", WAYS["plain"], WAYS["chunked"], WAYS["kernel cuDNN"]], rows)


def _by_length(lines: list[Line]) -> dict[int, dict[str, Line]]:
    """The lines by length and way."""
    lengths = sorted({int(line["tokens"]) for line in lines})
    return {tokens: {line["way"]: line for line in lines if line["tokens"] == tokens} for tokens in lengths}


def _device(line: Line) -> str:
    return str(line["device"]).removeprefix("NVIDIA ").split()[0]


def _slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line of least squares through the logarithms."""
    (x, y), count = ([math.log(v) for v in axis] for axis in zip(*points, strict=True)), len(points)
    across, up = sum(x) / count, sum(y) / count
    return sum((a - across) * (b - up) for a, b in zip(x, y, strict=True)) / sum((a - across) ** 2 for a in x)


def _cost(line: Line | None, ours: Line) -> str:
    """Seconds and GiB of another way, and how many times ours they are."""
    if line is None:
        return "not run"
    if "fate" in line:
        return "out of memory"
    time, peak = line["seconds"], line["peak_gib"]
    return f"{time:.3g} s ({time / ours['seconds']:.2f}x), {peak:.1f} GiB ({peak / ours['peak_gib']:.1f}x)"


def gradient_kernels_table(records: Records) -> str:
    """TFLOP/s of each kernel forwards and backwards, for whole windows and for queries at the end, and of a step."""
    lines = records.lines("benchmarks/h100-gradient-kernels.jsonl")
    steps = {line["kernel"]: line["seconds"] for line in lines if line["part"] == "step"}
    rows = []
    for kernel in dict.fromkeys(line["kernel"] for line in lines if line["part"] == "whole"):
        cells = []
        for dim in (64, 128, 256):
            whole, last = (
                next(x for x in lines if (x["part"], x["kernel"]) == (part, kernel) and x["heads"][2] == dim)
                for part in ("whole", "last half")
            )
            cells.append(
                f"{whole['forward_tflops']:.0f}, {whole['backward_tflops']:.0f}, {last['backward_tflops']:.0f}"
            )
        rows.append([kernel, *cells, f"{steps[kernel]:.2f}"])
    return table(["", "heads of 64", "of 128", "of 256", "gradients of all weights, seconds"], rows)


def quantized_table(records: Records) -> str:
    """Searches with weights of 8 and 4 bits, and their factors with the weights in the model's own number format."""
    rows = []
    for line in records.benchmark("h200-quantized"):
        name = "bfloat16" if line["asked"] == "auto" else f"{line['asked'].removesuffix('bit')} bits"
        row = [name, f"{line['weights_mib']:.0f}", f"{line['search_seconds']:.0f}", f"{line['search_peak_gib']:.1f}"]
        found = ("original at its own window", "yarn", "searched", "searched, own number format")
        rows.append([*row, *(f"{line[key]['value']:.2f}" for key in found)])
    head = [
        "weights of",
        "MiB of weights",
        "loading and search, s",
        "peak, GiB",
        "original, 8k",
        "YaRN, 32k",
        "searched, 32k",
    ]
    return table([*head, "the same factors, bfloat16 weights, 32k"], rows)
