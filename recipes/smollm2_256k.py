"""Go on from the tuned 64k run to 256k: by a second search alone, or with a short training there.

Run: python recipes/smollm2_256k.py RUN search        (RUN as recipes/smollm2-64k-tuned.sh leaves it)
     python recipes/smollm2_256k.py RUN tune

The second search is made at 128k, where a gradient step costs a quarter, and its factors are carried on to 256k by
their rule.
``tune`` carries the 64k factors on to 256k and trains a few steps there. Scores go into RUN's scores.jsonl.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from longrope import RunDir, load_model, load_texts, measure
from longrope.recipe import Stage, parse_tokens
from longrope.stages import Watch, plan_walk, walk

FURTHER = {
    "search": (Stage(search=parse_tokens("128k")), Stage(carry=parse_tokens("256k"))),
    "tune": (Stage(carry=parse_tokens("256k")), Stage(tune=parse_tokens("256k"), steps=4)),
}


def main(path: Path, how: str) -> None:
    """Walk on, then measure at the longest windows."""
    began, run = time.time(), RunDir(path)
    recipe = run.recipe()
    model = load_model(recipe.model, device=recipe.device, dtype=recipe.dtype)
    texts = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)
    watch = Watch(
        on_step=lambda text: print(f"{time.time() - began:.0f} s: {text}", flush=True),
        on_train=lambda step: print(f"step {step.step}: {step.loss_nats:.3f} nats, {step.seconds:.1f} s", flush=True),
    )
    recipe = replace(recipe, target_tokens=parse_tokens("256k"), stages=(*recipe.stages, *FURTHER[how]))
    extended = walk(recipe, plan_walk(recipe, run, model, texts), model, texts, watch)
    lengths = tuple(tier.target_window for tier in extended.tiers if tier.target_window > 2**16)
    settings = replace(recipe.measure, lengths=lengths, windows=2, passkeys=10)
    method = "longrope-tuned"
    for score in measure(extended.model, extended.table, texts.measure, settings=settings, method=method, run=run):
        if "depth" not in score.metric:
            print(
                f"{time.time() - began:.0f} s: {score.metric} at {score.context_tokens:,}: {score.value:.4g}",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
