"""What a run that is started again finds done: stages, trials, training steps, measured methods."""

from collections.abc import Sequence
from pathlib import Path

from longrope import distributed
from longrope.lengths import counted, format_tokens
from longrope.pipeline.session import Session
from longrope.pipeline.stages import Task
from longrope.runs.records import Trial, read_records
from longrope.tuning.progress import Checkpoint


def report_kept(session: Session, tasks: Sequence[Task] = ()) -> None:
    """Report what is kept of an earlier start, in one line; nothing where a run begins.

    Args:
        session: of the run.
        tasks: its stages.
    """
    if not session.run.has(session.run.provenance):
        return
    kept = distributed.on_main(lambda: [*_stages(session, tasks), *_measured(session)])
    session.report(f"kept from an earlier start: {'; '.join(kept) or 'nothing yet'}")


def _stages(session: Session, tasks: Sequence[Task]) -> list[str]:
    """The stages that are finished, and how far the first of the others got; of a run without stages its search."""
    run, kept = session.run, list[str]()
    for task in tasks:
        if task.done:
            kept.append(f"{task.stage.label} (done)")
            continue
        if task.stage.kind == "tune":
            done = Checkpoint(task.folder / run.tuning.name, {}).count_steps()
            if done:
                kept.append(f"{task.stage.label}: {done} of {session.recipe.tuning(task.stage).steps} steps")
        else:
            kept += [f"{task.stage.label}: {line}" for line in _trials(task.folder / run.trials.name)]
        break
    return kept if tasks else _trials(run.trials)


def _trials(path: Path) -> list[str]:
    count = len(read_records(path, Trial))
    return [counted(count, "trial")] if count else []


def _measured(session: Session) -> list[str]:
    """The methods with scores, each with its lengths."""
    lengths: dict[str, set[int]] = {}
    for score in session.run.read_scores():
        lengths.setdefault(score.source.label, set()).add(score.context_tokens)
    return [f"{label} at {', '.join(map(format_tokens, sorted(found)))}" for label, found in lengths.items()]
