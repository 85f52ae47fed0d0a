"""What helps a gradient search beyond the default? One variant a line, judged on held-out windows and held-out keys.

Run: python benchmarks/search_variants.py MODEL SEARCH_TEXT TARGET_TOKENS OUT.jsonl [VARIANT...]

Every variant walks the same search windows from the same start. It is judged by the mean loss on validation windows of
the search text (all tokens, and the last half of each window) and by passkeys whose keys are of another seed than the
ones that results report. Nothing here reads the text that results are measured on.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longrope.factors import RIVALS, RescaleFactors, as_table, closed_form
from longrope.forward import mean_loss_with_graph
from longrope.measures.passkey import measure_passkey
from longrope.measures.perplexity import window_losses
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import extension_ratio, su_attention_factor
from longrope.search import cut_windows
from longrope.texts import load_texts

STEPS, HELD_OUT, KEYS, KEY_SEED = 24, 2, 20, 12345
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "more-steps": {"steps": 48},
    "attention-x3": {"attention_rate": 0.3},
    "free": {"free": True, "rate": 0.03},  # log lambda itself: neither bounded nor ordered
    "tail-half": {"tail": 2},
    "tail-quarter": {"tail": 4},
    "needle-mixed": {"needle": 0.1},
    "fast-tail": {"tail": 2, "rate": 0.3},
    "critical-tail": {"start": "critical", "tail": 2},
    "critical-fast-tail": {"start": "critical", "tail": 2, "rate": 0.3},
    "critical-faster-tail-48": {"start": "critical", "tail": 2, "rate": 0.3, "steps": 48},
    "critical-fast-needle": {"start": "critical", "rate": 0.3, "needle": 0.1},
}


class Walk:
    """Adam over lambdas and attention factor as torch leaves; variants differ in what they turn on."""

    def __init__(
        self,
        start: RescaleFactors,
        attention: float,
        *,
        free: bool = False,
        rate: float = 0.1,
        attention_rate: float = 0.1,
        steps: int = STEPS,
    ) -> None:
        """Begin at ``start``; ``free`` walks over log lambda itself, without bounds or order."""
        self.start, self.free, self.steps = start, free, steps
        u = np.log(start.array) if free else self.increments(start.array)
        self.u = torch.tensor(u, requires_grad=True)
        self.log_a = torch.tensor(math.log(attention), dtype=torch.float64, requires_grad=True)
        groups = [{"params": [self.u], "lr": rate}]
        groups += [{"params": [self.log_a], "lr": rate * attention_rate}]
        self.optimizer = torch.optim.Adam(groups)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    @staticmethod
    def increments(lambdas: np.ndarray) -> np.ndarray:
        """The u of exp(cumsum(softplus(u)))."""
        return np.log(np.expm1(np.maximum(np.diff(np.log(lambdas), prepend=0.0), 1e-3)))

    def factors(self) -> RescaleFactors:
        """Where the walk stands."""
        u = self.u.detach().numpy()
        lambdas = np.exp(u) if self.free else np.exp(np.cumsum(np.logaddexp(0, u)))
        return replace(
            self.start, lambdas=tuple(lambdas.tolist()), attention_factor=math.exp(self.log_a.item()), relaxed=self.free
        )

    def step(self, backward: Callable[[], None], model: LanguageModel) -> None:
        """One step on whatever loss the variant computes."""
        with rescaled(model, self.factors(), learnable=True) as rotary:
            backward()
            self.optimizer.zero_grad()
            lambdas = self.u.exp() if self.free else torch.nn.functional.softplus(self.u).cumsum(0).exp()
            lambdas.backward(rotary.lambdas.grad.cpu())
            self.log_a.grad = rotary.attention_factor.grad.cpu() * self.log_a.detach().exp()
        self.optimizer.step()
        self.schedule.step()


def judge(model: LanguageModel, factors: RescaleFactors, held_out: np.ndarray, length: int) -> dict:
    """Validation loss over all tokens and over the last half, and the share of held-out keys answered."""
    losses = window_losses(model, factors, held_out)
    keys = measure_passkey(
        model, as_table(factors) if factors else None, length, method="variant", count=KEYS, seed=KEY_SEED
    )
    return {
        "loss": float(losses.mean()),
        "loss_last_half": float(losses[:, losses.shape[1] // 2 :].mean()),
        "passkey": keys[0].value,
        "by_depth": [key.value for key in keys[1:]],
    }


def with_facts(model: LanguageModel, window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Put a made-up fact at a random depth, ask for it at the end; returns the number of answer tokens, too."""
    words = ["harbour", "lantern", "orchard", "violin", "granite", "meadow", "compass", "saddle"]
    word, code = rng.choice(words), str(rng.integers(10**6, 10**7))

    def encode(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]

    fact = encode(f"\nNote: the access code of the {word} is {code}.\n")
    question = encode(f"\nQuestion: what is the access code of the {word}?\nAnswer: the access code of the {word} is")
    answer = encode(f" {code}")[-7:]
    room = len(window) - len(fact) - len(question) - len(answer)
    at = int(rng.integers(room))
    return np.asarray([*window[:at], *fact, *window[at:room], *question, *answer], np.int32), len(answer)


def run_variant(name: str, model: LanguageModel, search: np.ndarray, length: int) -> RescaleFactors:
    """Walk one variant from its start."""
    options = dict(VARIANTS[name])
    tail, needle = options.pop("tail", 1), options.pop("needle", 0.0)
    start = closed_form(model.spec, options.pop("start", "ntk"), length).tiers[0]
    ratio = extension_ratio(model.spec, length)
    walk = Walk(start, su_attention_factor(ratio, model.spec.trained_window), **options)
    rng = np.random.default_rng(7)
    for step in range(walk.steps):
        window = search[step % len(search)]
        answer = 0
        if needle:
            window, answer = with_facts(model, window, rng)

        def backward(window: np.ndarray = window, answer: int = answer) -> None:
            if answer:
                (needle * mean_loss_with_graph(model, window[None], answer)).backward()
            mean_loss_with_graph(model, window[None], length // tail if tail > 1 else 0).backward()

        walk.step(backward, model)
    return walk.factors()


def main() -> None:
    """Run the named variants, or all; one JSON line each, written when it is finished."""
    source, text, target, out = sys.argv[1:5]
    model, length = load_model(source), int(target)
    search, held_out = cut_windows(load_texts([text], model.tokenizer).search, length, HELD_OUT, 0)
    for name in sys.argv[5:] or [*RIVALS, "critical", *VARIANTS]:
        began = time.perf_counter()
        closed = name in (*RIVALS, "critical")
        factors = (
            closed_form(model.spec, name, length).tiers[-1] if closed else run_variant(name, model, search, length)
        )
        seconds = time.perf_counter() - began
        shown = {"variant": name, **judge(model, factors, held_out, length), "seconds": round(seconds, 1)}
        print(shown, flush=True)
        line = {**shown, "attention_factor": factors.attention_factor, "lambdas": factors.lambdas}
        with Path(out).open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
