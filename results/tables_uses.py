"""The table of what long windows are used for."""

from tables_cells import ORIGINAL, Records, Row, percent_with_interval, table

FOLDER = "uses-smollm2"
CHANCE = {"many-shot": "25%"}  # of what is chosen from four labels; nothing elsewhere


def uses_table(records: Records) -> str:
    """Each use of SmolLM2 with its chance and ceiling, at each length the original model and the extended one."""
    original = records.scores(f"{FOLDER}/original", "none")
    extended = records.scores(f"{FOLDER}/extended", "longrope-gradient")
    lengths = sorted({length for _, length in original})
    rows: list[Row] = []
    for metric in dict.fromkeys(metric for metric, _ in original):
        chance = next((share for name, share in CHANCE.items() if metric.startswith(name)), "0%")
        both = [percent_with_interval(made[metric, n]) for n in lengths for made in (original, extended)]
        rows.append([f"`{metric}`", chance, "100%", *both])
    head = [f"{n:,}, {who}" for n in lengths for who in (ORIGINAL, "extended")]
    return table(["", "chance", "ceiling", *head], rows)
