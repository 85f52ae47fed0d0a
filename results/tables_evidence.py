"""Tables of factor sets that were trained alike: SmolLM2-135M at 65,536 tokens, with every method without training."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tables_cells import (
    ORIGINAL,
    SEARCHES,
    Cell,
    Line,
    Records,
    Row,
    bold,
    number,
    percent_with_interval,
    table,
    with_interval,
)
from tables_searches import with_budget

from longrope.labels import Source, label_of
from longrope.lengths import format_tokens
from longrope.runs.records import Score

RUN, UNTRAINED, PAIRED = "evidence-64k", "compare", "arms.jsonl"
OF_METHODS = "paired.jsonl"  # of benchmarks/pair_methods.py
SHOWN = ("none", "yarn", "critical", "ntk-scan", "self-extend", "dca")  # in the short table, with both searches
SHOWN_ARMS = ("searched", "yarn", "critical", "scan")  # there, of those that were trained alike
SUMMARY = ("8k", "64k", "passkeys 64k", "needles in prose 64k")
WINDOW, TARGET = 8192, 65536
ARMS = {  # folders of trained arms, in the order of their rows
    "searched": "searched factors",
    "yarn": "YaRN",
    "critical": "critical-pair rule",
    "ntk": "NTK",
    "pi": "PI",
    "scan": "NTK, scanned base and attention factor",
    "longrope2": "LongRoPE2's search",
    "own": "own RoPE in its own window alone, the same tokens",
    "searched-bare": "searched factors, without needles",
    "yarn-bare": "YaRN, without needles",
    "critical-bare": "critical-pair rule, without needles",
    "searched-extrapolated": "searched factors, extrapolated",
    "yarn-extrapolated": "YaRN, extrapolated",
}
Found = dict[tuple[str, int], Score]


@dataclass(frozen=True)
class Column:
    """What one column shows of each row.

    Attributes:
        heading: above it.
        metric, length: of the scores.
        write: the cell of a score.
        best: the value that is set in bold; None sets none.
    """

    heading: str
    metric: str
    length: int
    write: Callable[[Score], Cell]
    best: Callable[[Sequence[float]], float] | None = None


def columns(window: int, target: int, tail: int) -> tuple[Column, ...]:
    """What is shown of a model trained on a window and extended to a target, with the last tokens of its windows."""
    near, far, last = (format_tokens(length) for length in (window, target, tail))
    return (
        Column(near, "perplexity", window, number, min),
        Column(far, "perplexity", target, number, min),
        Column(f"last {last} of {far}", f"perplexity-last-{tail}", target, number, min),
        Column(f"{near}, of the original's", "ratio-to-none", window, lambda score: with_interval(score, 3)),
        Column(f"passkeys {far}", "passkey", target, percent_with_interval, max),
        Column(f"needles in prose {near}", "prose-needle", window, percent_with_interval, max),
        Column(f"needles in prose {far}", "prose-needle", target, percent_with_interval, max),
    )


SHUFFLED = Column("last 8k of 64k, far context shuffled", "far-shuffled-perplexity", TARGET, number, min)
COLUMNS = (*columns(WINDOW, TARGET, WINDOW), SHUFFLED)
FIRST, SEEDS, TWICE = "evidence-64k-first", "evidence-64k-seeds", ("64k", "passkeys 64k", "needles in prose 64k")
RULER = {
    "niah_single_2": "one needle",
    "niah_multikey_1": "one of several keys",
    "niah_multiquery": "several questions",
    "vt": "variables traced",
    "cwe": "common words",
    "fwe": "frequent words",
}
MEASURES = "evidence-64k-measures"
MORE, BESIDE = "evidence-64k-more", ("searched", "critical", "scan")  # the latter in RUN, on other texts for a part
NANO, NANO_TARGET = "nano-16k", 16384
MEASURED: dict[str, tuple[str, Callable[[Score], Cell]]] = {
    "perplexity": ("perplexity", number),
    "last-tokens-8191": ("perplexity of the same last 8,191 tokens", number),
    "far-context": ("the same, of that with 8k of context", lambda score: with_interval(score, 3)),
    "far-shuffled": ("the same, of that after shuffled far context", lambda score: with_interval(score, 3)),
    "longppl": ("LongPPL", with_interval),
    "prose-needle": ("needles in prose, 20 a text", percent_with_interval),
    **{f"ruler-{task}": (f"RULER, {words}", percent_with_interval) for task, words in RULER.items()},
    "ruler-subset": ("RULER, mean of the six", percent_with_interval),
    "accuracy": ("accuracy", percent_with_interval),
}
NANO_COLUMNS = columns(256, NANO_TARGET, 2048)


def evidence_table(records: Records) -> str:
    """All methods: first those that leave the weights alone, then those trained alike; the best of each part in bold.

    The column of pairs is the perplexity at 64k as a share of another's on the same tokens: of the gradient search's
    without training, and of YaRN's with it.
    """
    compared = _by_method(records.every_score(f"{RUN}/{UNTRAINED}"))
    untrained = {source.label: found for source, found in compared.items()}
    shares = _of_methods(records)
    pairs = {source.label: shares.get(source.method, "") for source in compared}
    trained = {f"{ARMS[name]}, trained": _trained(scores) for name, scores in _arms(records, RUN).items()}
    beside = {f"{ARMS[arm]}, trained": f"{text}, trained" for arm, text in _beside(records, RUN, TARGET).items()}
    rows = [*_rows(COLUMNS, untrained, pairs), *_rows(COLUMNS, trained, beside)]
    return table(["", *(column.heading for column in COLUMNS), "64k, paired"], rows)


def summary_table(records: Records) -> str:
    """The strongest of the methods, what they are compared with, and what was trained; perplexity and what is found."""
    run = f"{RUN}/{UNTRAINED}"
    compared = {source.known_as: found for source, found in _by_method(records.every_score(run)).items()}
    untrained = {label_of(method): compared[method] for method in SHOWN}
    untrained |= {with_budget(records, run, method): compared[method] for method in SEARCHES}
    arms = _arms(records, RUN)
    trained = {f"{ARMS[name]}, trained": _trained(arms[name]) for name in SHOWN_ARMS if name in arms}
    shown = [column for column in COLUMNS if column.heading in SUMMARY]
    rows = [row[:-1] for found in (untrained, trained) for row in _rows(shown, found, {})]
    return table(["", *(column.heading for column in shown)], rows)


def twice_table(records: Records) -> str:
    """The same trainings, with the same seed, once and again: what differs between them is not due to the factors."""
    head = [""]
    rows: list[Row] = []
    for column in (column for column in COLUMNS if column.heading in TWICE):
        head += [f"{column.heading}, first", f"{column.heading}, again"]
    for name in ("searched", "yarn"):
        first, again = (_trained(records.every_score(f"{run}/{name}")) for run in (FIRST, RUN))
        cells: list[str | Cell] = [
            column.write(found[_place(column)])
            for column in COLUMNS
            if column.heading in TWICE
            for found in (first, again)
        ]
        rows.append([ARMS[name], *cells, *(_beside(records, run, TARGET).get(name, "") for run in (FIRST, RUN))])
    return table([*head, "64k, paired, first", "64k, paired, again"], rows)


def more_table(records: Records) -> str:
    """LongRoPE2's factors trained, and two factor sets trained without needles, below some arms of the longer table."""
    arms = {run: _arms(records, run) for run in (RUN, MORE)}
    trained = {ARMS[name]: _trained(arms[RUN][name]) for name in BESIDE}
    trained |= {ARMS[name]: _trained(scores) for name, scores in arms[MORE].items()}
    columns = COLUMNS[:-1]  # without shuffled far context
    return table(["", *(column.heading for column in columns)], [row[:-1] for row in _rows(columns, trained, {})])


def nano_arms_table(records: Records, seed: str = "", run: str = NANO) -> str:
    """The bundled model and the arms of its schedule to 64 times its window, of one seed: ``@1``, or none for 0."""
    arms = [f"{name}{seed}" for name in ARMS if records.has(f"{run}/{name}{seed}")]
    scores = {arm: records.every_score(f"{run}/{arm}") for arm in arms}
    labels = {arm: ARMS[arm.removesuffix(seed)] for arm in arms}
    original = {(s.metric, s.context_tokens): s for own in scores.values() for s in own if s.method == "none"}
    trained = {labels[arm]: _trained(own) for arm, own in scores.items()}
    beside = {labels[arm]: text for arm, text in _beside(records, run, NANO_TARGET, arms).items()}
    rows = _rows(NANO_COLUMNS, {ORIGINAL: original, **trained}, beside)
    return table(["", *(column.heading for column in NANO_COLUMNS), "16k, paired"], rows)


def seeds_table(records: Records) -> str:
    """Perplexity and needles at 64k of the arms that were trained with several seeds, and the share of YaRN's by seed.

    A share is paired by token where both arms have kept what that needs.
    """
    runs = {"": RUN, "@1": SEEDS, "@2": SEEDS}
    names = [name for name in ARMS if any(records.has(f"{SEEDS}/{name}{seed}") for seed in runs)]
    found = {
        (name, seed): _trained(records.every_score(f"{run}/{name}{seed}"))
        for name in names
        for seed, run in runs.items()
        if records.has(f"{run}/{name}{seed}")
    }
    beside = {
        line["run"]: _interval(line)
        for run in (RUN, SEEDS)
        for line in records.lines(f"{run}/{PAIRED}")
        if (line["metric"], line["context_tokens"]) == ("perplexity", TARGET)
        if line["reference"].partition("@")[0] == "yarn"
    }
    rows: list[Row] = []
    for name in names:
        own = [found.get((name, seed), {}) for seed in runs]
        cells: list[str | Cell] = [number(x["perplexity", TARGET]) if x else "" for x in own]
        cells += [f"{percent_with_interval(x['prose-needle', TARGET])}" if x else "" for x in own]  # drawn by the seed
        for scores, seed in zip(own, runs, strict=True):
            yarn = found["yarn", seed]["perplexity", TARGET].value
            alone = f"{scores['perplexity', TARGET].value / yarn:.4f}, not paired" if scores and name != "yarn" else ""
            cells.append(beside.get(f"{name}{seed}", alone))
        rows.append([ARMS[name], *cells])
    head = [f"{column}, seed {seed}" for column in ("64k", "needles in prose 64k", "of YaRN's") for seed in range(3)]
    return table(["trained alike", *head], rows)


def measures_table(records: Records) -> str:
    """What two trained arms find and read at both lengths, and the original within its window: a row for each measure.

    LongPPL has the name of its evaluator in its metric.
    """
    arms = {name: records.every_score(f"{MEASURES}/{name}") for name in ("searched", "yarn")}
    original = {_measure(score): score for score in arms["yarn"] if score.method == "none"}
    trained = {name: {_measure(score): score for score in own if score.method != "none"} for name, own in arms.items()}
    columns = {f"{ORIGINAL}, 8k": (original, WINDOW)}
    columns |= {f"{ARMS[n]}, {format_tokens(at)}": (trained[n], at) for at in (WINDOW, TARGET) for n in arms}
    rows: list[Row] = []
    for metric, (label, write) in MEASURED.items():
        found = [own.get((metric, length)) for own, length in columns.values()]
        rows.append([label, *(write(score) if score else "" for score in found)])
    return table(["", *columns], rows)


def _measure(score: Score) -> tuple[str, int]:
    return score.metric.partition("-by-")[0], score.context_tokens


def _arms(records: Records, run: str) -> dict[str, list[Score]]:
    """The scores of the arms that there are, of the first seed."""
    return {name: records.every_score(f"{run}/{name}") for name in ARMS if records.has(f"{run}/{name}")}


def _beside(records: Records, run: str, target: int, arms: Collection[str] = tuple(ARMS)) -> dict[str, str]:
    """How the perplexity of each of these arms at the target compares with YaRN's of the same seed, trained alike."""
    return {
        line["run"]: f"{_interval(line)} of YaRN's" + ", without needles" * ("-bare" in line["reference"])
        for line in records.lines(f"{run}/{PAIRED}")
        if (line["metric"], line["context_tokens"]) == ("perplexity", target)
        if line["run"] in arms and line["reference"].partition("@")[0] in ("yarn", "yarn-bare")
    }


def _by_method(scores: Sequence[Score]) -> dict[Source, Found]:
    found: dict[Source, Found] = {}
    for score in scores:
        found.setdefault(score.source, {})[score.metric, score.context_tokens] = score
    return found


def _trained(scores: Sequence[Score]) -> Found:
    """The scores of trained weights."""
    return {(s.metric, s.context_tokens): s for s in scores if s.method == "longrope-tuned"}


def _of_methods(records: Records) -> dict[str, str]:
    """How the perplexity of each method at 64k compares with that of the method that all are paired with."""
    return {
        line["run"]: f"{_interval(line)} of {label_of(line['reference'])}'s"
        for line in records.lines(f"{RUN}/{UNTRAINED}/{OF_METHODS}")
        if (line["metric"], line["context_tokens"]) == ("perplexity", TARGET)
    }


def _rows(columns: Sequence[Column], found: dict[str, Found], pairs: dict[str, str]) -> list[Row]:
    """A row for each label; what a row has no score of stays empty, and the original is in no competition."""
    best = {}
    for column in columns:
        values = [own[at].value for label, own in found.items() if (at := _place(column)) in own and label != ORIGINAL]
        best[column.heading] = column.best(values) if column.best and values else None
    rows: list[Row] = []
    for label, own in found.items():
        cells: list[str | Cell] = []
        for column in columns:
            score = own.get(_place(column))
            cell = column.write(score) if score else ""
            wins = score and score.value == best[column.heading] and label != ORIGINAL
            cells.append(bold(cell) if wins and isinstance(cell, Cell) else cell)
        rows.append([label, *cells, pairs.get(label, "")])
    return rows


def _interval(line: Line) -> str:
    return f"{line['value']:.4f} ({line['low']:.4f}-{line['high']:.4f})"


def _place(column: Column) -> tuple[str, int]:
    return column.metric, column.length
