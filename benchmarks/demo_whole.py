"""Does the demo's win hold on all of its measuring text, and with a hundred passkeys instead of ten?

Run: longrope extend --out runs/demo; python benchmarks/demo_whole.py runs/demo OUT.jsonl

Takes the factors of a finished demo and measures them beside YaRN's at the target: the ratio of the perplexities,
paired by token, over every window of the measuring part that has none of the passages by which the searched text is
known (256 samples of it: libraries repeat themselves here and there), and the passkeys. One score a line, with the
Python whose standard library was read.
"""

import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from longrope.evaluation import measure
from longrope.evaluation.perplexity import measure_ratio
from longrope.factors import as_table, closed_form, load_factors
from longrope.models import load_model
from longrope.rundir import RunDir
from longrope.texts import load_texts, sketch

KEYS = 100


def main() -> None:
    """Measure and append the scores."""
    run, out = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
    recipe = run.recipe()
    model = load_model(recipe.model, device="cpu")
    text = load_texts(recipe.data, model.tokenizer).measure
    found = as_table(load_factors(run.factors()).tiers[0])
    yarn = closed_form(model.spec, "yarn", recipe.target_tokens)
    searched = set(found.tiers[0].searched)
    every = text.windows(recipe.target_tokens, len(text.tokens))
    windows = np.stack([window for window in every if not searched & set(sketch(window[None]))])
    scores = [measure_ratio(model, (found, yarn), windows, methods=(found.tiers[0].method, "yarn"), seed=recipe.seed)]
    asked = replace(recipe.measure, lengths=(recipe.target_tokens,), metrics=("passkey",), passkeys=KEYS)
    for table, method in ((found, found.tiers[0].method), (yarn, "yarn")):
        made = measure(model, table, text, settings=asked, method=method, seed=recipe.seed)
        scores += [score for score in made if score.metric == "passkey"]
    with out.open("a") as file:
        for score in scores:
            print(score.method, score.metric, f"{score.value:.4f} ({score.low:.4f}-{score.high:.4f})", flush=True)
            file.write(json.dumps({"python": platform.python_version(), **asdict(score)}) + "\n")


if __name__ == "__main__":
    main()
