"""The table of what long windows are used for."""

from tables_cells import ORIGINAL, Records, Row, percent_with_interval, table

FOLDER = "uses-smollm2"
LABELS = 4


def chance(metric: str) -> float:
    """Of a reader that gives the label of any example; nothing where there are no labels.

    In the prompts of the records each label was drawn by itself, and the words of the examples are asked for: so one
    example has the label that is right, and each of the others has it with a chance of one in four.
    """
    name, _, shots = metric.partition("-shot")
    if name != "many":
        return 0.0
    again = 1 / int(shots[1:]) if shots else 0.0
    return again + (1 - again) / LABELS


def uses_table(records: Records) -> str:
    """Each use of SmolLM2 with its chance and ceiling, at each length the original model and the extended one."""
    original = records.scores(f"{FOLDER}/original", "none")
    extended = records.scores(f"{FOLDER}/extended", "longrope-gradient")
    lengths = sorted({length for _, length in original})
    rows: list[Row] = []
    for metric in dict.fromkeys(metric for metric, _ in original):
        both = [percent_with_interval(made[metric, n]) for n in lengths for made in (original, extended)]
        rows.append([f"`{metric}`", f"{chance(metric):.0%}", "100%", *both])
    head = [f"{n:,}, {who}" for n in lengths for who in (ORIGINAL, "extended")]
    return table(["", "chance", "ceiling", *head], rows)
