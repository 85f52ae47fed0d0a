"""Find rescale factors: by gradient, the paper's evolution or CMA-ES; again on a tuned model, and for short windows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from longrope.data import TokenText, check_part, sketch, were_searched
from longrope.errors import TextsError
from longrope.labels import join_methods
from longrope.models import LanguageModel
from longrope.recipe import SearchRecipe
from longrope.registry import METHODS, one_set_formulas, resolve, scans, searches
from longrope.registry import starts as starting_points
from longrope.rope import (
    RescaleFactors,
    baseline_factors,
    compose,
    counted_from,
    extension_ratio,
    su_attention_factor,
    tuned_spec,
)
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir
from longrope.search.checks import check_scannable, check_search, check_short_search
from longrope.search.choice import Choose, make_choice
from longrope.search.descend import descend
from longrope.search.evolve import evolve
from longrope.search.knots import POPULATION, search_knots
from longrope.search.scan import scan_base
from longrope.search.score import TrialLog, WindowObjective, cut_windows
from longrope.search.short_context import search_short_window
from longrope.search.space import FactorSpace

__all__ = [
    "check_scannable",
    "check_search",
    "check_short_search",
    "cut_windows",
    "find_factors",
    "scan_base",
    "search_short_window",
    "was_searched_on",
]
OWN = ("gradient", "evolution", "cma")  # searches of this module; another has a row with a function of these arguments


def find_factors(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    *,
    tuned_with: RescaleFactors | None = None,
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
        tuned_with: the factors that the weights were tuned with, if they were; the search then starts from them, and
            their window counts as trained (the second search, section 3.3).
        run: where trials and factors go; what its trials know already is not evaluated again (raises RunError if they
            are those of another search).
        settings: method and its numbers; the gradient search by default. A baseline's method gives its factors without
            a search, or by a scan.
        seed: decides the order of the windows and every random choice.
        on_trial: called after every evaluation.

    Returns:
        Factors that are best by the validation windows (``choose_by`` of the settings says how), where PI, NTK and YaRN
        take part; or those of the baseline that the settings name.

    Raises:
        FactorsError: the target is not beyond the trained window.
        TextsError: the text is too short, or the window for its needles.
        ModelError: the model has no finite loss with any of the factors that the search starts from.
        RecipeError: tuned weights are to be scanned.
    """
    check_part(text, "search")
    settings = settings or SearchRecipe()
    if settings.method in one_set_formulas():
        return _by_formula(model, text, target_tokens, tuned_with, settings)
    if settings.method in scans():
        check_scannable(settings.method, tuned=tuned_with is not None)
        return _call(
            settings.method, model, text, target_tokens, run=run, settings=settings, seed=seed, on_trial=on_trial
        )
    method = searches()[settings.method]
    if settings.method not in OWN:
        given: dict[str, Any] = {"tuned_with": tuned_with, "run": run, "settings": settings, "seed": seed}
        return _call(method, model, text, target_tokens, on_trial=on_trial, **given)
    spec = tuned_spec(model.spec, tuned_with)
    check_search(model, text, target_tokens, trained_window=spec.trained_window, settings=settings)
    names = settings.evolution.starts if settings.method == "evolution" else starting_points()
    starts = [baseline_factors(spec, name, target_tokens).factor_sets[0] for name in names]
    ratio = extension_ratio(spec, target_tokens)
    base = counted_from(model.spec, tuned_with)
    objective, choose, sketched = _prepare(model, text, target_tokens, base, settings, seed)
    log = TrialLog(run.trials if run else None, method, objective.model_name, objective.fingerprint, on_trial)
    most = target_tokens - 1
    if base and (base.start_tokens or not tuned_with):  # those of a tuning stay; a growing scaling has none
        most = 0
    if settings.method == "evolution":
        space = FactorSpace(spec.num_pairs, ratio, max_start_tokens=most)
        attention = su_attention_factor(ratio, spec.trained_window)
        evolution = settings.evolution.filled(target_tokens)
        found = evolve(
            objective, space, starts, evolution, attention_factor=attention, seed=seed, log=log, choose=choose
        )
    elif settings.method == "cma":
        count = settings.validation_windows
        cma = replace(settings.cma, windows=min(settings.cma.windows, len(objective.search_windows)))
        found = search_knots(objective, spec, starts, cma, held_out=count, seed=seed, log=log, choose=choose)
    else:
        found = descend(objective, spec, starts, settings.gradient, max_start_tokens=most, log=log, choose=choose)
    found = replace(compose(base, found, model.spec), searched=sketched, table=model.rope_table)
    if run:
        run.write_factors(found, method)
    return found


def _call(method: str, *args: Any, **given: Any) -> RescaleFactors:
    """What the function of a row finds."""
    found: RescaleFactors = resolve(METHODS[method].make)(*args, **given)
    return found


def _by_formula(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    tuned_with: RescaleFactors | None,
    settings: SearchRecipe,
) -> RescaleFactors:
    """The factors of a method by its formula, in the place of a search."""
    spec = tuned_spec(model.spec, tuned_with)
    check_search(model, text, target_tokens, trained_window=spec.trained_window, settings=settings)
    (found,) = baseline_factors(spec, settings.method, target_tokens).factor_sets
    if settings.attention_factor not in (0.0, found.attention_factor):
        method = join_methods(found.method, f"attention factor {settings.attention_factor:g}")
        found = replace(found, attention_factor=settings.attention_factor, method=method)
    return replace(compose(counted_from(model.spec, tuned_with), found, model.spec), table=model.rope_table)


def was_searched_on(factors: RescaleFactors, text: TokenText, settings: SearchRecipe, seed: int) -> bool:
    """Whether a search of a text by these settings has the held-out windows of the one that found some factors.

    True, too, for factors whose text is not known.
    """
    if not factors.searched:
        return True
    try:
        _, held_out = cut_windows(text, factors.target_window, settings.validation_windows, seed)
    except TextsError:
        return False
    return were_searched(held_out, factors.searched)


def _prepare(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    base: RescaleFactors | None,
    settings: SearchRecipe,
    seed: int,
) -> tuple[WindowObjective, Choose, tuple[int, ...]]:
    """The objective of a search on windows of a text, its last choice, and a sketch of these windows."""
    scored, together = settings.gradient.scan_windows, 1
    wanted = max(settings.gradient.steps, scored)
    if settings.method == "evolution":
        wanted = scored = settings.evolution.filled(target_tokens).windows
    if settings.method == "cma":
        wanted, scored, together = settings.cma.passes // POPULATION, settings.cma.windows, settings.cma.windows
    searched, held_out = cut_windows(text, target_tokens, settings.validation_windows, seed)
    searched = searched[:wanted]
    objective = WindowObjective.prepare(
        model, searched, held_out, scored, settings.tail_tokens, settings.needle_weight, seed, together, base
    )
    choose = make_choice(model, held_out, settings, seed, base)
    return objective, choose, sketch(np.concatenate([searched, held_out]))
