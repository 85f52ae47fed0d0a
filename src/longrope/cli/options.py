"""The options of the commands, each declared once, and the recipe that they make."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from longrope.errors import RecipeError
from longrope.labels import label_of
from longrope.lengths import format_tokens, parse_tokens
from longrope.metrics import asked_metrics
from longrope.recipe import PRESETS, MeasureRecipe, Recipe, check_trusted, load_recipe, read_content
from longrope.registry import FORMATS, ORIGINAL, baselines, factor_methods
from longrope.runs.run_dir import RunDir
from longrope.settings import assign, build, hints_of, read_text


def _setting(flag: str, key: str, text: str) -> Any:
    """An option that stands for a setting of the recipe; its help shows the setting's default."""
    *tables, name = key.split(".")
    kind: Any = Recipe
    for table in tables:
        kind = hints_of(kind)[table]
    default = next(field.default for field in fields(kind) if field.name == name)
    shown = ",".join(default) if isinstance(default, tuple) else f"{default}"
    return typer.Option(flag, help=text, show_default=shown)


_METRICS = ", ".join(name for name in asked_metrics() if not name.startswith(("ruler-", "many-shot-")))
_MODEL: Any = typer.Argument(help="Hub name (OWNER/NAME@REVISION/FOLDER, too), folder, or GGUF file.")
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]
To = Annotated[str | None, typer.Option("--to", help="Target window in tokens: 64k = 65536.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Texts to search and tune on (without --measure-data, also to measure on): a file (text, .json, .csv, "
        ".parquet), a folder, or hf:NAME[:CONFIG]:SPLIT; repeatable.",
    ),
]
MeasureData = Annotated[list[str] | None, typer.Option("--measure-data", help="Texts only to measure on; repeatable.")]
DataWeights = Annotated[
    str | None,
    typer.Option("--data-weights", help="Share of the tokens of each --data: 0.7,0.3.", show_default="all of each"),
]
TextField = Annotated[
    str | None,
    _setting(
        "--text-field", "text_field", "Name of the field with the text in .jsonl, .json, .csv, .parquet, data sets."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding", help="Encoding of text files that are not UTF-8: latin-1.", show_default="they are skipped"
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="MODULE:FUNCTION",
        help="Python function that takes a row (for a text file: text and path) and returns its text, or None.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory; resumed if it exists.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML recipe; options given here override it.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of the recipe by its key: search.gradient.steps=40, measure.lengths=8k,64k; repeatable.",
    ),
]
Method = Annotated[str | None, _setting("--method", "search.method", f"One of {', '.join(factor_methods())}.")]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths", help="Context lengths to measure: 8k,16k,64k.", show_default="the trained and the target window"
    ),
]
Metrics = Annotated[
    str | None,
    _setting("--metrics", "measure.metrics", f"Some of {_METRICS}; ruler-vt: one task; many-shot-64: 64 examples."),
]
Seed = Annotated[int | None, _setting("--seed", "seed", "Seed of all random choices.")]
Device = Annotated[str | None, _setting("--device", "device", "cpu, cuda or auto.")]
DType = Annotated[
    str | None, _setting("--dtype", "dtype", "float32, bfloat16, float16 or auto; 8bit or 4bit to search and measure.")
]
RopeTable = Annotated[
    str | None,
    typer.Option(
        "--rope-table",
        help="Rotary table that factors act on, if the model has several.",
        show_default="that of the layers that see the whole window",
    ),
]
TrainedWindow = Annotated[
    str | None,
    typer.Option(
        "--trained-window",
        help="Trained window of the model, if its config states another one: 16k = 16384.",
        show_default="that of the config",
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile", help="Run passes through torch.compile: faster on long windows, after seconds of compiling."
    ),
]
Tune = Annotated[bool, typer.Option("--tune", help="Train the weights, too, and search factors for the short window.")]
Steps = Annotated[
    int | None, _setting("--steps", "tune.steps", "Steps of each training; the warm-up keeps its share of them.")
]
Batch = Annotated[int | None, _setting("--batch", "tune.batch_windows", "Windows in each training step.")]
Rate = Annotated[float | None, _setting("--rate", "tune.learning_rate", "Peak learning rate of a training.")]
Lora = Annotated[
    int | None, _setting("--lora", "tune.lora_rank", "Train adapters of this rank (LoRA); 0 trains all weights.")
]
Preset = Annotated[str | None, typer.Option("--preset", help=f"The paper's training settings: {' or '.join(PRESETS)}.")]
TrustTaskFiles = Annotated[
    bool, typer.Option("--trust-task-files", help="Read harness:FILE.yaml, and run the code that such a file names.")
]
ContextRanks = Annotated[
    int | None, typer.Option("--context-ranks", help="Number of processes of a torchrun launch that share a sequence.")
]
Factors = Annotated[Path, typer.Option("--factors", help="factors.json of a search, or a run directory.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="The model before its weights were trained, for metrics that compare with the original.",
        show_default="MODEL without factors",
    ),
]
OptionalFactors = Annotated[
    Path | None,
    typer.Option("--factors", help=f"factors.json, or a run directory; without this option, the {label_of(ORIGINAL)}."),
]
FactorsFromElsewhere = Annotated[
    str | None,
    typer.Option(
        "--factors",
        help="Further factors to measure, as files separated by commas: lists in JSON, a config.json of the longrope "
        "type, or a factors.json.",
    ),
]
Baseline = Annotated[
    str | None, typer.Option("--method", help=f"Measure a baseline instead of factors: {', '.join(baselines())}.")
]
MaxShardSize = Annotated[
    str | None,
    _setting("--max-shard-size", "export.max_shard_size", "Size limit of each file of weights, such as 2GB."),
]
Format = Annotated[
    str,
    typer.Option(
        "--to", help="; ".join(f"{row.name}: {row.label}" for row in FORMATS.values()) + "; snippet: settings as text."
    ),
]
Track = Annotated[
    str | None,
    typer.Option("--track", help="Also send losses and scores to a tracker: trackio.", show_default="none"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the time and memory that it will take, and stop.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

REQUIRED = {"model": "MODEL", "target_tokens": "--to", "data": "--data"}  # keys and options
COMPARED = ("yarn", "ntk-critical")  # beside the original: the formula that most models have, and the best one
_TUNED_BY = {"steps": "steps", "batch": "batch_windows", "rate": "learning_rate", "lora": "lora_rank"}
_OF_PRESETS = ("window_tokens", "steps", "batch_windows", "learning_rate", "schedule", "warmup_steps")  # the paper's


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that make up its recipe."""
    return {
        name: value
        for name, value in options.items()
        if name not in ("context_ranks", "track", "as_json", "preprocess", "dry_run")
    }


def prepare(
    *,
    out: Path | None,
    recipe: Path | None,
    suffix: str = "",
    compared: tuple[str, ...] = (),
    trust_task_files: bool = False,
    **given: Any,
) -> tuple[Recipe, Path]:
    """Make the recipe of a command: from a recipe file, from the run directory to resume, or from the options alone.

    Args:
        out: the run directory, if one is named.
        recipe: the recipe file, if there is one.
        suffix: of the directory's name where none is named.
        compared: baselines to measure, where options alone make the recipe; a run that has begun keeps its own.
        trust_task_files: let a recipe name task files.
        given: the other options.

    Returns:
        The recipe and the path of the run directory.
    """
    resumable, known = out / "recipe.toml" if out else None, _required(given)
    if recipe:
        full = _completed(recipe, known, trust_task_files=trust_task_files)
    elif resumable and resumable.exists() and len(known) < len(REQUIRED):
        full = load_recipe(resumable, trust_task_files=trust_task_files)
    else:
        _check_required(known, "or a recipe file")
        full = _comparing(build(Recipe, known), out, compared)
    full = overridden(_preset(full, given.get("preset")), given)
    if not trust_task_files:
        check_trusted(full)
    return full, out or _usual_place(full, suffix)


def _usual_place(recipe: Recipe, suffix: str) -> Path:
    model = Path(recipe.model) if Path(recipe.model).name not in ("", "..") else Path(recipe.model).resolve()
    return Path("runs") / f"{model.name.removesuffix('.gguf')}-{format_tokens(recipe.target_tokens)}{suffix}"


def _comparing(recipe: Recipe, out: Path | None, compared: tuple[str, ...]) -> Recipe:
    """A recipe with baselines to measure: those of the run if it has begun."""
    begun = (out or _usual_place(recipe, "")) / "recipe.toml"
    if compared and begun.exists():
        compared = load_recipe(begun, trust_task_files=True).measure.baselines  # nothing is run by them
    return replace(recipe, measure=replace(recipe.measure, baselines=compared))


def _required(given: dict[str, Any]) -> dict[str, Any]:
    """The settings without defaults that a command line gives, by their keys; a recipe file may leave them to it."""
    named = {"model": given.get("model"), "target_tokens": given.get("to"), "data": given.get("data")}
    return {key: value for key, value in named.items() if value}


def _completed(path: Path, known: dict[str, Any], *, trust_task_files: bool) -> Recipe:
    """The recipe of a file, which may be partial, with the settings that a command line gives (raises RecipeError)."""
    _check_required({**read_content(path), **known}, f"here or in {path}")
    return load_recipe(path, given=known, trust_task_files=trust_task_files)


def _check_required(known: dict[str, Any], where: str) -> None:
    missing = [flag for key, flag in REQUIRED.items() if key not in known]
    if missing and known.keys() <= hints_of(Recipe).keys():  # else one is misspelt, of which the recipe tells
        raise RecipeError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            f"A run needs a model, a window and texts, {where}.",
            "For example: longrope extend MODEL --to 64k --data books/",
        )


def _preset(recipe: Recipe, name: str | None) -> Recipe:
    if name is None:
        return recipe
    if name not in PRESETS:
        raise RecipeError(f"The preset {name!r} is unknown.", f"Known: {', '.join(PRESETS)}.", "Choose one of them.")
    stated = {key: getattr(PRESETS[name], key) for key in _OF_PRESETS}
    return replace(recipe, tune=replace(recipe.tune, **stated))


def check_tuned(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse options of a training where there is none."""
    asked = [f"--{key}" for key in ("tune", *_TUNED_BY, "preset") if given[key]]
    asked += [f"--set {text}" for text in given["assignments"] or () if text.startswith("tune.")]
    if asked and not any(stage.kind == "tune" for stage in recipe.stages):
        raise RecipeError(
            f"{' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} given, and nothing is tuned.",
            "A training needs --tune, or a recipe with a tune stage.",
            "Give --tune, or leave these options out.",
        )


def overridden(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A recipe with the settings that a command line gives, and over them those of ``--set`` (raises RecipeError)."""
    content = asdict(recipe)
    for key in ("model", "seed", "device", "dtype", "rope_table", "text_field", "encoding"):
        if given.get(key) is not None:
            content[key] = given[key]
    content |= {key: tuple(given[key]) for key in ("data", "measure_data") if given.get(key)}
    if given.get("data_weights"):
        content["data_weights"] = parse_weights(given["data_weights"])
    if given.get("factors"):
        content["factors"] = tuple(given["factors"].split(","))
    if given.get("compiled"):
        content["compiled"] = True
    for key, name in (("trained_window", "trained_window"), ("to", "target_tokens")):
        if given.get(key):
            content[name] = parse_tokens(given[key])
    settings = {_TUNED_BY[key]: given[key] for key in _TUNED_BY if given.get(key) is not None}
    if steps := settings.get("steps"):
        settings["warmup_steps"] = recipe.tune.warmup_steps * steps // recipe.tune.steps
        content["stages"] = [{**stage, "steps": 0} for stage in content["stages"]]
    content["tune"] |= settings
    if given.get("method"):
        content["search"]["method"] = given["method"]
    content["measure"] |= _measuring(*(given.get(name) for name in ("lengths", "metrics", "qa_data")))
    assign(Recipe, content, given.get("assignments") or ())
    made: Recipe = build(Recipe, content)
    _check_asked(made.measure, given.get("qa_data"))
    return made


def parse_weights(text: str) -> tuple[float, ...]:
    """The numbers of a text such as ``0.7,0.3`` (raises RecipeError)."""
    weights: tuple[float, ...] = read_text(hints_of(Recipe)["data_weights"], text, "--data-weights")
    return weights


def check_measured(assignments: Sequence[str]) -> None:
    """Refuse, where nothing but a measurement is done, settings of other things."""
    if others := [text for text in assignments if not text.startswith("measure.")]:
        raise RecipeError(
            f"--set {others[0]} is given to `longrope measure`.",
            "Only settings that begin with `measure.` have an effect there.",
            "Leave it out, or give an option such as --seed.",
        )


def _measuring(lengths: str | None, metrics: str | None, qa_data: Path | None) -> dict[str, Any]:
    """The settings of a measurement that options give, by their keys."""
    given: dict[str, Any] = {}
    if lengths:
        given["lengths"] = tuple(parse_tokens(length) for length in lengths.split(","))
    if metrics:
        given["metrics"] = tuple(metrics.split(","))
    if qa_data:
        given["qa_data"] = str(qa_data)
    return given


def _check_asked(settings: MeasureRecipe, qa_data: Path | None) -> None:
    """Raise RecipeError where questions are given and no metric asks them."""
    if qa_data and not {"ruler", "ruler-qa"} & set(settings.metrics):
        raise RecipeError(
            f"--qa-data {qa_data} is given, and the metrics are {', '.join(settings.metrics)}.",
            "None of these metrics asks its questions.",
            "Add ruler or ruler-qa to --metrics, or leave --qa-data out.",
        )


def factors_file(path: Path | None) -> Path | None:
    """The file of factors: the one given, or that of a run directory."""
    return RunDir(path).factors() if path and path.is_dir() else path
