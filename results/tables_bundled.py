"""Tables of the bundled model: the demo, needles, searches by score, extrapolated factors."""

from statistics import fmean, stdev

from tables_cells import (
    BASELINES,
    EACH_ROW,
    ORIGINAL,
    SEARCHES,
    Cell,
    Records,
    Row,
    one_text,
    percent,
    percent_with_interval,
    table,
    with_interval,
)

from longrope.runs.records import Score

DEMO = (256, 2048)
PAPER = (  # run, method in it, label
    ("evolution", "none", ORIGINAL),
    ("evolution", "yarn", "YaRN"),
    ("evolution", "critical", "critical-pair rule"),
    ("evolution", "ntk-scan", "NTK, scanned base and attention factor"),
    ("evolution", "longrope-evolution", "LongRoPE, evolution, 1,344 candidates on five windows"),
    ("evolution-critical", "longrope-evolution", "the same, the critical-pair rule's factors among its starts"),
    ("gradient", "scan", "LongRoPE, gradient"),
    ("gradient-floor", "longrope-gradient", "LongRoPE, gradient, floor scanned"),
    ("cma", "longrope-cma", "LongRoPE, CMA-ES over knots"),
    ("cma-tail", "longrope-cma", "the same, last half scored"),
)
STUDENT = {3: 4.303}  # two-sided 95 % of t, by the number of values


def demo_table(records: Records) -> str:
    """What the demo prints: perplexity with its interval, and passkeys, at every length."""
    rows: list[Row] = []
    for method, label in {**BASELINES, **SEARCHES}.items():
        if scores := records.scores("demo", method):
            shown = [with_interval(scores["perplexity", length]) for length in DEMO]
            rows.append([label, *shown, *(percent(scores["passkey", length]) for length in DEMO)])
    return table(["", *(f"{n:,}" for n in DEMO), *(f"passkeys {n:,}" for n in DEMO)], rows)


def win_table(records: Records) -> str:
    """How the demo's factors compare with YaRN's: by the demo itself, and over all of the measuring text by Python."""
    ours = "longrope-gradient"
    demo = [score for method in (ours, "yarn") for score in records.scores("demo", method).values()]
    runs = {"the demo, Python 3.11": [score for score in demo if score.context_tokens == DEMO[-1]]}
    for line in records.lines("demo/whole.jsonl"):
        runs.setdefault(f"all of its text, Python {line.pop('python')}", []).append(Score(**line))
    rows: list[Row] = []
    for label, scores in runs.items():
        made = {(score.method, score.metric): score for score in scores}
        paired = made[ours, "ratio-to-yarn"]
        keys = [percent_with_interval(made[method, "passkey"]) for method in (ours, "yarn")]
        rows.append([label, str(paired.num_windows), with_interval(paired, 4), *keys])
    head = ["windows", "LongRoPE's perplexity as a share of YaRN's", "passkeys, LongRoPE", "passkeys, YaRN"]
    return table([EACH_ROW, *head], rows)


def nano_ruler_table(records: Records) -> str:
    """Needles and RULER's tasks on the bundled model: the original, and with the demo's factors."""
    plain, ours = (records.scores("nano-ruler", method) for method in ("none", "longrope-gradient"))
    columns = ((plain, 256), (plain, 2048), (ours, 1024), (ours, 2048))
    rows: list[Row] = []
    for metric in dict.fromkeys(metric for metric, _ in ours if "depth" not in metric):
        shown = [made.get((metric, length)) for made, length in columns]
        rows.append([metric, *(percent_with_interval(score) if score else "" for score in shown)])
    return table(["", f"256, {ORIGINAL}", f"2,048, {ORIGINAL}", "1,024, demo's factors", "2,048, demo's factors"], rows)


def nano_search_table(records: Records) -> str:
    """What baselines and searches by different scores give on the bundled model."""
    rows = []
    for line in records.lines("nano-search/nano.jsonl"):
        numbers = [line["loss"], line["loss_last_half"], line["attention_factor"], line["lambdas"][-1]]
        rows.append([line["factors"], *(f"{x:.3f}" for x in numbers), f"{line['keys']:.0%}"])
    return table(["factors", "loss", "loss, last half", "attention factor", "slowest lambda", "passkeys"], rows)


def near_exact_table(records: Records) -> str:
    """The bundled model at 16 times its window: factors, and methods that read near tokens exactly."""
    rows: list[Row] = []
    for method in ("none", "yarn", "longrope-gradient", "dca", "self-extend", "jet-long"):
        scores = records.scores("nano-4k", method)
        read = [with_interval(scores["perplexity", length]) for length in (256, 4096)]
        paired = [with_interval(scores["ratio-to-yarn", 4096], 3) if method != "yarn" else "1"]
        label = ORIGINAL if method == "none" else scores["perplexity", 4096].source.label
        rows.append([label, *read, *paired, percent_with_interval(scores["passkey", 4096])])
    return table(["", "256", "4,096", "share of YaRN's at 4,096, paired", "passkeys 4,096"], rows)


def ablations_table(records: Records) -> str:
    """Parts of the gradient search left out, on the bundled model: means over the seeds with the lowest and highest."""
    lines = records.lines("search-ablations/nano.jsonl")
    rows = []
    for variant in dict.fromkeys(line["variant"] for line in lines):
        own = [line for line in lines if line["variant"] == variant]
        numbers = [_spread([line[key] for line in own]) for key in ("loss", "loss_last_half", "answers")]
        slowest = fmean(line["lambdas"][-1] for line in own)
        factor = fmean(line["attention_factor"] for line in own)
        passes = fmean(line["window_passes"] for line in own)
        rows.append([variant, f"{len(own)}", *numbers, f"{factor:.3f}", f"{slowest:.2f}", f"{passes:.0f}"])
    head = ["factors", "seeds", "loss", "loss, last half", "loss over answers", "attention factor", "slowest lambda"]
    return table([*head, "window passes"], rows)


def sizes_table(records: Records) -> str:
    """The evolution with other sizes on the bundled model: means over the seeds with Student's intervals."""
    lines = records.lines("evolution-sizes/nano.jsonl")
    sizes = ("population", "mutations", "crossovers", "generations")
    base = {line["seed"]: line["loss"] for line in lines if line["variant"] == "base"}
    rows = []
    for variant in dict.fromkeys(line["variant"] for line in lines):
        own = [line for line in lines if line["variant"] == variant]
        given = [f"{own[0][size]}" if size in own[0] else "" for size in sizes]
        losses = [_mean_with_interval([line[key] for line in own]) for key in ("loss", "answers")]
        change = [line["loss"] - base[line["seed"]] for line in own] if "population" in own[0] else []
        differs = _mean_with_interval(change, "+") if any(change) else ""
        passes = fmean(line["window_passes"] for line in own)
        rows.append([variant, *given, f"{len(own)}", losses[0], differs, losses[1], f"{passes:.0f}"])
    return table(["", *sizes, "seeds", "loss", "loss less that of base", "loss over answers", "window passes"], rows)


def paper_table(records: Records) -> str:
    """The evolution with the paper's budget on the bundled model, the gradient search with its own, and formulas."""
    rows: list[Row] = []
    for run, method, label in PAPER:
        found = {
            (s.metric, s.context_tokens): s for s in records.every_score(f"nano-paper/{run}") if s.method == method
        }
        cells = [with_interval(found["perplexity", length]) for length in DEMO]
        cells += [percent_with_interval(found[metric, DEMO[-1]]) for metric in ("passkey", "prose-needle")]
        costs = {cost["method"]: cost for cost in records.content(f"nano-paper/{run}/costs.json")}
        search = f"longrope-{run.partition('-')[0]}" if label.startswith(("LongRoPE", "the same")) else method
        passes = f"{costs[search]['token_passes'] // DEMO[-1]:,}" if search in costs else ""
        rows.append([label, *cells, passes])
    return table(["", *(f"{n:,}" for n in DEMO), "passkeys 2,048", "needles 2,048", "window passes"], rows)


def paper_other_table(records: Records) -> str:
    """The same factors on text that no search has read, each beside those of the gradient search."""
    pairs = {
        (line["run"], line["metric"], line["context_tokens"]): line
        for line in records.lines("nano-paper-other/arms.jsonl")
        if line["reference"] == "gradient"
    }
    rows: list[Row] = []
    for run, method, label in PAPER[4:]:
        found = {(s.metric, s.context_tokens): s for s in records.every_score(f"nano-paper-other/{run}")}
        cells: list[str | Cell] = []
        for metric, length in (("perplexity", 256), ("perplexity", 2048), ("perplexity-last-1024", 2048)):
            pair = pairs.get((run, metric, length))
            share = f" ({pair['value']:.3f}, {pair['low']:.3f}-{pair['high']:.3f})" if pair else ""
            score = found[metric, length]
            assert score.method == method
            cells.append(Cell(f"{score.value:.2f}{share}", (score,)))
        cells += [percent_with_interval(found[metric, 2048]) for metric in ("passkey", "prose-needle")]
        rows.append([label, *cells])
    return table(["", "256", "2,048", "last half of 2,048", "passkeys 2,048", "needles 2,048"], rows)


def _mean_with_interval(values: list[float], sign: str = "") -> str:
    """A mean, and half of its 95 % interval by Student's t."""
    mean = f"{fmean(values):{sign}.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {STUDENT[len(values)] * stdev(values) / len(values) ** 0.5:.3f}"


def _spread(values: list[float]) -> str:
    mean = f"{fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def extrapolated_table(records: Records) -> str:
    """Factors extrapolated from a shorter window, beside those searched at the window itself, paired by token."""
    rows = []
    for line in one_text(records.benchmark("carry-rule")):
        lengths = [f"{line[key]:,}" for key in ("searched_tokens", "tokens")]
        both = [f"{line[key]:.2f}" for key in ("perplexity_carried", "perplexity_searched")]
        rows.append([*lengths, *both, f"{line['ratio']:.3f} ({line['ratio_low']:.3f}-{line['ratio_high']:.3f})"])
    return table(["searched at", "extrapolated to", "perplexity, extrapolated", "searched there", "ratio"], rows)


def cache_table(records: Records) -> str:
    """What keys and values in 8 bits change in the losses of tokens that are read one by one."""
    rows = []
    for line in one_text(records.benchmark("cache-nano")):
        change = f"{line['difference_nats']:+.4f} ± {line['difference_standard_error_nats']:.4f}"
        kind = line["dtype"].removeprefix("torch.")
        loss, other, size = line["loss_nats"], line["other_likeliest_token"], line["cache_bytes"] / 1e6
        rows.append([f"{line['cache']}, {kind}", f"{loss:.4f}", change, f"{other:.1%}", f"{size:.2f}"])
    return table(["cache", "loss, nats", "change (standard error)", "another likeliest token", "MB"], rows)
