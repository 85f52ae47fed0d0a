"""What a metric is: samples from a model, scores from samples. Each metric is one module and one row of the table.

Shape legend: W = windows, M = tokens of a window of the longest length, N = tokens of a window of the context's length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar
from weakref import ref

from longrope.data import Tokens, TokenText
from longrope.errors import RunError
from longrope.evaluation.samples import Arrays, Identity, SampleCache, Samples
from longrope.labels import Source
from longrope.models import LanguageModel, at_length, check_not_rescaled, rescaled
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors, RopeSpec
from longrope.runs.records import Score

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Subject:
    """What is measured: a model as one method reads with it.

    Attributes:
        model: the model. Its name stands for its weights in every record.
        table: its factor sets; None leaves the model's own RoPE.
        method: the name in the records.
        attention: what a method of that kind changes: given the model and a length in tokens, a context manager within
            which the model reads sequences of this length, a ``nullcontext`` where nothing is changed; None changes
            nothing at any length.
        at_hand: False where the weights in memory have been tuned since: samples are looked up, and cannot be made.
    """

    model: LanguageModel
    table: FactorTable | None
    method: str
    attention: Callable[[LanguageModel, int], AbstractContextManager[None]] | None = None
    at_hand: bool = True

    @property
    def source(self) -> Source:
        """Where its factors come from and which search chose them, by those of the longest window."""
        if self.table is None:
            return Source(self.method)
        longest = self.table.factor_sets[-1]
        return Source(self.method, longest.chosen_by, "" if longest.method in (self.method, "none") else longest.method)

    @property
    def factors_fingerprint(self) -> str:
        """That of all factor sets; empty for the original model."""
        return self.table.fingerprint if self.table else ""

    def is_same(self, other: "Subject") -> bool:
        """Whether both have the same weights, factors and attention."""
        ours, theirs = ((some.model.name, some.factors_fingerprint, some.attention) for some in (self, other))
        return ours == theirs

    def changes_attention(self, length: int) -> bool:
        """Whether it reads sequences of a length in tokens by another attention than the model's own."""
        return self.attention is not None and not isinstance(self.attention(self.model, length), nullcontext)

    def factors(self, length: int) -> RescaleFactors | None:
        """The factor set in use at this length in tokens."""
        return self.table.choose(length) if self.table else None

    @contextmanager
    def reading(self, length: int) -> Iterator[None]:
        """Run the model as this method reads sequences of a length in tokens, inside a ``with`` block.

        Raises:
            ModelError: it reads without factors, inside a block of rescaled ones.
        """
        if self.table is None:
            check_not_rescaled(self.model)
        changed = self.attention(self.model, length) if self.attention else nullcontext()
        with changed, rescaled(self.model, self.factors(length)), at_length(self.model, length):
            yield


@dataclass(frozen=True)
class Context:
    """All that one measurement depends on.

    Attributes:
        subject: what is measured.
        original: the model before its weights were tuned, without factors.
        text: where the windows come from.
        windows: [W, M] tokens of the longest length.
        documents: [W, M], which document of the text each of these tokens belongs to.
        lengths: all lengths that are measured, in tokens.
        length: the one that is measured here, N.
        settings: how much is measured.
        seed: of prompts and of the bootstrap.
        cache: where samples are looked up and kept.
        prompts: what is known of prompts by what decides them; see ``once``.
        begin: is called before samples are made.
        passed: is called as samples are made, with how many windows or prompts have gone through the model.
    """

    subject: Subject
    original: Subject
    text: TokenText
    windows: Tokens
    documents: Tokens
    lengths: tuple[int, ...]
    length: int
    settings: MeasureRecipe
    seed: int
    cache: SampleCache
    prompts: dict[tuple[Hashable, ...], tuple[TokenText, Any]] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None
    passed: Callable[[int], None] = lambda _: None

    def counted(self, work: Callable[[T], R]) -> Callable[[T], R]:
        """Some work for one prompt, after which ``passed`` is called."""

        def done(item: T) -> R:
            result = work(item)
            self.passed(1)
            return result

        return done

    def once(self, what: tuple[str, str], make: Callable[[], T]) -> T:
        """What follows from the texts, the prompts and the settings alone: made for the first method that asks for it.

        Args:
            what: a metric's name, and what of its prompts.
            make: makes it: something small that is kept, such as a fingerprint or a count, and not the texts.
        """
        decided = (self.settings, self.seed, self.windows.shape, self.lengths, self.length)
        key = (*what, ref(self.subject.model.network), id(self.text), *decided)
        if key not in self.prompts:
            self.prompts[key] = self.text, make()
        found: T = self.prompts[key][1]
        return found

    def of(self, subject: Subject) -> "Context":
        """The same measurement of another subject."""
        return replace(self, subject=subject)

    def divided(self) -> tuple[Tokens, Tokens]:
        """The text of the windows in windows [W', N] of this length, and the documents [W', N] of their tokens."""
        return self.text.divided(self.windows, self.length), self.text.divided(self.documents, self.length)

    def identity(self, texts_fingerprint: str) -> Identity:
        """The identity of scores on these texts."""
        return Identity(
            source=self.subject.source,
            context_tokens=self.length,
            seed=self.seed,
            model=self.subject.model.name,
            texts_fingerprint=texts_fingerprint,
            factors_fingerprint=self.subject.factors_fingerprint,
        )

    def cached(
        self, kind: str, inputs: Sequence[str], factors: RescaleFactors | FactorTable | None, make: Callable[[], Arrays]
    ) -> tuple[Arrays, float]:
        """Samples of the subject from the cache, made where they are not there, with the seconds that they took.

        What a method of the same factors and the same attention has read in this process is taken, too: dynamic NTK at
        its longest length reads as NTK does; it and Self-Extend read as the original within the trained window.

        Args:
            kind: what they are, such as ``losses``.
            inputs: names windows or prompts, and all else that decides them beside the subject.
            factors: those in use.
            make: runs the model.

        Raises:
            RunError: they are not there, and the subject's weights have been tuned since.
        """
        subject, key = self.subject, self._key(inputs, factors)

        def make_at_hand() -> Arrays:
            if not subject.at_hand:
                raise RunError(
                    f"The {kind} of {subject.model.name!r} by {subject.method!r} are not in the sample cache.",
                    "Its weights have been tuned since, so they must have been measured before.",
                    "Start the run again: what is finished is kept, and what is missing is measured first.",
                )
            self.begin()
            return make()

        model = subject.model
        fingerprint = factors.fingerprint if factors else ""
        attention = subject.method if subject.changes_attention(self.length) else ""
        own = isinstance(factors, RescaleFactors) and factors.is_identity and not model.spec.by_length
        acting = "" if own else fingerprint  # factors that change nothing leave all to the model's own module
        alike = (ref(model.network), model.name, model.number_format, attention, acting, self.length, *inputs)
        return self.cache.get(kind, key, make_at_hand, alike)

    def grown(
        self,
        kind: str,
        inputs: Sequence[str],
        items: Callable[[], Sequence[T]],
        rows: int,
        work: Callable[[Sequence[T], int], Arrays],
        length: int = 0,
    ) -> tuple[Arrays, float]:
        """As ``cached``, by the factor set for a length, made some windows or prompts at a time and kept in between.

        Args:
            kind: as for ``cached``.
            inputs: likewise.
            items: gives all windows or prompts.
            rows: how many of them all processes read at the same time.
            work: given some of them and the number of the first, returns their samples.
            length: in tokens, if it is not that of this context.
        """
        factors = self.subject.factors(length or self.length)

        def make() -> Arrays:
            key, known = self._key(inputs, factors), items()
            with self.subject.reading(length or self.length):
                some: Callable[[int, int], Arrays] = lambda first, last: work(known[first:last], first)  # noqa: E731
                return self.cache.grow(kind, key, len(known), rows, some, self.passed)

        return self.cached(kind, inputs, factors, make)

    def _key(self, inputs: Sequence[str], factors: RescaleFactors | FactorTable | None) -> tuple[str, ...]:
        """All that decides samples of the subject."""
        model, fingerprint = self.subject.model, factors.fingerprint if factors else ""
        return (model.name, model.number_format, self.subject.method, fingerprint, *inputs)


class Reading(NamedTuple):
    """What making samples takes of a model; of two metrics that share samples, the same.

    Attributes:
        kind: of the samples.
        tokens: of a sequence that is read in one pass.
        passes: how many of them are.
        written: tokens that are written one by one, and questions, which are short passes.
        together: short passes in which as many texts as are answered side by side go on.
        once: whether one run takes them once for all methods, as by an evaluator.
        beside: how many sequences one pass reads side by side.
    """

    kind: str
    tokens: int
    passes: int
    written: int = 0
    together: int = 0
    once: bool = False
    beside: int = 1


class Metric(ABC):
    """One metric: the interface by which everything measures, scores and compares.

    Attributes:
        name: as settings ask for it.
        per_length: whether it is measured at each length, or once.
        compared_as: begins the name of the score that compares two methods; empty where none is made.
    """

    per_length = True
    compared_as = ""

    def __init__(self, name: str) -> None:
        """The metric of this name; one class may serve several rows of the table."""
        self.name = name

    def parts(self, settings: MeasureRecipe) -> tuple[str, ...]:
        """Other metrics that are measured before this one, by name: those that it is the mean of."""
        del settings
        return ()

    def check(self, lengths: Sequence[int], spec: RopeSpec) -> None:
        """Raise RecipeError if nothing can be measured at these lengths; called before anything is."""
        del lengths, spec

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """What its samples take here, for an estimate; empty where that is not known, or where it has none."""
        del context
        return ()

    def names(self, context: Context) -> tuple[str, ...]:
        """The scores that it gives here: when all of them are in the records, nothing is measured. Empty: none."""
        del context
        return (self.name,)

    @abstractmethod
    def inputs(self, context: Context) -> str:
        """Sixteen hex digits that name the texts or prompts."""

    def identity(self, context: Context) -> Identity:
        """The identity that the scores here have."""
        return context.identity(context.once((self.name, "inputs"), lambda: self.inputs(context)))

    def identity_of(self, score: Score) -> Identity:
        """The identity of a recorded score of this metric, to be compared with ``identity``."""
        return Identity.of(score)

    @abstractmethod
    def samples(self, context: Context) -> Samples:
        """Look the samples up; where they are not cached, run the model."""

    @abstractmethod
    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """The scores of some samples: a pure function, without a model."""

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """One method against another on the same tokens or prompts, for metrics with ``compared_as``."""
        raise NotImplementedError


def joined(ours: Samples, theirs: Samples) -> Samples:
    """The samples of the first, with the seconds of both: what a comparison is computed from."""
    return replace(ours, seconds=ours.seconds + theirs.seconds)
