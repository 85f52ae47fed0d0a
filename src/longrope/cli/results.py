"""Commands that use a model or a finished run: they answer, export, upload, report and inspect."""

import json
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from longrope.cli import options
from longrope.cli.commands import app, load_function
from longrope.cli.console import (
    describe_answer,
    format_number,
    note,
    noting,
    print_columns,
    reading,
    say,
    to_json,
    watching,
)
from longrope.cli.launching import check_alone
from longrope.errors import RecipeError, RunError
from longrope.lengths import parse_tokens
from longrope.recipe import ExportRecipe
from longrope.registry import FORMATS
from longrope.runs.run_dir import RunDir


@app.command()
def generate(
    model: options.Model,
    prompt: Annotated[str, typer.Option("--prompt", help="The question; - reads it from standard input.")],
    document: Annotated[
        Path | None,
        typer.Option("--document", help="UTF-8 text file (.gz, too) to answer about; - reads it from standard input."),
    ] = None,
    factors: options.OptionalFactors = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", help="File that keeps the document's tokens, keys and values, for later questions about it."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Largest number of tokens in an answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Sampling temperature; 0 takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Sample among the likeliest tokens of this total probability.")
    ] = 1.0,
    eight_bit_cache: Annotated[bool, typer.Option("--eight-bit-cache", help="Keep keys and values in 8 bits.")] = False,
    offload_cache: Annotated[
        bool, typer.Option("--offload-cache", help="Keep keys and values in the CPU's memory.")
    ] = False,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.DType = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    compiled: options.Compiled = False,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Answer a prompt about a long document, with one set of factors for all of it."""
    check_alone("generate")
    from longrope import generation
    from longrope.models import load_model, silence_loading
    from longrope.pipeline import report_answer
    from longrope.rope import load_factors

    settings = generation.GenerationSettings(
        max_new_tokens, temperature, top_p, seed or 0, eight_bit=eight_bit_cache, offload=offload_cache
    )
    text, prompt = _read_inputs(document, prompt, cache)
    file = options.factors_file(factors)
    table = load_factors(file) if file else None
    silence_loading()
    choices = {"device": device or "auto", "dtype": dtype or "auto", "rope_table": rope_table or ""}
    window = parse_tokens(trained_window) if trained_window else 0
    with noting() as (take, answered):

        def show(piece: str) -> None:
            answered.set()  # nothing else stands in an answer
            print(piece, end="", flush=True)

        take(f"load {model}")
        loaded = load_model(model, **choices, compiled=compiled, trained_window=window)
        with reading(loaded, take) as on_read:
            plan = generation.plan_answer(loaded, table, text, prompt, settings=settings, cache=cache)
            report_answer(loaded, plan, settings, take, always=dry_run)
            if dry_run:
                return
            done = generation.generate(
                loaded,
                table,
                text,
                prompt,
                settings=settings,
                cache=cache,
                on_text=(lambda _: None) if as_json else show,
                on_read=on_read,
            )
    if as_json:
        print(to_json(asdict(done)))
    else:
        print(flush=True)
        note(describe_answer(done))


def _read_inputs(document: Path | None, prompt: str, cache: Path | None) -> tuple[str, str]:
    """The document, empty where a file has one, and the prompt; either may come from standard input."""
    from longrope.data import read_document

    piped = [flag for flag, value in (("--document", document), ("--prompt", prompt)) if f"{value}" == "-"]
    if len(piped) > 1:
        raise RecipeError(
            "--document and --prompt are both -.",
            "Only one of them can be read from standard input.",
            "Give a file with --document.",
        )
    if document is None and not (cache and cache.exists()):
        raise RecipeError(
            f"--document is missing, and {f'there is no file {cache}' if cache else 'no --cache is given'}.",
            "A document to answer about is needed.",
            "Give a text file with --document.",
        )
    said = sys.stdin.read() if piped else ""
    if piped == ["--document"]:
        return said, prompt
    return read_document(document) if document else "", said.rstrip("\n") if piped else prompt


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="A run directory with factors.")] = None,
    to: options.Format = "hf",
    factor_sets: Annotated[
        str, typer.Option("--factor-sets", help="single, or two: short factors and long factors.")
    ] = "single",
    drop_start_tokens: Annotated[
        bool, typer.Option("--drop-start-tokens", help="Export without start tokens, and measure the difference.")
    ] = False,
    base_model: Annotated[
        str, typer.Option("--base-model", help="Name of the base model on the hub, for the model card.")
    ] = "",
    max_shard_size: options.MaxShardSize = None,
    preprocess: options.Preprocess = None,
    factors: Annotated[
        Path | None, typer.Option("--factors", help="Without a run: factors.json, or a run directory.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Without a run: hub name, folder, or GGUF file to put factors into.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Without a run: the file or folder to write.")] = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    layout: Annotated[
        str,
        typer.Option("--layout", help="Layout of a GGUF file: static, one list; or longrope, a short and a long one."),
    ] = "",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Write the weights in f32, f16 or bf16; in a GGUF file also in q8_0.",
            show_default="the base model's format where it holds them",
        ),
    ] = "",
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    tiers: Annotated[str | None, typer.Option("--tiers", hidden=True, help="The former --factor-sets.")] = None,
) -> None:
    """Write a checkpoint of a run again, or of a model with factors; reopen it and compare its logits.

    The weights of a GGUF file that was not tuned stay the same byte for byte, unless --dtype is given.
    """
    check_alone("export")
    from longrope import pipeline
    from longrope.rope import load_factors

    shard_size = {"max_shard_size": max_shard_size} if max_shard_size else {}
    settings = ExportRecipe(tiers or factor_sets, drop_start_tokens, base_model, **shard_size)
    chosen = {name: value for name, value in {"layout": layout, "dtype": dtype}.items() if value}
    if to == "snippet" and run:
        _print_snippets(RunDir(run))
        return
    _check_format(to, {name: value for name, value in chosen.items() if name == "layout"}, shard_size)
    if run is None:
        if preprocess:
            raise RecipeError(
                f"--preprocess {preprocess} is given, and no run.",
                "A model with factors is exported without texts.",
                "Leave it out.",
            )
        source, file, path = _without_run(model, factors, out)
        window = parse_tokens(trained_window) if trained_window else 0
        loading = {"rope_table": rope_table or "", "trained_window": window}
        with watching() as watch:
            factor_set = load_factors(file).factor_sets[-1]
            made = pipeline.export_model(
                source, factor_set, path, settings, watch, to=to, options=chosen, loading=loading, dry_run=dry_run
            )
        print(made, end="") if as_json else say(f"checkpoint: {path}")
        return
    given = {"--factors": factors, "--model": model, "--out": out, "--rope-table": rope_table}
    if alone := [flag for flag, value in (given | {"--trained-window": trained_window}).items() if value]:
        raise RecipeError(
            f"A run and {' and '.join(alone)} are given.", "A run has a model and factors of its own.", "Leave one out."
        )
    directory, function = RunDir(run), load_function(preprocess)
    with watching(run=directory) as watch:
        pipeline.export_again(directory, settings, watch, to=to, options=chosen, preprocess=function, dry_run=dry_run)
    written, report = directory.checkpoint, directory.export_report
    if to != "hf":
        written = directory.path / FORMATS[to].file
        report = written.with_name("export.json")
    say(report.read_text(encoding="utf-8") if as_json else f"checkpoint: {written}")


def _print_snippets(run: RunDir) -> None:
    """The RoPE settings of a run's checkpoint for other projects.

    Raises:
        RunError: there is no checkpoint, or its weights were tuned.
        ExportError: no settings can be put over its model.
    """
    from longrope.exports.snippets import check_base, format_snippets
    from longrope.models import ASSETS, EMBEDDED

    config = run.checkpoint / "config.json"
    if not (config.is_file() and run.export_report.exists()):
        raise RunError(
            f"{run.path} has no checkpoint.",
            "The settings are those of a checkpoint.",
            f"Run `longrope export {run.path}`.",
        )
    recipe = run.recipe()
    if run.train.exists() or run.tuning.exists() or any(stage.kind == "tune" for stage in recipe.stages):
        raise RunError(
            f"The weights of {run.path} were tuned.",
            "Settings carry only factors, and these factors belong to the tuned weights.",
            f"Use the folder {run.checkpoint} as the model: it has the factors and the weights.",
        )
    base = str(ASSETS / EMBEDDED) if recipe.model == EMBEDDED else recipe.model
    check_base(base)
    print(format_snippets(json.loads(config.read_text(encoding="utf-8")), base))


def _without_run(model: str | None, factors: Path | None, out: Path | None) -> tuple[str, Path, Path]:
    """The model, the file of factors and the path of an export that is of no run (raises RecipeError)."""
    file = options.factors_file(factors)
    if model and file and out:
        return model, file, out
    missing = [flag for flag, value in (("--model", model), ("--factors", file), ("--out", out)) if not value]
    raise RecipeError(
        f"No run is given, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
        "An export needs a run directory, or a model, its factors and an output.",
        "For example: longrope export --model MODEL.gguf --factors factors.json --to gguf --out NEW.gguf",
    )


def _check_format(to: str, of_gguf: dict[str, str], of_hf: dict[str, str]) -> None:
    """Refuse an unknown format, and options of another one (raises RecipeError)."""
    if to not in FORMATS:
        raise RecipeError(f"The format {to!r} was asked for.", f"Known: {', '.join(FORMATS)}.", "Use --to hf.")
    for given, only in ((of_gguf, "gguf"), (of_hf, "hf")):
        if given and to != only:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise RecipeError(
                f"{flags} {'is' if len(given) == 1 else 'are'} given, and the format is {to}.",
                f"Only the format {only} has this option.",
                f"Add --to {only}, or leave it out.",
            )


@app.command()
def recipe(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in docs/recipe.md.")] = False,
) -> None:
    """Print all settings of a recipe with their defaults and meanings, as a file to start from."""
    from longrope.recipe_template import markdown, template

    print(markdown() if as_markdown else template(), end="")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directory; several are shown side by side.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page; by default report.html in the run, or comparison.html here.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write an HTML report of a run directory, or of several side by side, and compare these with the first."""
    from longrope.cli.pairs import pair_with_first, print_pairs
    from longrope.report import write_comparison, write_report

    for path in runs:
        if not path.is_dir():
            raise RunError(f"There is no directory {path}.", "A run directory is needed.", "Correct the path.")
    directories = [RunDir(path) for path in runs]
    page = write_report(directories[0], out) if len(runs) == 1 else write_comparison(directories, out)
    pairs, unpaired = pair_with_first(directories)
    if as_json:
        several = {"pairs": [asdict(one) for one in pairs], "unpaired": unpaired} if len(runs) > 1 else {}
        say(to_json({"report": str(page), **several}))
    else:
        print_pairs(directories[0], pairs, unpaired)
        say(f"report: {page}")
    if show and not webbrowser.open(page.resolve().as_uri()):
        print("longrope: no browser was found to open it with.", file=sys.stderr)


@app.command()
def inspect(
    model: options.Model,
    to: options.To = None,
    rope_table: options.RopeTable = None,
    trained_window: options.TrainedWindow = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a model's RoPE: its pairs, how many complete a period in the trained window, and each method's factors."""
    from longrope import pipeline
    from longrope.models import silence_loading

    silence_loading()
    target, window = (parse_tokens(given) if given else 0 for given in (to, trained_window))
    report = pipeline.inspect(model, target or None, rope_table or "", window)
    if as_json:
        print(to_json(report))
        return
    tables = {name: report.pop(name) for name in ("methods", "pairs")}
    for name, value in report.items():
        for line in value if isinstance(value, list) else [value]:
            say(f"{name}: {line}")
    for name, rows in tables.items():
        write = _four_digits if name == "pairs" else format_number
        print_columns(name, list(rows[0]), [[write(value) for value in row.values()] for row in rows])


def _four_digits(value: object) -> str:
    """A number of a table whose many columns fit into 80 characters."""
    if not isinstance(value, float):
        return format_number(value)
    forms = ((1e4, ".0f"), (1.0, ".4g"), (1e-3, ".3f"), (0.0, ".1g"))
    return format(value, next(form for least, form in forms if abs(value) >= least))


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run directory, exported folder, or GGUF file.")],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; created if it does not exist.")
    ],
    revision: Annotated[str, typer.Option("--revision", help="Branch to send to; created if it does not exist.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Send a checkpoint to the Hugging Face hub."""
    from longrope import exports

    say(f"sent: {exports.upload(path, repo, revision=revision, private=private)}")
