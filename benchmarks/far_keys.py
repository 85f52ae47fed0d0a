"""Which factors answer keys far back at full length? Curves and searches, judged on text and keys of the search side.

Run: python benchmarks/far_keys.py MODEL SEARCH_TEXT TARGET_TOKENS OUT.jsonl [NAME...]

Each line is judged by the loss on held-out windows of the search text (the last half of a window), by the loss over
answers about planted facts there, and by passkeys hidden in another filler, with other keys, than the ones that results
report. Nothing here reads the text that results are measured on.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from longrope.data import TokenText, load_texts, plant_needles
from longrope.engine.passes import token_losses
from longrope.evaluation import measure
from longrope.evaluation.prompts import passkeys
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import MeasureRecipe, SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors, critical_lambdas, extension_ratio, yarn_lambdas
from longrope.search import cut_windows, find_factors

FILLER = "A farmer sows in spring. Rain falls on the roof. The bread is in the oven. A dog sleeps by the door.\n"
KEY_SEED, HELD_OUT = 777, 2  # windows: those that the searches hold out
CURVES: dict[str, dict[str, float]] = {
    "yarn x1": {"end": 1},
    "yarn x1.5": {"end": 1.5},
    "yarn x2": {"end": 2},
    "yarn x1.5 attention 1.5": {"end": 1.5, "attention": 1.5},
    "yarn x2 attention 1.5": {"end": 2, "attention": 1.5},
    "yarn x2 attention 2": {"end": 2, "attention": 2},
    **{f"curve free {f} end {e}": {"free": f, "end": e} for f in (0, 0.35, 0.7) for e in (1, 1.5, 2)},
    "curve free 0.35 end 1.5 attention 1.5": {"free": 0.35, "end": 1.5, "attention": 1.5},
}
SEARCHES = {f"search, needles {weight:g}": weight for weight in (0.3, 1, 3)}


def curve(
    model: LanguageModel, length: int, end: float, free: float | None = None, attention: float = 1
) -> RescaleFactors:
    """YaRN's ramp, or the critical-pair rule with a share of pairs left alone, aimed at ``end`` times the target."""
    spec = model.spec
    start = baseline_factors(spec, "critical", length).factor_sets[0]
    slowest = extension_ratio(spec, length) * end
    if free is None:
        lambdas = yarn_lambdas(spec.theta, spec.num_pairs, spec.trained_window, slowest)
    else:
        lambdas = critical_lambdas(spec.num_pairs, spec.critical_pair, slowest, spec.critical_pair * free)
    factor = 1 + (start.attention_factor - 1) * attention
    return replace(start, lambdas=tuple(lambdas.tolist()), attention_factor=factor)


def judge(model: LanguageModel, factors: RescaleFactors, held_out: np.ndarray, length: int, keys: int) -> dict:
    """Loss over the last half of held-out windows, loss over answers in them, keys answered by depth."""
    rng = np.random.default_rng(KEY_SEED)
    half, answered = [], []
    with rescaled(model, factors):
        for window in held_out:
            planted, answers = plant_needles(window, model.tokenizer, rng)
            losses = token_losses(model, planted[None])[0].double().numpy()
            half.append(losses[length // 2 :].mean())
            answered.append(losses[answers].mean())
    asked = MeasureRecipe((length,), ("passkey",), windows=1, passkeys=keys)
    unread = TokenText(held_out.ravel(), "held-out")  # passkeys read nothing of a text
    scores = measure(model, replace(factors, searched=()), unread, settings=asked, method="probe", seed=KEY_SEED)
    return {
        "loss_last_half": float(np.mean(half)),
        "loss_answers": float(np.mean(answered)),
        "keys": scores[0].value,
        "keys_by_depth": [score.value for score in scores[1:]],
    }


def found(name: str, model: LanguageModel, text: TokenText, length: int) -> RescaleFactors:
    """The factors of one name."""
    if name in CURVES:
        return curve(model, length, **CURVES[name])
    settings = SearchRecipe(tail_tokens=length // 2, needle_weight=SEARCHES[name])
    return find_factors(model, text, length, settings=settings)


def main() -> None:
    """Judge the named factors, or all; one JSON line each, written when it is finished."""
    source, text, target, out = sys.argv[1:5]
    passkeys.FILLER = FILLER
    model, length = load_model(source), int(target)
    search = load_texts([text], model.tokenizer).search
    held_out = cut_windows(search, length, HELD_OUT, 0)[1]
    for name in sys.argv[5:] or [*CURVES, *SEARCHES]:
        began = time.perf_counter()
        factors = found(name, model, search, length)
        seconds = round(time.perf_counter() - began, 1)
        shown = {"factors": name, **judge(model, factors, held_out, length, 20 if name in SEARCHES else 10)}
        print(shown, seconds, flush=True)
        numbers = asdict(factors)
        kept = {key: numbers[key] for key in ("lambdas", "attention_factor", "start_tokens")}
        with Path(out).open("a") as file:
            file.write(json.dumps({**shown, "search_seconds": seconds, **kept}) + "\n")


if __name__ == "__main__":
    main()
