"""LongPPL: perplexity of the tokens that an evaluator predicts well by far context alone (arXiv 2410.23771, section 3).

An evaluator reads each text whole, and once more in short windows, of which it scores the last part. A key token is one
that the whole text makes likelier by more than e^2, and that is then likelier than e^-2. Which tokens are key depends
on the evaluator and the text alone: it is the same for all methods, and stands in the score's name. The constants are
those of the authors' code.

Shape legend: W = windows, N = tokens of a window of the longest length, K = tokens before the first that is scored,
T = scored tokens of a window, all after the first K.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens, fingerprint
from longrope.errors import ModelError, TextsError
from longrope.evaluation.metric import Context, Metric, Reading, Subject, joined
from longrope.evaluation.perplexity import cached_losses, losses_of
from longrope.evaluation.samples import Samples
from longrope.evaluation.statistics import perplexity_interval, ratio_interval
from longrope.metrics import LONG_PPL, RATIO
from longrope.models import LanguageModel, load_model
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, load_factors
from longrope.runs.records import Score

GAIN_NATS, MOST_NATS = 2.0, 2.0  # alpha and -beta
STEPS = 4  # short windows share three quarters of their context with the next


class LongPerplexity(Metric):
    """Perplexity of the key tokens at the longest length, and the ratio of two methods' on the same ones.

    Samples: ``losses`` [W, T] in nats of the method, ``whole`` and ``near`` [W, T] of the evaluator, ``documents``
    [W, T], ``evaluator`` [] its name.
    """

    compared_as = f"{LONG_PPL}{RATIO}"

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """The windows of the longest length, and what the evaluator reads once for all methods, whole and in pieces.

        An evaluator that is another model takes other seconds for a pass, which are not known before it is loaded.
        """
        if not self.names(context):
            return ()
        near, count = context.settings.longppl_near, len(context.windows)
        tokens = context.length - int(context.text.bos is not None)
        starts = len(list(_starts(tokens, near)))
        pieces = losses_of(near + _step(tokens, near), count * starts, "evaluator", once=True)
        whole = losses_of(context.length, count, "evaluator", once=True)
        return (losses_of(context.length, count), whole, pieces)

    def names(self, context: Context) -> tuple[str, ...]:
        """At the longest length one score, if a token has K tokens before it."""
        measured = context.length == context.windows.shape[1] > context.settings.longppl_near + 1
        return (f"{LONG_PPL}by-{_evaluator_name(context.settings)}",) if measured else ()

    def inputs(self, context: Context) -> str:
        """The windows, the evaluator and K."""
        settings = context.settings
        name = f"{fingerprint(context.windows)} {_evaluator_name(settings)} {settings.longppl_near}"
        return fingerprint(np.frombuffer(name.encode(), np.uint8))

    def samples(self, context: Context) -> Samples:
        """The losses of the method, and those of the evaluator, which one run makes once.

        Raises:
            ModelError: the evaluator cannot be loaded, or writes texts in other tokens.
        """
        settings, opening = context.settings, int(context.text.bos is not None)
        scored = slice(settings.longppl_near + opening - context.length, None)
        evaluator = context.of(_evaluator(context))
        (ours, seconds), (whole, more) = (
            cached_losses(some, context.windows, context.documents) for some in (context, evaluator)
        )
        near, most = near_losses(evaluator, settings.longppl_near)
        arrays = {
            "losses": ours["losses"][:, scored],
            "whole": whole["losses"][:, scored],
            "near": near,
            "documents": ours["documents"][:, scored],
            "evaluator": np.asarray(_evaluator_name(settings)),
        }
        return Samples(self.identity(context), arrays, seconds + more + most)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score (raises TextsError where no token is key)."""
        keys = _keys(samples)
        losses, documents = (samples.arrays[name][keys][None] for name in ("losses", "documents"))
        interval = perplexity_interval(losses, documents, samples.identity.seed)
        name = f"{LONG_PPL}by-{samples.arrays['evaluator']}"
        return [samples.score(name, interval, num_tokens=losses.size, num_windows=len(keys))]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The ratio of two methods' perplexities of the key tokens, paired by token (TextsError without any)."""
        keys = _keys(ours)
        losses, others = (some.arrays["losses"][keys][None] for some in (ours, theirs))
        documents = ours.arrays["documents"][keys][None]
        interval = ratio_interval(losses, others, documents, ours.identity.seed)
        name = f"{self.compared_as}{theirs.identity.source.method}"
        return joined(ours, theirs).score(name, interval, num_tokens=losses.size, num_windows=len(keys))


def key_tokens(whole: NDArray[np.float64], near: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which tokens are key, by their losses in nats with the whole text and with near context alone; both strict."""
    return (near - whole > GAIN_NATS) & (whole < MOST_NATS)


def _keys(samples: Samples) -> NDArray[np.bool_]:
    keys = key_tokens(samples.arrays["whole"], samples.arrays["near"])
    if not keys.any():
        raise TextsError(
            f"By the evaluator {samples.arrays['evaluator']} none of {keys.size:,} tokens is key.",
            "LongPPL is over tokens that far context makes likely: without any it has no value.",
            "Leave longppl out, give more text, or an evaluator that reads the longest length better.",
        )
    return keys


def near_losses(evaluator: Context, near: int) -> tuple[NDArray[np.float64], float]:
    """Losses [W, T] in nats of tokens with ``near`` tokens before them or up to a quarter more, and the seconds.

    Windows of 5/4 ``near`` tokens begin at each quarter of ``near``, opened as every text is; the last quarter of each
    is scored. The last of them ends where the text ends. A text that is shorter than 5/4 ``near`` is such a window.
    """
    windows, documents, opening = evaluator.windows, evaluator.documents, int(evaluator.text.bos is not None)
    tokens = windows.shape[1] - opening
    starts, step = list(_starts(tokens, near)), _step(tokens, near)
    short, numbers = (_cut(whole, starts, near + step, opening) for whole in (windows, documents))
    arrays, seconds = cached_losses(evaluator, short, numbers)
    last = arrays["losses"].reshape(len(windows), len(starts), -1)[:, :, -step:]
    losses = np.empty((len(windows), windows.shape[1] - opening - near))
    for i in reversed(range(len(starts))):  # the last one overlaps the one before it, which stays
        losses[:, starts[i] : starts[i] + step] = last[:, i]
    return losses, seconds


def _step(tokens: int, near: int) -> int:
    """How many tokens of a short window are scored, in a text of so many tokens."""
    return min(near // STEPS, tokens - near)


def _starts(tokens: int, near: int) -> Iterator[int]:
    """Where short windows begin in a text of so many tokens."""
    step = _step(tokens, near)
    last = tokens - near - step
    yield from range(0, last, step)
    yield last


def _cut(whole: Tokens, starts: list[int], size: int, opening: int) -> Tokens:
    """Short windows [W * S, opening + size] of windows [W, N], each with their opening token."""
    pieces = [whole[:, opening + start : opening + start + size] for start in starts]
    cut = np.stack(pieces, axis=1).reshape(-1, size)
    return np.concatenate([np.repeat(whole[:, :opening], len(starts), axis=0), cut], axis=1)


def _factors(settings: MeasureRecipe) -> FactorTable | None:
    return load_factors(Path(settings.evaluator_factors)) if settings.evaluator_factors else None


def _evaluator_name(settings: MeasureRecipe) -> str:
    """What the evaluator was loaded by, with the fingerprint of its factors."""
    table = _factors(settings)
    return f"{settings.evaluator}+{table.fingerprint}" if table else settings.evaluator


def _evaluator(context: Context) -> Subject:
    """The evaluator with its factors (raises ModelError if it writes texts in other tokens).

    It is loaded where it is not what is measured: also where that was tuned since, then with the table and the trained
    window that were stated for it.
    """
    model, table = context.subject.model, _factors(context.settings)
    settings, original = context.settings, context.original.model
    if settings.evaluator != model.name:
        stated = (original.table.name, original.spec.trained_window) if settings.evaluator == original.name else ("", 0)
        model = _load(settings.evaluator, str(model.device), str(model.network.dtype).removeprefix("torch."), *stated)
        if model.tokenizer.get_vocab() != context.subject.model.tokenizer.get_vocab():
            raise ModelError(
                f"The evaluator {settings.evaluator!r} has another vocabulary than {context.subject.model.name!r}.",
                "Key tokens are places in a text, so both must write it in the same tokens.",
                "Give another measure.evaluator, such as a larger model of the same family.",
            )
    return Subject(model, table, table.factor_sets[-1].method if table else "none")


@lru_cache(maxsize=1)
def _load(source: str, device: str, dtype: str, rope_table: str, trained_window: int) -> LanguageModel:
    return load_model(source, device=device, dtype=dtype, rope_table=rope_table, trained_window=trained_window)
