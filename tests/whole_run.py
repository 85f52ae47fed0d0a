"""A run directory with everything that a report can show, written record by record; no model is loaded."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from longrope.exports import ExportReport, dump_report
from longrope.recipe import MeasureRecipe, Recipe
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors, dump_factors
from longrope.runs.provenance import record_rope, record_session
from longrope.runs.records import Score, TrainStep, Trial, append_records
from longrope.runs.run_dir import RunDir
from longrope.search.cost import compare_costs

SPEC, TARGET = RopeSpec(32, 32, 1e4, 64), 512
LENGTHS = (64, 128, 256, 512)
METHODS = ("none", "pi", "ntk", "yarn", "longrope-gradient", "longrope-tuned")
TASKS = ("single-needle", "multi-key-needles", "variable-tracking", "common-words")
DEPTHS = (0.05, 0.35, 0.65, 0.95)


def make_whole_run(folder: Path, *, better: float = 1.0, trained: bool = True) -> RunDir:
    """Write the run; the perplexities of LongRoPE are multiplied by ``better``."""
    run = RunDir(folder)
    run.bind(Recipe("models/pico", TARGET, ("books/",), ("other/",), measure=MeasureRecipe(lengths=LENGTHS)))
    record_rope(run, SPEC, TARGET)
    record_session(run, device="cpu", choices=("device cpu (no GPU is here)", "float32 (a CPU)"))
    run.factors("longrope-gradient").write_text(dump_factors(make_factors(better)))
    append_records(run.trials, make_trials(better))
    append_records(run.scores, make_scores(better))
    run.write_text(run.costs, json.dumps([asdict(cost) for cost in compare_costs(make_trials(better))]))
    run.export_report.write_text(dump_report(ExportReport("single", TARGET, 64, 0.001, 0.002, 0.001, 0, 0.0, "5.23.0")))
    if trained:
        append_records(run.train, make_steps(400))
        add_stages(run)
    return run


def add_stages(run: RunDir) -> None:
    """Two finished stages and one that is being written."""
    for number, (name, searched) in enumerate((("search 256", True), ("tune 256", False), ("search 512", True)), 1):
        folder = run.path / "stages" / f"{number}-{name.replace(' ', '-')}"
        folder.mkdir(parents=True)
        if searched:
            append_records(folder / "trials.jsonl", make_trials(number))
            (folder / "factors.json").write_text(dump_factors(make_factors(1.0)))
        else:
            append_records(folder / "train.jsonl", make_steps(40))
        if number < 3:
            marker = {"stage": name, "inputs": {"weights": "a" * 16}, "factors": "b" * 16, "weights": "c" * 16}
            (folder / "stage.json").write_text(json.dumps({**marker, "seconds": 30.5 * number}))


def make_factors(better: float) -> RescaleFactors:
    """Factors of the pico geometry, near the critical-pair rule."""
    lambdas = tuple(x**better for x in baseline_factors(SPEC, "critical", TARGET).factor_sets[0].lambdas)
    return RescaleFactors(lambdas, TARGET, SPEC.fingerprint, attention_factor=1.1, method="longrope-gradient")


def make_trials(better: float) -> list[Trial]:
    """A descent that begins at closed forms and validates every fourth step."""
    trials = [make_trial(0, "validation", name, 3.0 + i) for i, name in enumerate(("yarn", "ntk", "pi"))]
    for step in range(12):
        if step % 4 == 0:
            trials.append(make_trial(step, "validation", "gradient", better * (2.5 - step / 50)))
        trials.append(make_trial(step, "gradient", "gradient", better * (2.4 + 0.3 * (step % 3))))
    return [make_trial(0, "search", "scan", 2.9), *trials]


def make_trial(step: int, kind: str, origin: str, loss: float) -> Trial:
    """One trial of the gradient search."""
    lambdas = tuple(float(i + 1) for i in range(SPEC.num_pairs))
    return Trial(
        "longrope-gradient", "models/pico", "d" * 16, step, kind, origin, lambdas, 0, 1.1, loss, 511, 2048, 0.5
    )


def make_steps(count: int) -> list[TrainStep]:
    """A training whose loss falls."""
    return [TrainStep(i, 4.0 / (1 + i / 50) + 1.5, 1000, 1000 * (i + 1), 1e-4, 1.0, 0.25) for i in range(count)]


def make_scores(better: float) -> list[Score]:
    """Scores of every metric that has a figure, and of one that has none."""
    scores = []
    for i, method in enumerate(METHODS):
        own = better if method.startswith("longrope") else 1.0
        for j, tokens in enumerate(LENGTHS):
            perplexity = own * (400.0 if method == "pi" else 12.345 + (0 if i > 3 else 9 * i) + (j**5 if i == 0 else j))
            share = max(0.0, min(1.0, 0.2 * i + 0.15 - (0.25 * j if i < 3 else 0.05 * j)))
            scores += [make_score("prefix-perplexity", perplexity * 1.01, method, tokens)]
            scores += [make_score("perplexity-last-32", perplexity * 0.98, method, tokens)]
            scores += [make_score("perplexity", perplexity, method, tokens)]
            shares = {"passkey": share, "needle": share / 2, "ruler": share / 3}
            shares |= {f"ruler-{task}": share / (k + 1) for k, task in enumerate(TASKS)}
            for task in ("passkey", "needle"):
                shares |= {f"{task}-depth-{depth:.2f}": shares[task] * (0.5 + depth / 2) for depth in DEPTHS}
            scores += [make_score(metric, value, method, tokens) for metric, value in shares.items()]
    for method in METHODS[1:]:
        scores.append(make_score("ratio-to-none", 1.02 * better, method, 64))
        scores += [make_score(f"harness:{task}:acc", 0.314, method, 64) for task in ("arc_challenge", "hellaswag")]
    scores += [make_score(f"ratio-to-{rival}", 0.9 * better, METHODS[-1], 512) for rival in ("yarn", "ntk")]
    scores.append(replace(make_score("difference-to-yarn", 0.125, METHODS[-1], 512), low=-0.05, high=0.3))
    return [*scores, make_score("recall-of-colours", 0.5, METHODS[-1], 512)]


def make_score(metric: str, value: float, method: str, tokens: int) -> Score:
    """One score with an interval of a twentieth."""
    factors = "" if method == "none" else "e" * 16
    ends = (value * 0.95, min(1.0, value * 1.05) if value <= 1 else value * 1.05)
    return Score(metric, value, *ends, method, tokens, 4088, 8, 0, "models/pico", "f" * 16, factors, 1.25)
