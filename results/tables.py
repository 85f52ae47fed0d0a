"""Write the tables of the README files and docs/log.md from the committed records: ``python results/tables.py``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; a test runs this and expects no change.
Scores of different texts cannot be compared: a table that holds such scores is refused, unless its first heading says
that each row is on a text of its own.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from longrope.errors import LongRopeError
from longrope.labels import label_of
from longrope.records import Score, Trial, read_records
from longrope.registry import ORIGINAL, baselines

ROOT = Path(__file__).parent.parent
DEMO = (256, 2048)
LENGTHS = (8192, 16384, 32768, 65536)
LAST = LENGTHS[-1]
DEPTHS = tuple(0.05 + 0.1 * i for i in range(10))
BASELINES = {name: label_of(name) for name in (ORIGINAL, *baselines())}
SEARCHES = {name: label_of(name) for name in ("longrope-evolution", "longrope-gradient")}
RUN = "smollm2-64k"
LONGER = ("smollm2-64k-text", "longrope-evolution")  # the evolution's run with the most passes, of the same score
PAPER_PASSES = (64 + 40 * (16 + 16)) * 5  # the candidates of the paper's search (appendix A.1), five windows each
EACH_ROW = "each row on its own text"  # the first heading of a table that may hold several texts
EARLIER = {  # their keys were judged with the space before the digits
    "smollm2-64k-text": "text score",
    "smollm2-64k-text-needles": "text and needles",
    "smollm2-64k-needles": "needles weigh most",
}
WAYS = {
    "ours": "longrope",
    "plain": "transformers as it is",
    "chunked": "transformers, logits in chunks",
    "kernel cuDNN": "the attention kernel alone",
}
EXPORTS = {
    "export-h100.json": "H100, the largest of all positions (the check before)",
    "export.json": "CPU, the 90 % quantile over the positions",
}


class MixedTextsError(LongRopeError):
    """A table that sets scores of different texts beside each other without saying so."""


@dataclass(frozen=True)
class Cell:
    """The text of one cell, with the scores that it is made from."""

    text: str
    scores: tuple[Score, ...]

    def __str__(self) -> str:
        """Return the text alone."""
        return self.text


Row = Sequence[str | Cell]


def write_tables() -> list[Path]:
    """Rewrite every table in the docs; return the files that changed."""
    changed = []
    for path in (ROOT / "README.md", ROOT / "docs" / "log.md", ROOT / "results" / "README.md"):
        before = path.read_text()
        after = re.sub(
            r"(<!-- table (\S+) -->\n).*?(<!-- end -->)",
            lambda found: found[1] + TABLES[found[2]]() + found[3],
            before,
            flags=re.DOTALL,
        )
        if after != before:
            path.write_text(after)
            changed.append(path)
    return changed


def compare_table() -> str:
    """Perplexity and passkeys of every method at every length, and the evolution's longer run without its passkeys."""
    rows: list[Row] = [[label, *_by_length(RUN, method)] for method, label in BASELINES.items()]
    rows += [[_with_budget(RUN, method), *_by_length(RUN, method)] for method in SEARCHES]
    longer = [cell for cell in _by_length(*LONGER) if cell.scores[0].metric == "perplexity"]
    rows.insert(-1, [_with_budget(*LONGER), *longer, *[""] * len(LENGTHS)])
    return _table(_head_by_length("keys"), rows)


def earlier_table(passkeys: int) -> str:
    """The same of those earlier runs that asked for so many passkeys, judged with the space before the digits."""
    runs = [run for run in EARLIER if _scores(run, "yarn")["passkey", LAST].num_windows == passkeys]
    rows: list[Row] = [[BASELINES["yarn"], *_by_length(runs[0], "yarn")]]
    for run in runs:
        rows += [[f"{label}, {EARLIER[run]}", *_by_length(run, method)] for method, label in SEARCHES.items()]
    return _table(_head_by_length("old keys"), rows)


def demo_table() -> str:
    """What the demo prints: perplexity with its interval, and passkeys, at every length."""
    rows: list[Row] = []
    for method, label in {**BASELINES, **SEARCHES}.items():
        if scores := _scores("demo", method):
            shown = [_bounded(scores["perplexity", length]) for length in DEMO]
            rows.append([label, *shown, *(_percent(scores["passkey", length]) for length in DEMO)])
    return _table(["", *(f"{n:,}" for n in DEMO), *(f"keys {n:,}" for n in DEMO)], rows)


def nano_ruler_table() -> str:
    """Needles and RULER's tasks on the nano model: as it is, and with the demo's factors."""
    plain, ours = (_scores("nano-ruler", method) for method in ("none", "longrope-gradient"))
    columns = ((plain, 256), (plain, 2048), (ours, 1024), (ours, 2048))
    metrics = dict.fromkeys(metric for metric, _ in ours if "depth" not in metric)
    rows: list[Row] = [
        [metric, *(_share(made[metric, n]) if (metric, n) in made else "" for made, n in columns)] for metric in metrics
    ]
    return _table(["", "256, as it is", "2,048, as it is", "1,024, demo's factors", "2,048, demo's factors"], rows)


def win_table() -> str:
    """How the demo's factors compare with YaRN's: by the demo itself, and over all of the measuring text by Python."""
    ours = "longrope-gradient"
    demo = [score for scores in (_scores("demo", ours), _scores("demo", "yarn")) for score in scores.values()]
    runs = {"the demo, Python 3.11": [score for score in demo if score.context_tokens == DEMO[-1]]}
    for line in map(json.loads, (ROOT / "results" / "demo" / "whole.jsonl").read_text().splitlines()):
        runs.setdefault(f"all of its text, Python {line.pop('python')}", []).append(Score(**line))
    rows: list[Row] = []
    for label, scores in runs.items():
        made = {(score.method, score.metric): score for score in scores}
        ratio = made[ours, "ratio-to-yarn"]
        keys = [_share(made[method, "passkey"]) for method in (ours, "yarn")]
        rows.append([label, str(ratio.num_windows), _interval(ratio), *keys])
    head = ["windows", "LongRoPE's perplexity as a share of YaRN's", "keys, LongRoPE", "keys, YaRN"]
    return _table([EACH_ROW, *head], rows)


def cost_table(run: str = RUN) -> str:
    """What both searches cost to reach the same validation loss, and what they reached in the end."""
    costs = json.loads((ROOT / "results" / run / "costs.json").read_text())
    names = {"trials": "evaluations", "token_passes": "tokens pushed", "seconds": "seconds"}
    rows: list[Row] = []
    for cost in costs:
        common = [f"{cost[f'{key}_to_common']:,}" for key in names]
        whole = [*(f"{cost[key]:,}" for key in names), f"{cost['validation_loss_nats']:.3f}"]
        rows.append([_with_budget(run, cost["method"]), *common, *whole])
    if run == RUN:  # held out other windows, so no loss of it can be compared
        trials = _trials(*LONGER)
        whole = [f"{len(trials)}", f"{sum(trial.token_passes for trial in trials):,}"]
        seconds = f"{sum(trial.seconds for trial in trials):.2f}"
        rows.insert(1, [_with_budget(*LONGER), *[""] * len(names), *whole, seconds, ""])
    head = ["", *(f"{name} to the common loss" for name in names.values()), *(f"{n} in all" for n in names.values())]
    return _table([*head, "loss reached"], rows)


def ratio_table() -> str:
    """Perplexity at 64k as a share of YaRN's there and of the original's at 8k on the same text, and the keys there."""
    yarn, original = _scores(RUN, "yarn")["perplexity", LAST], _scores(RUN, "none")["perplexity", LENGTHS[0]]
    rows: list[Row] = []
    for run, method in ((RUN, "yarn"), (RUN, "longrope-evolution"), LONGER, (RUN, "longrope-gradient")):
        scores = _scores(run, method)
        own, paired = scores["perplexity", LAST], scores.get(("ratio-to-yarn", LAST))
        cells = [_number(own), _interval(paired) if paired else _ratio(own, yarn), _ratio(own, original)]
        keys = _share(scores["passkey", LAST]) if run == RUN else ""  # judged in another way before
        rows.append([BASELINES.get(method) or _with_budget(run, method), *cells, keys])
    return _table(["", "perplexity at 64k", "of YaRN's", "of the original's at 8k", "keys at 64k"], rows)


def all_ratios_table() -> str:
    """Perplexity at 64k of all four runs, as shares of the same two."""
    yarn, original = _scores(RUN, "yarn")["perplexity", LAST], _scores(RUN, "none")["perplexity", LENGTHS[0]]
    rows: list[Row] = []
    for run, score in {**EARLIER, RUN: "text score again"}.items():
        for method, label in SEARCHES.items():
            own = _scores(run, method)["perplexity", LAST]
            cells = [_number(own), _ratio(own, yarn), _ratio(own, original)]
            rows.append([f"{label}, {score}", _budget(run, method), *cells])
    return _table(["", "budget", "perplexity at 64k", "of YaRN's", "of the original's at 8k"], rows)


def _with_budget(run: str, method: str) -> str:
    return f"{SEARCHES[method]} ({_budget(run, method)})"


def _budget(run: str, method: str) -> str:
    """What the search could choose by: passes over its windows; looks at held-out windows come on top."""
    trials = _trials(run, method)
    passes = sum(trial.token_passes for trial in trials if trial.kind == "search") // LAST
    if method == "longrope-evolution":
        return f"{passes} of the paper's {PAPER_PASSES:,} window passes"
    return f"{sum(trial.kind == 'gradient' for trial in trials)} gradient steps, {passes} window passes"


def _trials(run: str, method: str) -> list[Trial]:
    trials = read_records(ROOT / "results" / run / "trials.jsonl", Trial)
    return [trial for trial in trials if trial.method == method]


def depth_table() -> str:
    """Keys found by their depth: of the model as it is in its own window, and at 64k."""
    labels = {**BASELINES, **SEARCHES}
    rows: list[Row] = []
    for method, length in (("none", LENGTHS[0]), *((method, LAST) for method in ("yarn", *SEARCHES))):
        scores = _scores(RUN, method)
        shown = [scores[f"passkey-depth-{depth:.2f}", length] for depth in DEPTHS]
        label = f"{labels[method]}, {length // 1024}k"
        counts = [Cell(f"{score.value * score.num_windows:.0f}/{score.num_windows}", (score,)) for score in shown]
        rows.append([label, *counts])
    return _table(["depth", *(f"{depth:.0%}" for depth in DEPTHS)], rows)


def exports_table() -> str:
    """How far the reopened checkpoint's logits are from ours, by both reports."""
    rows = []
    for name, label in EXPORTS.items():
        report = json.loads((ROOT / "results" / RUN / name).read_text())
        numbers = [report[key] for key in ("difference_short", "difference_long", "rounding")]
        rows.append([f"`{name}`: {label}", report["transformers"], *(f"{number:.3g}" for number in numbers)])
    return _table(["", "transformers", "below the switch", "above it", "float32 angles alone"], rows)


def variants_table() -> str:
    """What each search variant gave on held-out windows and keys."""
    lines = (ROOT / "results" / "search-variants" / "variants.jsonl").read_text().splitlines()
    rows = []
    for line in map(json.loads, lines):
        numbers = [line["loss"], line["loss_last_half"], line["attention_factor"]]
        rows.append(
            [line["variant"], *(f"{x:.3f}" for x in numbers), f"{line['passkey']:.0%}", f"{line['seconds']:.0f}"]
        )
    return _table(["variant", "loss", "loss, last half", "attention factor", "keys", "seconds"], rows)


def probe_table() -> str:
    """Loss over answers by the distance of their facts, in windows of a thousand tokens."""
    lines = (ROOT / "results" / "skip-probe" / "probe.jsonl").read_text().splitlines()
    probes = [json.loads(line) for line in lines]
    head = [
        "distance as a share of the window",
        *(f"{gap / probes[1]['gaps'][-1] * 0.9:.0%}" for gap in probes[1]["gaps"]),
    ]
    return _table(head, [[probe["factors"], *(f"{loss:.2f}" for loss in probe["losses"])] for probe in probes])


def nano_search_table() -> str:
    """What closed forms and searches by different scores give on the nano model."""
    lines = (ROOT / "results" / "nano-search" / "nano.jsonl").read_text().splitlines()
    rows = []
    for line in map(json.loads, lines):
        numbers = [line["loss"], line["loss_last_half"], line["attention_factor"], line["lambdas"][-1]]
        rows.append([line["factors"], *(f"{x:.3f}" for x in numbers), f"{line['keys']:.0%}"])
    return _table(["factors", "loss", "loss, last half", "attention factor", "slowest lambda", "keys"], rows)


def pass_table(name: str = "h200", kernel: str = "kernel cuDNN") -> str:
    """What a pass over one window costs: ours, transformers' own, one that saves the logits, and the bare kernel."""
    rows = []
    for tokens in sorted({line["tokens"] for line in passes(name, gradient=False)}):
        by_way = {line["way"]: line for line in passes(name, gradient=False) if line["tokens"] == tokens}
        ours, bare = by_way["ours"], by_way[kernel]
        seconds, peak = ours["seconds"], ours["peak_gib"]
        row = [f"{tokens:,}", f"{seconds:.3g}", f"{tokens / seconds:,.0f}", f"{seconds / bare['seconds']:.2f}"]
        row += [f"{ours['attention_flops'] / seconds / 1e12:.0f}", f"{peak:.1f}"]
        rows.append([*row, *(_cost(by_way.get(way), ours) for way in ("plain", "chunked"))])
    head = ["tokens", "seconds", "tokens/s", "of the bare kernel's time", "TFLOP/s of attention", "peak GiB"]
    return _table([*head, "transformers as it is", "transformers, logits in chunks"], rows)


def step_table() -> str:
    """What the gradients of all weights cost for one window; ours were measured later than the others."""
    rows = []
    for ours in passes("h200-gradient", gradient=True):
        tokens = ours["tokens"]
        by_way = {line["way"]: line for line in passes(gradient=True) if line["tokens"] == tokens}
        row = [f"{tokens:,}", f"{ours['seconds']:.3g}", f"{ours['peak_gib']:.1f}"]
        rows.append([*row, *(_cost(by_way.get(way), ours) for way in ("plain", "chunked"))])
    return _table(["tokens", "seconds", "peak GiB", "transformers as it is", "with its checkpointing"], rows)


def compiled_table(name: str = "compiled") -> str:
    """Passes through torch.compile beside transformers': medians of runs that took turns, and their fastest."""
    groups: list[dict[str, dict[str, Any]]] = []
    for line in _lines(name):
        groups.extend([{"plain": line}] * (line["way"] == "plain"))
        if line["way"] in ("ours", "compiled") and line["tokens"] == groups[-1]["plain"]["tokens"]:
            groups[-1][line["way"]] = line
    rows = []
    for found in groups:
        plain, ours, compiled = (found[way] for way in ("plain", "ours", "compiled"))
        passes = "each after a second's rest" if plain.get("rest_seconds") else "without a pause"
        row = [plain["device"].removeprefix("NVIDIA ").split()[0], f"{plain['tokens']:,}", passes]
        row += [f"{line['median_seconds']:.3g}" for line in (plain, ours, compiled)]
        row += [f"{plain[key] / compiled[key]:.2f}x" for key in ("median_seconds", "seconds")]
        rows.append([*row, *(f"{line['peak_gib']:.2f}" for line in (plain, ours, compiled))])
    ways = ["transformers", "longrope", "compiled"]
    times = [*(f"{way}, s" for way in ways), "transformers / compiled", "by the fastest runs"]
    return _table(["GPU", "tokens", "passes", *times, *(f"{way}, GiB" for way in ways)], rows)


def kernels_table() -> str:
    """The attention of all layers alone, by each kernel."""
    rows = []
    for line in _lines("hopper"):
        if line["way"].startswith("kernel "):
            seconds = line["median_seconds"]
            row = [line["device"].removeprefix("NVIDIA ").split()[0], f"{line['tokens']:,}", line["way"][7:]]
            rows.append([*row, f"{seconds:.3g}", f"{line['attention_flops'] / seconds / 1e12:.0f}"])
    return _table(["GPU", "tokens", "kernel", "seconds", "TFLOP/s"], rows)


def two_train_table() -> str:
    """The same training by one GPU and by two: the losses of its steps, and what a step costs."""
    lines = _lines("h200x2-train")
    rows = []
    for run in dict.fromkeys(line["run"] for line in lines):
        steps = [line for line in lines if line["run"] == run]
        seconds = statistics.median(line["seconds"] for line in steps[1:])
        row = [f"{steps[0]['trained']}", f"{steps[0]['processes']}", f"{seconds:.2f}", f"{steps[-1]['memory_gib']:.1f}"]
        rows.append([*row, *(f"{line['loss_nats']:.4f}" for line in steps)])
    head = ["trained", "GPUs", "seconds a step", "GiB on each"]
    return _table([*head, *(f"loss {line['step']}" for line in lines if line["run"] == lines[0]["run"])], rows)


def ranks_table() -> str:
    """Several GPUs: seconds, efficiency (the share of their time that one GPU would have needed) and memory of each."""
    longest = [line for line in passes(gradient=False) if line["way"] == "ours" and line["tokens"] == 2**21]
    pair = [*longest, *_lines("h200x2")]
    gradients = [line for line in pair if line["gradient"] and line["processes"] == 1]
    four = [
        *(line for line in passes("h200-fa3", gradient=False) if line["way"] == "ours"),
        *gradients,
        *_lines("h200x4"),
    ]
    rows = []
    for lines, flash_3 in ((pair, False), (four, True)):
        alone = {(line["gradient"], line["tokens"]): line for line in lines if line["processes"] == 1}
        shared = [line for line in lines if line["processes"] > 1]
        for line in sorted(shared, key=lambda line: (line["gradient"], line["tokens"])):
            one, ranks = alone[line["gradient"], line["tokens"]], line["processes"]
            kernel = "FlashAttention 3" if flash_3 else "cuDNN"
            work, kernel = (
                ("gradients of all weights", "cuDNN, shared flash") if line["gradient"] else ("losses", kernel)
            )
            times = [f"{ranks}", *(f"{x['seconds']:.3g}" for x in (one, line))]
            share = f"{one['seconds'] / (ranks * line['seconds']):.0%}"
            peaks = [f"{x['peak_gib']:.1f}" for x in (one, line)]
            rows.append([f"{work}, {line['tokens']:,} tokens, {kernel}", *times, share, *peaks])
    head = ["", "GPUs", "seconds on one", "on all", "efficiency", "peak GiB on one", "on each"]
    return _table(head, rows)


def llama_table() -> str:
    """A model of Llama-3-8B's shape: seconds, the bare kernel's and transformers', the peak and its estimate."""
    rows = []
    for tokens in sorted({line["tokens"] for line in _lines("llama-3-8b")}):
        by_way = {line["way"]: line for line in _lines("llama-3-8b") if line["tokens"] == tokens}
        ours = by_way["ours"]
        seconds = ours["seconds"]
        row = [f"{tokens:,}", f"{seconds:.3g}", f"{ours['attention_flops'] / seconds / 1e12:.0f}"]
        row += [f"{ours['peak_gib']:.1f}", f"{ours['estimate_gib']:.1f}", _cost(by_way.get("plain"), ours)]
        rows.append(row)
    head = ["tokens", "seconds", "TFLOP/s of attention", "peak GiB", "estimated", "transformers as it is"]
    return _table(head, rows)


def tuned_table() -> str:
    """The original model, tuned with all weights, and tuned with adapters, on the text of the windows of 64k."""
    runs = {
        "original model": ("smollm2-64k-tuned", "none"),
        "all weights tuned at 64k": ("smollm2-64k-tuned", "longrope-tuned"),
        "adapters of rank 32 (LoRA) tuned at 64k": ("smollm2-64k-lora", "longrope-tuned"),
    }
    original = _scores("smollm2-64k-tuned", "none")["perplexity", 8192]
    lengths = [2048 * 2**i for i in range(6)]
    rows: list[Row] = []
    for label, (run, method) in runs.items():
        found = _scores(run, method)
        cells = [_with_share(found["perplexity", length], original) for length in lengths]
        rows.append([label, *cells, _share(found["passkey", LAST])])
    names = [f"{length // 1024}k" for length in lengths]
    return _table(["perplexity (share of the original's at 8k)", *names, "passkeys 64k"], rows)


def further_table() -> str:
    """The tuned model on the text of the windows of 256k: after a second search, and after a few steps there."""
    runs = {
        "tuned at 64k, second search": ("smollm2-64k-tuned", "longrope-tuned", (2**17, 2**18)),
        "and 8 steps in windows of 256k": ("smollm2-256k-tuned", "longrope-tuned-256k", (8192, 2**16, 2**18)),
    }
    original = _original_of(_scores("smollm2-256k-tuned", "longrope-tuned-256k"), 8192)
    lengths = (8192, 2**16, 2**17, 2**18)
    rows: list[Row] = [["original model", _with_share(original, original), *[""] * 6]]
    for label, (run, method, measured) in runs.items():
        found = {at: score for at, score in _scores(run, method).items() if at[1] in measured}
        values = [found.get(("perplexity", length)) for length in lengths]
        keys = [found.get(("passkey", length)) for length in lengths[1:]]
        cells = [_with_share(score, original) if score else "" for score in values]
        rows.append([label, *cells, *(_share(score) if score else "" for score in keys)])
    names = [f"{length // 1024}k" for length in lengths]
    head = ["perplexity (share of the original's at 8k)", *names]
    return _table([*head, *(f"passkeys {name}" for name in names[1:])], rows)


def _original_of(scores: dict[tuple[str, int], Score], length: int) -> Score:
    """The original's perplexity where a record has another model's and the paired ratio of the two."""
    tuned, paired = scores["perplexity", length], scores["ratio-to-none", length]
    if tuned.texts_fingerprint != paired.texts_fingerprint:
        raise MixedTextsError(
            f"The perplexity at {length:,} tokens and its ratio to the original's are of different texts.",
            "The original's perplexity follows from the two on one text alone.",
            "Measure both in one run.",
        )
    return replace(tuned, value=tuned.value / paired.value, method="none")


def train_table() -> str:
    """A training step at 65,536 tokens beside that of transformers' Trainer."""
    by_way = {line["way"]: line for line in _lines("train-step")}
    ours, rows = by_way["ours"], []
    for way, label in {"ours": "longrope", "trainer": "transformers' Trainer"}.items():
        line = by_way[way]
        seconds, peak = line["seconds"], line["peak_gib"]
        speed = f"{line['tokens'] / seconds:,.0f} ({ours['seconds'] / seconds:.2f}x)"
        rows.append([label, f"{seconds:.2f}", speed, f"{peak:.1f} ({peak / ours['peak_gib']:.1f}x)"])
    return _table(["", "seconds a step", "tokens/s", "peak GiB"], rows)


def growth_table() -> str:
    """The slopes of time and memory against length in a log-log plot, from 65,536 tokens on."""
    rows = []
    for way, label in WAYS.items():
        found = [line for line in curve_of(way) if line["tokens"] >= 65536]
        slopes = [slope([(line["tokens"], line[key]) for line in found]) for key in ("seconds", "peak_gib")]
        rows.append([label, *(f"{value:.2f}" for value in slopes), f"{found[-1]['tokens']:,}"])
    return _table(["", "slope of time", "slope of peak memory", "up to"], rows)


def cpu_table() -> str:
    """The pass of the embedded model on a CPU, as multiples of our seconds."""
    lines = _lines("cpu")
    rows = []
    for tokens in sorted({line["tokens"] for line in lines}):
        found = {line["way"].split()[0]: line["seconds"] for line in lines if line["tokens"] == tokens}
        others = [f"{found[way] / found['ours']:.2f}x" for way in ("plain", "chunked", "kernel")]
        rows.append([f"{tokens:,}", f"{found['ours']:.2f}", *others])
    return _table(["tokens", "seconds", WAYS["plain"], WAYS["chunked"], WAYS["kernel cuDNN"]], rows)


def cache_table() -> str:
    """What keys and values in 8 bits change in the losses of tokens that are read one by one."""
    rows = []
    for line in _one_text(_lines("cache-nano")):
        change = f"{line['difference_nats']:+.4f} ± {line['difference_standard_error_nats']:.4f}"
        kind = line["dtype"].removeprefix("torch.")
        loss, other, size = line["loss_nats"], line["other_likeliest_token"], line["cache_bytes"] / 1e6
        rows.append([f"{line['cache']}, {kind}", f"{loss:.4f}", change, f"{other:.1%}", f"{size:.2f}"])
    return _table(["cache", "loss, nats", "change (standard error)", "another likeliest token", "MB"], rows)


def nano_walk_table() -> str:
    """The embedded model as it is and at the end of its walk: perplexity with its interval."""
    original = _scores("nano-16k", "none")["perplexity", 256]
    rows: list[Row] = []
    for method in ("none", "longrope-tuned"):
        short, far = (_scores("nano-16k", method)["perplexity", length] for length in (256, 16384))
        rows.append(
            [far.source.label, *(cell for score in (short, far) for cell in (_bounded(score), _ratio(score, original)))]
        )
    share = "share of the original's at 256"
    return _table(["", "256", share, "16,384", share], rows)


def carry_table() -> str:
    """Factors carried on from a shorter window, beside those searched at the window itself, paired by token."""
    rows = []
    for line in _one_text(_lines("carry-rule")):
        lengths = [f"{line[key]:,}" for key in ("searched_tokens", "tokens")]
        both = [f"{line[key]:.2f}" for key in ("perplexity_carried", "perplexity_searched")]
        ratio = f"{line['ratio']:.3f} ({line['ratio_low']:.3f}-{line['ratio_high']:.3f})"
        rows.append([*lengths, *both, ratio])
    return _table(["searched at", "carried on to", "perplexity, carried on", "searched there", "ratio"], rows)


def passes(name: str = "h200", *, gradient: bool) -> list[dict[str, Any]]:
    """The lines of the long pass on one H200, in the order of their lengths."""
    lines = (line for line in _lines(name) if line["gradient"] == gradient)
    return sorted(lines, key=lambda line: int(line["tokens"]))


def _lines(name: str) -> list[dict[str, Any]]:
    """The records of one benchmark."""
    return [json.loads(line) for line in (ROOT / "results" / "benchmarks" / f"{name}.jsonl").read_text().splitlines()]


def _one_text(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of a benchmark; raise MixedTextsError where they are of several texts."""
    if len(texts := sorted({line["texts_fingerprint"] for line in lines})) > 1:
        raise MixedTextsError(
            f"A benchmark's lines are of different texts: {', '.join(texts)}.",
            "Losses that stand in one table must be of one text.",
            "Measure them again on one text.",
        )
    return lines


def curve_of(way: str) -> list[dict[str, Any]]:
    """The passes of one way that came to their end."""
    return [line for line in passes(gradient=False) if line["way"] == way and "seconds" in line]


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line of least squares through the logarithms."""
    (x, y), count = ([math.log(v) for v in axis] for axis in zip(*points, strict=True)), len(points)
    across, up = sum(x) / count, sum(y) / count
    return sum((a - across) * (b - up) for a, b in zip(x, y, strict=True)) / sum((a - across) ** 2 for a in x)


def _cost(line: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    """Seconds and GiB of another way, and how many times ours they are."""
    if line is None:
        return "not run"
    if "fate" in line:
        return "out of memory"
    time, peak = line["seconds"], line["peak_gib"]
    return f"{time:.3g} s ({time / ours['seconds']:.2f}x), {peak:.1f} GiB ({peak / ours['peak_gib']:.1f}x)"


TABLES = {
    "pass": pass_table,
    "pass-fa3": partial(pass_table, "h200-fa3", "kernel FlashAttention 3"),
    "compiled": compiled_table,
    "hopper": partial(compiled_table, "hopper"),
    "kernels": kernels_table,
    "two-train": two_train_table,
    "step": step_table,
    "ranks": ranks_table,
    "llama": llama_table,
    "tuned": tuned_table,
    "further": further_table,
    "train": train_table,
    "growth": growth_table,
    "cache": cache_table,
    "cpu": cpu_table,
    "nano-walk": nano_walk_table,
    "carry": carry_table,
    "probe": probe_table,
    "compare": compare_table,
    "earlier": partial(earlier_table, 20),
    "earlier-50": partial(earlier_table, 50),
    "ratios": ratio_table,
    "all-ratios": all_ratios_table,
    "depths": depth_table,
    "exports": exports_table,
    "variants": variants_table,
    "demo": demo_table,
    "win": win_table,
    "cost": cost_table,
    "cost-needles": partial(cost_table, "smollm2-64k-needles"),
    "nano-search": nano_search_table,
    "nano-ruler": nano_ruler_table,
}


def _by_length(run: str, method: str) -> list[Cell]:
    scores = _scores(run, method)
    numbers = [_number(scores["perplexity", length]) for length in LENGTHS]
    return [*numbers, *(_percent(scores["passkey", length]) for length in LENGTHS)]


def _head_by_length(keys: str) -> list[str]:
    lengths = [f"{length // 1024}k" for length in LENGTHS]
    return ["", *lengths, *(f"{keys} {length}" for length in lengths)]


def _scores(run: str, method: str) -> dict[tuple[str, int], Score]:
    scores = read_records(ROOT / "results" / run / "scores.jsonl", Score)
    return {(score.metric, score.context_tokens): score for score in scores if score.method == method}


def _number(score: Score) -> Cell:
    return Cell(f"{score.value:.0f}" if score.value >= 100 else f"{score.value:.2f}", (score,))


def _percent(score: Score) -> Cell:
    return Cell(f"{score.value:.0%}", (score,))


def _bounded(score: Score) -> Cell:
    return Cell(f"{score.value:.2f} ({score.low:.2f}-{score.high:.2f})", (score,))


def _interval(score: Score) -> Cell:
    return Cell(f"{score.value:.4f} ({score.low:.4f}-{score.high:.4f})", (score,))


def _share(score: Score) -> Cell:
    return Cell(f"{score.value:.0%} ({100 * score.low:.0f}-{100 * score.high:.0f})", (score,))


def _ratio(score: Score, other: Score) -> Cell:
    """How many times the other one it is."""
    ratio = score.value / other.value
    return Cell(f"{ratio:.3f}" if ratio < 10 else f"{ratio:.3g}", (score, other))


def _with_share(score: Score, original: Score) -> Cell:
    return Cell(f"{_number(score)} ({_ratio(score, original)})", (score, original))


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Write a table; raise MixedTextsError where its scores are of several texts and its first heading hides that."""
    for together in [[row] for row in rows] if head[0] == EACH_ROW else [rows]:
        _check_texts(cell for row in together for cell in row if isinstance(cell, Cell))
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, rule, *rows))


def _check_texts(cells: Iterable[Cell]) -> None:
    """Perplexities of all lengths must be of one text, other metrics of the same samples at each length."""
    seen: dict[str, Score] = {}
    for score in (score for cell in cells for score in cell.scores):
        first = seen.setdefault(_compared(score), score)
        if score.texts_fingerprint != first.texts_fingerprint:
            both = [f"{x.metric} of {x.method} at {x.context_tokens:,} ({x.texts_fingerprint})" for x in (first, score)]
            raise MixedTextsError(
                f"A table holds scores of different texts: {' and '.join(both)}.",
                "Scores that stand in one table must be of one text.",
                f"Make a table of each text, or head its first column {EACH_ROW!r}.",
            )


def _compared(score: Score) -> str:
    """What a reader compares the score with: windows of one text are divided for shorter lengths, prompts are not."""
    if score.metric.startswith(("perplexity", "prefix-perplexity", "ratio-to-")):
        return "the text of perplexities"
    return f"{score.metric.partition('-depth-')[0]} at {score.context_tokens}"


if __name__ == "__main__":
    for file in write_tables():
        print(f"wrote {file.relative_to(ROOT)}")
