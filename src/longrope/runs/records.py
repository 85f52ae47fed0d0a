"""The typed lines of every .jsonl file. A line is written whole or not at all, and losses carry their units."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from longrope import registry
from longrope.errors import LONGEST_REASON, RunError
from longrope.labels import Source
from longrope.reading import parse_json, record_of, show_value
from longrope.runs.files import append_text, on_main, read_bytes_of_run, truncate_file

TAIL, TAIL_ALONE = "tail", "tail-alone"  # kinds of trials


@dataclass(frozen=True)
class Trial:
    """One evaluation of a search.

    Attributes:
        method: the search: ``longrope-evolution``, ``longrope-gradient``, ``longrope-cma``, ``longrope-recovered`` for
            a short window, ``ntk-scan`` for the baseline of two scanned numbers, or ``longrope2``.
        model: the name that it was loaded by, and the factors that its weights were tuned with if they were.
        texts_fingerprint: of the search and validation windows.
        step: generation of the evolution or of CMA-ES, or step of the descent.
        kind: ``search`` (on search windows), ``gradient`` (one backward pass), ``validation`` (held-out windows), or,
            for the last choice, ``tail`` (of the held-out windows) or ``needles`` (answers about needles in them);
            ``tail-alone`` where no needles can be planted in them, which earlier versions called ``tail``.
        origin: where the candidate came from (pi, ntk, yarn, critical, scan, mutation, crossover, gradient,
            start-tokens, floor, knots; share-S in the search for a short window; grid, refined and finalist in the
            scan).
        lambdas, start_tokens, attention_factor: the candidate, relative to the factors that the weights were tuned with
            if they were.
        loss_nats: what is minimised: the mean loss per token over a window or its tail, in nats, plus the weighted mean
            over answers about needles where these have a weight.
        num_tokens: tokens that are scored by either.
        token_passes: tokens pushed through the model, a backward pass with recomputation counted as three more.
        seconds: wall clock.
        gradient: d loss / d (lambdas, log attention_factor), for ``gradient`` trials; a descent resumes from it.
        parts: what the loss of a ``tail`` or ``needles`` trial is the mean of: blocks of the tails, or windows.
    """

    method: str
    model: str
    texts_fingerprint: str
    step: int
    kind: str
    origin: str
    lambdas: tuple[float, ...]
    start_tokens: int
    attention_factor: float
    loss_nats: float
    num_tokens: int
    token_passes: int
    seconds: float
    gradient: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()


def made_by_search(trials: Sequence[Trial]) -> list[bool]:
    """Which trials of one search validate its own candidates, and not a formula that it starts from.

    A candidate that an evolution places at the factors of a formula has the formula as its origin, too, but it comes
    after the formula itself and has other factors or another attention factor.
    """
    formulas: dict[str, tuple[object, ...]] = {}
    made = []
    for trial in trials:
        factors = trial.lambdas, trial.start_tokens, trial.attention_factor
        own = trial.kind == "validation"
        if own and trial.origin in registry.formulas():
            own = formulas.setdefault(trial.origin, factors) != factors
        made.append(own)
    return made


@dataclass(frozen=True)
class TrainStep:
    """One step of a training of weights.

    Attributes:
        step: counted from 0.
        loss_nats: the mean loss per token of the step's batch in nats, by the weights before the step; where answers
            about needles have a weight, plus that weight times their mean loss over the long windows.
        num_tokens: tokens that are scored in the batch.
        tokens_seen: tokens scored in this step and all before it.
        learning_rate: of this step.
        gradient_norm: over all weights, before clipping.
        seconds: wall clock.
        tokens_per_second: tokens of the batch that went through the model, scored or not, over the wall clock.
        peak_share: operations that the model needs for the step, those of a recomputation left out, over the most that
            its GPUs can do in that time, dense and in bfloat16; 0 where one of the two is not known.
        memory_gib: the most memory of its device that the first process has held so far; 0 on a CPU.
        texts_fingerprint: of the batch's windows, before needles are planted and short ones divided: trainings on the
            same tokens have the same. Empty in the records of earlier versions.
    """

    step: int
    loss_nats: float
    num_tokens: int
    tokens_seen: int
    learning_rate: float
    gradient_norm: float
    seconds: float
    tokens_per_second: float = 0.0
    peak_share: float = 0.0
    memory_gib: float = 0.0
    texts_fingerprint: str = ""


@dataclass(frozen=True)
class Score:
    """One measured number with its interval and everything needed to judge it.

    ``metric`` is ``perplexity``, ``perplexity-last-K`` (over the last K tokens of each window), ``prefix-perplexity``
    (over the first ``context_tokens`` of each longer window), ``ratio-to-METHOD`` (of the perplexities on the same
    windows, with a paired interval; to ``none`` it is retention), ``passkey`` (share of keys answered),
    ``passkey-depth-D``, ``difference-to-METHOD`` (of the shares of the same keys, with a paired interval), ``needle``
    and ``needle-depth-D`` (share of needles found), ``ruler-TASK`` (mean share of references found), ``ruler`` (mean of
    its tasks) or ``harness:TASK:METRIC``. ``low`` and ``high`` bound a 95 % interval.

    ``method``, ``chosen_by`` and ``factors_method`` are those of ``Source``: a baseline and the same factors chosen by
    a search are two rows. Lines of earlier versions have ``method`` alone.

    ``resampled`` says what was resampled for the interval: ``documents``, ``blocks`` of tokens where the text has less
    than five documents, or ``prompts``. It is empty for intervals by a formula, and in the records of earlier versions,
    which drew blocks. ``seconds`` are those of the passes that made the samples, from which several scores may be
    computed; for a comparison, those of both methods.
    """

    metric: str
    value: float
    low: float
    high: float
    method: str
    context_tokens: int
    num_tokens: int
    num_windows: int
    seed: int
    model: str
    texts_fingerprint: str
    factors_fingerprint: str
    seconds: float
    chosen_by: str = ""
    factors_method: str = ""
    resampled: str = ""

    def __post_init__(self) -> None:
        """Refuse a score of no tokens, which has no place on an axis (raises ValueError)."""
        if self.context_tokens < 1:
            raise ValueError(f"context_tokens is {self.context_tokens}, not a number of tokens")

    @property
    def source(self) -> Source:
        """Where its factors come from and which search chose them, for labels."""
        return Source(self.method, self.chosen_by, self.factors_method)


@dataclass(frozen=True)
class SampleSummary:
    """What a comparison with another run needs of the samples of one score, in place of the loss of every token.

    Attributes:
        metric, context_tokens, method, model, factors_fingerprint, texts_fingerprint, seed: those of the score.
        resampled: ``documents`` or ``blocks``, what the sums are of; empty for prompts.
        documents_fingerprint: of the document that each token belongs to; empty for prompts.
        sums: of the losses of each document or block, in nats.
        counts: tokens of each document or block, or prompts of each text where several stand in one; empty for prompts
            with texts of their own, and in records of earlier versions.
        answers: to prompts, a letter each, text by text: ``1`` right, ``0`` wrong.
    """

    metric: str
    context_tokens: int
    method: str
    model: str
    factors_fingerprint: str
    texts_fingerprint: str
    seed: int
    resampled: str = ""
    documents_fingerprint: str = ""
    sums: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    answers: str = ""

    def __post_init__(self) -> None:
        """Refuse what nothing can be computed from (raises ValueError)."""
        if self.resampled not in ("", "documents", "blocks"):
            raise ValueError(f"resampled is {show_value(self.resampled)}")
        if bool(self.answers) == bool(self.resampled):
            raise ValueError("either answers or sums of losses are needed")
        if set(self.answers) - {"0", "1"}:
            raise ValueError(f"answers is {show_value(self.answers)}, not a text of 0 and 1")
        fewest = {"": 0, "blocks": 1, "documents": 2}[self.resampled]
        of_prompts = bool(self.answers) and sum(self.counts) in (0, len(self.answers)) and not self.sums
        if not of_prompts and (self.answers or len(self.sums) != len(self.counts) or len(self.counts) < fewest):
            raise ValueError(f"it has {len(self.sums):,} sums and {len(self.counts):,} counts")
        if not all(map(math.isfinite, self.sums)) or not all(self.counts):
            raise ValueError("a sum is not finite, or a count is 0")


Record = TypeVar("Record", Trial, TrainStep, Score, SampleSummary)


def append_records(path: Path, records: Sequence[Trial | TrainStep | Score | SampleSummary]) -> None:
    """Add lines and force them to disk together; after this returns, a crash cannot lose them.

    Of those that a crash interrupts, some first ones may stand.
    """
    on_main(partial(write_lines, path, records))


def write_lines(path: Path, records: Sequence[Trial | TrainStep | Score | SampleSummary]) -> None:
    """Add lines as ``append_records`` does, in this process and without waiting for others."""
    append_text(path, dump_records(records))


def dump_records(records: Iterable[Trial | TrainStep | Score | SampleSummary]) -> str:
    """Records as lines."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in records)


def read_records(path: Path, kind: type[Record], *, mend: bool = True, most: int = 0) -> list[Record]:
    """Read every whole line; a missing file is empty.

    A torn last line (a crash in mid-write) is left out, and cut off the file where ``mend`` is true: a reader beside
    the process that writes must not do that. More lines than ``most`` are refused, if that is not 0.
    """
    return on_main(partial(_read, path, kind, mend=mend, most=most))


def _read(path: Path, kind: type[Record], *, mend: bool, most: int) -> list[Record]:
    if not path.exists():
        return []
    text = read_bytes_of_run(path)
    whole = text[: text.rfind(b"\n") + 1]
    if mend and whole != text:
        truncate_file(path, len(whole))
    lines = whole.splitlines()
    if most and len(lines) > most:
        raise RunError(
            f"{path} has {len(lines):,} lines.",
            f"A page shows at most {most:,} of them.",
            "Give another run directory.",
        )
    return list(_parse(path, lines, kind))


def _parse(path: Path, lines: list[bytes], kind: type[Record]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        try:
            yield record_of(kind, parse_json(line))
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{path}:{number}: no {kind.__name__} record ({str(error)[:LONGEST_REASON]}).",
                "Every line must be one record as this version or an earlier one writes it.",
                "Remove the run directory, or give another with --out.",
            ) from None
