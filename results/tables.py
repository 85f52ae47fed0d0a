"""Write the tables of README.md and docs/log.md from the committed records: ``python results/tables.py``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; a test runs this and expects no change.
"""

import json
import re
from pathlib import Path

from longrope.records import Score, read_records

ROOT = Path(__file__).parent.parent
LENGTHS = (8192, 16384, 32768, 65536)
RIVALS = {"none": "the model as it is", "pi": "PI", "ntk": "NTK", "dynamic-ntk": "dynamic NTK", "yarn": "YaRN"}
SEARCHES = {"longrope-evolution": "LongRoPE, evolution", "longrope-gradient": "LongRoPE, gradient"}
RUNS = {"smollm2-64k-text": "text score", "smollm2-64k": "text and needles"}


def write_tables() -> list[Path]:
    """Rewrite every table in the docs; return the files that changed."""
    changed = []
    for path in (ROOT / "README.md", ROOT / "docs" / "log.md"):
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
    """Perplexity and passkeys of every method at every length."""
    head = ["", *(f"{n // 1024}k" for n in LENGTHS), *(f"keys {n // 1024}k" for n in LENGTHS)]
    rows = [_row(label, _scores("smollm2-64k-text", method)) for method, label in RIVALS.items()]
    rows += [
        _row(f"{label}, {score}", _scores(run, method))
        for run, score in RUNS.items()
        for method, label in SEARCHES.items()
    ]
    return _table(head, rows)


def ratio_table() -> str:
    """Perplexity at 64k as a share of YaRN's there and of the original's at 8k, on the same text."""
    yarn = _scores("smollm2-64k-text", "yarn")["perplexity", 65536].value
    original = _scores("smollm2-64k-text", "none")["perplexity", 8192].value
    rows = []
    for run, score in RUNS.items():
        for method, label in SEARCHES.items():
            value = _scores(run, method)["perplexity", 65536].value
            rows.append([f"{label}, {score}", f"{value:.2f}", f"{value / yarn:.3f}", f"{value / original:.3f}"])
    return _table(["", "perplexity at 64k", "of YaRN's", "of the original's at 8k"], rows)


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


TABLES = {"probe": probe_table, "compare": compare_table, "ratios": ratio_table, "variants": variants_table}


def _scores(run: str, method: str) -> dict[tuple[str, int], Score]:
    scores = read_records(ROOT / "results" / run / "scores.jsonl", Score)
    return {(score.metric, score.context_tokens): score for score in scores if score.method == method}


def _row(label: str, scores: dict[tuple[str, int], Score]) -> list[str]:
    perplexities = (scores["perplexity", length].value for length in LENGTHS)
    keys = (scores["passkey", length].value for length in LENGTHS)
    return [label, *(f"{x:.0f}" if x >= 100 else f"{x:.2f}" for x in perplexities), *(f"{x:.0%}" for x in keys)]


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


if __name__ == "__main__":
    for file in write_tables():
        print(f"wrote {file.relative_to(ROOT)}")
