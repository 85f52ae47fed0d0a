"""Which score should a search minimise? Variants on the embedded model, minutes on a CPU.

Run: python benchmarks/nano_search.py OUT.jsonl [NAME...]

From 256 to 2,048 tokens of the standard library's search part. Each line is judged by the loss over twelve windows of
that part (all tokens, and the last half of a window), and by forty passkeys in another filler, with other keys, than
the ones that results report. Nothing here reads the part that results are measured on.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from longrope.data import TokenText, load_texts
from longrope.evaluation import measure
from longrope.evaluation.perplexity import window_losses
from longrope.evaluation.prompts import passkeys
from longrope.models import LanguageModel, load_model
from longrope.recipe import GradientRecipe, MeasureRecipe, SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.search import find_factors

FILLER = "A farmer sows in spring. Rain falls on the roof. The bread is in the oven. A dog sleeps by the door.\n"
TARGET, WINDOWS, KEYS, KEY_SEED = 2048, 12, 40, 777
CLOSED_FORMS = ("ntk", "yarn", "critical")
BASE = SearchRecipe(validation_windows=4, gradient=GradientRecipe(steps=16))
SEARCHES = {
    "text": BASE,
    "text, two held-out windows": replace(BASE, validation_windows=2),
    "last half": replace(BASE, tail_tokens=TARGET // 2),
    "text, needles 0.1": replace(BASE, needle_weight=0.1),
    "text, needles 1": replace(BASE, needle_weight=1.0),
}


def judge(model: LanguageModel, factors: RescaleFactors, text: TokenText) -> dict:
    """Losses on windows of the search text, and keys answered."""
    losses = window_losses(model, factors, text.windows(TARGET, WINDOWS))
    asked = MeasureRecipe((TARGET,), ("passkey",), windows=1, passkeys=KEYS)
    unsearched = replace(factors, searched=())  # passkeys read nothing of this text
    keys = measure(model, unsearched, text, settings=asked, method="probe", seed=KEY_SEED)
    return {
        "loss": float(losses.mean()),
        "loss_last_half": float(losses[:, TARGET // 2 :].mean()),
        "keys": keys[0].value,
    }


def main() -> None:
    """Judge the named variants, or all; one JSON line each."""
    out = Path(sys.argv[1])
    passkeys.FILLER = FILLER
    model = load_model("nano")
    text = load_texts(["stdlib"], model.tokenizer).search
    for name in sys.argv[2:] or [*CLOSED_FORMS, *SEARCHES]:
        began = time.perf_counter()
        if name in CLOSED_FORMS:
            factors = baseline_factors(model.spec, name, TARGET).factor_sets[0]
        else:
            factors = find_factors(model, text, TARGET, settings=SEARCHES[name])
        seconds = round(time.perf_counter() - began, 1)
        line = {"factors": name, **judge(model, factors, text), "search_seconds": seconds}
        print(line, flush=True)
        found = asdict(factors)
        with out.open("a") as file:
            file.write(json.dumps(line | {key: found[key] for key in ("lambdas", "attention_factor", "start_tokens")}))
            file.write("\n")


if __name__ == "__main__":
    main()
