"""Finished runs whose scores are made by hand, to be compared with each other; no model is loaded."""

from pathlib import Path

import numpy as np
from handmade import FACTORS, make_run

from longrope.evaluation.statistics import perplexity_interval, share_interval
from longrope.evaluation.summaries import summarize
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

LENGTH, TAIL, WINDOWS, PROMPTS = 1024, 200, 12, 40
LOSSES = ("perplexity", f"perplexity-last-{TAIL}", f"last-tokens-{TAIL}")
METRICS = (*LOSSES, "passkey", "many-passkeys", "needle", "prose-needle")
Arrays = dict[str, np.ndarray]


def document_numbers(count: int) -> np.ndarray:
    """[W, N - 1]: documents of unlike lengths one after the other, over the ends of windows."""
    ends = np.sort(np.random.default_rng(0).choice(WINDOWS * (LENGTH - 1), count - 1, replace=False))
    numbers = np.searchsorted(ends, np.arange(WINDOWS * (LENGTH - 1)), side="right").reshape(WINDOWS, -1)
    return numbers.astype(np.uint8)


def make_samples(seed: int, documents: np.ndarray) -> dict[str, Arrays]:
    """Samples of a run by the metric that is computed from them."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).gamma(1, 3, documents.shape)
    losses = {"losses": (shared + rng.normal(0.1, 0.5, shared.shape)).astype(np.float32), "documents": documents}
    whole = dict.fromkeys(LOSSES, losses)
    return {
        **whole,
        f"last-tokens-{TAIL}": {name: array[:, -TAIL:] for name, array in losses.items()},
        "passkey": {"right": rng.random(PROMPTS) < 0.6},
        "many-passkeys": {"right": rng.random(PROMPTS) < 0.5},
        "needle": {"shares": rng.choice([0.0, 0.5, 1.0], PROMPTS)},
        "prose-needle": {"right": rng.random(PROMPTS) < 0.3},
    }


def make_finished(folder: Path, seed: int, documents: np.ndarray, texts: str = "a" * 16, per_text: int = 0) -> RunDir:
    """A run directory with scores of the factors that it has found, and the summaries of their samples."""
    samples = make_samples(seed, documents)
    if per_text:
        samples["many-passkeys"]["texts"] = np.arange(PROMPTS) // per_text
    scores = []
    for metric in METRICS:
        arrays = samples[metric]
        if metric in LOSSES:
            tail = slice(-TAIL, None) if metric != "perplexity" else slice(None)
            interval = perplexity_interval(arrays["losses"][:, tail].astype(float), arrays["documents"][:, tail], 7)
        else:
            answers, *of_texts = arrays.values()
            interval = share_interval(answers.astype(float).tolist(), *of_texts)
        tuned, found = f"model, tuned {seed}", FACTORS.fingerprint
        value, low, high = interval[:3]
        scores.append(
            Score(metric, value, low, high, "longrope-tuned", LENGTH, 9, WINDOWS, 7, tuned, texts, found, 1.0)
        )
    run = make_run(folder, scores)
    run.write_factors(FACTORS)
    run.append(*(summarize(score, samples[score.metric]) for score in scores))
    return run
