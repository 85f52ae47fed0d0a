"""Short-context search: factors for a short window of an extended model, between its own RoPE and the long factors.

Long factors hurt short texts, so a short window gets factors of its own with smaller lambdas (LongRoPE, section 3.3).
The model's own RoPE, which is all ones, stands for selection first, and wins where nothing is better.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from longrope.data import TokenText, sketch
from longrope.models import LanguageModel
from longrope.recipe import SearchRecipe
from longrope.rope import RescaleFactors, at_window
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir
from longrope.search.descend import descend_from
from longrope.search.score import TrialLog, WindowObjective, cut_windows

METHOD = "longrope-recovered"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # exponents of the long window's factors
MOST_WINDOWS = 8  # for each window of a search, held out or of a step: short ones are cheap


def search_short_window(
    model: LanguageModel,
    text: TokenText,
    window_tokens: int,
    longest: RescaleFactors,
    *,
    run: RunDir | None = None,
    settings: SearchRecipe | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda _: None,
    prepare: Callable[..., Any] = WindowObjective.prepare,
) -> RescaleFactors:
    """Search the factor set of a short window of an extended model.

    Tried are ``lambda ** share`` of the long window's factors, with its start tokens and without, and a descent from
    the best of them that is not the model's own RoPE.

    Args:
        model: the extended model, tuned or not.
        text: the search part of some texts.
        window_tokens: the short window.
        longest: the factors of the long window.
        run: where the trials go; what they know already is not evaluated again.
        settings: the steps and rates of the descent, and how many windows are held out for each of the long ones.
        seed: decides the order of the windows.
        on_trial: called after every evaluation.
        prepare: makes what evaluates candidates, of the windows.

    Returns:
        The best factor set by the held-out windows.

    Raises:
        TextsError: the text is too short.
        ModelError: none of the first candidates has a finite loss.
    """
    settings = settings or SearchRecipe()
    per_window = count_short(window_tokens, longest.target_window)
    searched, held_out = cut_windows(text, window_tokens, per_window * settings.validation_windows, seed)
    searched = searched[: per_window * settings.gradient.steps]
    objective = prepare(model, searched, held_out, 1, gradient_count=per_window)
    log = TrialLog(run.trials if run else None, METHOD, model.name, objective.fingerprint, on_trial)
    lambdas = at_window(model.spec, longest, window_tokens)
    moved = lambdas != longest.lambdas
    longest = replace(longest, lambdas=lambdas, target_window=window_tokens, relaxed=longest.relaxed or moved)
    named = {f"share-{share:g}": between(longest, window_tokens, share) for share in SHARES}
    if longest.start_tokens:
        without = replace(longest, start_tokens=0)
        named |= {f"share-{share:g}-without": between(without, window_tokens, share) for share in SHARES[1:]}
    asked, candidates = list(named.items()), list(named.values())
    trials = log.validate_starts(asked, objective)
    losses = [trial.loss_nats for trial in trials]
    start = candidates[1 + int(np.argmin(losses[1:]))]
    descend_from(
        objective,
        start,
        settings.gradient,
        log,
        origin="scan",
        floor=len(start.lambdas),  # no pair is bound to be at s or above
        ratio=max(longest.lambdas),
    )
    found = log.choose(log.best_validated, candidates)
    return replace(found, searched=sketch(np.concatenate([searched, held_out])))


def count_short(window_tokens: int, longest_tokens: int) -> int:
    """How many short windows stand for one of the long ones of a search."""
    return max(1, min(MOST_WINDOWS, longest_tokens // window_tokens))


def count_held_out(window_tokens: int, longest_tokens: int, settings: SearchRecipe) -> int:
    """How many short windows are held out."""
    return settings.validation_windows * count_short(window_tokens, longest_tokens)


def between(longest: RescaleFactors, window_tokens: int, share: float) -> RescaleFactors:
    """Factors between the model's own RoPE (share 0) and given ones (share 1), for a shorter window.

    Those of share 1 keep the method of the given ones, those of share 0 have ``none``.
    """
    return replace(
        longest,
        lambdas=tuple(x**share for x in longest.lambdas),
        attention_factor=longest.attention_factor**share,
        target_window=window_tokens,
        method={0.0: "none", 1.0: longest.method}.get(share, METHOD),
        chosen_by="",
        searched=(),
    )
