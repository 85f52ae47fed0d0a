"""Methods that read near tokens exactly, beside factors, on the bundled model at 16 times its window: minutes on a CPU.

Run: python benchmarks/near_exact.py RUN

From 256 to 4,096 tokens of the measuring part of the standard library: the original, YaRN, the demo's factors
extrapolated from 2,048 tokens, and every baseline of attention, each compared with YaRN token by token and passkey by
passkey. RUN/scores.jsonl holds the scores; what is there already is not measured again.
"""

import sys
from pathlib import Path

import torch

from longrope.data import load_texts
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.samples import SampleCache
from longrope.models import load_model
from longrope.pipeline.baselines import make_baseline
from longrope.recipe import MeasureRecipe
from longrope.registry import METHODS
from longrope.rope import extrapolate, load_factors
from longrope.runs.run_dir import RunDir

DEMO = Path(__file__).parents[1] / "results" / "demo" / "factors.json"
LENGTHS = (256, 4096)
SETTINGS = MeasureRecipe(lengths=LENGTHS, windows=6, passkeys=20, tail_tokens=2048)


def main() -> None:
    """Measure and print the scores."""
    torch.set_num_threads(1)
    model = load_model("nano", device="cpu")
    text = load_texts(["stdlib"], model.tokenizer).measure
    original = name_subject(model, None)
    found = extrapolate(load_factors(DEMO).factor_sets[0], model.spec, LENGTHS[-1])
    changed = [name for name, row in METHODS.items() if row.kind == "attention" and row.baseline]
    yarn, *near = (make_baseline(model, name, LENGTHS, LENGTHS[-1]) for name in ("yarn", *changed))
    run = RunDir(Path(sys.argv[1]))
    evaluation = Evaluation(text, SETTINGS, original, SampleCache(run))
    with run.locked():
        for subject in (original, yarn, name_subject(model, found), *near):
            scores = evaluation.measure(subject)
            scores += evaluation.compare(subject, yarn) if subject is not yarn else []
            for score in scores:
                if "depth" not in score.metric:
                    numbers = f"{score.value:.4f} ({score.low:.4f}-{score.high:.4f})"
                    print(score.method, score.metric, score.context_tokens, numbers, flush=True)


if __name__ == "__main__":
    main()
