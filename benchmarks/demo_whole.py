"""Does the demo's win hold on all of its measuring text, and with a hundred passkeys instead of ten?

Run: longrope extend --out runs/demo; python benchmarks/demo_whole.py runs/demo OUT.jsonl

Takes the factors of a finished demo and measures them beside YaRN's at the target: the ratio of the perplexities,
paired by token, over every window of the measuring part that has none of the passages by which the searched text is
known (256 samples of it: libraries repeat themselves here and there), and the passkeys, with the difference paired by
passkey. One score a line, with the Python whose standard library was read.
"""

import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

from longrope.data import load_texts, sketch
from longrope.evaluation import find_metric, name_subject
from longrope.evaluation.metric import Context, Subject
from longrope.evaluation.samples import SampleCache
from longrope.models import load_model
from longrope.rope import as_table, baseline_factors, load_factors
from longrope.runs.run_dir import RunDir

KEYS = 100


def main() -> None:
    """Measure and append the scores."""
    run, out = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
    recipe = run.recipe()
    model = load_model(recipe.model, device="cpu")
    text = load_texts(recipe.data, model.tokenizer).measure
    found = as_table(load_factors(run.factors()).factor_sets[0])
    yarn = baseline_factors(model.spec, "yarn", recipe.target_tokens)
    searched = set(found.factor_sets[0].searched)
    every, documents = (some.windows(recipe.target_tokens, len(text.tokens)) for some in (text, text.numbered()))
    unsearched = [not searched & set(sketch(window[None])) for window in every]
    ours, theirs = (
        Context(
            subject=name_subject(model, table),
            original=Subject(model, None, "none"),
            text=text,
            windows=every[unsearched],
            documents=documents[unsearched],
            lengths=(recipe.target_tokens,),
            length=recipe.target_tokens,
            settings=replace(recipe.measure, passkeys=KEYS),
            seed=recipe.seed,
            cache=SampleCache(),
        )
        for table in (found, yarn)
    )
    perplexity, passkey = find_metric("perplexity"), find_metric("passkey")
    scores = [perplexity.compare(perplexity.samples(ours), perplexity.samples(theirs))]
    scores += [passkey.scores(passkey.samples(some), some.settings)[0] for some in (ours, theirs)]
    scores.append(passkey.compare(passkey.samples(ours), passkey.samples(theirs)))
    with out.open("a") as file:
        for score in scores:
            print(score.method, score.metric, f"{score.value:.4f} ({score.low:.4f}-{score.high:.4f})", flush=True)
            file.write(json.dumps({"python": platform.python_version(), **asdict(score)}) + "\n")


if __name__ == "__main__":
    main()
