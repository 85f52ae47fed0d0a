"""What a run directory records of a process that measures or searches there, which goes on with the same model."""

from longrope import distributed
from longrope.engine.passes import describe_pass
from longrope.models import LanguageModel, describe_device
from longrope.models.weights import name_weights
from longrope.runs.provenance import record_session
from longrope.runs.run_dir import RunDir


def record_provenance(
    run: RunDir, model: LanguageModel, base: LanguageModel | None = None, *, one_format: bool = False
) -> None:
    """Write versions, device, command, automatic choices and what a model is compared with into the run.

    Raises:
        RunError: as ``record_session``.
    """
    record_session(
        run,
        device=describe_device(model),
        choices=describe_choices(model),
        model=model.name,
        weights=name_weights(model, in_any_format=True),
        base=name_weights(base, in_any_format=True) if base else "",
        number_format=model.number_format.removeprefix("torch."),
        one_format=one_format,
    )


def describe_choices(model: LanguageModel) -> tuple[str, ...]:
    """The automatic choices of a model, its processes and its passes, with their reasons."""
    return (*model.choices, *distributed.choices(), describe_pass(model))
