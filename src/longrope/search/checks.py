"""What would stop a search at once, found without a pass."""

import numpy as np

from longrope.data import TokenText, plant_needles
from longrope.errors import FactorsError, RecipeError
from longrope.models import LanguageModel
from longrope.recipe import SearchRecipe
from longrope.registry import factor_methods, one_set_formulas, scans
from longrope.search.knots import check_passes, load_cma
from longrope.search.short_context import count_held_out


def check_search(
    model: LanguageModel, text: TokenText, target_tokens: int, *, trained_window: int, settings: SearchRecipe
) -> None:
    """Raise what ``find_factors`` would raise at once, without a pass: for whoever has other work to do before it.

    Args:
        model: the model.
        text: the search part of some texts; a formula reads none of it.
        target_tokens: the window to reach.
        trained_window: of the model, or that of the factors that its weights will have been tuned with.
        settings: of the search.

    Raises:
        FactorsError: the target is not beyond the trained window.
        TextsError: the text is too short, or the window for its needles.
        RecipeError: CMA-ES has too few passes, or is not installed.
    """
    if target_tokens <= trained_window:
        raise FactorsError(
            f"A target window of {target_tokens} tokens was asked for.",
            f"The model was trained on {trained_window} tokens already; a longer target is needed.",
            f"Ask for more, for example --to {8 * trained_window}.",
        )
    if settings.method in one_set_formulas():
        return
    if settings.method == "cma":
        load_cma()
        check_passes(settings.cma, settings.validation_windows)
    needed = settings.validation_windows + 1
    windows = text.windows(target_tokens, needed, minimum=needed)
    if settings.needle_weight:
        plant_needles(windows[0], model.tokenizer, np.random.default_rng(0))


def check_scannable(method: str, *, tuned: bool) -> None:
    """Raise RecipeError if a scan is to find factors for tuned weights; its grid is that of the original ones."""
    if tuned and method in scans():
        raise RecipeError(
            f"search.method = {method!r} for weights that were tuned.",
            f"One of {', '.join(name for name in factor_methods() if name not in scans())} is needed.",
            "Change search.method, or let no search follow a tuning.",
        )


def check_short_search(text: TokenText, window_tokens: int, longest_tokens: int, settings: SearchRecipe) -> None:
    """Raise TextsError if a text is too short for the short-context search after ``longest_tokens``, if one is made."""
    if settings.method in one_set_formulas():
        return
    needed = count_held_out(window_tokens, longest_tokens, settings) + 1
    text.windows(window_tokens, needed, minimum=needed)
