"""Needles by depth, and the tasks of the RULER benchmark: the model writes its answer, and references are looked for.

An answer is decoded greedily and judged as the benchmark judges it (arXiv 2404.06654): the share of references that
stand in it, whatever the case of their letters. A text is read once for all questions about it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from longrope import parallel
from longrope.cache import KeyValueCache
from longrope.evaluation.prompts import build_prompt
from longrope.evaluation.prompts.documents import load_questions
from longrope.evaluation.prompts.needles import build_needles
from longrope.evaluation.prompts.prompt import Prompt, Question, fingerprint_prompts
from longrope.evaluation.samples import begin_score
from longrope.evaluation.statistics import wilson_interval
from longrope.factors import FactorTable
from longrope.forward import choose_tile, read_on
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe
from longrope.records import Score
from longrope.texts import Tokens, TokenText, encode, fingerprint, read_document


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: of the new tokens, without special ones.
        share: of the references that stand in it.
        pushed_tokens: of the question and the answer, pushed through the model after the text.
    """

    text: str
    share: float
    pushed_tokens: int


def answer_prompt(model: LanguageModel, prompt: Prompt) -> list[Answer]:
    """Answer the questions of a prompt one by one, each right after its text, which is read once.

    Args:
        model: run as it is at the moment; its layers keep keys and values alone (raises ModelError otherwise).
        prompt: text and questions.
    """
    most = max(len(question.tokens) + question.answer_tokens for question in prompt.questions)
    cache = KeyValueCache(model, len(prompt.text) + most)
    _read(model, prompt.text, cache)
    answers = []
    for question in prompt.questions:
        cache.rewind(len(prompt.text))
        answers.append(_answer(model, question, cache))
    return answers


def _read(model: LanguageModel, tokens: Tokens, cache: KeyValueCache) -> int:
    """The likeliest token after all that is read, tile by tile, so that memory holds the states of one tile."""
    tile = choose_tile(model)[0]
    for first in range(0, len(tokens), tile):
        logits = read_on(model, tokens[None, first : first + tile], cache)
    return int(logits[0].argmax())


def _answer(model: LanguageModel, question: Question, cache: KeyValueCache) -> Answer:
    """Write until the model ends the answer, all that is asked for stands there, or its room is full."""
    begun, ends = cache.tokens, model.end_tokens
    references = [_as_written(model, reference) for reference in question.references]
    written: list[int] = []
    text, share = "", 0.0
    token = _read(model, question.tokens, cache)
    while token not in ends:
        written.append(token)
        text = model.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        share = share_found(text, references, any_of=question.any_of)
        if share == 1 or len(written) == question.answer_tokens:
            break
        token = _read(model, np.asarray([token]), cache)
    return Answer(text, share, cache.tokens - begun)


def _as_written(model: LanguageModel, reference: str) -> str:
    """A reference as the tokenizer writes it: some put spaces around hyphens, or drop accents."""
    tokens = encode(model.tokenizer, f" {reference}")
    return str(model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).strip()


def share_found(text: str, references: Sequence[str], *, any_of: bool = False) -> float:
    """The share of references that stand in a text, in letters of any case; with ``any_of`` one of them is all."""
    found = [reference.lower() in text.lower() for reference in references]
    return float(any(found)) if any_of else sum(found) / len(found)


def measure_needles(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    windows: Tokens,
    length: int,
    *,
    method: str,
    count: int = 20,
    seed: int = 0,
) -> list[Score]:
    """Measure the share of needles in running text that the model finds, at each of ten depths of one length.

    Up to ten needles stand in one text, which is read once for all of them. ``num_tokens`` of the score over all depths
    counts the tokens that were pushed so; that of a single depth counts the text for each needle, as separate runs
    would. So the sum over the depths, divided by the former, is what sharing saves.

    Args:
        model: the model.
        table: factors, of which the tier for ``length`` is taken; None measures the model as it is.
        text: where the windows come from.
        windows: [W, M] windows of the longest length, in which the needles are hidden.
        length: of text, question and answer in tokens, at most M.
        method: the name in the records.
        count: how many needles, ten or more (they are spread over ten depths).
        seed: of their names and numbers.

    Returns:
        One score over all depths, then one for each depth, with 95 % Wilson intervals.

    Raises:
        TextsError: the length does not hold a needle.
        ModelError: the model has recurrent layers.
    """
    built = build_needles(model.tokenizer, length, essays(text, windows, length), count, seed)
    began = time.perf_counter()
    with rescaled(model, table.choose(length) if table else None):
        answered = parallel.spread(built, lambda item: answer_prompt(model, item[0]), alone=True)
    seconds = time.perf_counter() - began
    texts = fingerprint_prompts([prompt for prompt, _ in built], model.tokenizer)
    score = _scoring(model, table, length, method, seed, texts, seconds)
    found = [
        (depth, answer.share, len(prompt.text) + answer.pushed_tokens)
        for (prompt, depths), answers in zip(built, answered, strict=True)
        for depth, answer in zip(depths, answers, strict=True)
    ]
    saved = sum((len(prompt.questions) - 1) * len(prompt.text) for prompt, _ in built)
    scores = [score("needle", [share for _, share, _ in found], sum(tokens for *_, tokens in found) - saved)]
    for depth in sorted({depth for depth, *_ in found}):
        own = [(share, tokens) for at, share, tokens in found if at == depth]
        shares, tokens = zip(*own, strict=True)
        scores.append(score(f"needle-depth-{depth:.2f}", shares, sum(tokens)))
    return scores


def measure_ruler(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    windows: Tokens,
    task: str,
    length: int,
    *,
    method: str,
    settings: MeasureRecipe,
    seed: int = 0,
) -> Score:
    """Measure one task of RULER at one length: the mean share of references that stand in the model's answers.

    The interval is Wilson's with one trial for each prompt. An answer that is right in part counts in part: the
    variance of such shares is at most that of answers which are right or wrong.

    Args:
        model: the model.
        table: factors, of which the tier for ``length`` is taken; None measures the model as it is.
        text: where the windows come from.
        windows: [W, M] windows of the longest length, the essays.
        task: one of ``recipe.RULER_TASKS``.
        length: of text, question and answer in tokens, at most M.
        method: the name in the record.
        settings: number of prompts, and the file of questions.
        seed: of the prompts.

    Returns:
        The score; its ``num_tokens`` are those pushed through the model.

    Raises:
        TextsError: the length does not hold the task, or the file of questions cannot be used.
        ModelError: the model has recurrent layers.
    """
    build = _builder(model, text, windows, task, length, settings, seed)
    texts = task_fingerprint(model, text, windows, task, length, settings, seed)

    def work(sample: int) -> tuple[float, int]:
        prompt = build(sample)
        (answer,) = answer_prompt(model, prompt)
        return answer.share, len(prompt.text) + answer.pushed_tokens

    began = time.perf_counter()
    with rescaled(model, table.choose(length) if table else None):
        done = parallel.spread(range(settings.ruler_prompts), work, alone=True)
    shares, tokens = zip(*done, strict=True)
    score = _scoring(model, table, length, method, seed, texts, time.perf_counter() - began)
    return score(f"ruler-{task}", shares, sum(tokens))


def mean_ruler(scores: Sequence[Score]) -> Score:
    """The mean over tasks of one length, each with as many prompts, from their scores.

    The interval is Wilson's with one trial for each prompt of all tasks. It tells what other prompts of these tasks
    would give, not what other tasks would; tasks of unlike difficulty make it too wide, never too narrow.
    """
    value, trials = sum(score.value for score in scores) / len(scores), sum(score.num_windows for score in scores)
    low, high = wilson_interval(value * trials, trials)
    return replace(
        scores[0],
        metric="ruler",
        value=value,
        low=low,
        high=high,
        num_tokens=sum(score.num_tokens for score in scores),
        num_windows=trials,
        texts_fingerprint=ruler_fingerprint(scores),
        seconds=round(sum(score.seconds for score in scores), 3),
    )


def ruler_fingerprint(scores: Sequence[Score]) -> str:
    """Sixteen hex digits that name the prompts of some tasks."""
    return _joined([score.texts_fingerprint for score in scores])


def task_fingerprint(
    model: LanguageModel, text: TokenText, windows: Tokens, task: str, length: int, settings: MeasureRecipe, seed: int
) -> str:
    """Sixteen hex digits that name the prompts of one task and length: the first, and what decides the others."""
    first = fingerprint_prompts([_builder(model, text, windows, task, length, settings, seed)(0)], model.tokenizer)
    questions = read_document(Path(settings.qa_data)) if task == "qa" else ""
    return _joined([first, fingerprint(windows), f"{seed} {settings.ruler_prompts}", questions])


def needles_fingerprint(
    model: LanguageModel, text: TokenText, windows: Tokens, length: int, count: int, seed: int
) -> str:
    """Sixteen hex digits that name the prompts of the needles of one length."""
    built = build_needles(model.tokenizer, length, essays(text, windows, length), count, seed)
    return fingerprint_prompts([prompt for prompt, _ in built], model.tokenizer)


def essays(text: TokenText, windows: Tokens, length: int) -> Tokens:
    """Running texts [E, N] to hide needles in: the measured windows divided, without an opening token."""
    return text.divided(windows, length)[:, int(text.bos is not None) :]


def _builder(
    model: LanguageModel, text: TokenText, windows: Tokens, task: str, length: int, settings: MeasureRecipe, seed: int
) -> Callable[[int], Prompt]:
    """What builds each sample of a task, so that no two prompts need be held at once."""
    questions = load_questions(Path(settings.qa_data)) if task == "qa" else ()
    texts = essays(text, windows, length)

    def build(sample: int) -> Prompt:
        essay = texts[sample % len(texts)]
        return build_prompt(model.tokenizer, task, length, essay, seed=seed, sample=sample, questions=questions)

    return build


def _scoring(
    model: LanguageModel,
    table: FactorTable | None,
    length: int,
    method: str,
    seed: int,
    texts_fingerprint: str,
    seconds: float,
) -> Callable[[str, Sequence[float], int], Score]:
    """What makes a score of a metric, its shares and the tokens pushed for them."""
    begun = begin_score(model, table, length, texts_fingerprint, method=method, seed=seed, seconds=seconds)

    def score(metric: str, shares: Sequence[float], num_tokens: int) -> Score:
        value, (low, high) = sum(shares) / len(shares), wilson_interval(sum(shares), len(shares))
        return begun(metric=metric, value=value, low=low, high=high, num_tokens=num_tokens, num_windows=len(shares))

    return score


def _joined(parts: Sequence[str]) -> str:
    return fingerprint(np.frombuffer("\0".join(parts).encode(), np.uint8))
