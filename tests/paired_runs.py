"""Finished runs whose samples are made by hand, to be compared with each other; no model is loaded."""

from pathlib import Path

import numpy as np
from handmade import FACTORS, make_run

from longrope.evaluation.statistics import perplexity_interval, share_interval
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

LENGTH, TAIL, WINDOWS, PROMPTS = 1024, 200, 12, 40
METRICS = ("perplexity", f"perplexity-last-{TAIL}", "passkey", "needle", "prose-needle")
Arrays = dict[str, np.ndarray]


def document_numbers(count: int) -> np.ndarray:
    """[W, N - 1]: documents of unlike lengths one after the other, over the ends of windows."""
    ends = np.sort(np.random.default_rng(0).choice(WINDOWS * (LENGTH - 1), count - 1, replace=False))
    numbers = np.searchsorted(ends, np.arange(WINDOWS * (LENGTH - 1)), side="right").reshape(WINDOWS, -1)
    return numbers.astype(np.uint8)


def make_samples(seed: int, documents: np.ndarray) -> dict[str, Arrays]:
    """Samples of a run by kind: losses, and answers to prompts."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).gamma(1, 3, documents.shape)
    return {
        "losses": {"losses": (shared + rng.normal(0.1, 0.5, shared.shape)).astype(np.float32), "documents": documents},
        "passkeys": {"right": rng.random(PROMPTS) < 0.6},
        "needles": {"shares": rng.choice([0.0, 0.5, 1.0], PROMPTS)},
        "prose-needle": {"right": rng.random(PROMPTS) < 0.3},
    }


def make_finished(folder: Path, seed: int, documents: np.ndarray, texts: str = "a" * 16) -> RunDir:
    """A run directory with scores of the factors that it has found, and the samples that they were computed from."""
    samples = make_samples(seed, documents)
    losses, tail = samples["losses"]["losses"].astype(float), slice(-TAIL, None)
    shares = [samples["passkeys"]["right"], samples["needles"]["shares"], samples["prose-needle"]["right"]]
    intervals = [
        perplexity_interval(losses, documents, 7),
        perplexity_interval(losses[:, tail], documents[:, tail], 7),
        *(share_interval(some.astype(float).tolist()) for some in shares),
    ]
    tuned, found = f"model, tuned {seed}", FACTORS.fingerprint
    scores = [
        Score(metric, *interval[:3], "longrope-tuned", LENGTH, 9, WINDOWS, 7, tuned, texts, found, 1.0)
        for metric, interval in zip(METRICS, intervals, strict=True)
    ]
    run = make_run(folder, scores)
    run.write_factors(FACTORS)
    for kind, arrays in samples.items():
        inputs = (f"{LENGTH}", texts) if kind == "losses" else (texts,)
        key = np.asarray([tuned, "float32", "longrope-tuned", found, *inputs])
        run.write_samples(f"{kind}-0", {**arrays, "key": key, "seconds": np.asarray(1.0)})
    return run
