"""Compare every method of a finished `longrope compare` with one of them, token by token and prompt by prompt.

Run: python benchmarks/pair_methods.py RUN METHOD. It reads the samples of the run directory RUN, loads no model, and
writes RUN/paired.jsonl: ratios of perplexity (the whole windows, and their last tokens as the recipe of the run has
them) and differences of the shares of passkeys and needles in prose, all with paired 95 % intervals. `longrope compare`
itself pairs with the best baseline alone. A method without samples is named and left out.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longrope.evaluation.samples import KEY, Arrays
from longrope.evaluation.statistics import Interval, ratio_interval, share_difference
from longrope.runs.run_dir import RunDir

Place = tuple[str, str, int, str]  # kind, method, length and fingerprint of the texts
FOUND = {"passkeys": "passkey", "prose-needle": "prose-needle"}  # samples whose array ``right`` is paired


def read_samples(run: RunDir) -> dict[Place, Arrays]:
    """The samples of a run that are paired here."""
    scores = run.read_scores()
    texts = {
        (score.metric, score.method, score.context_tokens): score.texts_fingerprint
        for score in scores
        if score.metric in ("perplexity", *FOUND.values())
    }
    found: dict[Place, Arrays] = {}
    for path in sorted((run.path / "samples").glob("*.npz")):
        kind, _, _ = path.stem.rpartition("-")
        metric = FOUND.get(kind, "perplexity" if kind == "losses" else "")
        with np.load(path) as file:
            _, _, method, _, *inputs = file[KEY].tolist()
            for (name, of, length), fingerprint in texts.items():
                if (name, of) == (metric, method) and fingerprint in inputs and _is_of(file, kind, length, inputs):
                    found[kind, method, length, fingerprint] = {key: file[key] for key in file.files if key != KEY}
    return found


def _is_of(file: Any, kind: str, length: int, inputs: list[str]) -> bool:
    """Whether samples are of a length; prompts differ by length, so their fingerprints say it."""
    return kind != "losses" or (str(length) in inputs and file["losses"].shape[1] == length - 1)


def pair(ours: Arrays, theirs: Arrays, kind: str, tail: int, seed: int) -> Iterator[tuple[str, Interval]]:
    """The comparisons of two methods' samples of the same texts."""
    if kind != "losses":
        yield FOUND[kind], share_difference(ours["right"], theirs["right"])
        return
    for name, last in (("perplexity", 0), (f"perplexity-last-{tail}", tail)):
        losses, others = (arrays["losses"][:, -last:].astype(float) for arrays in (ours, theirs))
        yield name, ratio_interval(losses, others, ours["documents"][:, -last:], seed)


def main(path: str, reference: str) -> None:
    """Pair all methods of a run with the reference, and write what comes out."""
    run = RunDir(Path(path))
    samples, recipe = read_samples(run), run.recipe()
    if not any(place[1] == reference for place in samples):
        sys.exit(f"{path} has no samples of {reference!r}, but of {sorted({place[1] for place in samples})}")
    lines = []
    for (kind, method, length, fingerprint), ours in sorted(samples.items()):
        theirs = samples.get((kind, reference, length, fingerprint))
        if method == reference or theirs is None:
            continue
        for metric, interval in pair(ours, theirs, kind, recipe.measure.tail_tokens, recipe.seed):
            value, low, high, resampled = interval
            place = {"method": method, "reference": reference, "metric": metric, "context_tokens": length}
            lines.append({**place, "value": value, "low": low, "high": high, "resampled": resampled})
    (run.path / "paired.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} comparisons; without samples of losses: {sorted(_without_losses(run, samples))}")


def _without_losses(run: RunDir, samples: dict[Place, Arrays]) -> set[str]:
    longest = max(score.context_tokens for score in run.read_scores())
    return {s.method for s in run.read_scores()} - {p[1] for p in samples if (p[0], p[2]) == ("losses", longest)}


if __name__ == "__main__":
    main(*sys.argv[1:])
