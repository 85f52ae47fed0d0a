"""Which part of the gradient search does what? Ablations with three seeds on the bundled model, minutes on a CPU.

Run: python benchmarks/search_ablations.py OUT.jsonl

From 256 to 1,024 tokens of the standard library's search part: formulas, the scan of curves alone, a descent from each
start, the descent from the scan without the floor (lambda at s from the critical pair on) or with a fixed attention
factor, the scan and the descent with a floor that is scanned, two small evolutions, and LongRoPE2's search. A seed
draws the order of the search windows. All descents have the same steps, and the best factors by two held-out windows
are judged: by the loss over eight windows of the tuning part, which no search here reads, over their last half, and
over answers about needles in two of them. Lines that are there are not made again.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from longrope.data import Tokens, TokenText, load_texts
from longrope.evaluation.perplexity import window_losses
from longrope.models import LanguageModel, load_model
from longrope.recipe import EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.registry import starts
from longrope.rope import RescaleFactors, baseline_factors, extension_ratio
from longrope.runs.records import Trial
from longrope.search import cut_windows, find_factors
from longrope.search.choice import TailAndNeedles
from longrope.search.curves import scan_curves, scan_floors
from longrope.search.descend import descend_from
from longrope.search.longrope2 import search_longrope2
from longrope.search.score import TrialLog, WindowObjective

TARGET, JUDGED, NEEDLED, HELD_OUT, SEEDS = 1024, 8, 2, 2, (0, 1, 2)
DESCENT = GradientRecipe(steps=6, validate_every=3)
Found = tuple[RescaleFactors, int]  # and the passes over a window that they took
NEEDLE_PASSES = 70
FIXED = replace(DESCENT, attention_rate=1e-9)
EVOLUTION = EvolutionRecipe(population=16, parents=8, mutations=4, crossovers=4, generations=6, windows=2)
EVOLUTIONS = {  # of 64 candidates, where the paper has 1,344 with five windows each
    "evolution": EVOLUTION,
    "evolution, critical among its starts": replace(EVOLUTION, starts=("pi", "ntk", "yarn", "critical")),
}
FROM_SCAN = {  # settings of the descent, and whether pairs from the critical one on stay at s or above
    "descent from scan": (DESCENT, True),
    "from scan, without the floor": (DESCENT, False),
    "from scan, fixed attention factor": (FIXED, True),
}


def formula(model: LanguageModel, name: str) -> RescaleFactors:
    """The factors of a baseline by its formula."""
    return baseline_factors(model.spec, name, TARGET).factor_sets[0]


def passes(log: TrialLog) -> int:
    """The passes over a window of all trials."""
    return sum(trial.token_passes for trial in log.made) // TARGET


def search(
    objective: WindowObjective,
    model: LanguageModel,
    start: RescaleFactors,
    settings: GradientRecipe,
    *,
    floor: int,
    before: int = 0,
) -> Found:
    """The best factors of one descent by the held-out windows; ``before`` are the passes that its start took."""
    log, ratio = TrialLog(None, "longrope-gradient"), extension_ratio(model.spec, TARGET)
    descend_from(objective, start, settings, log, origin="start", floor=floor, ratio=ratio)
    return log.choose(log.best_validated, [start]), before + passes(log)


def evolve(model: LanguageModel, text: TokenText, evolution: EvolutionRecipe, seed: int) -> Found:
    """What a small evolution finds."""
    trials: list[Trial] = []
    settings = SearchRecipe("evolution", validation_windows=HELD_OUT, choose_by="loss", evolution=evolution)
    found = find_factors(model, text, TARGET, settings=settings, seed=seed, on_trial=trials.append)
    return found, sum(trial.token_passes for trial in trials) // TARGET


def search_by_needles(model: LanguageModel, text: TokenText, seed: int) -> Found:
    """What LongRoPE2's search finds in the passes of the scan with its descent."""
    trials: list[Trial] = []
    settings = SearchRecipe(validation_windows=HELD_OUT, gradient=DESCENT)
    given: dict[str, Any] = {"settings": settings, "seed": seed, "passes": NEEDLE_PASSES, "on_trial": trials.append}
    found = search_longrope2(model, text, TARGET, **given)
    return found, sum(trial.token_passes for trial in trials) // TARGET


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


class Judge:
    """Judges factors on windows that no search has read, and writes a line for each variant and seed."""

    def __init__(self, out: Path, model: LanguageModel, text: TokenText) -> None:
        """Read what is there already."""
        self.out, self.model = out, model
        self.windows = text.windows(TARGET, JUDGED)
        self.needles = TailAndNeedles.prepare(model, self.windows[:NEEDLED], seed=1)
        lines = map(json.loads, out.open()) if out.exists() else ()
        self.done = {(line["variant"], line["seed"]): line for line in lines}

    def __call__(self, variant: str, seed: int, find: Callable[[], Found], **sizes: int) -> dict[str, Any]:
        """Find the factors of a variant and judge them, unless its line is there; the line, with the sizes given."""
        if found := self.done.get((variant, seed)):
            return found
        factors, passes = find()
        judged = judge(self.model, factors, self.windows, self.needles)
        line = {"variant": variant, "seed": seed, **sizes, **judged, "window_passes": passes}
        print(variant, seed, line["loss"], line["answers"], flush=True)
        with self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line


def main() -> None:
    """Judge every variant with every seed; one JSON line each."""
    model = load_model("nano")
    texts = load_texts(["stdlib"], model.tokenizer)
    judged = Judge(Path(sys.argv[1]), model, texts.tune)
    formulas = {name: formula(model, name) for name in starts()}
    for name, start in {**formulas, "critical-real": formula(model, "critical-real")}.items():
        judged(name, 0, lambda start=start: (start, 0))  # type: ignore[misc]  # bound at once
    for seed in SEEDS:
        searched, held_out = cut_windows(texts.search, TARGET, HELD_OUT, seed)
        objective = WindowObjective.prepare(model, searched[: DESCENT.steps], held_out, DESCENT.scan_windows)
        log, descent = TrialLog(None, "longrope-gradient"), partial(search, objective, model)
        scanned = replace(scan_curves(objective, model.spec, formulas["critical"], log), method="scan")
        scan_passes = passes(log)
        capped, floor_found = scan_floors(objective, model.spec, scanned, log)
        scans = {"scan alone": (scanned, scan_passes), "scan, floor scanned": (capped, passes(log))}
        for name, found in scans.items():
            judged(name, seed, lambda found=found: found)  # type: ignore[misc]  # bound at once
        for name, start in formulas.items():
            judged(f"descent from {name}", seed, partial(descent, start, DESCENT, floor=model.spec.critical_pair))
        for name, (settings, floor) in FROM_SCAN.items():
            at = model.spec.critical_pair if floor else model.spec.num_pairs
            judged(name, seed, partial(descent, scanned, settings, floor=at, before=scan_passes))
        lowered = partial(descent, capped, DESCENT, floor=floor_found, before=passes(log))
        judged("descent from scan, floor scanned", seed, lowered)
    for seed in SEEDS:
        judged("LongRoPE2's search", seed, partial(search_by_needles, model, texts.search, seed))
        for name, evolution in EVOLUTIONS.items():
            judged(name, seed, partial(evolve, model, texts.search, evolution, seed))


if __name__ == "__main__":
    main()
