"""Extend the context window of a RoPE language model: a command for each step from the search to the checkpoint.

Exit codes: 0 done; 1 an internal error, or a lost process of a launch; 2 bad input; 130 Ctrl-C; 143 SIGTERM.
LONGROPE_DEBUG=1 prints the traceback of every error.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from longrope import __version__
from longrope.cli import options
from longrope.cli.console import print_costs, print_measured, print_outcome, print_scores, say, set_verbosity, watching
from longrope.cli.launching import launched
from longrope.errors import RecipeError
from longrope.recipe import Recipe, check_trusted
from longrope.runs.run_dir import RunDir

DEFAULT_RECIPE = Path(__file__).parents[1] / "assets" / "nano.toml"
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
def describe_program(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print each trial and training step, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")] = False,
) -> None:
    """Take what stands before a command."""
    del version
    set_verbosity(verbose=verbose, quiet=quiet)


@app.command()
def extend(
    model: options.OptionalModel = None,
    to: options.To = None,
    data: options.Data = None,
    measure_data: options.MeasureData = None,
    data_weights: options.DataWeights = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    preprocess: options.Preprocess = None,
    out: options.Out = None,
    recipe: options.RecipeFile = None,
    assignments: options.Assignments = None,
    method: options.Method = None,
    tune: options.Tune = False,
    steps: options.Steps = None,
    batch: options.Batch = None,
    rate: options.Rate = None,
    lora: options.Lora = None,
    preset: options.Preset = None,
    lengths: options.Lengths = None,
    metrics: options.Metrics = None,
    trust_task_files: options.TrustTaskFiles = False,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    compiled: options.Compiled = False,
    context_ranks: options.ContextRanks = None,
    dry_run: options.DryRun = False,
    track: options.Track = None,
    as_json: options.AsJson = False,
) -> None:
    """Search factors, measure the result, export a checkpoint. Without arguments, extend the bundled model.

    The bundled model has 4.7M parameters. It is extended from 256 to 2,048 tokens with the standard library's sources.
    """
    given = options.given_options(locals())
    begun = out is not None and (out / "recipe.toml").exists()
    by_default = not (begun or any(given[key] for key in ("model", "to", "data", "recipe")))
    given["compared"] = options.COMPARED
    full, path = options.prepare(**{**given, "recipe": DEFAULT_RECIPE} if by_default else given)
    from longrope import pipeline

    full = pipeline.with_tuning(full) if tune else full
    options.check_tuned(full, given)
    function = load_function(preprocess)
    with launched(full, context_ranks):
        run = RunDir(path)
        with watching(full, run, track) as watch:
            if by_default:  # a mistyped --out ends here, too
                watch.on_step(
                    f"No model and no run is given: the bundled 4.7M-parameter model is extended in {run.path}."
                )
            scores = pipeline.extend(full, run, watch, preprocess=function, dry_run=dry_run)
        print_scores(scores, as_json=as_json)
        if not as_json:
            say(f"factors: {run.factors()}\ncheckpoint: {run.checkpoint}\nreport: {run.path / 'report.html'}")
            print_outcome(run)
        if by_default and not as_json:
            print(NEXT)


@app.command()
def compare(
    model: options.OptionalModel = None,
    to: options.To = None,
    data: options.Data = None,
    measure_data: options.MeasureData = None,
    data_weights: options.DataWeights = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    preprocess: options.Preprocess = None,
    factors: options.FactorsFromElsewhere = None,
    out: options.Out = None,
    recipe: options.RecipeFile = None,
    assignments: options.Assignments = None,
    lengths: options.Lengths = None,
    metrics: options.Metrics = None,
    trust_task_files: options.TrustTaskFiles = False,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    compiled: options.Compiled = False,
    context_ranks: options.ContextRanks = None,
    dry_run: options.DryRun = False,
    track: options.Track = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the original model, all baselines and both LongRoPE searches, and compare each with the best."""
    full, path = options.prepare(**options.given_options(locals()), suffix="-compare")
    from longrope import pipeline

    function = load_function(preprocess)
    with launched(full, context_ranks):
        run = RunDir(path)
        with watching(full, run, track) as watch:
            scores = pipeline.compare(full, run, watch, preprocess=function, dry_run=dry_run)
        costs = pipeline.search_costs(run)
        print_scores(scores, as_json=as_json)
        if not as_json:
            print_costs(costs)
            say(f"report: {run.path / 'report.html'}")
            print_outcome(run)


@app.command()
def search(
    model: options.OptionalModel = None,
    to: options.To = None,
    data: options.Data = None,
    data_weights: options.DataWeights = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    preprocess: options.Preprocess = None,
    out: options.Out = None,
    recipe: options.RecipeFile = None,
    assignments: options.Assignments = None,
    method: options.Method = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    compiled: options.Compiled = False,
    context_ranks: options.ContextRanks = None,
    dry_run: options.DryRun = False,
    track: options.Track = None,
    as_json: options.AsJson = False,
) -> None:
    """Search rescale factors; write factors.json."""
    full, path = options.prepare(**options.given_options(locals()))
    from longrope import pipeline
    from longrope.rope import dump_factors

    function = load_function(preprocess)
    with launched(full, context_ranks):
        run = RunDir(path)
        with watching(full, run, track) as watch:
            factors = pipeline.search(full, run, watch, preprocess=function, dry_run=dry_run)
        ended = (f"factors: {run.factors()}", f"method: {factors.source.label}", *pipeline.describe_search(run, full))
        say(dump_factors(factors) if as_json else "\n".join(ended))


@app.command()
def tune(
    model: options.Model,
    factors: options.Factors,
    to: options.To = None,
    data: options.Data = None,
    data_weights: options.DataWeights = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    preprocess: options.Preprocess = None,
    out: options.Out = None,
    recipe: options.RecipeFile = None,
    assignments: options.Assignments = None,
    steps: options.Steps = None,
    batch: options.Batch = None,
    rate: options.Rate = None,
    lora: options.Lora = None,
    preset: options.Preset = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    context_ranks: options.ContextRanks = None,
    dry_run: options.DryRun = False,
    track: options.Track = None,
    as_json: options.AsJson = False,
) -> None:
    """Train the weights at the target window of the factors, and export the checkpoint; resume a training."""
    given = options.given_options(locals())
    given.pop("factors")
    factors = options.factors_file(factors) or factors  # those of a run directory
    full, path = options.prepare(**given, suffix="-tuned")
    from longrope import pipeline

    function = load_function(preprocess)
    with launched(full, context_ranks, factors):
        run = RunDir(path)
        with watching(full, run, track) as watch:
            pipeline.tune(full, factors, run, watch, preprocess=function, dry_run=dry_run)
        if as_json:
            print(run.export_report.read_text(encoding="utf-8"), end="")
        else:
            say(f"training: {run.train}\ncheckpoint: {run.checkpoint}\nreport: {run.path / 'report.html'}")


@app.command()
def measure(
    model: options.Model,
    factors: options.OptionalFactors = None,
    method: options.Baseline = None,
    base: options.Base = None,
    data: options.Data = None,
    measure_data: options.MeasureData = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    preprocess: options.Preprocess = None,
    lengths: options.Lengths = None,
    metrics: options.Metrics = None,
    trust_task_files: options.TrustTaskFiles = False,
    qa_data: Annotated[
        Path | None, typer.Option("--qa-data", help="Questions about documents for ruler's qa: SQuAD's JSON, or rows.")
    ] = None,
    out: options.Out = None,
    assignments: options.Assignments = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    compiled: options.Compiled = False,
    context_ranks: options.ContextRanks = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure perplexity, passkeys, needles and RULER by context window, retention in short windows, and benchmarks."""
    given = options.given_options(locals())
    from longrope import pipeline

    if not (data or measure_data):
        raise RecipeError("No text was given.", "Perplexity needs some.", "Give --data or --measure-data.")
    if factors and method:
        raise RecipeError("--factors and --method are given.", "A call measures one method.", "Leave one of them out.")
    options.check_measured(assignments or ())
    full = options.overridden(Recipe(model, target_tokens=1, data=()), {**given, "factors": None, "method": None})
    factors = options.factors_file(factors)
    if not trust_task_files:
        check_trusted(full)
    function = load_function(preprocess)
    with launched(full, context_ranks, factors):
        run = RunDir(out) if out else None
        with watching(run=run) as watch:
            scores = pipeline.measure_only(
                full, factors, run, watch, baseline=method or "", base=base or "", preprocess=function, dry_run=dry_run
            )
        print_scores(scores, as_json=as_json)
        if not as_json:
            print_measured(run, has_factors=factors is not None)


def load_function(name: str | None) -> Callable[..., Any] | None:
    """The function that ``module:function`` names; modules of the current folder are found, too.

    A recipe cannot name one, so that a recipe from elsewhere runs no code.

    Raises:
        RecipeError: there is none.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"--preprocess {name} cannot be loaded ({error}).",
            "It must be MODULE:FUNCTION, a function of a Python module.",
            "For example --preprocess clean:text_of, with a file clean.py here.",
        ) from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(found):
        raise RecipeError(f"--preprocess {name} is not a function.", "It is called with each row.", "Name a function.")
    return found  # type: ignore[no-any-return]  # whether it gives texts is seen when it does
