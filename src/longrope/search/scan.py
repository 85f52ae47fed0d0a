"""The scan of two numbers, a baseline: the base theta * s ** e of NTK-aware scaling, and the attention factor m.

A grid of both is scored on the search windows, then points closer and closer to the best one. Held-out windows choose
among the best points of different parts of the grid, NTK-aware scaling and NTK by critical dimension.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product

import numpy as np

from longrope.data import TokenText, sketch
from longrope.models import LanguageModel
from longrope.recipe import Recipe, SearchRecipe
from longrope.rope import (
    RescaleFactors,
    RopeSpec,
    baseline_factors,
    compose,
    counted_from,
    extension_ratio,
    rebased_lambdas,
    su_attention_factor,
    tuned_spec,
)
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir
from longrope.search.checks import check_search
from longrope.search.choice import Choose, choose_by_loss, make_choice
from longrope.search.cost import count_gradient_passes
from longrope.search.score import Losses, TrialLog, WindowObjective, cut_windows

METHOD = "ntk-scan"
EXPONENTS = (0.5, 1.0, 1.25, 1.75, 2.0, 2.5, 3.0)  # and those of the two formulas
ATTENTIONS = (0.0, 0.05, 0.1, 0.15, 0.2)  # times ln s, added to 1; and LongRoPE's
FINALISTS = 4  # of the search windows, which the held-out windows choose from
NEIGHBOURS = 8  # of a point, at most
ROUNDS, MOST_ROUNDS = 3, 5  # of refinement: those that the windows of a point are reckoned with, and those made
Point = tuple[float, float]  # the exponent e, the attention factor m


@dataclass
class Axis:
    """The values of one of the two numbers.

    Attributes:
        name: in messages.
        values: ascending.
        beyond: the value to add below the first one and above the last one, once, where the best lies there.
    """

    name: str
    values: list[float]
    beyond: dict[str, float]

    def refine(self, at: float) -> None:
        """Add the midpoints between a value and its neighbours; beside an end, the value beyond it if it is left."""
        i, last = self.values.index(at), len(self.values) - 1
        below = (self.values[i - 1] + at) / 2 if i else self.beyond.pop("below", at)
        above = (self.values[i + 1] + at) / 2 if i < last else self.beyond.pop("above", at)
        self.values = sorted({*self.values, below, above})

    def near(self, at: float) -> list[float]:
        """A value and its neighbours."""
        i = self.values.index(at)
        return self.values[max(0, i - 1) : i + 2]

    def is_edge(self, at: float) -> bool:
        """Whether a value is the first or the last."""
        return at in (self.values[0], self.values[-1])


@dataclass(frozen=True)
class Scanned:
    """What a scan has found.

    Attributes:
        factors: the best by the held-out windows.
        exponent: e of their base theta * s ** e.
        theta: that base.
        passes: passes over a window that the scan took, those of the last choice aside.
        budget: the passes that it might take.
        edges: the numbers whose best value is the first or the last of the scanned ones: a better one may lie beyond.
    """

    factors: RescaleFactors
    exponent: float
    theta: float
    passes: int
    budget: int
    edges: tuple[str, ...]

    def __str__(self) -> str:
        """As one line."""
        line = (
            f"{METHOD}: base {self.theta:,.0f} (theta * s^{self.exponent:.4g}), attention factor "
            f"{self.factors.attention_factor:.4f}, {self.passes} window passes of a budget of {self.budget}"
        )
        edges = " and the ".join(self.edges)
        return f"{line}; unfinished: the best {edges} lies on the edge of the grid" if edges else line

    def dump(self) -> str:
        """The JSON text of all but the lambdas, which have a file of their own."""
        kept = asdict(self) | {"factors": self.factors.fingerprint, "attention_factor": self.factors.attention_factor}
        return json.dumps(kept, indent=1) + "\n"


def scan_base(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    *,
    run: RunDir | None = None,
    settings: SearchRecipe | None = None,
    seed: int = 0,
    passes: int = 0,
    on_trial: Callable[[Trial], None] = lambda _: None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RescaleFactors:
    """Scan the base and the attention factor that let a model read ``target_tokens`` tokens.

    Args:
        model: the model.
        text: the search part of some texts; the windows are those of the gradient search with this seed.
        target_tokens: the window to reach, longer than the trained one.
        run: where trials, factors and what was found go; what its trials know already is not evaluated again.
        settings: what is scored, and the number of held-out windows.
        seed: decides the order of the windows.
        passes: over a window of the target length, about as many as the scan may take; 0 takes as many as a gradient
            search with these settings. More of them are more windows for each point. The whole grid is scored in any
            case, on one window if there are few.
        on_trial: called after every evaluation.
        on_message: called with what was found, as one line.

    Returns:
        The best factors by the held-out windows, where NTK and NTK by critical dimension take part.

    Raises:
        FactorsError: the target is not beyond the trained window.
        TextsError: the text is too short, or the window for its needles.
        ModelError: neither of the two formulas has a finite loss.
    """
    settings, spec = settings or SearchRecipe(), tuned_spec(model.spec, None)
    check_search(model, text, target_tokens, trained_window=spec.trained_window, settings=settings)
    budget = passes or count_gradient_passes(settings, target_tokens)
    scan = Scan.begin(spec, target_tokens)
    searched, held_out = cut_windows(text, target_tokens, settings.validation_windows, seed)
    windows = scan.windows_for(budget, len(held_out), len(searched))
    searched, base = searched[:windows], counted_from(model.spec, None)
    objective = WindowObjective.prepare(
        model, searched, held_out, windows, settings.tail_tokens, settings.needle_weight, seed, tuned_with=base
    )
    log = TrialLog(run.trials if run else None, METHOD, objective.model_name, objective.fingerprint, on_trial)
    choose = make_choice(model, held_out, settings, seed, base)
    found = scan.search(objective, log, budget, windows, len(held_out), choose)
    read = sketch(np.concatenate([searched, held_out]))
    factors = replace(compose(base, found.factors, model.spec), searched=read, table=model.rope_table)
    on_message(str(found))
    if run:
        run.write_factors(factors, METHOD)
        run.write_text(run.scan, found.dump())
    return factors


def count_scan_passes(spec: RopeSpec, recipe: Recipe) -> int:
    """About how many passes over a window of the target length the scan of a recipe takes."""
    settings, target = recipe.search, recipe.target_tokens
    budget = recipe.measure.scan_passes or count_gradient_passes(settings, target)
    scan, held_out = Scan.begin(spec, target), settings.validation_windows
    windows, last = scan.windows_for(budget, held_out, budget), scan.last_passes(held_out)
    grid = len(scan.exponents.values) * len(scan.attentions.values)
    rounds = max(0, min(MOST_ROUNDS, ((budget - last) // windows - grid) // NEIGHBOURS))
    return (grid + rounds * NEIGHBOURS) * windows + last


@dataclass
class Scan:
    """The points of a scan and their losses on the search windows.

    Attributes:
        spec: the model's geometry.
        starts: NTK-aware scaling and NTK by critical dimension, with their points.
        exponents, attentions: the values of both numbers.
        losses: of each point that was scored, in nats.
    """

    spec: RopeSpec
    starts: dict[Point, RescaleFactors]
    exponents: Axis
    attentions: Axis
    losses: dict[Point, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, spec: RopeSpec, target_tokens: int) -> "Scan":
        """The grid for a target window, with nothing scored."""
        pairs, ratio = spec.num_pairs, extension_ratio(spec, target_tokens)
        formulas = {"ntk": pairs / max(1, pairs - 1), "ntk-critical": pairs / max(1, spec.critical_pair)}
        starts = {(e, 1.0): baseline_factors(spec, name, target_tokens).factor_sets[0] for name, e in formulas.items()}
        exponents = sorted({*EXPONENTS, *formulas.values()})
        log = math.log(ratio)
        attentions = sorted(
            {*(1 + share * log for share in ATTENTIONS), su_attention_factor(ratio, spec.trained_window)}
        )
        step = 0.05 * log
        return cls(
            spec,
            starts,
            Axis("exponent of the base", exponents, {"below": exponents[0] / 2, "above": exponents[-1] * 4 / 3}),
            Axis("attention factor", attentions, {"below": 1 / (1 + step), "above": attentions[-1] + step}),
        )

    def windows_for(self, budget: int, held_out: int, most: int) -> int:
        """The search windows that a budget of passes pays for at every point, at least one."""
        points = len(self.exponents.values) * len(self.attentions.values) + ROUNDS * NEIGHBOURS
        return max(1, min(most, (budget - self.last_passes(held_out)) // points))

    def last_passes(self, held_out: int) -> int:
        """The passes of all evaluations on held-out windows."""
        return (len(self.starts) + FINALISTS) * held_out

    def search(
        self,
        objective: Losses,
        log: TrialLog,
        budget: int,
        windows: int,
        held_out: int,
        choose: Choose = choose_by_loss,
    ) -> Scanned:
        """Score the grid, then points closer and closer to the best while the budget lasts, and choose.

        Args:
            objective: the score.
            log: where the trials go; a log that has some is resumed.
            budget: passes over a window.
            windows: of one search evaluation.
            held_out: windows of one evaluation on held-out windows.
            choose: the last choice among the validated candidates.

        Raises:
            ModelError: neither start has a finite loss.
        """
        log.validate_starts([(start.method, start) for start in self.starts.values()], objective)
        grid = list(product(self.exponents.values, self.attentions.values))
        self._score(grid, "grid", 0, objective, log)
        left, step = budget - self.last_passes(held_out), 0
        while step < MOST_ROUNDS and (len(self.losses) + NEIGHBOURS) * windows <= left:
            exponent, attention = self._ranked()[0]
            self.exponents.refine(exponent)
            self.attentions.refine(attention)
            near = product(self.exponents.near(exponent), self.attentions.near(attention))
            step += 1
            self._score(near, "refined", step, objective, log)
        finalists = self._finalists(grid)
        last = [("finalist", self.factors(point)) for point in finalists]
        log.evaluate_many(step, "validation", last, objective.validation_loss)
        passes = len(self.losses) * windows + (len(self.starts) + len(last)) * held_out
        best = choose(log, log.validated, list(self.starts.values()))
        return self._choose(log, best, finalists, passes, budget)

    def factors(self, point: Point) -> RescaleFactors:
        """The factors of a point; those of the two formulas are exactly theirs."""
        if point in self.starts:
            return self.starts[point]
        start, (exponent, attention) = next(iter(self.starts.values())), point
        lambdas = rebased_lambdas(self.spec.num_pairs, self._ratio, exponent)
        return replace(start, lambdas=tuple(lambdas.tolist()), attention_factor=attention, method=METHOD)

    @property
    def _ratio(self) -> float:
        return extension_ratio(self.spec, next(iter(self.starts.values())).target_window)

    def _ranked(self) -> list[Point]:
        """The scored points, best first, the earliest of equals."""
        return sorted(self.losses, key=lambda point: self.losses[point])

    def _finalists(self, grid: Sequence[Point]) -> list[Point]:
        """The best points, of those that are nearest to the same point of the grid the best alone; no start."""
        best: dict[Point, Point] = {}
        for point in self._ranked():
            best.setdefault(min(grid, key=lambda other: math.dist(point, other)), point)
        return [point for point in best.values() if point not in self.starts][:FINALISTS]

    def _score(self, points: Iterable[Point], origin: str, step: int, objective: Losses, log: TrialLog) -> None:
        """Score those points that have no loss."""
        new = [point for point in points if point not in self.losses]
        candidates = [(origin, self.factors(point)) for point in new]
        trials = log.evaluate_many(step, "search", candidates, objective.search_loss)
        self.losses |= {point: trial.loss_nats for point, trial in zip(new, trials, strict=True)}

    def _choose(self, log: TrialLog, best: Trial, finalists: Sequence[Point], passes: int, budget: int) -> Scanned:
        """What was found, by its chosen trial."""
        factors = log.choose(best, list(self.starts.values()))
        acting = (factors.lambdas, factors.attention_factor)
        point = next(
            point
            for point in (*self.starts, *finalists)
            if (self.factors(point).lambdas, self.factors(point).attention_factor) == acting
        )
        axes = zip((self.exponents, self.attentions), point, strict=True)
        edges = tuple(axis.name for axis, value in axes if axis.is_edge(value))
        return Scanned(factors, point[0], self.spec.theta * self._ratio ** point[0], passes, budget, edges)
