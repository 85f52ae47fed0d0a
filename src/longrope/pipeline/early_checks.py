"""What is refused before the weights are loaded: lengths, texts that are too short, searched texts, unknown benchmarks.

Each check takes a session whose model is an outline, without weights (see ``open_model``).
"""

from dataclasses import replace

from longrope import registry, search
from longrope.errors import RecipeError
from longrope.evaluation import name_subject
from longrope.models import check_not_quantized
from longrope.pipeline.comparison_costs import COMPARED
from longrope.pipeline.guarding import check_parts
from longrope.pipeline.measuring import evaluation_of, measured_lengths
from longrope.pipeline.session import Session
from longrope.pipeline.stages import check_stages
from longrope.rope import read_given


def check_run(session: Session) -> None:
    """Raise LongRopeError if a stage of a run could not begin, or what it measures cannot be measured."""
    check_not_quantized(session.model, "An export")
    check_stages(session)
    check_measured(session)
    _check_original_read(session)


def _check_original_read(session: Session) -> None:
    """Raise RecipeError where trained weights are compared with losses of the original that nobody measures before."""
    settings, window = session.recipe.measure, session.model.spec.trained_window
    original = name_subject(session.model, None)
    longest = max(evaluation_of(session, original).measured_lengths(original))
    read = settings.baselines or longest >= window  # a longer length reads near context, too
    trains = any(stage.kind == "tune" for stage in session.recipe.stages)
    beyond = max(measured_lengths(session.recipe, session.model)) > window
    if "far-context" in settings.metrics and trains and beyond and not read:
        raise RecipeError(
            f"far-context compares trained weights with the original at {window:,} tokens, where nothing measures it.",
            "The original's weights are gone after the training, so it is measured before, at lengths of the recipe.",
            f"Add {window} to the lengths, and let measure.original_tokens be 0 or at least as many.",
        )


def check_comparison(session: Session) -> None:
    """Raise LongRopeError if a search of a comparison could not begin, or what it measures cannot be measured."""
    if factor := session.recipe.search.attention_factor:
        raise RecipeError(
            f"search.attention_factor = {factor:g} was given to a comparison.",
            "A comparison measures each formula with its own attention factor, and each search finds or sets its own.",
            "Leave it out; make the factors by longrope search with it, and give their file to compare as --factors.",
        )
    for name in COMPARED:
        check_search(session, name)
    check_measured(session)


def check_search(session: Session, name: str = "") -> None:
    """Raise LongRopeError if a search by a method, or by the recipe's own, could not begin; a finished one is fine."""
    recipe, model, run = session.recipe, session.model, session.run
    settings = replace(recipe.search, method=name or recipe.search.method)
    if not run.has(run.factors(registry.searches().get(settings.method, settings.method))):
        window, text = model.spec.trained_window, session.texts.search
        search.check_search(model, text, recipe.target_tokens, trained_window=window, settings=settings)


def check_measured(session: Session) -> None:
    """Report what the parts of the texts share, and make all windows and prompts that are measured once.

    Raises:
        LongRopeError: the parts share too much, the text is too short, a length does not hold what is asked there, a
            benchmark is unknown, or factors from elsewhere do not serve.
    """
    recipe, model = session.recipe, session.model
    lengths = measured_lengths(recipe, model)
    tuned = any(stage.kind == "tune" for stage in recipe.stages)
    longest = max(*lengths, recipe.measure.window_tokens)
    check_parts(model, session.texts, longest, recipe.measure.windows, tuned=tuned, report=session.report)
    for given in read_given(recipe.factors, model.spec, recipe.target_tokens):
        given.table.choose(max(lengths))
    original = name_subject(model, None)
    evaluation_of(session, original).check(original)
