"""Evaluation of a model with given factors: by context window, against the original and baselines, and on benchmarks.

Every number is a record with an interval, a paired one where two methods are compared on the same tokens or prompts.
Measuring fills the sample cache; all scores are computed from it.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from longrope import distributed
from longrope.data import TokenText, check_apart, check_part, check_unsearched, hash_windows
from longrope.evaluation.metric import Context, Metric, Reading, Subject
from longrope.evaluation.recording import record_provenance
from longrope.evaluation.samples import SampleCache
from longrope.evaluation.summaries import is_paired, summarize
from longrope.metrics import BENCHMARK, HARNESS, METRICS
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.registry import resolve
from longrope.rope import FactorTable, RescaleFactors, as_table
from longrope.runs.records import SampleSummary, Score
from longrope.runs.run_dir import RunDir


def measure(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    text: TokenText,
    *,
    settings: MeasureRecipe | None = None,
    method: str = "",
    run: RunDir | None = None,
    seed: int = 0,
) -> list[Score]:
    """Measure the metrics of the settings at each length, and benchmarks once.

    Args:
        model: the model.
        factors: its factors; None measures the original model.
        text: text that no search has seen (raises TextsError if it has).
        settings: lengths (by default the trained and the target window), metrics, how many windows and passkeys.
        method: the name in the records; by default that of the factors.
        run: where scores and samples go; those that are there already are not measured again.
        seed: of prompts and of the bootstrap.

    Returns:
        The scores, shortest length first, benchmarks last.

    Raises:
        LongRopeError: as ``Evaluation.check`` and ``Evaluation.measure``.
        RunError: the run has measured a model of this name with other weights or in another number format, or beside
            its original weights.
    """
    check_part(text, "measure")
    original, settings = Subject(model, None, "none"), settings or MeasureRecipe()
    evaluation = Evaluation(text, settings, original, SampleCache(run), seed)
    subject = name_subject(model, factors, method)
    evaluation.check(subject)
    if run:
        record_provenance(run, model, one_format=True)
    return evaluation.measure(subject)


def name_subject(model: LanguageModel, factors: RescaleFactors | FactorTable | None, method: str = "") -> Subject:
    """A model with factors; the name of the method is by default that of its longest factor set."""
    table = as_table(factors) if factors else None
    return Subject(model, table, method or (table.factor_sets[-1].method if table else "none"))


def find_metric(name: str) -> Metric:
    """The metric of a name that settings may have, by its row in the table of metrics."""
    metric: Metric = resolve(METRICS[BENCHMARK if name.startswith(HARNESS) else name].measure)(name)
    return metric


@dataclass
class PassCount:
    """Counts the passes of a method, of one process, and reports how many all have done.

    Attributes:
        report: is called with how many are done, and of how many.
        total: how many are expected.
        done: about how many; other processes are taken to be as fast.
    """

    report: Callable[[int, int], None]
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        """Count some that this process has made; one process may make more than are expected."""
        self.done += count * distributed.beside()
        if distributed.ranks() > 1:
            self.done = min(self.done, self.total)
        self.report(self.done, max(self.done, self.total))

    def end(self) -> None:
        """Report that all are done, also those whose samples were kept or made for other methods."""
        if self.done < self.total:
            self.report(self.total, self.total)


@dataclass(frozen=True)
class Evaluation:
    """What all methods of a run are measured with: the same text, the same settings, one sample cache.

    Attributes:
        text: text that no search has seen.
        settings: lengths, metrics, how many windows and prompts.
        original: the model before its weights were tuned, without factors: what retention compares with.
        cache: where samples are looked up and kept; scores go into the records of its run directory, if it has one.
        seed: of prompts and of the bootstrap.
        on_step: is called with a message before samples of a method are made or compared, not where they are kept.
        on_progress: is called as a method is measured: with its label, how many passes are done, and of how many.
        apart: names of tuned models, and sketches of texts that were searched on, with the windows that were seen to be
            apart from what these were tuned on, and from these texts.
        prompts: what is known of prompts by what decides them, for all methods.
    """

    text: TokenText
    settings: MeasureRecipe
    original: Subject
    cache: SampleCache = field(default_factory=SampleCache)
    seed: int = 0
    on_step: Callable[[str], None] = lambda _: None
    on_progress: Callable[[str, int, int], None] = lambda *_: None
    apart: set[tuple[str | Sequence[int], int, int]] = field(default_factory=set, compare=False)
    prompts: dict[tuple[Hashable, ...], tuple[TokenText, Any]] = field(default_factory=dict, compare=False)

    def check(self, subject: Subject) -> None:
        """Make all windows and prompts of a method once, so that what cannot be measured is said before the work.

        Raises:
            LongRopeError: the text is too short, a length does not hold what is asked there, or a benchmark is unknown.
        """
        contexts = list(self._contexts(subject, self.settings.windows))
        for metric in self._metrics():
            for context in contexts if metric.per_length else contexts[-1:]:
                if metric.names(context):
                    metric.identity(context)

    def measure(self, subject: Subject) -> list[Score]:
        """Measure one method: look its scores up, or compute them from samples, which are made where they are missing.

        Returns:
            The scores, shortest length first, benchmarks last; those that were missing are also in the records.

        Raises:
            TextsError: a search has seen the text, or it is too short.
            FactorsError: the factors belong to another geometry, or do not hold the longest length.
        """
        metrics, known, label = self._metrics(), self._known(), f"measure {subject.source.label}"
        total = sum(reading.passes for reading in self.readings(subject, self.kept(subject)))
        begin, count = self._once(label), PassCount(partial(self.on_progress, label), total)
        contexts = [
            replace(one, begin=begin, passed=count.add) for one in self._contexts(subject, self.settings.windows)
        ]
        scores: list[Score] = []
        for context in contexts:
            for metric in (some for some in metrics if some.per_length):
                scores += self._measure(metric, context, known)
        for metric in (some for some in metrics if not some.per_length):
            scores += self._measure(metric, contexts[-1], known)
        count.end()
        return scores

    def _once(self, message: str) -> Callable[[], None]:
        """What reports a message when it is first called."""
        return cache(partial(self.on_step, message))

    def longest(self, subject: Subject) -> int:
        """Tokens of the windows that are cut: the longest length that is measured, or more if the settings say so."""
        return max(self._lengths(subject)[-1], self.settings.window_tokens)

    def describe_windows(self, subject: Subject) -> list[str]:
        """Say how many windows are measured and compared on, of how many that the settings ask for.

        A text that is too short for all of them gives fewer.
        """
        text, length = self.text, self.longest(subject)
        asked = {"measure": self.settings.windows, "compare methods on": self.settings.paired_windows}
        fitting = {purpose: len(text.windows(length, count)) for purpose, count in asked.items() if count}
        short = f": the {text.name} text has {len(text.tokens):,} tokens"
        return [
            f"{purpose} {count} of {asked[purpose]} windows of {length:,} tokens{short * (count < asked[purpose])}"
            for purpose, count in fitting.items()
        ]

    def readings(self, subject: Subject, kept: Collection[tuple[str, int]] = ()) -> list[Reading]:
        """What measuring and comparing one method takes of the model, as far as its metrics say: each kind once.

        Args:
            subject: the method.
            kept: scores that are there, by name and length; what gives no other ones is not read.
        """
        measured = [
            (metric, context)
            for metric, context in self._measured(subject)
            if not all((name, context.length) in kept for name in metric.names(context))
        ]
        compared = [(metric, self._paired(subject)) for metric in self._compared() if measured]
        return list(dict.fromkeys(r for metric, context in (*measured, *compared) for r in metric.readings(context)))

    def wanted(self, subject: Subject) -> set[tuple[str, int]]:
        """The scores that measuring one method gives at each length, by name and length."""
        return {(name, context.length) for metric, context in self._measured(subject) for name in metric.names(context)}

    def kept(self, subject: Subject) -> set[tuple[str, int]]:
        """Those of them that are in the records."""
        known = self._known()
        found = ((self._find(metric, context, known), context.length) for metric, context in self._measured(subject))
        return {(name, length) for scores, length in found for name in scores} if known else set()

    def _measured(self, subject: Subject) -> list[tuple[Metric, Context]]:
        """Each metric that is measured by length, at each length, shortest first."""
        contexts = list(self._contexts(subject, self.settings.windows))
        return [(metric, context) for context in contexts for metric in self._metrics() if metric.per_length]

    def unread(self, *subjects: Subject) -> list[str]:
        """The metrics whose share of ``readings`` is not known for any of some subjects, by name."""
        contexts = [context for subject in subjects for context in self._contexts(subject, self.settings.windows)]
        whole = [metric for metric in self._metrics() if not metric.parts(self.settings)]
        return [metric.name for metric in whole if not any(map(metric.readings, contexts))]

    def prepare(self, baseline: Subject) -> None:
        """Fill the cache with all that ``compare`` will look up of a baseline, while its weights are at hand."""
        context = self._paired(baseline)
        for metric in self._compared():
            metric.samples(context)

    def compare(self, subject: Subject, baseline: Subject) -> list[Score]:
        """Compare two methods at the longest length, on the same tokens and on the same prompts.

        Returns:
            ``ratio-to-BASELINE`` and ``difference-to-BASELINE``, for those of perplexity and passkeys that the settings
            ask for; those that were missing are also in the records.
        """
        context, known = self._paired(subject), self._known()
        begin = self._once(f"compare {subject.source.label} with {baseline.source.label} token by token")
        scores = []
        for metric in self._compared():
            name, identity = f"{metric.compared_as}{baseline.method}", metric.identity(context)
            score = next((s for s in known if s.metric == name and metric.identity_of(s).is_same(identity)), None)
            if score is None:
                begin()
                score = metric.compare(metric.samples(context), metric.samples(context.of(baseline)))
                self._append([score])
            scores.append(replace(score, **identity.source._asdict()))
        return scores

    def _measure(self, metric: Metric, context: Context, known: Sequence[Score]) -> list[Score]:
        """The scores of one metric: those in the records, and those that are missing there."""
        names, found = metric.names(context), self._find(metric, context, known)
        if missing := set(names) - found.keys():
            samples = metric.samples(context)
            made = [s for s in metric.scores(samples, self.settings) if s.metric in missing]
            self._append([summarize(score, samples.arrays) for score in made if is_paired(score.metric)])
            self._append(made)  # after the summaries: of a score that is there they are, too
            found |= {score.metric: score for score in made}
        return [found[name] for name in sorted(found)]

    def _find(self, metric: Metric, context: Context, known: Sequence[Score]) -> dict[str, Score]:
        """The scores of one metric among those that are known, by name."""
        if not (names := metric.names(context)):
            return {}
        identity = metric.identity(context)
        same = (s for s in known if s.metric in names and metric.identity_of(s).is_same(identity))
        return {s.metric: replace(s, **identity.source._asdict()) for s in same}  # older lines name no source

    def _metrics(self) -> list[Metric]:
        """What the settings ask for, each metric after those that it is the mean of."""
        asked = [find_metric(name) for name in self.settings.metrics]
        names = [name for metric in asked for name in (*metric.parts(self.settings), metric.name)]
        return [find_metric(name) for name in dict.fromkeys(names)]

    def _compared(self) -> list[Metric]:
        return [metric for metric in map(find_metric, self.settings.metrics) if metric.compared_as]

    def _paired(self, subject: Subject) -> Context:
        """The longest length, on the windows that comparisons take."""
        return list(self._contexts(subject, self.settings.paired_windows or self.settings.windows))[-1]

    def _contexts(self, subject: Subject, count: int) -> Iterator[Context]:
        """One for each length, shortest first, on windows of the longest one."""
        longest = self.longest(subject)
        windows = self.text.windows(longest, count)
        documents = self.text.numbered().windows(longest, count)
        for factors in subject.table.factor_sets if subject.table else ():
            if (factors.searched, longest, count) not in self.apart:
                check_unsearched(windows, factors.searched)
                self.apart.add((factors.searched, longest, count))
        known, seen = subject.model.tuned_on, (subject.model.name, longest, count)
        if known and seen not in self.apart:
            check_apart(hash_windows(self.text, windows, documents, subject.model.tokenizer), known, "tune")
            self.apart.add(seen)
        lengths = self.measured_lengths(subject)
        for length in lengths:
            yield Context(
                subject=subject,
                original=self.original,
                text=self.text,
                windows=windows,
                documents=documents,
                lengths=lengths,
                length=length,
                settings=self.settings,
                seed=self.seed,
                cache=self.cache,
                prompts=self.prompts,
            )

    def measured_lengths(self, subject: Subject) -> tuple[int, ...]:
        """The lengths in tokens that one method is measured at, ascending: of the original those up to its limit."""
        lengths, most = self._lengths(subject), self.settings.original_tokens
        if most and subject.source == self.original.source:
            lengths = tuple(length for length in lengths if length <= max(most, lengths[0]))
        return lengths

    def _lengths(self, subject: Subject) -> tuple[int, ...]:
        """The lengths to measure, ascending; refused if the factors do not hold the longest."""
        spec, table = subject.model.spec, subject.table
        window = spec.trained_window
        lengths = tuple(
            sorted(set(self.settings.lengths or (window, table.factor_sets[-1].target_window if table else window)))
        )
        if table:
            table.check_spec(spec)
            table.choose(lengths[-1])
        for name in self.settings.metrics:
            find_metric(name).check(lengths, spec)
        return lengths

    def _known(self) -> list[Score]:
        """The scores in the records."""
        run = self.cache.run
        return run.read_scores() if run else []

    def _append(self, records: Sequence[Score | SampleSummary]) -> None:
        if self.cache.run:
            self.cache.run.append(*records)
