"""The docs and the committed records, read without the scripts that write tables from them."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
DOCS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", RESULTS / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


def words(name: str) -> str:
    """The text of a document, with its words apart by single spaces."""
    return " ".join(DOCS[name].split())


def sections(name: str) -> list[str]:
    """The chapters of a document, each with its words apart by single spaces."""
    return [" ".join(part.split()) for part in re.split(r"^## ", DOCS[name], flags=re.MULTILINE)]


def lines(name: str) -> list[dict[str, Any]]:
    """The records of one file of results/."""
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def passes(name: str, *, gradient: bool = False) -> dict[tuple[str, int], dict[str, Any]]:
    """The passes of a benchmark that came to their end, by way and length; one process each."""
    found = [line for line in lines(f"benchmarks/{name}.jsonl") if "seconds" in line and line["processes"] == 1]
    return {(line["way"], line["tokens"]): line for line in found if line["gradient"] == gradient}


def scores(run: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The scores of a run by method, metric and length."""
    return {(x["method"], x["metric"], x["context_tokens"]): x for x in lines(f"{run}/scores.jsonl")}


def minutes_of_stages(run: str) -> float:
    """What the stages of a run took."""
    stages = (json.loads(path.read_text()) for path in (RESULTS / run).glob("stages/*/stage.json"))
    return float(sum(stage["seconds"] for stage in stages)) / 60
