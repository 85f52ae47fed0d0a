"""What works with a model, seen by trying each step on a few tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from longrope import distributed, registry
from longrope.engine.checks import check_cache, check_gradients, check_passes
from longrope.errors import LongRopeError, ModelError, converting_errors
from longrope.models import LanguageModel, check_moves_logits
from longrope.rope import RescaleFactors

MEASURE, SEARCH, GENERATE = "measure", "search and tune", "generate"


@dataclass(frozen=True)
class Capability:
    """Whether one step works with a model: ``error`` says why not."""

    step: str
    error: LongRopeError | None = None


def probe(model: LanguageModel, steps: Sequence[str] = (), target_tokens: int = 0) -> tuple[Capability, ...]:
    """Try steps on a few tokens, with factors that change every pair.

    Args:
        model: loaded, or a small random one of its config.
        steps: which of ``list_steps``; all of them if left out.
        target_tokens: the window that the factors are for; by default four times the trained one.
    """
    far = tuple(np.linspace(1.5, 4, model.spec.num_pairs).tolist())
    window = target_tokens or 4 * model.spec.trained_window
    factors = RescaleFactors(far, window, model.spec.fingerprint, attention_factor=1.1)
    plain = replace(model, compiled=False)
    return tuple(_try(name, step, plain, factors) for name, step in list_steps().items() if name in steps or not steps)


def check_capable(model: LanguageModel, *steps: str) -> None:
    """Raise the error of the first step that does not work with a model.

    In several processes nothing is tried: each of them holds parts of what a step needs.
    """
    if distributed.ranks() > 1:
        return
    for capability in probe(model, steps):
        if capability.error:
            raise capability.error


def list_steps() -> dict[str, Callable[[LanguageModel, RescaleFactors], None]]:
    """What is tried for each step, in their order."""
    formats = {export_step(row.name): registry.resolve(row.check) for row in registry.FORMATS.values() if row.check}
    return {
        "rescale": lambda model, _: check_moves_logits(model),
        MEASURE: check_passes,
        SEARCH: check_gradients,
        GENERATE: check_cache,
        **formats,
    }


def export_step(name: str) -> str:
    """The step that writes checkpoints of a format."""
    return f"export --to {name}"


def describe(capabilities: Sequence[Capability]) -> list[str]:
    """One line for what works, and one for each step that does not."""
    works = [capability.step for capability in capabilities if not capability.error]
    return [
        f"works: {', '.join(works) or 'nothing'}",
        *(f"{each.step}: {' '.join(each.error.found.split())}" for each in capabilities if each.error),
    ]


def _try(
    name: str, step: Callable[[LanguageModel, RescaleFactors], None], model: LanguageModel, factors: RescaleFactors
) -> Capability:
    try:
        with converting_errors(
            ModelError,
            f"The step {name!r} fails with the model type {model.network.config.model_type!r}",
            "It is tried on a few tokens before the work begins.",
            "Please report this model type; LONGROPE_DEBUG=1 shows the traceback.",
        ):
            step(model, factors)
    except LongRopeError as error:
        return Capability(name, error)
    return Capability(name)
