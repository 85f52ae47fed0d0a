"""Baselines as they are measured, made by what their rows in the registry say that they change."""

from collections.abc import Callable, Iterable, Sequence

from longrope import registry
from longrope.errors import ModelError, RecipeError
from longrope.evaluation import name_subject
from longrope.evaluation.metric import Subject
from longrope.models import LanguageModel
from longrope.pipeline.session import Session
from longrope.rope import RescaleFactors, baseline_factors
from longrope.rows import Method

Scan = Callable[[Method], RescaleFactors]


def make_baseline(
    model: LanguageModel, name: str, lengths: Sequence[int], target_tokens: int, scan: Scan | None = None
) -> Subject:
    """A baseline as it is measured.

    Args:
        model: the model; a method of attention is tried on it.
        name: one of ``registry.baselines()``.
        lengths: that will be measured, in tokens.
        target_tokens: the window that factors or weights are made for.
        scan: scans the factors of a row without a formula.

    Raises:
        ModelError: the method does not know the model's attention.
        RecipeError: no baseline has the name, or its factors are scanned and nothing scans them.
    """
    check_baseline(name)
    row = registry.METHODS[name]
    if row.kind == "attention":
        subject = Subject(model, None, name, attention=registry.resolve(row.make))
        with subject.reading(max(lengths)):
            return subject
    if row.kind == "weights":
        return Subject(registry.resolve(row.make)(model, target_tokens), None, name)
    if row.formula:
        return name_subject(model, baseline_factors(model.spec, name, target_tokens, lengths))
    if scan is None:
        raise RecipeError(
            f"The method {name!r} was asked for.",
            "Its factors are scanned on texts to search on.",
            "Use `longrope compare`, or give factors with --factors.",
        )
    return name_subject(model, scan(row))


def check_baseline(name: str) -> None:
    """Raise RecipeError if no baseline has a name."""
    if name not in registry.baselines():
        known = ", ".join(registry.baselines())
        raise RecipeError(f"The method {name!r} was asked for.", f"Baselines: {known}.", "Name one of them.")


def make_baselines(
    session: Session, names: Iterable[str], lengths: Sequence[int], *, leave_out: bool = False
) -> list[Subject]:
    """Baselines of a run by name; with ``leave_out`` those that do not know the model's attention are reported."""
    made = []
    for name in names:
        try:
            target = session.recipe.target_tokens
            made.append(make_baseline(session.model, name, lengths, target, lambda row: _scan(session, row)))
        except ModelError as error:
            if not leave_out or registry.METHODS[name].kind != "attention":
                raise
            session.report(f"{registry.METHODS[name].label} is not measured: {error.found}")
    return made


def _scan(session: Session, row: Method) -> RescaleFactors:
    """Scan the factors of a baseline on the windows that the searches have."""
    recipe = session.recipe
    session.report(f"scan factors for {recipe.target_tokens:,} tokens: {row.label}")
    made: RescaleFactors = registry.resolve(row.make)(
        session.model,
        session.texts.search,
        recipe.target_tokens,
        run=session.run,
        settings=recipe.search,
        seed=recipe.seed,
        passes=recipe.measure.scan_passes,
        on_trial=session.callbacks.on_trial,
        on_message=session.report,
    )
    return made
