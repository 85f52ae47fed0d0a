"""The recipe of a run: everything that decides its result, as frozen dataclasses, TOML in and out."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

from longrope.errors import RecipeError
from longrope.factors import RIVALS

METHODS = ("gradient", "evolution")
RULER_TASKS = (  # of the benchmark (arXiv 2404.06654), by its names
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa"),
)
HARNESS = "harness:"  # begins the name of a benchmark of lm-evaluation-harness, or the path of its task file
BENCHMARK = f"{HARNESS}TASK"
METRICS = {  # the class of each metric; it is made with the name
    "perplexity": "longrope.evaluation.perplexity:Perplexity",
    "passkey": "longrope.evaluation.passkey:PasskeyRetrieval",
    "prefix-perplexity": "longrope.evaluation.perplexity:PrefixPerplexity",
    "retention": "longrope.evaluation.retention:Retention",
    "needle": "longrope.evaluation.needles:Needles",
    "ruler": "longrope.evaluation.ruler:RulerMean",
    **{f"ruler-{task}": "longrope.evaluation.ruler:RulerTask" for task in RULER_TASKS},
    BENCHMARK: "longrope.evaluation.lm_eval:Benchmark",
}
SCHEDULES = ("linear", "cosine", "constant")
KINDS = ("search", "tune", "carry", "recover")


@dataclass(frozen=True)
class EvolutionRecipe:
    """The paper's evolutionary search (arXiv 2402.13753, section 3.2 and appendix A.1); zero means the paper's number.

    Attributes:
        population: 64, or 32 beyond 512k.
        parents: how many of the best survive: 32, or 16.
        mutations, crossovers: new candidates a generation: 16 each, or 8.
        generations: 40, or 20.
        mutation_probability: chance of each coordinate to be redrawn.
        windows: search texts a candidate is scored on: 5, or 3 beyond 256k.
        validate_every: generations between two looks at the validation windows.
    """

    population: int = 0
    parents: int = 0
    mutations: int = 0
    crossovers: int = 0
    generations: int = 0
    mutation_probability: float = 0.3
    windows: int = 0
    validate_every: int = 5

    def filled(self, target_tokens: int) -> "EvolutionRecipe":
        """Replace every zero by the paper's number for this target window."""
        share = 2 if target_tokens > 512 * 1024 else 1
        paper = {"population": 64, "parents": 32, "mutations": 16, "crossovers": 16, "generations": 40}
        chosen = {name: getattr(self, name) or number // share for name, number in paper.items()}
        return replace(self, **chosen, windows=self.windows or (3 if target_tokens > 256 * 1024 else 5))


@dataclass(frozen=True)
class GradientRecipe:
    """Our gradient search of lambda and the attention factor.

    Attributes:
        steps: optimizer steps, one fresh search window each (they are walked again when they run out).
        learning_rate: of the increments of log lambda from pair to pair, as a share of their mean; cosine decay to 0.
        attention_rate: of the log attention factor, as a share of the learning rate.
        start: a closed form (pi, ntk, yarn, critical), or ``scan``: the best of the critical-pair family.
        scan_windows: search windows that the scan scores on.
        validate_every: steps between two looks at the validation windows.
    """

    steps: int = 24
    learning_rate: float = 0.1
    attention_rate: float = 0.1
    start: str = "scan"
    scan_windows: int = 2
    validate_every: int = 4


@dataclass(frozen=True)
class SearchRecipe:
    """How factors are searched.

    Attributes:
        method: ``gradient`` or ``evolution``.
        validation_windows: windows held out from the search, by which the best is chosen.
        tail_tokens: score only the last so many tokens of a window; 0 scores all.
        needle_weight: weight of the mean loss over answers about needles planted in the windows; 0 plants none.
    """

    method: str = "gradient"
    validation_windows: int = 2
    tail_tokens: int = 0
    needle_weight: float = 0.0
    evolution: EvolutionRecipe = field(default_factory=EvolutionRecipe)
    gradient: GradientRecipe = field(default_factory=GradientRecipe)


@dataclass(frozen=True)
class TuneRecipe:
    """How weights are trained.

    Steps, batch, rate and decay are by default the paper's for Llama-2 at 128k (arXiv 2402.13753, section 4.1). For
    Mistral it has a constant rate of 1e-6 and batches of 64.

    Attributes:
        window_tokens: 0 takes the target window of the factors, or the trained window if there are none.
        steps: optimizer steps.
        batch_windows: windows of one step; its loss is the mean over all their scored tokens.
        windows_at_once: how many of them go through the model together; fewer take less memory.
        learning_rate: the highest, reached when the warm-up ends.
        warmup_steps: steps before that, at evenly rising rates.
        schedule: ``linear`` or ``cosine`` decay to 0 after the warm-up, or ``constant``.
        weight_decay: AdamW's, of matrices alone: norms, biases and embeddings (with a head that shares them) have none.
        clip_norm: gradients of a larger norm over all weights are scaled down to it; inf never does.
        checkpoint_every: steps between two checkpoints.
        recompute: compute activations a second time in the backward pass instead of keeping them.
        prefer_documents: windows that lie within one document come first in every epoch; what is left of documents, and
            short ones, are packed one after the other and follow.
        isolate_documents: documents of a window do not see each other, and positions begin anew in each; the first
            token of each but the first is not scored.
        skipped_positions: a longer window whose positions these windows imitate: each is cut in two at a random place,
            and its second part stands a random number of positions later (PoSE, arXiv 2309.10400, section 3). 0 skips
            none.
        short_share: share of the windows that are read as short ones of the model's trained window, with its own RoPE,
            among long ones with rescaled RoPE (mixed windows, LongRoPE2, arXiv 2502.20082, section 3.3). What is left
            of such a window is not read.
        needle_weight: weight of the mean loss over answers about needles planted in the windows; 0 plants none.
        lora_rank: train low-rank adapters of all matrices in the layers (LoRA) and merge them; 0 trains all weights.
        lora_alpha: their scale is alpha / rank; 0 takes twice the rank.
        lora_also: what is trained whole beside the adapters: some of ``norms`` and ``embeddings``.
    """

    window_tokens: int = 0
    steps: int = 400
    batch_windows: int = 32
    windows_at_once: int = 1
    learning_rate: float = 2e-5
    warmup_steps: int = 20
    schedule: str = "linear"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    checkpoint_every: int = 100
    recompute: bool = True
    prefer_documents: bool = False
    isolate_documents: bool = False
    skipped_positions: int = 0
    short_share: float = 0.0
    needle_weight: float = 0.0
    lora_rank: int = 0
    lora_alpha: int = 0
    lora_also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no training can use (raises RecipeError naming the key)."""
        if self.window_tokens:
            _at_least(2, "tune.window_tokens", self.window_tokens)
        for key in ("steps", "batch_windows", "windows_at_once", "checkpoint_every"):
            _at_least(1, f"tune.{key}", getattr(self, key))
        _at_least(0, "tune.warmup_steps", self.warmup_steps)
        _at_least(0, "tune.weight_decay", self.weight_decay)
        _at_least(0, "tune.needle_weight", self.needle_weight)
        self._check_adapters()
        _above_zero(1.0, "tune.learning_rate", self.learning_rate)
        _above_zero(math.inf, "tune.clip_norm", self.clip_norm)
        _one_of(SCHEDULES, "tune.schedule", self.schedule)
        if self.warmup_steps >= self.steps:
            raise RecipeError(
                f"tune.warmup_steps = {self.warmup_steps} with tune.steps = {self.steps}.",
                "The warm-up must end before the last step.",
                "Give more steps, or fewer of warm-up.",
            )
        if self.windows_at_once > self.batch_windows:
            raise RecipeError(
                f"tune.windows_at_once = {self.windows_at_once} with tune.batch_windows = {self.batch_windows}.",
                "No more windows than a batch has can go through the model together.",
                "Give a smaller tune.windows_at_once.",
            )
        if not 0 <= self.short_share < 1:  # NaN, too
            raise RecipeError(
                f"tune.short_share = {self.short_share}.", "A share from 0 on, below 1, is needed.", "Correct it."
            )
        if self.skipped_positions:
            self._check_skips()
        if self.needle_weight and self.isolate_documents:
            raise RecipeError(
                f"tune.needle_weight = {self.needle_weight:g} with tune.isolate_documents.",
                "Questions at the end of a window must see the facts in its other documents.",
                "Leave out one of the two.",
            )

    @property
    def reach_tokens(self) -> int:
        """The window whose positions are seen: that of the windows, or the longer one that they imitate."""
        return max(self.window_tokens, self.skipped_positions)

    def _check_adapters(self) -> None:
        _at_least(0, "tune.lora_rank", self.lora_rank)
        _at_least(0, "tune.lora_alpha", self.lora_alpha)
        for i, part in enumerate(self.lora_also):
            _one_of(("norms", "embeddings"), f"tune.lora_also[{i}]", part)
        for key in ("lora_alpha", "lora_also"):
            if getattr(self, key) and not self.lora_rank:
                raise RecipeError(
                    f"tune.{key} = {getattr(self, key)} with tune.lora_rank = 0.",
                    "Without a rank there are no adapters: all weights are trained.",
                    "Give tune.lora_rank, or leave the other out.",
                )

    def _check_skips(self) -> None:
        if not self.window_tokens or self.skipped_positions <= self.window_tokens:
            raise RecipeError(
                f"tune.skipped_positions = {self.skipped_positions} with tune.window_tokens = {self.window_tokens}.",
                "The window whose positions are imitated must be longer than the one that is read.",
                "Give a shorter tune.window_tokens, or leave tune.skipped_positions out.",
            )
        if self.isolate_documents:
            raise RecipeError(
                f"tune.skipped_positions = {self.skipped_positions} with tune.isolate_documents.",
                "Positions either begin anew in each document or imitate those of one longer window.",
                "Leave out one of the two.",
            )


@dataclass(frozen=True)
class Stage:
    """One stage of a walk: exactly one of ``search``, ``tune``, ``carry``, ``recover`` is set, to a window in tokens.

    Attributes:
        search: search factors for this window, from those that the weights were tuned with.
        tune: train the weights with the longest factors so far, in windows of this length. A shorter one than theirs
            costs less and sees their near positions alone.
        carry: carry the factors of the longest window on to this one by their rule (``factors.carried_on``).
        recover: search a tier for this short window.
        steps: of a tuning; 0 takes ``tune.steps``.
    """

    search: int = 0
    tune: int = 0
    carry: int = 0
    recover: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        """Refuse a stage that is none of the four or several (raises RecipeError)."""
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1 or min(getattr(self, kind) for kind in KINDS) < 0:
            raise RecipeError(
                f"A stage has {', '.join(f'{kind} = {getattr(self, kind)}' for kind in KINDS)}.",
                f"Exactly one of {', '.join(KINDS)} is needed, with a window in tokens.",
                'For example: stages = [{ search = "64k" }, { tune = "64k", steps = 100 }, { recover = "8k" }]',
            )
        if self.steps and self.kind != "tune":
            raise RecipeError(
                f"A {self.kind} stage has steps = {self.steps}.", "Only a tuning has steps.", "Drop them."
            )
        _at_least(0, "stages.steps", self.steps)

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(kind for kind in KINDS if getattr(self, kind))

    @property
    def window_tokens(self) -> int:
        """The window that it is for."""
        return int(getattr(self, self.kind))

    def __str__(self) -> str:
        """As people say it: ``tune 64k, 100 steps``."""
        told = f"{self.kind} {format_tokens(self.window_tokens)}"
        return f"{told}, {self.steps} steps" if self.steps else told


@dataclass(frozen=True)
class MeasureRecipe:
    """What is measured.

    Attributes:
        lengths: context windows in tokens; empty means the trained window and the target.
        metrics: ``perplexity`` and ``passkey``; ``prefix-perplexity`` of the first tokens of each window, which one
            pass gives for all lengths; ``retention`` (perplexity as a share of the original's) at lengths within the
            trained window; ``needle``; ``ruler`` (all of its tasks and their mean) and ``ruler-TASK`` (one of them);
            ``harness:TASK``, a benchmark of lm-evaluation-harness by its name or its file.
        windows: windows of the longest length; the shorter ones divide the same text.
        tail_tokens: perplexity is also given over the last so many tokens of each window.
        passkeys: keys asked for at each length, spread over ten depths.
        rivals: closed forms that ``longrope extend`` measures beside its own factors: pi, ntk, dynamic-ntk, yarn.
        paired_windows: windows of the longest length on which its factors are compared with the best of them token by
            token; 0 takes as many as ``windows``.
        needles: needles asked for at each length, spread over ten depths, up to ten in one text.
        ruler_prompts: prompts of each of ruler's tasks at each length.
        qa_data: a file of questions about documents, of the form of SQuAD, for ruler's ``qa``; without it ``ruler``
            leaves that task out.
    """

    lengths: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ("perplexity", "passkey")
    windows: int = 3
    tail_tokens: int = 1024
    passkeys: int = 20
    rivals: tuple[str, ...] = ()
    paired_windows: int = 0
    needles: int = 20
    ruler_prompts: int = 20
    qa_data: str = ""

    def __post_init__(self) -> None:
        """Refuse values that no measurement can use (raises RecipeError naming the key)."""
        for i, metric in enumerate(self.metrics):
            if not (metric.startswith(HARNESS) and metric != HARNESS):
                _one_of(METRICS, f"measure.metrics[{i}]", metric)
        for i, rival in enumerate(self.rivals):
            _one_of(RIVALS, f"measure.rivals[{i}]", rival)
        for i, length in enumerate(self.lengths):
            _at_least(2, f"measure.lengths[{i}]", length)
        _at_least(1, "measure.windows", self.windows)
        for key in ("passkeys", "needles", "ruler_prompts"):
            _at_least(1, f"measure.{key}", getattr(self, key))
        if "ruler-qa" in self.metrics and not self.qa_data:
            raise RecipeError(
                "measure.metrics names 'ruler-qa'.", "It asks questions of a file.", "Give it with measure.qa_data."
            )
        _at_least(0, "measure.tail_tokens", self.tail_tokens)
        _at_least(0, "measure.paired_windows", self.paired_windows)


@dataclass(frozen=True)
class ExportRecipe:
    """What is exported.

    Attributes:
        tiers: ``single`` writes the long factors for all lengths, which no runtime can get wrong; ``two`` keeps the
            original frequencies up to the trained window and needs a runtime that switches.
        drop_start_tokens: write a checkpoint although runtimes cannot carry start tokens, with the measured difference.
        base_model: the base model's name on the hub, for the model card, where it was loaded from a file or folder.
    """

    tiers: str = "single"
    drop_start_tokens: bool = False
    base_model: str = ""


@dataclass(frozen=True)
class Recipe:
    """One run of ``longrope extend`` or ``longrope compare``.

    Attributes:
        model: hub name, folder or GGUF file.
        target_tokens: the window to reach.
        data: files and folders to search on (and to measure on, in disjoint parts, unless ``measure_data`` is given).
        measure_data: files and folders of another source to measure on.
        seed: decides every random choice.
        dtype: float32, bfloat16, float16, or auto (bfloat16 on a GPU, float32 on a CPU).
        device: cpu, cuda, or auto.
        compiled: run passes without gradients through torch.compile: faster at length, after seconds of compiling.
        stages: of a progressive walk, in order; none means one search for ``target_tokens``.
    """

    model: str
    target_tokens: int
    data: tuple[str, ...]
    measure_data: tuple[str, ...] = ()
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    compiled: bool = False
    stages: tuple[Stage, ...] = ()
    search: SearchRecipe = field(default_factory=SearchRecipe)
    tune: TuneRecipe = field(default_factory=TuneRecipe)
    measure: MeasureRecipe = field(default_factory=MeasureRecipe)
    export: ExportRecipe = field(default_factory=ExportRecipe)

    def __post_init__(self) -> None:
        """Refuse values that no run can use (raises RecipeError naming the key)."""
        search, gradient = self.search, self.search.gradient
        evolution = asdict(search.evolution)
        probability = evolution.pop("mutation_probability")
        _one_of(("auto", "float32", "bfloat16", "float16"), "dtype", self.dtype)
        _one_of(METHODS, "search.method", search.method)
        _one_of(("scan", "pi", "ntk", "yarn", "critical"), "search.gradient.start", gradient.start)
        _one_of(("single", "two"), "export.tiers", self.export.tiers)
        _at_least(1, "target_tokens", self.target_tokens)
        _at_least(0, "seed", self.seed)
        _at_least(1, "search.validation_windows", search.validation_windows)
        _at_least(0, "search.tail_tokens", search.tail_tokens)
        _at_least(0, "search.needle_weight", search.needle_weight)
        _at_least(1, "search.gradient.steps", gradient.steps)
        _at_least(1, "search.gradient.scan_windows", gradient.scan_windows)
        _at_least(1, "search.gradient.validate_every", gradient.validate_every)
        for key, number in evolution.items():
            _at_least(key == "validate_every", f"search.evolution.{key}", number)
        self._check_stages()
        _above_zero(100.0, "search.gradient.learning_rate", gradient.learning_rate)
        _above_zero(100.0, "search.gradient.attention_rate", gradient.attention_rate)
        _above_zero(1.0, "search.evolution.mutation_probability", probability)

    def _check_stages(self) -> None:
        """Every stage finds the factors that it needs, and the last ones reach the target (raises RecipeError)."""
        tuned, tiers = 0, [0]
        for stage in self.stages:
            window, longest = stage.window_tokens, max(tiers)
            reach = self.tuning(stage).reach_tokens if stage.kind == "tune" else window
            fitting, needed = {
                "search": (window > tuned, "It must be longer than the window that the weights were tuned with."),
                "tune": (reach <= longest, "It needs factors for its window or a longer one."),
                "carry": (tuned < longest < window, "It needs searched factors of a shorter window to carry on."),
                "recover": (window < longest, "It needs factors of a longer window."),
            }[stage.kind]
            if not fitting:
                raise RecipeError(
                    f"In stages, {stage} comes after factors for {_told(tiers)}; tuned with: {_told([tuned])}.",
                    needed,
                    'For example: stages = [{ search = "64k" }, { tune = "64k" }, { recover = "8k" }]',
                )
            if stage.kind == "tune":
                tuned, tiers = longest, [longest]
            else:
                tiers.append(window)
        if self.stages and max(tiers) != self.target_tokens:
            raise RecipeError(
                f"The stages leave factors for {_told(tiers)}, and target_tokens = {self.target_tokens}.",
                "The longest of them must be the target.",
                "Correct stages or target_tokens.",
            )

    def tuning(self, stage: Stage) -> TuneRecipe:
        """The settings of one tuning stage."""
        return replace(self.tune, window_tokens=stage.window_tokens, steps=stage.steps or self.tune.steps)


def _told(tiers: list[int]) -> str:
    """Windows that there are factors for, as people say them."""
    return ", ".join(format_tokens(tier) for tier in sorted(set(tiers)) if tier) or "no window"


def _one_of(allowed: Iterable[str], key: str, value: str) -> None:
    if value not in allowed:
        raise RecipeError(f"{key} = {value!r}.", f"One of {', '.join(allowed)} is needed.", "Correct it.")


def _at_least(least: int, key: str, number: float) -> None:
    if not number >= least:  # NaN, too
        raise RecipeError(f"{key} = {number}.", f"At least {int(least)} is needed.", "Correct it.")


def _above_zero(most: float, key: str, number: float) -> None:
    if not 0 < number <= most:  # NaN, too
        raise RecipeError(f"{key} = {number}.", f"A number above 0 and up to {most:g} is needed.", "Correct it.")


PRESETS = {  # arXiv 2402.13753, section 4.1; the paper's global batches, at the steps of its first stage
    "llama2": TuneRecipe(steps=400, batch_windows=32, learning_rate=2e-5, schedule="linear"),
    "mistral": TuneRecipe(steps=400, batch_windows=64, learning_rate=1e-6, schedule="constant"),
}


def parse_tokens(text: str) -> int:
    """Read a number of tokens: ``64k`` = ``65536`` = ``65_536``, ``2m`` = ``2048k``."""
    match = re.fullmatch(r"(\d+(?:_\d+)*)([km]?)", text.strip().lower(), re.ASCII)
    if not match or not (tokens := int(match[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2]]):
        raise RecipeError(f"{text!r} was given as a number of tokens.", "Write 65536, 64k or 2m.", "Correct it.")
    return tokens


def format_tokens(tokens: int) -> str:
    """Write a number of tokens the short way: 65536 -> ``64k``, 1000 -> ``1000``."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


Node = TypeVar("Node")


def load_recipe(path: str | Path) -> Recipe:
    """Read a TOML recipe; raise RecipeError naming an unknown key and the nearest known one."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The recipe {path} cannot be read ({error}).", "A TOML file is needed.", "See the folder recipes/."
        ) from None
    return _build(Recipe, content, "")


def dump_recipe(recipe: Recipe) -> str:
    """The TOML text of a recipe, every key written out."""
    return tomli_w.dumps(asdict(recipe))


def _build(kind: type[Node], content: Mapping[str, Any], prefix: str) -> Node:
    hints = get_type_hints(kind)
    for key in content:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise RecipeError(
                f"The recipe has an unknown key {prefix + key!r}.",
                f"The nearest known one is {prefix + near!r}.",
                f"Known here: {', '.join(hints)}.",
            )
    values = {key: _convert(hints[key], value, prefix + key) for key, value in content.items()}
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    missing = sorted(required - values.keys())
    if missing:
        raise RecipeError(f"The recipe has no {prefix + missing[0]!r}.", "It is required.", "Add it.")
    return kind(**values)


def _convert(hint: Any, value: Any, key: str) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _build(hint, value, key + ".")  # type: ignore[arg-type]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], item, key) for item in value)
    if hint is int and isinstance(value, str):
        return parse_tokens(value)
    if hint is float and type(value) is int:
        return float(value)
    if not is_dataclass(hint) and get_origin(hint) is None and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise RecipeError(f"The recipe says {key} = {value!r}.", f"A value of the type {wanted} is needed.", "Correct it.")
