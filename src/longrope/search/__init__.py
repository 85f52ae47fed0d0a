"""Find rescale factors: by gradient, or by the paper's evolution."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from longrope import parallel
from longrope.errors import FactorsError
from longrope.factors import RescaleFactors, closed_form, dump_factors
from longrope.models import LanguageModel
from longrope.recipe import SearchRecipe
from longrope.records import Trial
from longrope.rope import extension_ratio, su_attention_factor
from longrope.rundir import RunDir
from longrope.search.descend import METHOD as GRADIENT
from longrope.search.descend import descend
from longrope.search.evolve import METHOD as EVOLUTION
from longrope.search.evolve import evolve
from longrope.search.score import TrialLog, WindowObjective
from longrope.space import FactorSpace
from longrope.texts import Tokens, TokenText, sketch

STARTS = ("pi", "ntk", "yarn")  # the paper's


def find_factors(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    *,
    run: RunDir | None = None,
    settings: SearchRecipe | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> RescaleFactors:
    """Search the rescale factors that let a model read ``target_tokens`` tokens, without changing a weight.

    Args:
        model: the model.
        text: the search part of some texts; windows of the target length are cut from it, some held out for validation.
        target_tokens: the window to reach, longer than the trained one.
        run: where trials and factors go; what its trials know already is not evaluated again (raises RunError if they
            are those of another search).
        settings: method and its numbers; the gradient search by default.
        seed: decides the order of the windows and every random choice.
        on_trial: called after every evaluation.

    Returns:
        Factors that are best by the validation windows, and never worse there than PI, NTK or YaRN.

    Raises:
        FactorsError: the target is not beyond the trained window.
        TextsError: the text is too short.
    """
    settings = settings or SearchRecipe()
    method = {"gradient": GRADIENT, "evolution": EVOLUTION}[settings.method]
    spec = model.spec
    if target_tokens <= spec.trained_window:
        raise FactorsError(
            f"A target window of {target_tokens} tokens was asked for.",
            f"The model was trained on {spec.trained_window} tokens already; a longer target is needed.",
            f"Ask for more, for example --to {8 * spec.trained_window}.",
        )
    names = STARTS if settings.method == "evolution" else (*STARTS, "critical")
    starts = [closed_form(spec, name, target_tokens).tiers[0] for name in names]
    ratio = extension_ratio(spec, target_tokens)
    evolution = settings.evolution.filled(target_tokens)
    by_evolution = settings.method == "evolution"
    wanted = evolution.windows if by_evolution else settings.gradient.steps
    scored = evolution.windows if by_evolution else settings.gradient.scan_windows
    searched, held_out = cut_windows(text, target_tokens, settings.validation_windows, seed)
    searched = searched[:wanted]
    objective = WindowObjective.prepare(
        model, searched, held_out, scored, settings.tail_tokens, settings.needle_weight, seed
    )
    log = TrialLog(run.trials if run else None, method, model.name, objective.fingerprint, on_trial)
    if settings.method == "evolution":
        space = FactorSpace(spec.num_pairs, ratio, max_start_tokens=target_tokens - 1)
        attention = su_attention_factor(ratio, spec.trained_window)
        found = evolve(objective, space, starts, evolution, attention_factor=attention, seed=seed, log=log)
    else:
        found = descend(objective, spec, starts, settings.gradient, log=log)
    found = replace(found, searched=sketch(np.concatenate([searched, held_out])))
    if run:
        parallel.lead(partial(run.write_text, run.factors(method), dump_factors(found)))
    return found


def cut_windows(text: TokenText, length: int, held_out: int, seed: int) -> tuple[Tokens, Tokens]:
    """Cut a text into search windows, in an order drawn from the seed, and validation windows, all disjoint.

    Validation windows are spread evenly over the text and are the same for every search of it.
    """
    fitting = len(text.tokens) // (length - (text.bos is not None))
    windows = text.windows(length, max(1, fitting), minimum=held_out + 1)
    chosen = [int((i + 0.5) * len(windows) / held_out) for i in range(held_out)]
    rest = np.setdiff1d(np.arange(len(windows)), chosen)
    return windows[np.random.default_rng(seed).permutation(rest)], windows[chosen]
