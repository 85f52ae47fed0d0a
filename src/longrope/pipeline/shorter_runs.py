"""What to type where a run would take long on a CPU: the settings that save most of its time, and what each saves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from longrope.errors import RecipeError
from longrope.lengths import format_tokens
from longrope.pipeline.progress import describe_seconds
from longrope.pipeline.stages import plan_stages
from longrope.recipe import Recipe, changed

LONG_SECONDS = 40 * 60.0  # of a run that is worth shortening
WORTH_NAMING = 0.1  # of the seconds that are left
FEW_STEPS, SHORT_WINDOW = 20, 2048  # of a training
Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Setting:
    """A setting that saves time: what is typed, what it means, and the recipe with it (raises RecipeError)."""

    option: str
    meaning: str
    change: Change


def describe_shorter(recipe: Recipe, trained_window: int, seconds_of: Callable[[Recipe], float]) -> Iterator[str]:
    """Say which settings would save most of a run's time, one after the other, and what is left with all of them.

    Args:
        recipe: of the run.
        trained_window: of its model, in tokens.
        seconds_of: what a run by a recipe is estimated to take.

    Yields:
        Lines of a message, with settings until the run is short; none for one that is, or that no setting shortens.
    """
    left, settings, named = seconds_of(recipe), settings_of(recipe, trained_window), 0
    while left >= LONG_SECONDS:
        found = [(seconds_of(new), setting, new) for setting in settings if (new := _with(recipe, setting))]
        seconds, setting, recipe = min(found, key=lambda one: one[0], default=(left, None, recipe))
        if setting is None or left - seconds < WORTH_NAMING * left:
            break
        if not named:
            yield "To shorten the run, leave out what you do not need:"
        more = " more" if named else ""
        yield f"  {setting.option}: saves about {describe_seconds(left - seconds)}{more}; {setting.meaning}"
        left, named = seconds, named + 1
    if named:
        yield f"with {'all of these' if named > 1 else 'this'}: about {describe_seconds(left)}"


def settings_of(recipe: Recipe, trained_window: int) -> list[Setting]:
    """The settings that may shorten a run."""
    window, short = format_tokens(trained_window), format_tokens(SHORT_WINDOW)
    others = ", ".join(name for name in recipe.measure.metrics if name != "perplexity")
    settings = [
        _setting("--method critical", "factors by a formula, without a search", "search.method=critical"),
        _setting("--metrics perplexity", f"without {others}", "measure.metrics=perplexity"),
        _setting("--set measure.windows=1", "less text is measured, with wider intervals"),
        _setting("--set measure.baselines=", "the original model alone to compare with"),
        _setting(f"--set measure.original_tokens={window}", "the original is measured in its own window alone"),
    ]
    if any(stage.kind == "tune" for stage in recipe.stages):
        target = format_tokens(recipe.target_tokens)
        settings += [
            Setting(f"--steps {FEW_STEPS}", "it trains less", _train_less),
            _setting("--batch 1", "a window a step", "tune.batch_windows=1"),
            Setting(
                f"--set tune.window_tokens={short} --set tune.skipped_positions={target}",
                "it trains in short windows that imitate the positions of long ones (PoSE)",
                partial(_train_short, trained_window),
            ),
        ]
    return settings


def _setting(option: str, meaning: str, assigned: str = "") -> Setting:
    return Setting(option, meaning, lambda recipe: changed(recipe, [assigned or option.removeprefix("--set ")]))


def _train_less(recipe: Recipe) -> Recipe:
    warmup = recipe.tune.warmup_steps * FEW_STEPS // recipe.tune.steps
    tune = replace(recipe.tune, steps=min(FEW_STEPS, recipe.tune.steps), warmup_steps=warmup)
    return replace(recipe, tune=tune, stages=tuple(replace(stage, steps=0) for stage in recipe.stages))


def _train_short(trained_window: int, recipe: Recipe) -> Recipe:
    """The recipe with short windows in its training, where its stages are the planned ones."""
    target = recipe.target_tokens
    if recipe.stages != plan_stages(trained_window, target, recipe.tune.window_tokens):
        return recipe
    tune = replace(recipe.tune, window_tokens=SHORT_WINDOW, skipped_positions=target)
    return replace(recipe, tune=tune, stages=plan_stages(trained_window, target, SHORT_WINDOW))


def _with(recipe: Recipe, setting: Setting) -> Recipe | None:
    """The recipe with a setting; None where it cannot have it."""
    try:
        return setting.change(recipe)
    except RecipeError:
        return None
