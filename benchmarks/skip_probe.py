"""Do answers far back fail for their distance or for the number of tokens between? Minutes on a CPU, no long pass.

Run: python benchmarks/skip_probe.py MODEL SEARCH_TEXT TARGET_TOKENS OUT.jsonl

Windows of 1,024 tokens hold eight planted facts and end in eight questions. The positions of the questions are moved on
by a gap, so a fact stands up to TARGET_TOKENS back while only a thousand tokens compete for attention. What fails here
fails for its angles. The facts are those of the searches, not the passkeys that results report.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longrope.data import load_texts, plant_needles
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import (
    RescaleFactors,
    baseline_factors,
    critical_lambdas,
    extension_ratio,
    su_attention_factor,
    yarn_lambdas,
)

WINDOW, WINDOWS, SHARES = 1024, 3, (0.0, 0.35, 0.6, 0.8, 0.9)


def make_curves(model: LanguageModel, target: int) -> dict[str, RescaleFactors]:
    """YaRN, and critical-pair curves with pairs left alone and steeper ends, all with LongRoPE's attention factor."""
    spec, ratio = model.spec, extension_ratio(model.spec, target)
    base = baseline_factors(spec, "critical", target).factor_sets[0]
    attention = su_attention_factor(ratio, spec.trained_window)

    def factor_set(lambdas: np.ndarray) -> RescaleFactors:
        return replace(base, lambdas=tuple(lambdas.tolist()), attention_factor=attention)

    def yarn(end: float) -> RescaleFactors:
        return factor_set(yarn_lambdas(spec.theta, spec.num_pairs, spec.trained_window, ratio * end))

    def curve(free: float, pair: float, end: float) -> RescaleFactors:
        critical = spec.critical_pair * pair
        return factor_set(critical_lambdas(spec.num_pairs, critical, ratio * end, critical * free))

    shapes = [
        (0, 1, 1),
        (0, 1, 1.5),
        (0, 0.8, 1),
        (0.35, 1, 1),
        (0.35, 1, 1.5),
        (0.7, 1, 1),
        (0.7, 1, 1.25),
        (0.7, 1, 1.5),
    ]
    return {
        **{f"yarn x{end:g}": yarn(end) for end in (1, 1.25, 1.5, 2)},
        **{f"curve free {f:g} pair {p:g} end {e:g}": curve(f, p, e) for f, p, e in shapes},
    }


def probe(model: LanguageModel, factors: RescaleFactors | None, windows: list, gap: int) -> float:
    """Mean loss in nats over the answers when the questions stand ``gap`` positions further on."""
    total, count = 0.0, 0
    for tokens, answers in windows:
        first = int(np.flatnonzero(answers)[0]) - 16  # the first question begins about here
        positions = np.arange(len(tokens)) + gap * (np.arange(len(tokens)) > first)
        ids = torch.from_numpy(tokens)[None].long()
        with rescaled(model, factors), torch.inference_mode():
            given = {"position_ids": torch.from_numpy(positions)[None], "attention_mask": torch.ones_like(ids)}
            logits = model.network(input_ids=ids, use_cache=False, **given).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
        total, count = total + losses[answers].sum(), count + answers.sum()
    return float(total / count)


def main() -> None:
    """Probe the model as it is within its window, then every curve up to the target; one JSON line each."""
    source, text, target, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    model, rng = load_model(source), np.random.default_rng(0)
    search = load_texts([text], model.tokenizer).search
    windows = [plant_needles(window, model.tokenizer, rng) for window in search.windows(WINDOW, WINDOWS)]

    def write(name: str, factors: RescaleFactors | None, window: int) -> None:
        gaps = [int(share * (window - WINDOW)) for share in SHARES]
        line = {
            "factors": name,
            "gaps": gaps,
            "losses": [round(probe(model, factors, windows, gap), 4) for gap in gaps],
        }
        print(line, flush=True)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    write("none", None, model.spec.trained_window)
    for name, factors in make_curves(model, target).items():
        write(name, factors, target)


if __name__ == "__main__":
    main()
