"""The tables of interruptions and fuzzed readers, from the records of tests/reliability.py."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from tables_cells import Line, Records, Row, table

KINDS = {"kill": "kills", "full disk": "full disks", "power cut": "power cuts"}


def interruptions_table(records: Records) -> str:
    """By kind and way the cases of each command, how many ended it, and after how many something was wrong."""
    cases = [line for line in _lines(records) if line["kind"] in KINDS and "skipped" not in line]
    commands = list(dict.fromkeys(case["command"] for case in sorted(cases, key=lambda case: int(case["number"]))))
    ways: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (list(KINDS).index(case["kind"]), int(case["number"]))):
        ways[case["kind"], case["way"]].append(case)
    rows: list[Row] = [[f"{KINDS[kind]}: {way}", *_counted(found, commands)] for (kind, way), found in ways.items()]
    rows.append(["all", *_counted(cases, commands)])
    return table(["", *commands, "all", "ended the command", "not the same after resuming"], rows)


def fuzz_table(records: Records) -> str:
    """Of each reader its seconds, by the clock and of the CPU, its inputs, the refused ones, and kinds of problems."""
    inputs, refused, seconds, busy = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    problems: dict[str, set[str]] = defaultdict(set)
    for line in _lines(records):
        if line["kind"] == "fuzz":
            name = line["target"]
            inputs[name] += line.get("inputs", 0)
            refused[name] += line.get("refused", 0)
            seconds[name] += round(line.get("seconds", 0))
            busy[name] += round(line.get("cpu_seconds", 0))
            problems[name] |= set(line["problems"])
    rows: list[Row] = [
        [name, f"{seconds[name]}", f"{busy[name] or '-'}", f"{count:,}", f"{refused[name]:,}", f"{len(problems[name])}"]
        for name, count in inputs.items()
    ]
    totals = (sum(counts.values()) for counts in (seconds, busy, inputs, refused))
    rows.append(["all", *(f"{total:,}" for total in totals), f"{sum(map(len, problems.values()))}"])
    return table(["file", "seconds", "of the CPU", "inputs", "refused", "crashes, other exceptions or hangs"], rows)


def _lines(records: Records) -> list[Line]:
    parts = sorted((records.folder / "reliability").glob("*.jsonl"))
    return [line for part in parts for line in records.lines(f"reliability/{part.name}")]


def _counted(cases: Sequence[Line], commands: Sequence[str]) -> list[str]:
    """How many cases of each command and of all, how many ended it, and after how many something was wrong."""
    by_command = Counter(case["command"] for case in cases)
    counts = [by_command[command] for command in commands]
    counts += [len(cases), sum(bool(case["hit"]) for case in cases), sum(bool(case["wrong"]) for case in cases)]
    return [f"{count:,}" for count in counts]
