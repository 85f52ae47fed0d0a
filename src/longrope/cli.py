"""The doors: one subcommand per arrow. Each parses, calls the pipeline and prints; nothing is computed here.

Exit codes: 0 done, 2 bad input (one paragraph on stderr), 1 our fault (a traceback) or another process that was lost.
"""

import json
import os
import sys
import webbrowser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrope.errors import LongRopeError, ProcessLostError, RecipeError, RunError

if TYPE_CHECKING:
    from longrope.generation import Generation
    from longrope.recipe import Recipe
    from longrope.records import Score
    from longrope.rundir import RunDir
    from longrope.stages import Watch

INTERRUPTED = 130
DEFAULT_RECIPE = Path(__file__).parent / "assets" / "nano.toml"
NEXT = """
Next, with a model and texts of your own (MODEL is a hub name, a folder or a GGUF file):
  longrope inspect MODEL
  longrope extend  MODEL --to 64k --data books/ --measure-data other-books/
  longrope compare MODEL --to 64k --data books/ --measure-data other-books/"""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Model = Annotated[str, typer.Argument(help="Hub name, folder, or GGUF file.")]
OptionalModel = Annotated[str | None, typer.Argument(help="Hub name, folder, or GGUF file.")]
To = Annotated[str | None, typer.Option("--to", help="The window to reach: 64k = 65536.")]
Data = Annotated[list[str] | None, typer.Option("--data", help="Text file or folder to search on; repeatable.")]
MeasureData = Annotated[
    list[str] | None, typer.Option("--measure-data", help="Text of another source to measure on; repeatable.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory; resumed if it exists.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML recipe; options given here override it.")]
Method = Annotated[str | None, typer.Option("--method", help="gradient or evolution.")]
Lengths = Annotated[str | None, typer.Option("--lengths", help="Windows to measure: 8k,16k,64k.")]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help="perplexity,passkey,prefix-perplexity,retention,needle,ruler,ruler-vt,harness:TASK"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Decides every random choice.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto.")]
DType = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or auto.")]
Tune = Annotated[bool, typer.Option("--tune", help="Train the weights, too, and recover the short window.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Steps of each training; the warm-up keeps its share of them.")
]
Batch = Annotated[int | None, typer.Option("--batch", help="Windows of a step.")]
Rate = Annotated[float | None, typer.Option("--rate", help="The highest learning rate.")]
Lora = Annotated[int | None, typer.Option("--lora", help="Train adapters of this rank (LoRA) instead of all weights.")]
Preset = Annotated[str | None, typer.Option("--preset", help="The paper's settings of a training: llama2 or mistral.")]
ContextRanks = Annotated[
    int | None, typer.Option("--context-ranks", help="Processes of a torchrun launch that share a sequence.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command()
def extend(
    model: OptionalModel = None,
    to: To = None,
    data: Data = None,
    measure_data: MeasureData = None,
    out: Out = None,
    recipe: RecipeFile = None,
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
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Search factors, measure the result, export a checkpoint: the whole walk. With no arguments: the embedded default.

    The default takes a small model of our own from 256 to 2,048 tokens, on the standard library's sources.
    """
    given = _given(locals())
    begun = out is not None and (out / "recipe.toml").exists()
    by_default = not (begun or any(given[key] for key in ("model", "to", "data", "recipe")))
    full, path = _prepare(**{**given, "recipe": DEFAULT_RECIPE} if by_default else given)
    from longrope import pipeline

    full = pipeline.with_tuning(full) if tune else full
    _check_tuned(full, given)
    with _launched(full, context_ranks):
        run = _open(path)
        with _watching(full, run) as watch:
            if by_default:  # a mistyped --out ends here, too
                watch.on_step(f"No model was given, and no run to resume: the embedded default, into {run.path}.")
            scores = pipeline.extend(full, run, watch)
        _print_scores(scores, as_json)
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
    lengths: Lengths = None,
    metrics: Metrics = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Measure none, PI, NTK, dynamic NTK, YaRN and both LongRoPE searches side by side, and each against the best."""
    full, path = _prepare(**_given(locals()), suffix="-compare")
    from longrope import pipeline

    with _launched(full, context_ranks):
        run = _open(path)
        with _watching(full, run) as watch:
            scores = pipeline.compare(full, run, watch)
        costs = pipeline.search_costs(run)
        _print_scores(scores, as_json)
        if not as_json:
            _print_costs(costs)
            print(f"report: {run.path / 'report.html'}")


@app.command()
def search(
    model: OptionalModel = None,
    to: To = None,
    data: Data = None,
    out: Out = None,
    recipe: RecipeFile = None,
    method: Method = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Search rescale factors; write factors.json."""
    full, path = _prepare(**_given(locals()))
    from longrope import pipeline
    from longrope.factors import dump_factors

    with _launched(full, context_ranks):
        run = _open(path)
        with _watching(full, run) as watch:
            factors = pipeline.search(full, run, watch)
        print(dump_factors(factors) if as_json else f"factors: {run.factors()}")


@app.command()
def tune(
    model: Model,
    factors: Annotated[Path, typer.Option("--factors", help="factors.json of a search.")],
    to: To = None,
    data: Data = None,
    out: Out = None,
    recipe: RecipeFile = None,
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
    given = _given(locals())
    given.pop("factors")
    full, path = _prepare(**given, suffix="-tuned")
    from longrope import pipeline

    with _launched(full, context_ranks, factors):
        run = _open(path)
        with _watching(full, run) as watch:
            pipeline.tune(full, factors, run, watch)
        if as_json:
            print(run.export_report.read_text(encoding="utf-8"), end="")
        else:
            print(f"training: {run.train}\ncheckpoint: {run.checkpoint}\nreport: {run.path / 'report.html'}")


@app.command()
def measure(
    model: Model,
    factors: Annotated[
        Path | None, typer.Option("--factors", help="factors.json; without it the model is measured as it is.")
    ] = None,
    data: Data = None,
    measure_data: MeasureData = None,
    lengths: Lengths = None,
    metrics: Metrics = None,
    qa_data: Annotated[
        Path | None, typer.Option("--qa-data", help="Questions about documents for ruler's qa: SQuAD's JSON, or rows.")
    ] = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    context_ranks: ContextRanks = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity, passkeys, needles and RULER by context window, retention of short ones, and benchmarks."""
    from longrope import pipeline
    from longrope.recipe import MeasureRecipe, Recipe

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
        measure=_measuring(MeasureRecipe(qa_data=str(qa_data or "")), lengths, metrics),
    )
    with _launched(full, context_ranks, factors):
        run = _open(out) if out else None
        with _watching() as watch:
            scores = pipeline.measure_only(full, factors, run, watch)
        _print_scores(scores, as_json)


@app.command()
def generate(
    model: Model,
    document: Annotated[Path, typer.Option("--document", help="UTF-8 text file (.gz too) to answer about.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The question.")],
    factors: Annotated[
        Path | None, typer.Option("--factors", help="factors.json, or a run directory; without: the model as it is.")
    ] = None,
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
    as_json: AsJson = False,
) -> None:
    """Answer a prompt about a long document, printed as it comes; the tier of factors is chosen once."""
    from longrope import generation
    from longrope.factors import load_factors
    from longrope.models import load_model, silence_loading
    from longrope.rundir import RunDir
    from longrope.texts import read_document

    settings = generation.GenerationSettings(
        max_new_tokens, temperature, top_p, seed or 0, eight_bit=eight_bit_cache, offload=offload_cache
    )
    text = read_document(document)
    file = RunDir(factors).factors() if factors and factors.is_dir() else factors
    table = load_factors(file) if file else None
    silence_loading()
    loaded = load_model(model, device=device or "auto", dtype=dtype or "auto")
    with _reading(loaded) as on_read:
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
        print(_costs_of(done), file=sys.stderr)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory with factors.")],
    to: Annotated[str, typer.Option("--to", help="hf, or gguf for llama.cpp.")] = "hf",
    tiers: Annotated[str, typer.Option("--tiers", help="single, or two: short and long.")] = "single",
    drop_start_tokens: Annotated[bool, typer.Option("--drop-start-tokens", help="Drop them, and measure.")] = False,
    base_model: Annotated[str, typer.Option("--base-model", help="Its name on the hub, for the model card.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write the checkpoint of a run again, with other settings if asked; reopen it and compare."""
    from longrope import pipeline
    from longrope.recipe import ExportRecipe
    from longrope.rundir import RunDir

    if to not in ("hf", "gguf"):
        raise RecipeError(f"The format {to!r} was asked for.", "Known: hf, gguf.", "Use --to hf.")
    directory = RunDir(run)
    with _watching(run=directory) as watch:
        pipeline.export_again(directory, ExportRecipe(tiers, drop_start_tokens, base_model), watch, to=to)
    written, report = directory.checkpoint, directory.export_report
    if to == "gguf":
        written, report = directory.gguf, directory.gguf.with_name("export.json")
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
    from longrope.rundir import RunDir

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
    from longrope.recipe import parse_tokens

    report = pipeline.inspect(model, parse_tokens(to) if to else None)
    if as_json:
        print(json.dumps(report))
        return
    pairs = report.pop("pairs")
    for name, value in report.items():
        print(f"{name}: {value}")
    _print_table("pairs", list(pairs[0]), ([_number(value) for value in pair.values()] for pair in pairs))


def main() -> None:
    """Run the command line; bad input ends in one paragraph and exit code 2."""
    try:
        app()
    except LongRopeError as error:
        print(f"longrope: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, ProcessLostError) else 2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("longrope: interrupted; the same command goes on from here.", file=sys.stderr)
        raise


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that make up its recipe."""
    return {name: value for name, value in options.items() if name not in ("context_ranks", "as_json")}


def _prepare(*, out: Path | None, recipe: Path | None, suffix: str = "", **given: Any) -> tuple["Recipe", Path]:
    """Make the recipe of a command: from a recipe file, from the run directory to resume, or from the options alone.

    Returns:
        The recipe and the path of the run directory.
    """
    from longrope.recipe import Recipe, format_tokens, load_recipe, parse_tokens

    resumable = out / "recipe.toml" if out else None
    if recipe:
        full = load_recipe(recipe)
    elif given["model"] is None and resumable and resumable.exists():
        full = load_recipe(resumable)
    else:
        missing = [flag for flag, key in (("MODEL", "model"), ("--to", "to"), ("--data", "data")) if not given[key]]
        if missing:
            raise RecipeError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
                "A run needs a model, a window and texts, or a recipe file.",
                "For example: longrope extend MODEL --to 64k --data books/",
            )
        full = Recipe(given["model"], parse_tokens(given["to"]), tuple(given["data"]))
    full = _overridden(_preset(full, given.get("preset")), given)
    return full, out or Path("runs") / f"{Path(full.model).stem}-{format_tokens(full.target_tokens)}{suffix}"


def _preset(recipe: "Recipe", name: str | None) -> "Recipe":
    from longrope.recipe import PRESETS

    if name is None:
        return recipe
    if name not in PRESETS:
        raise RecipeError(f"--preset {name!r}.", f"Known: {', '.join(PRESETS)}.", "Choose one of them.")
    return replace(recipe, tune=PRESETS[name])


def _check_tuned(recipe: "Recipe", given: dict[str, Any]) -> None:
    """Refuse options of a training where there is none."""
    asked = [f"--{key}" for key in ("tune", *_TUNED_BY, "preset") if given[key]]
    if asked and not any(stage.kind == "tune" for stage in recipe.stages):
        raise RecipeError(
            f"{' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} given, and nothing is tuned.",
            "A training needs --tune, or a recipe whose stages have one.",
            "Give --tune, or leave the others out.",
        )


def _overridden(recipe: "Recipe", given: dict[str, Any]) -> "Recipe":
    from longrope.recipe import parse_tokens

    plain = {key: given[key] for key in ("model", "seed", "device", "dtype") if given.get(key) is not None}
    plain |= {key: tuple(given[key]) for key in ("data", "measure_data") if given.get(key)}
    if given.get("to"):
        plain["target_tokens"] = parse_tokens(given["to"])
    if settings := {_TUNED_BY[key]: given[key] for key in _TUNED_BY if given.get(key) is not None}:
        if steps := settings.get("steps"):
            settings["warmup_steps"] = recipe.tune.warmup_steps * steps // recipe.tune.steps
            plain["stages"] = tuple(replace(stage, steps=0) for stage in recipe.stages)
        plain["tune"] = replace(recipe.tune, **settings)
    if given.get("method"):
        plain["search"] = replace(recipe.search, method=given["method"])
    return replace(recipe, **plain, measure=_measuring(recipe.measure, given.get("lengths"), given.get("metrics")))


_TUNED_BY = {"steps": "steps", "batch": "batch_windows", "rate": "learning_rate", "lora": "lora_rank"}


def _measuring(settings: Any, lengths: str | None, metrics: str | None) -> Any:
    from longrope.recipe import parse_tokens

    if lengths:
        settings = replace(settings, lengths=tuple(parse_tokens(length) for length in lengths.split(",")))
    if metrics:
        settings = replace(settings, metrics=tuple(metrics.split(",")))
    return settings


@contextmanager
def _launched(recipe: "Recipe", context_ranks: int | None, factors: Path | None = None) -> Iterator[None]:
    """Join the other processes where torchrun has launched some. One prints the results; the first to end tells why."""
    from longrope import parallel, pipeline

    longest = pipeline.longest_window(recipe, factors)
    try:
        parallel.start(context_ranks, longest_tokens=longest, device=recipe.device)
        with ExitStack() as stack:
            if not parallel.is_main():
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
            yield
    except (LongRopeError, KeyboardInterrupt):
        if parallel.speaks():
            raise
        sys.exit(1)
    finally:
        parallel.stop()


def _open(path: Path) -> "RunDir":
    """Open a run directory: one process does, for all."""
    from longrope import parallel
    from longrope.rundir import RunDir

    return parallel.lead(partial(RunDir, path))


@contextmanager
def _watching(recipe: "Recipe | None" = None, run: "RunDir | None" = None) -> Iterator["Watch"]:
    """Tell of progress on stderr: a line per step, and on a terminal a bar for the search in hand."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from longrope import parallel
    from longrope.models import silence_loading
    from longrope.stages import Watch

    silence_loading()
    console = Console(stderr=True, quiet=not parallel.is_main())
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    totals = {}
    if recipe:
        evolution = recipe.search.evolution.filled(recipe.target_tokens)
        totals = {"longrope-gradient": recipe.search.gradient.steps, "longrope-evolution": evolution.generations}
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bars = {name: progress.add_task(name, total=total, visible=False) for name, total in totals.items()}
        training = progress.add_task("training", total=None, visible=False)

        def on_trial(trial: Any) -> None:
            text = f"{trial.method}: step {trial.step}, loss {trial.loss_nats:.4f} nats"
            if trial.method not in bars:
                bars[trial.method] = progress.add_task(trial.method, total=None)
            progress.update(bars[trial.method], completed=trial.step, description=text, visible=True)

        def on_train(step: Any) -> None:
            text = f"training: step {step.step + 1}, loss {step.loss_nats:.4f} nats"
            progress.update(training, completed=step.step + 1, description=text, visible=True)

        def on_step(text: str) -> None:
            for bar in (*bars.values(), training):
                progress.update(bar, visible=False)
            console.print(text, highlight=False, soft_wrap=True, markup=False)

        try:
            yield Watch(on_trial=on_trial, on_step=on_step, on_train=on_train)
        except LongRopeError:
            if run and parallel.is_main():
                run.discard_if_empty()
            raise


@contextmanager
def _reading(model: Any) -> Iterator[Any]:
    """Tell of the choices for a model on stderr, and on a terminal of what is read, until all of it is."""
    from rich.console import Console
    from rich.progress import Progress

    from longrope.forward import describe_pass

    console = Console(stderr=True)
    console.print("; ".join((*model.choices, describe_pass(model))), highlight=False, soft_wrap=True, markup=False)
    with Progress(
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,  # the answer goes there as it is
        redirect_stderr=False,
    ) as progress:
        bar = progress.add_task("read", total=None)

        def on_read(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            if done == total:
                progress.stop()

        yield on_read


def _costs_of(done: "Generation") -> str:
    """What an answer took, as one line."""
    return (
        f"read {done.prompt_tokens:,} tokens in {done.prefill_seconds:.1f} s "
        f"({done.prompt_tokens / max(done.prefill_seconds, 1e-3):,.0f} a second), wrote {done.new_tokens:,} in "
        f"{done.decode_seconds:.1f} s ({done.new_tokens / max(done.decode_seconds, 1e-3):,.0f} a second)"
        f"{'' if done.ended else ', cut at --max-new-tokens'}; window {done.window_tokens:,} tokens, "
        f"{'factors ' + done.factors_fingerprint if done.factors_fingerprint else 'no factors'}, "
        f"cache {done.cache_bytes / 2**20:,.1f} MiB"
    )


def _print_scores(scores: Sequence["Score"], as_json: bool) -> None:
    """A table for each metric, one row per method, each value with its interval."""
    if as_json:
        print(json.dumps([asdict(score) for score in scores]))
        return
    from longrope.reports import score_tables

    for table in score_tables(scores):
        _print_table(table.title, table.header, table.rows)


def _print_costs(costs: Iterable[Any]) -> None:
    rows = [{name: value for name, value in asdict(cost).items() if name != "stage"} for cost in costs]
    if rows:
        _print_table("cost", list(rows[0]), ([_number(value) for value in cost.values()] for cost in rows))


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)
