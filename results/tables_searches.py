"""Tables of the searches on SmolLM2-135M, from 8,192 to 65,536 tokens without a change of the weights."""

from tables_cells import (
    BASELINES,
    SEARCHES,
    Cell,
    Records,
    Row,
    number,
    percent,
    percent_with_interval,
    ratio,
    table,
    with_interval,
)

LENGTHS = (8192, 16384, 32768, 65536)
SHORT, LAST = LENGTHS[0], LENGTHS[-1]
DEPTHS = tuple(0.05 + 0.1 * i for i in range(10))
RUN = "smollm2-64k"
LONGER = ("smollm2-64k-text", "longrope-evolution")  # the evolution's run with the most passes, of the same score
COMPARED = ((RUN, "yarn"), (RUN, "longrope-evolution"), LONGER, (RUN, "longrope-gradient"))
PAPER_PASSES = (64 + 40 * (16 + 16)) * 5  # the candidates of the paper's search (appendix A.1), five windows each
EARLIER = {  # their passkeys were judged with the space before the digits
    "smollm2-64k-text": "text score",
    "smollm2-64k-text-needles": "text and needles",
    "smollm2-64k-needles": "needles weigh most",
}
EXPORTS = {
    "export-h100.json": "H100, the largest of all positions (the check before)",
    "export.json": "CPU, the 90 % quantile over the positions",
}


def compare_table(records: Records) -> str:
    """Perplexity and passkeys of every method at every length, and the evolution's longer run without its passkeys."""
    rows: list[Row] = [[label, *_by_length(records, RUN, method)] for method, label in BASELINES.items()]
    rows += [[with_budget(records, RUN, method), *_by_length(records, RUN, method)] for method in SEARCHES]
    longer = [cell for cell in _by_length(records, *LONGER) if cell.scores[0].metric == "perplexity"]
    rows.insert(-1, [with_budget(records, *LONGER), *longer, *[""] * len(LENGTHS)])
    return table(_head_by_length("passkeys"), rows)


def earlier_table(passkeys: int, records: Records) -> str:
    """The same of those earlier runs that asked for so many passkeys, judged with the space before the digits."""
    runs = [run for run in EARLIER if records.scores(run, "yarn")["passkey", LAST].num_windows == passkeys]
    rows: list[Row] = [[BASELINES["yarn"], *_by_length(records, runs[0], "yarn")]]
    for run in runs:
        rows += [[f"{label}, {EARLIER[run]}", *_by_length(records, run, method)] for method, label in SEARCHES.items()]
    return table(_head_by_length("passkeys, old judgement,"), rows)


def ratio_table(records: Records) -> str:
    """Perplexity at 64k as a share of YaRN's there and of the original's at 8k, and the passkeys there."""
    yarn, original = records.scores(RUN, "yarn")["perplexity", LAST], records.scores(RUN, "none")["perplexity", SHORT]
    rows: list[Row] = []
    for run, method in COMPARED:
        scores = records.scores(run, method)
        own, paired = scores["perplexity", LAST], scores.get(("ratio-to-yarn", LAST))
        cells = [number(own), with_interval(paired, 4) if paired else ratio(own, yarn), ratio(own, original)]
        keys = percent_with_interval(scores["passkey", LAST]) if run == RUN else ""  # judged in another way before
        rows.append([_label(records, run, method), *cells, keys])
    return table(["", "perplexity at 64k", "of YaRN's", "of the original's at 8k", "passkeys at 64k"], rows)


def all_ratios_table(records: Records) -> str:
    """Perplexity at 64k of all four runs, as shares of the same two."""
    yarn, original = records.scores(RUN, "yarn")["perplexity", LAST], records.scores(RUN, "none")["perplexity", SHORT]
    rows: list[Row] = []
    for run, score in {**EARLIER, RUN: "text score again"}.items():
        for method, label in SEARCHES.items():
            own = records.scores(run, method)["perplexity", LAST]
            cells = [number(own), ratio(own, yarn), ratio(own, original)]
            rows.append([f"{label}, {score}", _budget(records, run, method), *cells])
    return table(["", "budget", "perplexity at 64k", "of YaRN's", "of the original's at 8k"], rows)


def cost_table(records: Records, run: str = RUN) -> str:
    """What both searches cost to reach the same validation loss, and what they reached in the end."""
    names = {"trials": "evaluations", "token_passes": "tokens read", "seconds": "seconds"}
    rows: list[Row] = []
    for cost in records.content(f"{run}/costs.json"):
        reached = [cost[f"{key}_to_common"] for key in names]
        common = ["not reached" if value is None else f"{value:,}" for value in reached]
        whole = [*(f"{cost[key]:,}" for key in names), f"{cost['validation_loss_nats']:.3f}"]
        rows.append([with_budget(records, run, cost["method"]), *common, *whole])
    if run == RUN:  # held out other windows, so no loss of it can be compared
        trials = records.trials(*LONGER)
        tokens, seconds = sum(trial.token_passes for trial in trials), sum(trial.seconds for trial in trials)
        whole = [f"{len(trials)}", f"{tokens:,}", f"{seconds:.2f}", ""]
        rows.insert(1, [with_budget(records, *LONGER), *[""] * len(names), *whole])
    head = ["", *(f"{name} to the common loss" for name in names.values()), *(f"{n} in all" for n in names.values())]
    return table([*head, "loss reached"], rows)


def depth_table(records: Records) -> str:
    """Passkeys found by their depth: of the original model in its own window, and at 64k."""
    labels = {**BASELINES, **SEARCHES}
    rows: list[Row] = []
    for method, length in (("none", SHORT), *((method, LAST) for method in ("yarn", *SEARCHES))):
        scores = records.scores(RUN, method)
        shown = [scores[f"passkey-depth-{depth:.2f}", length] for depth in DEPTHS]
        label = f"{labels[method]}, {length // 1024}k"
        counts = [Cell(f"{score.value * score.num_windows:.0f}/{score.num_windows}", (score,)) for score in shown]
        rows.append([label, *counts])
    return table(["depth", *(f"{depth:.0%}" for depth in DEPTHS)], rows)


def exports_table(records: Records) -> str:
    """How far the reopened checkpoint's logits are from ours, by both reports."""
    rows = []
    for name, label in EXPORTS.items():
        report = records.content(f"{RUN}/{name}")
        numbers = [report[key] for key in ("difference_short", "difference_long", "rounding")]
        rows.append([f"`{name}`: {label}", report["transformers"], *(f"{number:.3g}" for number in numbers)])
    return table(["", "transformers", "below the switch", "above it", "float32 angles alone"], rows)


def variants_table(records: Records) -> str:
    """What each search variant gave on held-out windows and passkeys."""
    rows = []
    for line in records.lines("search-variants/variants.jsonl"):
        numbers = [f"{line[key]:.3f}" for key in ("loss", "loss_last_half", "attention_factor")]
        rows.append([line["variant"], *numbers, f"{line['passkey']:.0%}", f"{line['seconds']:.0f}"])
    return table(["variant", "loss", "loss, last half", "attention factor", "passkeys", "seconds"], rows)


def probe_table(records: Records) -> str:
    """Loss over answers by the distance of their facts, in windows of a thousand tokens."""
    probes = records.lines("skip-probe/probe.jsonl")
    gaps = probes[1]["gaps"]
    head = ["distance as a share of the window", *(f"{gap / gaps[-1] * 0.9:.0%}" for gap in gaps)]
    return table(head, [[probe["factors"], *(f"{loss:.2f}" for loss in probe["losses"])] for probe in probes])


def _by_length(records: Records, run: str, method: str) -> list[Cell]:
    scores = records.scores(run, method)
    numbers = [number(scores["perplexity", length]) for length in LENGTHS]
    return [*numbers, *(percent(scores["passkey", length]) for length in LENGTHS)]


def _head_by_length(keys: str) -> list[str]:
    lengths = [f"{length // 1024}k" for length in LENGTHS]
    return ["", *lengths, *(f"{keys} {length}" for length in lengths)]


def _label(records: Records, run: str, method: str) -> str:
    return BASELINES.get(method) or with_budget(records, run, method)


def with_budget(records: Records, run: str, method: str) -> str:
    """A search by name, with what it could choose by."""
    label = SEARCHES.get(method, "NTK, scanned base and attention factor")
    return f"{label} ({_budget(records, run, method)})"


def _budget(records: Records, run: str, method: str) -> str:
    """What the search could choose by: passes over its windows; looks at held-out windows come on top."""
    trials = records.trials(run, method)
    passes = sum(trial.token_passes for trial in trials if trial.kind == "search") // LAST
    if method == "longrope-evolution":
        return f"{passes} of the paper's {PAPER_PASSES:,} window passes"
    steps = sum(trial.kind == "gradient" for trial in trials)
    return f"{steps} gradient steps, {passes} window passes" if steps else f"{passes} window passes"
