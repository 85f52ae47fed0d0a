"""The recipe of a run: everything that decides its result, as frozen dataclasses, TOML in and out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import tomli_w

from longrope import registry
from longrope.errors import RecipeError
from longrope.lengths import counted
from longrope.metrics import HARNESS, asked_metrics, is_task_file
from longrope.reading import read_toml
from longrope.schedule import Stage, Standing, check_stages, standings
from longrope.search_recipe import CmaRecipe, EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.settings import (
    FILE_SIZE,
    FILLED,
    HUB_NAME,
    Count,
    CountOrZero,
    Settings,
    above,
    assign,
    at_least,
    between,
    build,
    listed,
    one_of,
)
from longrope.tune_recipe import PRESETS, TuneRecipe

__all__ = [
    "PRESETS",
    "CmaRecipe",
    "EvolutionRecipe",
    "ExportRecipe",
    "GradientRecipe",
    "MeasureRecipe",
    "Recipe",
    "SearchRecipe",
    "Stage",
    "Standing",
    "TuneRecipe",
    "changed",
    "dump_recipe",
    "load_recipe",
    "read_content",
]
Name = Annotated[str, FILLED]
Window = Annotated[int, at_least(2)]
Prompts = Annotated[int, between(1, 100_000)]


@dataclass(frozen=True)
class MeasureRecipe(Settings, section="measure"):
    """What is measured.

    Attributes:
        lengths: context windows in tokens; empty means the trained window and the target.
        metrics: ``perplexity`` and ``passkey``; ``prefix-perplexity`` (of the first tokens of each window; one pass
            gives it for all lengths) and ``position-perplexity`` (of the tokens from half of a length on, by the same
            pass); ``many-passkeys`` (several passkeys in a text that is read once); ``retention`` (perplexity as a
            share of the original's, at lengths within the trained window); ``far-context`` (the same last tokens read
            with only the trained window before them, and with all tokens before them) and its controls ``far-shuffled``
            and ``far-replaced``; ``needle``, and ``chat-needle`` (the same, asked in the model's chat template);
            ``prose-needle`` (numbers, names, sentences at random depths); ``ruler`` (all of its tasks and their mean)
            and ``ruler-TASK`` (one of them); ``longppl`` (perplexity of the tokens that far context makes likely,
            chosen by an evaluator); ``accuracy`` and ``effective-length``, both over ``prose-needle`` and six of
            ruler's tasks; ``many-shot`` and ``many-shot-K`` (labels by examples), ``manual-questions``,
            ``dialogue-memory``, ``reworded-questions`` and ``planted-summary``, generated uses of long windows;
            ``harness:TASK``, a benchmark of lm-evaluation-harness by its name or its file.
        original_tokens: the longest length at which the original model is measured; 0 measures it at all lengths. The
            shortest length is always measured. Far beyond its window, passes of the original model take as long as
            those of other methods.
        windows: windows of the longest length; the shorter ones divide the same text.
        window_tokens: cut the windows as if this were the longest length, so that a run at shorter lengths reads the
            same text as a run that measured up to this length; 0 takes the longest of ``lengths``.
        tail_tokens: perplexity is also given over this number of last tokens of each window.
        tails: further numbers of last tokens; perplexity and ``far-context`` are also given over each of them.
        last_tokens: number of tokens at the end of each window that ``far-context`` and its controls score; 0 takes all
            that the trained window predicts.
        evaluator: the model that chooses the tokens of ``longppl``, with the same vocabulary. It may be the measured
            model itself, which should then have ``evaluator_factors``.
        evaluator_factors: a factors file with which the evaluator reads the longest length.
        longppl_near: tokens of near context that the evaluator reads to see what far context adds.
        passkeys: passkeys asked for at each length, spread over ten depths.
        passkeys_per_text: largest number of passkeys in one text of ``many-passkeys``; all others in it distract from
            the one that is asked for.
        baselines: baselines that ``longrope extend`` measures beside its own factors: pi, ntk, ntk-critical,
            dynamic-ntk, yarn, critical, critical-real, ntk-scan, longrope2, dca, self-extend, jet-long.
        paired_windows: windows of the longest length on which the factors found are compared with the best baseline,
            token by token; 0 takes as many as ``windows``.
        needles: needles asked for at each length, spread over ten depths, or in prose at random depths. Each of the
            generated uses asks the same number of questions.
        needles_per_text: largest number of needles in one text, which is read once for all of them; all others in it
            distract from the one that is asked for.
        ruler_prompts: prompts of each of ruler's tasks at each length.
        qa_data: a file of questions about documents, in SQuAD's format, for ruler's ``qa``; without it ``ruler`` leaves
            this task out.
        scan_passes: passes over a window that the baseline ntk-scan may take; 0 takes as many as the gradient search.
    """

    lengths: tuple[Window, ...] = ()
    metrics: tuple[Annotated[str, listed(asked_metrics)], ...] = ("perplexity", "passkey")
    windows: Count = 3
    tail_tokens: CountOrZero = 1024
    passkeys: Prompts = 20
    baselines: tuple[Annotated[str, listed(registry.baselines)], ...] = ()
    paired_windows: CountOrZero = 0
    needles: Prompts = 20
    needles_per_text: Prompts = 10
    ruler_prompts: Prompts = 20
    qa_data: str = ""
    scan_passes: CountOrZero = 0
    last_tokens: CountOrZero = 0
    evaluator: str = ""
    evaluator_factors: str = ""
    longppl_near: Annotated[int, at_least(4)] = 4096
    original_tokens: CountOrZero = 0
    tails: tuple[Count, ...] = ()
    window_tokens: CountOrZero = 0
    passkeys_per_text: Annotated[int, between(1, 100)] = 10

    def check(self) -> None:
        """Refuse a metric whose data are not given (raises RecipeError naming the key)."""
        if "ruler-qa" in self.metrics and not self.qa_data:
            raise RecipeError(
                "measure.metrics names 'ruler-qa'.", "It asks questions of a file.", "Give it with measure.qa_data."
            )
        if "longppl" in self.metrics and not self.evaluator:
            raise RecipeError(
                "measure.metrics names 'longppl'.",
                "A model that reads the longest length must choose its tokens, the same for all methods.",
                "Give it with measure.evaluator, and its factors with measure.evaluator_factors.",
            )


@dataclass(frozen=True)
class ExportRecipe(Settings, section="export"):
    """What is exported.

    Attributes:
        factor_sets: ``single`` writes the long factors for all lengths, so no runtime can apply the wrong ones; ``two``
            keeps the original frequencies up to the trained window and needs a runtime that switches.
        drop_start_tokens: write a checkpoint without start tokens, which runtimes do not support, and measure the
            difference.
        base_model: the base model's name on the hub, for the model card, if the model was loaded from a file or folder.
        max_shard_size: size limit of each file of weights, such as 2GB or 500MB.
    """

    factor_sets: Annotated[str, one_of("single", "two")] = "single"
    drop_start_tokens: bool = False
    base_model: Annotated[str, HUB_NAME] = ""
    max_shard_size: Annotated[str, FILE_SIZE] = "5GB"


@dataclass(frozen=True)
class Recipe(Settings):
    """One run of ``longrope extend`` or ``longrope compare``.

    Attributes:
        model: hub name, folder or GGUF file.
        target_tokens: the target window in tokens.
        data: texts to search and tune on (and to measure on, unless ``measure_data`` is given), in disjoint parts:
            files, folders and data sets (``hf:NAME:SPLIT``), as ``load_texts`` reads them.
        measure_data: texts that are only measured on.
        data_weights: share of the tokens that comes from each of ``data``; empty takes all tokens of each.
        text_field: name of the field that holds a document, in JSON lines, Parquet files and data sets.
        encoding: encoding of text files that are not UTF-8, such as latin-1; empty skips these files.
        factors: files of factors from elsewhere, each measured as a method of its own: lists in JSON, a config.json of
            the longrope type, or a factors.json.
        seed: seed of all random choices.
        dtype: float32, bfloat16, float16, or auto (bfloat16 on a GPU, float32 on a CPU); 8bit or 4bit, only for
            searching and measuring.
        device: cpu, cuda, or auto.
        rope_table: name of the rotary table that factors act on, if the model has several; empty takes the table of the
            layers that see the whole window.
        trained_window: the trained window of the model, if its config states another one; 0 takes that of the config.
        compiled: run passes through torch.compile; in one process, also the recomputed layers of windows that need no
            tiles. Long windows are faster, after seconds of compiling.
        stages: the schedule of a progressive run, in order; none means one search for ``target_tokens``.
    """

    model: Name
    target_tokens: Count
    data: tuple[Name, ...]
    measure_data: tuple[Name, ...] = ()
    data_weights: tuple[Annotated[float, above(0, math.inf)], ...] = ()
    text_field: str = "text"
    encoding: str = ""
    seed: CountOrZero = 0
    dtype: Annotated[str, one_of("auto", "float32", "bfloat16", "float16", "8bit", "4bit")] = "auto"
    device: str = "auto"
    rope_table: str = ""
    trained_window: CountOrZero = 0
    compiled: bool = False
    stages: tuple[Stage, ...] = ()
    factors: tuple[Name, ...] = ()
    search: SearchRecipe = field(default_factory=SearchRecipe)
    tune: TuneRecipe = field(default_factory=TuneRecipe)
    measure: MeasureRecipe = field(default_factory=MeasureRecipe)
    export: ExportRecipe = field(default_factory=ExportRecipe)

    def check(self) -> None:
        """Refuse stages that cannot follow each other, or do not reach the target, and weights of nothing.

        Raises:
            RecipeError: naming what does not go together.
        """
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise RecipeError(
                f"data_weights has {counted(len(self.data_weights), 'number')}, "
                f"and data {counted(len(self.data), 'source')}.",
                "Each source has one weight.",
                "Give as many --data as numbers in --data-weights.",
            )
        check_stages(self.standings(), self.target_tokens, lambda stage: self.tuning(stage).reach_tokens)

    def standings(self) -> list[Standing]:
        """Each stage, or one search where none is listed, with what there is when it begins."""
        return list(standings(self.stages or (Stage(search=self.target_tokens),)))

    def searching(self, stage: Stage) -> SearchRecipe:
        """The settings of one search stage, for a long window or a short one."""
        formula = registry.starts()[0]  # every one leaves a short window the model's own RoPE
        named = formula if stage.method == registry.ORIGINAL else stage.method
        return replace(self.search, method=named) if named else self.search

    def tuning(self, stage: Stage) -> TuneRecipe:
        """The settings of one tuning stage."""
        return replace(self.tune, window_tokens=stage.window_tokens, steps=stage.steps or self.tune.steps)


def load_recipe(
    path: str | Path, *, given: Mapping[str, Any] = MappingProxyType({}), trust_task_files: bool = False
) -> Recipe:
    """Read a TOML recipe.

    Args:
        path: of the file.
        given: keys that stand elsewhere, in the place of those of the file, which may lack them.
        trust_task_files: let it name task files of lm-evaluation-harness, whose code is run.

    Raises:
        RecipeError: it cannot be read; naming an unknown key and the nearest known one; it names task files that are
            not trusted.
    """
    recipe = build(Recipe, {**read_content(path), **given})
    if not trust_task_files:
        check_trusted(recipe)
    return recipe


def read_content(path: str | Path) -> dict[str, Any]:
    """The tables of a recipe file, which may be partial (raises RecipeError where it cannot be read)."""

    def refuse(reason: str) -> RecipeError:
        return RecipeError(f"The recipe {path} cannot be read ({reason}).", "A TOML file is needed.", "See recipes/.")

    content: dict[str, Any] = read_toml(path, refuse)
    return content


def check_trusted(recipe: Recipe) -> None:
    """Raise RecipeError for a recipe that names task files of lm-evaluation-harness."""
    if files := [name for name in recipe.measure.metrics if name.startswith(HARNESS) and is_task_file(name)]:
        raise RecipeError(
            f"The metric {files[0]!r} is a task file.",
            "Such a file can run any code, so neither a recipe nor a run directory decides that it is read.",
            "Look at the file; if you trust it, give --trust-task-files.",
        )


def dump_recipe(recipe: Recipe) -> str:
    """The TOML text of a recipe, every key written out."""
    return tomli_w.dumps(asdict(recipe))


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """The recipe with some settings changed by texts like ``search.gradient.steps=40`` (raises RecipeError)."""
    content = asdict(recipe)
    assign(Recipe, content, assignments)
    return build(Recipe, content)
