"""The checkpoint of a run, and files of it in other formats: written, opened again and compared."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from longrope import distributed, registry
from longrope.data import Preprocess
from longrope.engine.pass_seconds import PassTimer
from longrope.errors import DryRunEnd, RunError
from longrope.exports import Origin, describe_short, dump_report, export_hf, origin_of, patch_gguf
from longrope.exports.card import has_results
from longrope.models import load_model, read_gguf_file, read_gguf_spec
from longrope.pipeline.callbacks import Callbacks
from longrope.pipeline.comparison_costs import report_costs
from longrope.pipeline.export_costs import KINDS, count_lists, estimate_export, estimate_run_export, short_windows
from longrope.pipeline.session import Session, load_inputs, name_function
from longrope.pipeline.stages import Task, plan_tasks, run_tasks, tune_at_target
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors, load_factors
from longrope.rows import Format
from longrope.runs.files import replacing_folder
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir, lost_weights
from longrope.verification.exported import add_to_card, verify_export
from longrope.verification.truth import write_record


def export(session: Session, factors: RescaleFactors, options: Mapping[str, str] | None = None) -> None:
    """Write and check the checkpoint of a run unless it is there already; the main process does."""
    distributed.on_main(partial(_export, session, factors, options or {}))


def _export(session: Session, factors: RescaleFactors, given: Mapping[str, str]) -> None:
    run = session.run
    if run.is_exported:
        _check_card(session, factors)
        return
    session.report(f"export to {run.checkpoint}, reopen in plain transformers, compare")
    scores = _scores_of(run, factors)
    with replacing_folder(run.checkpoint) as folder:
        options = _export_options(session, factors) | {"short_windows": short_windows(session), **given}
        report = export_hf(session.model, factors, folder, scores=scores, **options)
        add_to_card(folder / "README.md", verify_export(folder, session.model, report.switch_tokens, session.report))
    run.write_text(run.export_report, dump_report(report))
    session.report(f"weights: {report.weights}")
    if report.short_cost:
        session.report(f"short texts: {describe_short(report.short_cost, report.factor_sets)}")


def _check_card(session: Session, factors: RescaleFactors) -> None:
    """Report a model card, which people edit, that lacks scores which the run has measured since."""
    run = session.run
    card = run.checkpoint / "README.md"
    given = session.model, factors, _origin(session), _scores_of(run, factors)
    if card.is_file() and not has_results(card.read_text(encoding="utf-8", errors="replace"), *given):
        session.report(
            f"{card} lacks scores that were measured later: `longrope export {shlex.quote(str(run.path))}` "
            "writes it again"
        )


def export_file(
    session: Session, factors: RescaleFactors, to: Format, options: Mapping[str, str] | None = None
) -> None:
    """Write and check a file of a run in another format than its checkpoint, with a report beside it."""
    run = session.run
    path = run.path / to.file
    session.report(f"export to {path}, open it again, compare")
    with replacing_folder(path.parent) as folder:
        given = _export_options(session, factors) | dict(options or {})
        report = registry.resolve(to.write)(session.model, factors, folder / path.name, **given)
        run.write_text(folder / "export.json", dump_report(report))
        verify_export(folder / path.name, session.model, report.switch_tokens, session.report)


def export_again(
    run: RunDir,
    settings: ExportRecipe,
    callbacks: Callbacks | None = None,
    *,
    to: str = "hf",
    options: Mapping[str, str] | None = None,
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> None:
    """Export a finished run once more, with these settings, in a format of the registry.

    It has the run's longest factors, and its own weights if it has some.

    Args:
        run: the directory.
        settings: the factor sets, and what the model card says.
        callbacks: what is reported.
        to: the name of the format.
        options: ``dtype`` of the weights, and what the format alone takes: ``layout`` of GGUF files.
        preprocess: what every row of the run's texts went through, of which the run remembers the name alone.
        dry_run: report what it will take, and raise DryRunEnd; nothing is written.

    Raises:
        RecipeError: the checkpoint, opened again, does not fit into memory.
        RunError: the directory holds no run, its texts went through another ``preprocess``, its stages are not
            finished, or another process holds it.
        FactorsError: the run has no factors yet.
    """
    callbacks = callbacks or Callbacks()
    begun = run.recipe()
    recipe = replace(begun, export=settings)
    run.check(begun, name_function(preprocess))
    with run.locked():
        factors = load_factors(run.factors()).factor_sets[-1]  # before the model is loaded, for a run may have none
        model, texts, seconds = load_inputs(recipe, callbacks, preprocess)
        session = Session(recipe, run, model, texts, callbacks, loading_seconds=seconds)
        if tasks := plan_tasks(session):
            _check_finished(run, tasks)
            extended = run_tasks(session, tasks)
            session, factors = session.with_model(extended.model), extended.longest
        elif run.has(run.tuning):
            session = session.with_model(tune_at_target(session, factors))
        elif run.has(run.train):
            raise lost_weights(run)
        cost = estimate_run_export(session, PassTimer(session.model), factors, to=to)
        report_costs([cost], callbacks.on_step, always=dry_run)
        if dry_run:
            raise DryRunEnd
        if to != "hf":
            export_file(session, factors, registry.FORMATS[to], options)
            return
        run.remove(run.export_report)
        export(session, factors, options)


def export_model(
    source: str,
    factors: RescaleFactors,
    path: Path,
    settings: ExportRecipe,
    callbacks: Callbacks | None = None,
    *,
    to: str,
    options: Mapping[str, str] | None = None,
    loading: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> str:
    """Export a model with factors, outside of any run; return the report as JSON.

    A GGUF file that is to stay one is patched, unless ``dtype`` is among the options: its weights are not loaded, and
    no client opens it. What every checkpoint is to apply is written down beside it.

    Args:
        source: hub name, folder or GGUF file.
        factors: one factor set.
        path: the file or the folder to write.
        settings: the factor sets, and what the model card says.
        callbacks: what is reported.
        to: the name of a format.
        options: as of ``export_again``.
        loading: ``rope_table`` and ``trained_window``, where the search of the factors had them (see ``load_model``).
        dry_run: as of ``export_again``.
    """
    report, given, how = (callbacks or Callbacks()).on_step, dict(options or {}), dict(loading or {})
    if to == "gguf" and source.endswith(".gguf") and not given.get("dtype"):
        report(f"patch {source}, write {path}, compare")
        if dry_run:
            raise DryRunEnd
        spec = read_gguf_spec(read_gguf_file(source))
        spec = replace(spec, trained_window=how.get("trained_window") or spec.trained_window)
        patched = patch_gguf(source, factors, path, spec=spec, settings=settings, layout=given.get("layout", ""))
        write_record(path, spec, patched.switch_tokens)
        return dump_report(patched)
    report(f"export to {path}, open it again, compare")
    began = time.perf_counter()
    model, origin = load_model(source, **how), origin_of(source, settings.base_model)
    seconds, kind = time.perf_counter() - began, KINDS.get(to, to)
    cost = estimate_export(model, PassTimer(model), seconds, lists=count_lists(settings), kind=kind)
    report_costs([cost], report, always=dry_run)
    if dry_run:
        raise DryRunEnd
    written = registry.resolve(registry.FORMATS[to].write)(
        model, factors, path, settings=settings, origin=origin, **given
    )
    done = verify_export(path, model, written.switch_tokens, report)
    if to == "hf":
        report(f"weights: {written.weights}")
        add_to_card(path / "README.md", done)
    return dump_report(written)


def _scores_of(run: RunDir, factor_set: RescaleFactors) -> list[Score]:
    """The scores of a run; those that these factors of its table gave name them alone."""
    table = load_factors(run.factors())
    return [
        replace(score, factors_fingerprint=factor_set.fingerprint)
        if score.factors_fingerprint == table.fingerprint and table.choose(score.context_tokens) == factor_set
        else score
        for score in run.read_scores()
    ]


def _export_options(session: Session, factors: RescaleFactors) -> dict[str, Any]:
    """What both formats ask for; the measuring windows only where start tokens may be dropped."""
    recipe, windows = session.recipe, None
    if factors.start_tokens:
        windows = session.texts.measure.windows(recipe.target_tokens, recipe.measure.windows)
    return {"settings": recipe.export, "windows": windows, "origin": _origin(session)}


def _origin(session: Session) -> Origin:
    recipe, tuned = session.recipe, session.model.name != session.recipe.model
    return Origin(recipe.model, tuned=tuned, hub_name=recipe.export.base_model)


def _check_finished(run: RunDir, tasks: Sequence[Task]) -> None:
    function = f" --preprocess {run.preprocess}" if run.preprocess else ""
    if left := [task.stage.label for task in tasks if not task.done]:
        raise RunError(
            f"The stages of {run.path} are not finished: {', '.join(left)}.",
            "A finished run is needed.",
            f"Go on with `longrope extend --out {run.path}{function}`.",
        )
