"""Go on from the tuned 64k run to 256k: by a second search alone, or with a short training there.

Run: python recipes/smollm2_256k.py RUN search        (RUN as recipes/smollm2-64k-tuned.sh leaves it)
     torchrun --nproc-per-node 2 recipes/smollm2_256k.py RUN tune        (or python, on one GPU)

The second search is made at 128k (twice RUN's target), where a gradient step costs a quarter, and its factors are
extrapolated to 256k (four times RUN's target) by their rule. ``tune`` trains a few steps with them in windows of 256k,
which the processes share, and searches short factors once more. Scores go into RUN's scores.jsonl.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from longrope import RunDir, distributed, load_model, load_texts, measure
from longrope.pipeline import Callbacks, Session, plan_tasks, run_tasks
from longrope.recipe import Stage

METRICS = {"search": ("perplexity", "passkey"), "tune": ("perplexity", "passkey", "retention")}
METHODS = {"search": "longrope-tuned", "tune": "longrope-tuned-256k"}


def main(path: Path, how: str) -> None:
    """Walk on, then measure at the longest windows."""
    began, run = time.time(), RunDir(path)
    recipe = run.recipe()
    target, further = recipe.target_tokens, 4 * recipe.target_tokens
    model = load_model(recipe.model, device=recipe.device, dtype=recipe.dtype)
    texts = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)
    callbacks = Callbacks(
        on_step=lambda text: say(f"{time.time() - began:.0f} s: {text}"),
        on_train=lambda step: say(f"step {step.step}: {step.loss_nats:.3f} nats, {step.seconds:.1f} s"),
    )
    window = model.spec.trained_window
    stages = [Stage(search=2 * target), Stage(extrapolate=further)]
    stages += [Stage(tune=further, steps=8), Stage(short=window)] if how == "tune" else []
    recipe = replace(recipe, target_tokens=further, stages=(*recipe.stages, *stages))
    session = Session(recipe, run, model, texts, callbacks)
    extended = run_tasks(session, plan_tasks(session))
    lengths = {"search": (2 * target, further), "tune": (window, target, further)}[how]
    settings = replace(recipe.measure, lengths=lengths, metrics=METRICS[how], windows=4, passkeys=10)
    method = METHODS[how]
    for score in measure(extended.model, extended.table, texts.measure, settings=settings, method=method, run=run):
        if "depth" not in score.metric:
            say(f"{time.time() - began:.0f} s: {score.metric} at {score.context_tokens:,}: {score.value:.4g}")


def say(text: str) -> None:
    """Tell it at once, in one process alone."""
    if distributed.is_main():
        print(text, flush=True)


if __name__ == "__main__":
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        main(Path(sys.argv[1]), sys.argv[2])
