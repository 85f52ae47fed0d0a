"""How factors are searched, as settings; zeros stand for the paper's numbers."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from longrope import registry
from longrope.errors import RecipeError
from longrope.settings import Count, CountOrZero, Settings, above, at_least, listed, one_of

Weight = Annotated[float, at_least(0)]
Rate = Annotated[float, above(0, 100)]


@dataclass(frozen=True)
class EvolutionRecipe(Settings, section="search.evolution"):
    """The paper's evolutionary search (arXiv 2402.13753, section 3.2 and appendix A.1); zero means the paper's number.

    Attributes:
        population: size of the population: 64, or 32 beyond 512k.
        parents: number of best candidates that survive a generation: 32.
        mutations, crossovers: new candidates per generation: 16, or 8 beyond 512k.
        generations: number of generations: 40.
        mutation_probability: probability that a mutation redraws a coordinate.
        windows: search windows that each candidate is scored on: 5, or 3 beyond 256k.
        validate_every: generations between two measurements on the validation windows.
        starts: factors by formula that the population begins with, beside mutations of them: the paper's pi, ntk and
            yarn; critical can be added.
    """

    population: CountOrZero = 0
    parents: CountOrZero = 0
    mutations: CountOrZero = 0
    crossovers: CountOrZero = 0
    generations: CountOrZero = 0
    mutation_probability: Annotated[float, above(0, 1)] = 0.3
    windows: CountOrZero = 0
    validate_every: Count = 5
    starts: tuple[Annotated[str, listed(registry.starts)], ...] = ("pi", "ntk", "yarn")

    def check(self) -> None:
        """Refuse an evolution that begins with nothing (raises RecipeError)."""
        if not self.starts:
            raise RecipeError(
                "search.evolution.starts is empty.",
                f"At least one of {', '.join(registry.starts())} is needed.",
                "Name one, or leave the setting out.",
            )

    def filled(self, target_tokens: int) -> "EvolutionRecipe":
        """Replace every zero by the paper's number for this target window."""
        far = target_tokens > 512 * 1024  # population, mutations and crossovers are halved there, and nothing else
        paper = {"population": 64, "mutations": 16, "crossovers": 16}
        paper = {name: number // 2 if far else number for name, number in paper.items()}
        paper |= {"parents": 32, "generations": 40}
        chosen: dict[str, Any] = {name: getattr(self, name) or number for name, number in paper.items()}
        windows = self.windows or (3 if target_tokens > 256 * 1024 else 5)
        return replace(self, **chosen, windows=windows)


@dataclass(frozen=True)
class GradientRecipe(Settings, section="search.gradient"):
    """Our gradient search of lambda and the attention factor.

    Attributes:
        steps: optimizer steps. Each step reads another search window; windows are read again when they run out.
        learning_rate: learning rate of the increments of log lambda from pair to pair, as a share of their mean, with
            cosine decay to 0.
        attention_rate: learning rate of the log attention factor, as a share of the learning rate.
        start: factors by formula (pi, ntk, yarn, critical), or ``scan``: the best of the critical-pair family.
        scan_windows: search windows that the scan scores on.
        validate_every: steps between two measurements on the validation windows.
        start_tokens: ``end`` tries several numbers of start tokens after the descent, with the factors found; ``joint``
            also descends with several of these numbers side by side, for a part of the steps.
        floor: the pair from which on lambda is kept at s or above: ``critical``, or with ``scan`` one of a few after
            it, where the start is better with smaller lambdas before that pair. On the bundled model this lowers
            perplexity, and answers about far needles can get worse.
    """

    steps: Count = 24
    learning_rate: Rate = 0.1
    attention_rate: Rate = 0.1
    start: Annotated[str, listed(lambda: ("scan", *registry.starts()))] = "scan"
    scan_windows: Count = 2
    validate_every: Count = 4
    start_tokens: Annotated[str, one_of("end", "joint")] = "end"
    floor: Annotated[str, one_of("critical", "scan")] = "critical"


@dataclass(frozen=True)
class CmaRecipe(Settings, section="search.cma"):
    """CMA-ES over a few knots of the factors around the critical pair, and the attention factor; needs longrope[cma].

    Attributes:
        passes: passes over a window that the search takes at most, beside those of its last choice.
        windows: search windows that each candidate is scored on. Each generation of ten reads other ones.
    """

    passes: Count = 500
    windows: Count = 2


@dataclass(frozen=True)
class SearchRecipe(Settings, section="search"):
    """How factors are searched.

    Attributes:
        method: ``gradient``, ``evolution`` or ``cma``; or a baseline instead of these: ntk-scan or longrope2, which
            search, too, or one of the formulas pi, ntk, ntk-critical, yarn, critical and critical-real. With a formula,
            short windows keep the model's own RoPE.
        attention_factor: with a formula, multiplies cos and sin in the place of the formula's own attention factor; 0
            takes the formula's. Searches find or set their own.
        validation_windows: windows held out from the search; the best candidate is chosen by them.
        tail_tokens: score only this number of last tokens of a window; 0 scores all.
        needle_weight: weight of the mean loss over answers about needles planted in the windows; 0 plants none.
        choose_by: how the search chooses among its best candidates. ``needles`` compares their loss on the tail of the
            held-out windows (``tail_tokens``, or the second half). If that does not separate some of them, it compares
            these by answers about needles planted there, where a window is long enough. ``loss`` compares the loss that
            the search minimizes.
    """

    method: Annotated[str, listed(registry.factor_methods, registry.describe_measured_alone)] = "gradient"
    attention_factor: Annotated[float, at_least(0)] = 0.0
    validation_windows: Count = 2
    tail_tokens: CountOrZero = 0
    needle_weight: Weight = 0.0
    choose_by: Annotated[str, one_of("needles", "loss")] = "needles"
    evolution: EvolutionRecipe = field(default_factory=EvolutionRecipe)
    gradient: GradientRecipe = field(default_factory=GradientRecipe)
    cma: CmaRecipe = field(default_factory=CmaRecipe)

    def check(self) -> None:
        """Refuse an attention factor for a method that has its own way to one (raises RecipeError)."""
        if self.attention_factor and self.method not in registry.one_set_formulas():
            raise RecipeError(
                f"search.attention_factor = {self.attention_factor:g} was given with search.method = {self.method!r}.",
                f"Only the factors of a formula ({', '.join(registry.one_set_formulas())}) take one.",
                "Give search.method one of these, or leave the setting out.",
            )
