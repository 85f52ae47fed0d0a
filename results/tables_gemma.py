"""Tables of Gemma-3-270M, from 32,768 tokens without a change of the weights."""

from tables_cells import BASELINES, SEARCHES, Cell, Records, Row, bold, number, percent, table, with_interval

RUN = "gemma3-64k"
WINDOWS = {8192: "8k", 32768: "32k", 65536: "64k"}
TARGET = 65536
TAIL = "perplexity-last-32768"
FOUND = ("passkey", "needle")
FORMULAS = BASELINES | {"ntk-critical": "NTK by critical dimension", "critical": "critical-pair rule"}
SCAN = {"ntk-scan": "NTK, scanned base and attention factor"}
METHODS = {
    **FORMULAS,
    "critical-real": "critical-pair rule, from ten turns",
    **SCAN,
    "longrope2": "LongRoPE2's search",
    "dca": "DCA",
    "self-extend": "Self-Extend",
    "jet-long": "Jet-Long",
    **SEARCHES,
}
BEST = "self-extend"  # of perplexity at the target, to which the others are paired
LONGER = "gemma3-128k"
LONGER_COLUMNS = (("perplexity", 32768), ("perplexity", 131072), ("perplexity-last-98304", 131072))
LONGER_FOUND = (("passkey", 32768), ("passkey", 131072), ("needle", 32768), ("needle", 131072))


def compare_table(records: Records) -> str:
    """Every method: perplexity at each length and of the last half of 64k, passkeys and needles at 32k and 64k."""
    rows: list[list[str | Cell]] = []
    for method, label in METHODS.items():
        scores = records.scores(RUN, method)
        cells = [number(scores["perplexity", length]) for length in WINDOWS]
        cells += [number(scores[TAIL, TARGET])]
        found = (percent(scores[metric, length]) for metric in FOUND for length in (32768, TARGET))
        rows.append([label, *cells, *found])
    for column in (3, 4):
        winner = min((row[column] for row in rows), key=lambda cell: cell.scores[0].value)  # type: ignore[union-attr]
        for row in rows:
            row[column] = bold(winner) if row[column] is winner else row[column]  # type: ignore[arg-type]
    found_at = (f"{metric}s {name}" for metric in FOUND for name in ("32k", "64k"))
    return table(["", *WINDOWS.values(), "last 32k of 64k", *found_at], rows)


def ratio_table(records: Records) -> str:
    """Perplexity as a share of the original's at short lengths, and of the best baseline's at 64k; whole documents."""
    rows: list[Row] = []
    for method, label in METHODS.items():
        if method == "none":
            continue
        scores = records.scores(RUN, method)
        short = [with_interval(scores["ratio-to-none", length], 3) for length in (8192, 32768)]
        paired = scores.get((f"ratio-to-{BEST}", TARGET))
        rows.append([label, *short, with_interval(paired, 4) if paired else "1"])
    head = ["", "8k, of the original's", "32k, of the original's", "64k, of Self-Extend's"]
    return table(head, rows, divided=True)


def longer_table(records: Records) -> str:
    """The run to 131,072 tokens: perplexity, its share of the best baseline's over documents, passkeys and needles."""
    rows: list[Row] = []
    for method, label in METHODS.items():
        scores = records.scores(LONGER, method)
        cells = [number(scores[metric, length]) for metric, length in LONGER_COLUMNS]
        paired = scores.get((f"ratio-to-{BEST}", 131072))
        found = [percent(scores[metric, length]) for metric, length in LONGER_FOUND]
        rows.append([label, *cells, with_interval(paired, 4) if paired else "1", *found])
    head = ["32k", "128k", "last 96k of 128k", "128k, of Self-Extend's"]
    return table(["", *head, *(f"{metric}s {length // 1024}k" for metric, length in LONGER_FOUND)], rows)
