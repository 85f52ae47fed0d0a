"""Which part of the gradient search does what? Ablations with three seeds on the bundled model, minutes on a CPU.

Run: python benchmarks/search_ablations.py OUT.jsonl

From 256 to 1,024 tokens of the standard library's search part: formulas, the scan of curves alone, a descent from each
start, and the descent from the scan without the floor (lambda at s from the critical pair on) or with a fixed attention
factor. A seed draws the order of the search windows. Every variant has the same steps and is judged by what it found
last that is best on two held-out windows: the loss over eight windows of the tuning part, which no search here reads,
over their last half, and over answers about needles in two of them. Lines that are there are not made again.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from longrope.data import Tokens, load_texts
from longrope.evaluation.perplexity import window_losses
from longrope.models import LanguageModel, load_model
from longrope.recipe import GradientRecipe
from longrope.registry import starts
from longrope.rope import RescaleFactors, baseline_factors, extension_ratio
from longrope.search import cut_windows
from longrope.search.choice import TailAndNeedles
from longrope.search.descend import _scan, descend_from
from longrope.search.score import TrialLog, WindowObjective

TARGET, JUDGED, NEEDLED, HELD_OUT, SEEDS = 1024, 8, 2, 2, (0, 1, 2)
DESCENT = GradientRecipe(steps=6, validate_every=3)
FIXED = replace(DESCENT, attention_rate=1e-9)
FROM_SCAN = {  # settings of the descent, and whether pairs from the critical one on stay at s or above
    "descent from scan": (DESCENT, True),
    "from scan, without the floor": (DESCENT, False),
    "from scan, fixed attention factor": (FIXED, True),
}


def search(
    objective: WindowObjective, model: LanguageModel, start: RescaleFactors, settings: GradientRecipe, *, floor: bool
) -> tuple[RescaleFactors, TrialLog]:
    """The best factors of one descent by the held-out windows, and its trials."""
    log, spec = TrialLog(None, "longrope-gradient"), model.spec
    critical = spec.critical_pair if floor else spec.num_pairs
    ratio = extension_ratio(spec, TARGET)
    descend_from(objective, start, settings, log, origin="start", critical_pair=critical, ratio=ratio)
    return log.choose(log.best_validated, [start]), log


def judge(model: LanguageModel, factors: RescaleFactors, windows: Tokens, needles: TailAndNeedles) -> dict[str, object]:
    """What is written of some factors, but for the seconds; losses in nats a token."""
    losses = window_losses(model, replace(factors, searched=()), windows)
    return {
        "loss": float(losses.mean()),
        "loss_last_half": float(losses[:, TARGET // 2 :].mean()),
        "loss_by_window": [round(float(loss), 5) for loss in losses.mean(axis=1)],
        "answers": needles.needle_loss(factors).loss_nats,
        "attention_factor": factors.attention_factor,
        "lambdas": factors.lambdas,
    }


def main() -> None:
    """Judge every variant with every seed; one JSON line each."""
    out = Path(sys.argv[1])
    done = {(line["variant"], line["seed"]) for line in map(json.loads, out.open())} if out.exists() else set()
    model = load_model("nano")
    texts = load_texts(["stdlib"], model.tokenizer)
    windows = texts.tune.windows(TARGET, JUDGED)
    needles = TailAndNeedles.prepare(model, windows[:NEEDLED], seed=1)
    formulas = {name: baseline_factors(model.spec, name, TARGET).factor_sets[0] for name in starts()}

    def write(variant: str, seed: int, factors: RescaleFactors, passes: int, seconds: float) -> None:
        line = {"variant": variant, "seed": seed, **judge(model, factors, windows, needles)}
        line |= {"window_passes": passes, "cpu_seconds": round(seconds, 1)}
        print(variant, seed, round(float(line["loss"]), 4), round(float(line["answers"]), 3), flush=True)  # type: ignore[arg-type]
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    for name, factors in formulas.items():
        if (name, 0) not in done:
            write(name, 0, factors, 0, 0.0)
    for seed in SEEDS:
        searched, held_out = cut_windows(texts.search, TARGET, HELD_OUT, seed)
        objective = WindowObjective.prepare(model, searched[: DESCENT.steps], held_out, DESCENT.scan_windows)
        began, log = time.process_time(), TrialLog(None, "longrope-gradient")
        scanned = replace(_scan(objective, model.spec, formulas["critical"], log), method="scan")
        scan_passes = sum(trial.token_passes for trial in log.made) // TARGET
        scan_seconds = time.process_time() - began
        runs = {"scan alone": (scanned, None, True)}
        runs |= {f"descent from {name}": (start, DESCENT, True) for name, start in formulas.items()}
        runs |= {name: (scanned, settings, floor) for name, (settings, floor) in FROM_SCAN.items()}
        for variant, (start, settings, floor) in runs.items():
            if (variant, seed) in done:
                continue
            began, factors, passes = time.process_time(), start, 0
            if settings:
                factors, log = search(objective, model, start, settings, floor=floor)
                passes = sum(trial.token_passes for trial in log.made) // TARGET
            seconds = time.process_time() - began
            if start is scanned:
                passes, seconds = passes + scan_passes, seconds + scan_seconds
            write(variant, seed, factors, passes, seconds)


if __name__ == "__main__":
    main()
