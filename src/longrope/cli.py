"""Extend the context window of a RoPE language model: a command for each step from the search to the checkpoint.

Exit codes: 0 done, 2 bad input (one paragraph on stderr), 1 our fault (a traceback) or another process that was lost.
With LONGROPE_DEBUG=1 bad input prints its traceback, too.
"""

import json
import os
import sys
import traceback
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from longrope import __version__
from longrope.errors import LongRopeError, ProcessLostError, RecipeError, RunError, wants_traceback
from longrope.lengths import parse_tokens
from longrope.options import (
    AsJson,
    Assignments,
    Batch,
    Compiled,
    ContextRanks,
    Data,
    Device,
    DType,
    Factors,
    Format,
    Lengths,
    Lora,
    MeasureData,
    Method,
    Metrics,
    Model,
    OptionalFactors,
    OptionalModel,
    Out,
    Preset,
    Rate,
    RecipeFile,
    Seed,
    Steps,
    To,
    Tune,
    check_measured,
    check_tuned,
    given_options,
    measuring,
    prepare,
)
from longrope.recipe import ExportRecipe, MeasureRecipe, Recipe, changed
from longrope.registry import FORMATS
from longrope.rundir import RunDir
from longrope.terminal import (
    describe_answer,
    format_number,
    print_costs,
    print_scores,
    print_table,
    reading,
    watching,
)

INTERRUPTED = 130
DEFAULT_RECIPE = Path(__file__).parent / "assets" / "nano.toml"
NEXT = """
Next, with a model and texts of your own (MODEL is a hub name, a folder or a GGUF file):
  longrope inspect MODEL
  longrope extend  MODEL --to 64k --data books/ --measure-data other-books/
  longrope compare MODEL --to 64k --data books/ --measure-data other-books/"""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"longrope {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before a command."""


@app.command()
def extend(
    model: OptionalModel = None,
    to: To = None,
    data: Data = None,
    measure_data: MeasureData = None,
    out: Out = None,
    recipe: RecipeFile = None,
    assignments: Assignments = None,
    method: Method = None,
    tune: Tune = False,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    lora: Lora = None,
    preset: Preset = None,
    lengths: Lengths = None,
    metrics: Metrics = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    compiled: Compiled = False,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Search factors, measure the result, export a checkpoint. With no arguments: the bundled model.

    It is a 4.7M-parameter model, taken from 256 to 2,048 tokens on the standard library's sources.
    """
    given = given_options(locals())
    begun = out is not None and (out / "recipe.toml").exists()
    by_default = not (begun or any(given[key] for key in ("model", "to", "data", "recipe")))
    full, path = prepare(**{**given, "recipe": DEFAULT_RECIPE} if by_default else given)
    from longrope import pipeline

    full = pipeline.with_tuning(full) if tune else full
    check_tuned(full, given)
    with _launched(full, context_ranks):
        run = _open(path)
        with watching(full, run) as watch:
            if by_default:  # a mistyped --out ends here, too
                watch.on_step(f"No model was given, and no run to resume: the embedded default, into {run.path}.")
            scores = pipeline.extend(full, run, watch)
        print_scores(scores, as_json=as_json)
        if not as_json:
            print(f"factors: {run.factors()}\ncheckpoint: {run.checkpoint}\nreport: {run.path / 'report.html'}")
        if by_default and not as_json:
            print(NEXT)


@app.command()
def compare(
    model: OptionalModel = None,
    to: To = None,
    data: Data = None,
    measure_data: MeasureData = None,
    out: Out = None,
    recipe: RecipeFile = None,
    assignments: Assignments = None,
    lengths: Lengths = None,
    metrics: Metrics = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    compiled: Compiled = False,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Measure the original, all baselines and both LongRoPE searches side by side, and each against the best."""
    full, path = prepare(**given_options(locals()), suffix="-compare")
    from longrope import pipeline

    with _launched(full, context_ranks):
        run = _open(path)
        with watching(full, run) as watch:
            scores = pipeline.compare(full, run, watch)
        costs = pipeline.search_costs(run)
        print_scores(scores, as_json=as_json)
        if not as_json:
            print_costs(costs)
            print(f"report: {run.path / 'report.html'}")


@app.command()
def search(
    model: OptionalModel = None,
    to: To = None,
    data: Data = None,
    out: Out = None,
    recipe: RecipeFile = None,
    assignments: Assignments = None,
    method: Method = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    compiled: Compiled = False,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Search rescale factors; write factors.json."""
    full, path = prepare(**given_options(locals()))
    from longrope import pipeline
    from longrope.factors import dump_factors

    with _launched(full, context_ranks):
        run = _open(path)
        with watching(full, run) as watch:
            factors = pipeline.search(full, run, watch)
        print(dump_factors(factors) if as_json else f"factors: {run.factors()}\nmethod: {factors.source.label}")


@app.command()
def tune(
    model: Model,
    factors: Factors,
    to: To = None,
    data: Data = None,
    out: Out = None,
    recipe: RecipeFile = None,
    assignments: Assignments = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    lora: Lora = None,
    preset: Preset = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Train the weights at the window of their factors, and export the checkpoint; an interrupted training goes on."""
    given = given_options(locals())
    given.pop("factors")
    full, path = prepare(**given, suffix="-tuned")
    from longrope import pipeline

    with _launched(full, context_ranks, factors):
        run = _open(path)
        with watching(full, run) as watch:
            pipeline.tune(full, factors, run, watch)
        if as_json:
            print(run.export_report.read_text(encoding="utf-8"), end="")
        else:
            print(f"training: {run.train}\ncheckpoint: {run.checkpoint}\nreport: {run.path / 'report.html'}")


@app.command()
def measure(
    model: Model,
    factors: OptionalFactors = None,
    data: Data = None,
    measure_data: MeasureData = None,
    lengths: Lengths = None,
    metrics: Metrics = None,
    qa_data: Annotated[
        Path | None, typer.Option("--qa-data", help="Questions about documents for ruler's qa: SQuAD's JSON, or rows.")
    ] = None,
    out: Out = None,
    assignments: Assignments = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    compiled: Compiled = False,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity, passkeys, needles and RULER by context window, retention of short ones, and benchmarks."""
    from longrope import pipeline

    if not (data or measure_data):
        raise RecipeError("No text was given.", "Perplexity needs some.", "Give --data or --measure-data.")
    full = Recipe(
        model,
        target_tokens=1,
        data=tuple(data or ()),
        measure_data=tuple(measure_data or ()),
        seed=seed or 0,
        device=device or "auto",
        dtype=dtype or "auto",
        compiled=compiled,
        measure=measuring(MeasureRecipe(), lengths, metrics, qa_data),
    )
    check_measured(assignments or ())
    full, factors = changed(full, assignments or ()), _factors_file(factors)
    with _launched(full, context_ranks, factors):
        run = _open(out) if out else None
        with watching() as watch:
            scores = pipeline.measure_only(full, factors, run, watch)
        print_scores(scores, as_json=as_json)


@app.command()
def generate(
    model: Model,
    document: Annotated[Path, typer.Option("--document", help="UTF-8 text file (.gz too) to answer about.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The question.")],
    factors: OptionalFactors = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Of the answer, at most.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw among the likeliest of this probability.")] = 1.0,
    eight_bit_cache: Annotated[bool, typer.Option("--eight-bit-cache", help="Keys and values in 8 bits.")] = False,
    offload_cache: Annotated[
        bool, typer.Option("--offload-cache", help="Keys and values in the CPU's memory.")
    ] = False,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    compiled: Compiled = False,
    as_json: AsJson = False,
) -> None:
    """Answer a prompt about a long document, printed as it comes; one set of factors serves all of it."""
    from longrope import generation
    from longrope.factors import load_factors
    from longrope.models import load_model, silence_loading
    from longrope.texts import read_document

    settings = generation.GenerationSettings(
        max_new_tokens, temperature, top_p, seed or 0, eight_bit=eight_bit_cache, offload=offload_cache
    )
    text = read_document(document)
    file = _factors_file(factors)
    table = load_factors(file) if file else None
    silence_loading()
    loaded = load_model(model, device=device or "auto", dtype=dtype or "auto", compiled=compiled)
    with reading(loaded) as on_read:
        done = generation.generate(
            loaded,
            table,
            text,
            prompt,
            settings=settings,
            on_text=(lambda _: None) if as_json else partial(print, end="", flush=True),
            on_read=on_read,
        )
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        print(flush=True)
        print(describe_answer(done), file=sys.stderr)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory with factors.")],
    to: Format = "hf",
    tiers: Annotated[str, typer.Option("--tiers", help="single, or two: short and long.")] = "single",
    drop_start_tokens: Annotated[bool, typer.Option("--drop-start-tokens", help="Drop them, and measure.")] = False,
    base_model: Annotated[str, typer.Option("--base-model", help="Its name on the hub, for the model card.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write the checkpoint of a run again, with other settings if asked; reopen it and compare."""
    from longrope import pipeline

    if to not in FORMATS:
        raise RecipeError(f"The format {to!r} was asked for.", f"Known: {', '.join(FORMATS)}.", "Use --to hf.")
    directory = RunDir(run)
    with watching(run=directory) as watch:
        pipeline.export_again(directory, ExportRecipe(tiers, drop_start_tokens, base_model), watch, to=to)
    written, report = directory.checkpoint, directory.export_report
    if to != "hf":
        written = directory.exported(FORMATS[to].file)
        report = written.with_name("export.json")
    print(report.read_text(encoding="utf-8") if as_json else f"checkpoint: {written}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directory; several are shown beside each other.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page; by default report.html in the run, or comparison.html here.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what a run directory holds as one HTML page, or several runs beside each other."""
    from longrope.reports import write_comparison, write_report

    for path in runs:
        if not path.is_dir():
            raise RunError(f"There is no directory {path}.", "A run directory is needed.", "Correct the path.")
    directories = [RunDir(path) for path in runs]
    page = write_report(directories[0], out) if len(runs) == 1 else write_comparison(directories, out)
    print(json.dumps({"report": str(page)}) if as_json else f"report: {page}")
    if show and not webbrowser.open(page.resolve().as_uri()):
        print("longrope: no browser was found to open it with.", file=sys.stderr)


@app.command()
def inspect(model: Model, to: To = None, as_json: AsJson = False) -> None:
    """Show a model's RoPE: its pairs, which turn fully within the window, and what each method would do."""
    from longrope import pipeline

    report = pipeline.inspect(model, parse_tokens(to) if to else None)
    if as_json:
        print(json.dumps(report))
        return
    tables = {name: report.pop(name) for name in ("methods", "pairs")}
    for name, value in report.items():
        print(f"{name}: {value}")
    for name, rows in tables.items():
        print_table(name, list(rows[0]), ([format_number(value) for value in row.values()] for row in rows))


def main() -> None:
    """Run the command line; bad input ends in one paragraph and exit code 2."""
    try:
        app(prog_name="longrope")  # python -m longrope is the same command
    except LongRopeError as error:
        if wants_traceback():
            traceback.print_exception(error)
        print(f"longrope: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, ProcessLostError) else 2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("longrope: interrupted; the same command goes on from here.", file=sys.stderr)
        raise


def _factors_file(path: Path | None) -> Path | None:
    """The file of factors: the one given, or that of a run directory."""
    return RunDir(path).factors() if path and path.is_dir() else path


@contextmanager
def _launched(recipe: Recipe, context_ranks: int | None, factors: Path | None = None) -> Iterator[None]:
    """Join the other processes where torchrun has launched some. One prints the results; the first to end tells why."""
    from longrope import distributed, pipeline

    longest = pipeline.longest_window(recipe, factors)
    with ExitStack() as stack:
        with _one_reports():
            stack.enter_context(distributed.launched(context_ranks, longest_tokens=longest, device=recipe.device))
        if not distributed.is_main():
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
        with _one_reports():
            yield


@contextmanager
def _one_reports() -> Iterator[None]:
    """Let one process of a launch, the first to ask, raise what ends it; the others exit."""
    from longrope import distributed

    try:
        yield
    except (LongRopeError, KeyboardInterrupt):
        if distributed.claim_report():
            raise
        sys.exit(1)


def _open(path: Path) -> RunDir:
    """Open a run directory: one process does, for all."""
    from longrope import distributed

    return distributed.on_main(partial(RunDir, path))
