"""Compare every method of a finished `longrope compare` with one of them, token by token and prompt by prompt.

Run: python benchmarks/pair_methods.py RUN METHOD. It reads RUN/sample-summaries.jsonl, loads no model, and writes
RUN/paired.jsonl. `longrope compare` itself pairs with the best baseline alone.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from longrope.evaluation.pairing import pair_methods
from longrope.runs.run_dir import RunDir


def main(path: str, reference: str) -> None:
    """Pair the methods and write what comes out."""
    run = RunDir(Path(path))
    found, missing = pair_methods(run, reference)
    (run.path / "paired.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in found))
    print("\n".join([f"{len(found)} comparisons", *(f"no summaries of both: {what}" for what in missing)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
