"""The table of runtimes that opened the bundled model with the demo's factors."""

from tables_cells import Records, Row, table

LAYOUTS = {
    "single": "folder, single list",
    "two": "folder, two lists",
    "static.gguf": "GGUF, static",
    "two.gguf": "GGUF, two lists",
}


def verify_table(records: Records) -> str:
    """Each runtime and layout: the verdict, and the largest difference in nats below, at and above the window."""
    rows: list[Row] = []
    done_by = records.lines("verify/verify.jsonl")
    lengths = [f"{finding['tokens']} tokens" for finding in done_by[0]["findings"]]
    for done in done_by:
        versions = ", ".join(f"{name} {number}" for name, number in done["versions"].items())
        cells = [_as_said(finding) for finding in done["findings"]] or [""] * len(lengths)
        rows.append([f"{done['client']} ({versions})", LAYOUTS[done["checkpoint"]], done["verdict"], *cells])
    return table(["client", "layout", "verdict", *lengths], rows)


def _as_said(finding: dict[str, float | str]) -> str:
    """The difference, and what the numbers are like where they are not the whole scaling."""
    what = f" ({finding['as_']})" if finding["as_"] not in ("", "scaling") else ""
    return f"{finding['difference_nats']:.2g}{what}"
