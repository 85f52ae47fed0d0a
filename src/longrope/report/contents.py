"""What a run directory holds, read as records, also while it is written. Nothing here is worked out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrope.errors import RunError
from longrope.labels import JOINT
from longrope.recipe import Recipe, load_recipe
from longrope.registry import baselines
from longrope.rope import RescaleFactors, load_factors
from longrope.runs.files import read_bytes_of_run
from longrope.runs.identity import weights_of
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import STAGE_FINISHED, RunDir
from longrope.runs.schedule import stage_record, stages_of
from longrope.runs.shapes import COSTS, EXPORT, ROPE, SCAN, SESSIONS, read_shaped

MOST_LINES = 100_000  # of a file, that a page shows: many times those of the longest runs
MOST_NAMES = 300  # of methods, metrics or lengths: each is a line in a figure, a row or a column


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its folder's name, its ``stage.json`` (None: not finished), and its own records."""

    name: str
    marker: dict[str, Any] | None
    trials: tuple[Trial, ...]
    train: tuple[TrainStep, ...]
    factors: tuple[RescaleFactors, ...]


@dataclass(frozen=True)
class Contents:
    """All that a report shows of one run.

    Attributes:
        name: of the directory.
        recipe: None where the directory holds none (a bare measurement).
        recipe_text: its TOML.
        scores, trials, train: the records; of tuned weights and their factors only those of the last finished schedule.
        factors: of each search and scan of the run, one factor set each.
        rope: ``rope.json``, the geometry of the model's RoPE and the factors of each formula.
        provenance: ``provenance.json``, one entry for each session that wrote here.
        costs: ``costs.json``, what each search took.
        scan: ``scan.json``, what the scan of base and attention factor found.
        export: ``export.json``, how the reopened checkpoint compared.
        stages: in their order; of the last finished schedule, or all that there are where none is finished.
        tuned: whether the directory or a stage holds trained weights, also where their log is gone.
    """

    name: str
    recipe: Recipe | None
    recipe_text: str
    scores: tuple[Score, ...]
    trials: tuple[Trial, ...]
    train: tuple[TrainStep, ...]
    factors: tuple[RescaleFactors, ...]
    rope: dict[str, Any] | None
    provenance: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    scan: dict[str, Any] | None
    export: dict[str, Any] | None
    stages: tuple[Stage, ...]
    tuned: bool = False

    @property
    def by_formula(self) -> tuple[Score, ...] | None:
        """The scores of a baseline that the recipe has in the place of a search; None where there is a search.

        None, too, where the formula has another attention factor: then its scores have a name that no baseline has.
        """
        if not self.recipe or self.is_trained:
            return None
        searched = [self.recipe.searching(stage) for stage in self.recipe.stages if stage.search]
        method = (searched or [self.recipe.search])[-1].method
        if method not in baselines() or any(score.method.startswith(f"{method}{JOINT}") for score in self.scores):
            return None
        return tuple(score for score in self.scores if score.method == method)

    @property
    def model(self) -> str:
        """The name that the model was loaded by."""
        return self.recipe.model if self.recipe else self.scores[0].model if self.scores else self.name

    @property
    def title(self) -> str:
        """The same without the folders of a path."""
        is_path = self.model.endswith(".gguf") or self.model.startswith(("/", "."))
        return Path(self.model).name if is_path else self.model

    @property
    def reached_tokens(self) -> int:
        """The longest window that it was extended to, by its recipe or by a stage after it; 0 if neither is known."""
        windows = [found.target_window for stage in self.stages for found in stage.factors]
        return max([*windows, self.recipe.target_tokens if self.recipe else 0])

    @property
    def is_trained(self) -> bool:
        """Whether weights were trained: by the run or by a stage of it."""
        return self.tuned or bool(self.train) or any(stage.train for stage in self.stages)


def read_run(run: RunDir) -> Contents:
    """Read a run directory (raises RunError where it holds neither a recipe nor scores, or a damaged file)."""
    recipe = run.path / "recipe.toml"
    if not recipe.exists() and not run.scores.exists():
        raise RunError(
            f"{run.path} holds neither recipe.toml nor scores.jsonl.",
            "A run directory is needed.",
            "Make one with `longrope extend`.",
        )
    factors = _factors(run.path)
    return Contents(
        name=run.path.resolve().name,
        recipe=load_recipe(recipe, trust_task_files=True) if recipe.exists() else None,
        recipe_text=read_bytes_of_run(recipe).decode() if recipe.exists() else "",
        scores=tuple(_named(score, factors) for score in _scores(run)),
        trials=tuple(read_records(run.trials, Trial, mend=False, most=MOST_LINES)),
        train=tuple(read_records(run.train, TrainStep, mend=False, most=MOST_LINES)),
        factors=factors,
        rope=read_shaped(run.rope, ROPE),
        provenance=read_shaped(run.provenance, SESSIONS) or [],
        costs=read_shaped(run.costs, COSTS) or [],
        scan=read_shaped(run.scan, SCAN),
        export=read_shaped(run.export_report, EXPORT),
        stages=tuple(_stages(run)),
        tuned=any((folder / run.tuning.name).exists() for folder in (run.path, *stages_of(run))),
    )


def _scores(run: RunDir) -> Iterator[Score]:
    """The scores of a run, without those that a later schedule left behind: of other weights, or measured again."""
    scores, scheduled = read_records(run.scores, Score, mend=False, most=MOST_LINES), stages_of(run)
    for named in ("method", "metric", "context_tokens"):
        if (count := len({getattr(score, named) for score in scores})) > MOST_NAMES:
            raise RunError(
                f"{run.scores} has {count:,} values of {named}.",
                f"A page shows at most {MOST_NAMES:,}.",
                "Give another run directory.",
            )
    left = {path.parent for path in run.stages.glob(f"*/{STAGE_FINISHED}")} - set(scheduled)
    weights, others = ({stage_record(folder).get("weights", "") for folder in folders} for folders in (scheduled, left))
    left_behind = others - weights - {""}
    made = load_factors(run.factors()).fingerprint if run.scheduled.exists() and run.factors().exists() else None
    measured = {_place(score) for score in scores if score.factors_fingerprint == made}
    for score in scores:
        again = _place(score) in measured and score.factors_fingerprint != made
        if not (again or weights_of(score.model) in left_behind):
            yield score


def _named(score: Score, factors: Sequence[RescaleFactors]) -> Score:
    """A score with the source that the factors of the run tell, where an earlier version wrote its line without."""
    key = (score.factors_fingerprint, score.source.known_as)
    own = [factor_set.source for factor_set in factors if (factor_set.fingerprint, factor_set.source.known_as) == key]
    return replace(score, **own[0]._asdict()) if own else score


def _place(score: Score) -> tuple[str, int, str]:
    return score.metric, score.context_tokens, score.source.known_as


def _stages(run: RunDir) -> Iterator[Stage]:
    """The stages ``<n>-<name>`` by their numbers."""
    for path in stages_of(run):
        yield Stage(
            name=path.name.partition("-")[2],
            marker=stage_record(path) or None,
            trials=tuple(read_records(path / "trials.jsonl", Trial, mend=False, most=MOST_LINES)),
            train=tuple(read_records(path / "train.jsonl", TrainStep, mend=False, most=MOST_LINES)),
            factors=_factors(path),
        )


def _factors(folder: Path) -> tuple[RescaleFactors, ...]:
    """The longest factor set of every file of factors, those of one content and source once."""
    paths = [*sorted(folder.glob("factors-*.json")), *folder.glob("factors.json")]
    found = (load_factors(path).factor_sets[-1] for path in paths)
    return tuple({(factor_set.fingerprint, factor_set.source): factor_set for factor_set in found}.values())
