"""What the doors take: their options, and the recipe that these make."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from longrope.errors import RecipeError
from longrope.lengths import format_tokens, parse_tokens
from longrope.recipe import PRESETS, MeasureRecipe, Recipe, load_recipe

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
Compiled = Annotated[
    bool, typer.Option("--compile", help="torch.compile passes: faster at length, after seconds of compiling.")
]
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

_TUNED_BY = {"steps": "steps", "batch": "batch_windows", "rate": "learning_rate", "lora": "lora_rank"}


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that make up its recipe."""
    return {name: value for name, value in options.items() if name not in ("context_ranks", "as_json")}


def prepare(*, out: Path | None, recipe: Path | None, suffix: str = "", **given: Any) -> tuple[Recipe, Path]:
    """Make the recipe of a command: from a recipe file, from the run directory to resume, or from the options alone.

    Returns:
        The recipe and the path of the run directory.
    """
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


def _preset(recipe: Recipe, name: str | None) -> Recipe:
    if name is None:
        return recipe
    if name not in PRESETS:
        raise RecipeError(f"--preset {name!r}.", f"Known: {', '.join(PRESETS)}.", "Choose one of them.")
    return replace(recipe, tune=PRESETS[name])


def check_tuned(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse options of a training where there is none."""
    asked = [f"--{key}" for key in ("tune", *_TUNED_BY, "preset") if given[key]]
    if asked and not any(stage.kind == "tune" for stage in recipe.stages):
        raise RecipeError(
            f"{' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} given, and nothing is tuned.",
            "A training needs --tune, or a recipe whose stages have one.",
            "Give --tune, or leave the others out.",
        )


def _overridden(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    plain = {key: given[key] for key in ("model", "seed", "device", "dtype") if given.get(key) is not None}
    plain |= {key: tuple(given[key]) for key in ("data", "measure_data") if given.get(key)}
    if given.get("compiled"):
        plain["compiled"] = True
    if given.get("to"):
        plain["target_tokens"] = parse_tokens(given["to"])
    if settings := {_TUNED_BY[key]: given[key] for key in _TUNED_BY if given.get(key) is not None}:
        if steps := settings.get("steps"):
            settings["warmup_steps"] = recipe.tune.warmup_steps * steps // recipe.tune.steps
            plain["stages"] = tuple(replace(stage, steps=0) for stage in recipe.stages)
        plain["tune"] = replace(recipe.tune, **settings)
    if given.get("method"):
        plain["search"] = replace(recipe.search, method=given["method"])
    return replace(recipe, **plain, measure=measuring(recipe.measure, given.get("lengths"), given.get("metrics")))


def measuring(
    settings: MeasureRecipe, lengths: str | None, metrics: str | None, qa_data: Path | None = None
) -> MeasureRecipe:
    """The settings of a measurement, with these lengths, metrics and questions where they are given.

    Raises:
        RecipeError: no metric asks the questions.
    """
    given: dict[str, Any] = {}
    if lengths:
        given["lengths"] = tuple(parse_tokens(length) for length in lengths.split(","))
    if metrics:
        given["metrics"] = tuple(metrics.split(","))
    if qa_data:
        given["qa_data"] = str(qa_data)
    made = replace(settings, **given)
    if qa_data and not {"ruler", "ruler-qa"} & set(made.metrics):
        raise RecipeError(
            f"--qa-data {qa_data} is given, and the metrics are {', '.join(made.metrics)}.",
            "None of them asks its questions.",
            "Add ruler or ruler-qa to --metrics, or leave --qa-data out.",
        )
    return made
