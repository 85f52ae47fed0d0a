"""Passkey retrieval: a five-digit key hidden at some depth of a long filler, asked for at the end.

The prompt ends where the digits begin: white space that a tokenizer puts before them is part of it.

Prompts are built in tokens, to an exact length, with any tokenizer; the sentences are our own.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope import parallel
from longrope.errors import TextsError
from longrope.evaluation.samples import Samples, begin_score
from longrope.evaluation.statistics import difference_interval, wilson_interval
from longrope.factors import FactorTable
from longrope.forward import greedy_answers
from longrope.models import LanguageModel, rescaled
from longrope.records import Score
from longrope.texts import Tokens, encode, encode_answer, fingerprint, opening_token

Answers = NDArray[np.bool_]
DEPTHS = 10
KEY_DIGITS = 5
OPENING = (
    "One important fact is hidden in the long text below. Find it and keep it in mind; it is asked for at the end.\n"
)
FILLER = "The river runs to the sea. The wind moves the leaves. Night follows day. People come and people go.\n"
NEEDLE = "The pass key is {key}. Keep it in mind: {key} is the pass key.\n"
QUESTION = "What is the pass key? The pass key is"


@dataclass(frozen=True)
class Passkey:
    """One task: the prompt with its answer, the number of answer tokens at its end, and the depth of the needle."""

    tokens: Tokens
    answer_tokens: int
    depth: float


def build_passkey(tokenizer: Any, length: int, depth: float, key: str) -> Passkey:
    """Build one task whose prompt and answer together are exactly ``length`` tokens.

    Args:
        tokenizer: the model's.
        length: in tokens.
        depth: where in the filler the needle stands, 0 (start) to 1 (end).
        key: the digits to hide.

    Raises:
        TextsError: the length does not hold the opening, the needle and the question.
    """
    bos = opening_token(tokenizer)
    opening, needle = encode(tokenizer, OPENING), encode(tokenizer, NEEDLE.format(key=key))
    question, answer_tokens = encode_answer(tokenizer, QUESTION, key)
    head = [bos, *opening] if bos is not None else opening
    room = length - len(head) - len(needle) - len(question)
    if room < 0:
        raise TextsError(
            f"A passkey prompt of {length} tokens was asked for.",
            f"At least {length - room} tokens are needed for its sentences.",
            "Measure passkeys at a greater length.",
        )
    line = encode(tokenizer, FILLER)
    before = round(depth * room / len(line)) * len(line)  # whole lines, so that the needle begins a line
    before = min(before, room)
    filler = line * math.ceil(room / len(line))
    tokens = [*head, *filler[:before], *needle, *filler[: room - before], *question]
    return Passkey(np.asarray(tokens, np.int32), answer_tokens, depth)


def build_passkeys(tokenizer: Any, length: int, count: int, seed: int) -> list[Passkey]:
    """Build ``count`` tasks whose needles walk through ten depths, 5 % to 95 %, with keys drawn from the seed."""
    rng = np.random.default_rng([seed, length])
    depths = [(i % DEPTHS + 0.5) / DEPTHS for i in range(count)]
    keys = [str(rng.integers(10 ** (KEY_DIGITS - 1), 10**KEY_DIGITS)) for _ in depths]
    return [build_passkey(tokenizer, length, depth, key) for depth, key in zip(depths, keys, strict=True)]


def tasks_fingerprint(tasks: Sequence[Passkey]) -> str:
    """Sixteen hex digits that name the content of tasks of one length."""
    return fingerprint(np.stack([task.tokens for task in tasks]))


def measure_passkey(
    model: LanguageModel,
    table: FactorTable | None,
    length: int,
    *,
    method: str,
    count: int = 20,
    seed: int = 0,
    samples: Samples | None = None,
) -> list[Score]:
    """Measure the share of keys that greedy decoding answers with every digit right, at one length.

    Args:
        model: the model.
        table: factors, of which the tier for ``length`` is taken; None measures the model as it is.
        length: prompt and answer in tokens.
        method: the name in the record.
        count: how many keys, ten or more (they are spread over ten depths).
        seed: of the keys.
        samples: where the answers are kept.

    Returns:
        One score over all depths, then one for each depth, with 95 % Wilson intervals.
    """
    tasks = build_passkeys(model.tokenizer, length, count, seed)
    began = time.perf_counter()
    right = kept_answers(model, table, tasks, method=method, samples=samples)
    texts, seconds = tasks_fingerprint(tasks), time.perf_counter() - began
    begun = begin_score(model, table, length, texts, method=method, seed=seed, seconds=seconds)
    by_depth = {f"passkey-depth-{depth:.2f}": depth for depth in sorted({task.depth for task in tasks})}
    scores = []
    for metric, depth in {"passkey": None, **by_depth}.items():
        answers = right[[depth is None or task.depth == depth for task in tasks]]
        interval = wilson_interval(int(answers.sum()), len(answers))
        scores.append(_score_keys(begun, metric, float(answers.mean()), interval, length, len(answers)))
    return scores


def measure_difference(
    model: LanguageModel,
    tables: tuple[FactorTable | None, FactorTable | Answers | None],
    length: int,
    *,
    methods: tuple[str, str],
    count: int = 20,
    seed: int = 0,
    samples: Samples | None = None,
) -> Score:
    """Measure the share of keys that one method answers less the share that another does, on the same keys.

    The interval is paired by key (see ``difference_interval``).

    Args:
        model: the model.
        tables: factors of both; None is the model as it is. Where another model gave them, the other's answers [K] in
            place of its factors.
        length: prompt and answer in tokens.
        methods: their names; the record is ``difference-to-`` the second.
        count: how many keys.
        seed: of the keys.
        samples: where answers are kept.
    """
    tasks = build_passkeys(model.tokenizer, length, count, seed)
    began, samples = time.perf_counter(), samples or Samples()
    table, other = tables
    own = kept_answers(model, table, tasks, method=methods[0], samples=samples)
    if not isinstance(other, np.ndarray):
        other = kept_answers(model, other, tasks, method=methods[1], samples=samples)
    texts, seconds = tasks_fingerprint(tasks), time.perf_counter() - began
    begun = begin_score(model, table, length, texts, method=methods[0], seed=seed, seconds=seconds)
    gained, lost = int((own & ~other).sum()), int((other & ~own).sum())
    interval = difference_interval(gained, lost, count)
    return _score_keys(begun, f"difference-to-{methods[1]}", (gained - lost) / count, interval, length, count)


def kept_answers(
    model: LanguageModel,
    table: FactorTable | None,
    tasks: Sequence[Passkey],
    *,
    method: str,
    samples: Samples | None,
) -> Answers:
    """[K] whether each key of one length is answered with every digit right; asked for unless the answers are kept."""
    factors = table.choose(len(tasks[0].tokens)) if table else None

    def ask() -> Answers:
        with rescaled(model, factors):
            right = parallel.spread(
                tasks, lambda task: bool(greedy_answers(model, task.tokens[None], task.answer_tokens)[0])
            )
        return np.asarray(right)

    made_of = (model.name, method, factors.fingerprint if factors else "", tasks_fingerprint(tasks))
    return (samples or Samples()).get("answers", made_of, ask)


def _score_keys(
    begun: Callable[..., Score], metric: str, value: float, interval: tuple[float, float], length: int, keys: int
) -> Score:
    low, high = interval
    return begun(metric=metric, value=value, low=low, high=high, num_tokens=length * keys, num_windows=keys)
