"""The table of SmolLM2-135M at 65,536 tokens: every method without training, and every factor set trained alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tables_cells import ORIGINAL, Cell, Line, Records, Row, bold, number, percent_with_interval, table, with_interval

from longrope.labels import Source, label_of
from longrope.runs.records import Score

RUN, UNTRAINED, PAIRED = "evidence-64k", "compare", "arms.jsonl"
WINDOW, TARGET = 8192, 65536
TAIL = f"perplexity-last-{WINDOW}"
ARMS = {  # folders of trained arms, in the order of their rows
    "searched": "searched factors",
    "yarn": "YaRN",
    "critical": "critical-pair rule",
    "ntk": "NTK",
    "pi": "PI",
    "scan": "NTK, scanned base and attention factor",
    "own": "own RoPE at 8k alone, the same tokens",
    "searched-bare": "searched factors, without needles",
    "yarn-bare": "YaRN, without needles",
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


COLUMNS = (
    Column("8k", "perplexity", WINDOW, number, min),
    Column("64k", "perplexity", TARGET, number, min),
    Column("last 8k of 64k", TAIL, TARGET, number, min),
    Column("8k, of the original's", "ratio-to-none", WINDOW, lambda score: with_interval(score, 3)),
    Column("passkeys 64k", "passkey", TARGET, percent_with_interval, max),
    Column("needles 8k", "needle", WINDOW, percent_with_interval, max),
    Column("needles 64k", "needle", TARGET, percent_with_interval, max),
    # More measures go here, a column each: effective length, LongPPL, shuffled far context.
)


def evidence_table(records: Records) -> str:
    """All methods: first those that leave the weights alone, then those trained alike; the best of each part in bold.

    The column of pairs is the perplexity at 64k as a share of another method's on the same tokens: of the best baseline
    without training, and of YaRN with it.
    """
    compared = _by_method(records.every_score(f"{RUN}/{UNTRAINED}"))
    untrained = {source.label: found for source, found in compared.items()}
    pairs = {label: _ratio_to_best(found) for label, found in untrained.items()}
    arms = {name: records.every_score(f"{RUN}/{name}") for name in ARMS if records.has(f"{RUN}/{name}")}
    trained = {f"{ARMS[name]}, trained": _trained(scores) for name, scores in arms.items()}
    wanted = ("perplexity", TARGET, "yarn")
    beside = {
        f"{ARMS[line['run']]}, trained": f"{_interval(line)} of YaRN's, trained"
        for line in records.lines(f"{RUN}/{PAIRED}")
        if (line["metric"], line["context_tokens"], line["reference"]) == wanted and line["run"] in ARMS
    }
    rows = [*_rows(untrained, pairs), *_rows(trained, beside)]
    return table(["", *(column.heading for column in COLUMNS), "64k, paired"], rows)


def _by_method(scores: Sequence[Score]) -> dict[Source, Found]:
    found: dict[Source, Found] = {}
    for score in scores:
        found.setdefault(score.source, {})[score.metric, score.context_tokens] = score
    return found


def _trained(scores: Sequence[Score]) -> Found:
    """The scores of trained weights."""
    return {(s.metric, s.context_tokens): s for s in scores if s.method == "longrope-tuned"}


def _ratio_to_best(found: Found) -> str:
    """The comparison with the best baseline; empty for that baseline itself."""
    for (metric, length), score in found.items():
        if metric.startswith("ratio-to-") and metric != "ratio-to-none" and length == TARGET:
            return f"{with_interval(score, 4)} of {label_of(metric.removeprefix('ratio-to-'))}'s"
    return ""


def _rows(found: dict[str, Found], pairs: dict[str, str]) -> list[Row]:
    """A row for each label; what a row has no score of stays empty, and the original is in no competition."""
    best = {}
    for column in COLUMNS:
        values = [own[at].value for label, own in found.items() if (at := _place(column)) in own and label != ORIGINAL]
        best[column.heading] = column.best(values) if column.best and values else None
    rows: list[Row] = []
    for label, own in found.items():
        cells: list[str | Cell] = []
        for column in COLUMNS:
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
