"""Measure one metric of a pico model, and count the tokens that go through it; for tests of the evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from longrope.data import Tokens, TokenText
from longrope.evaluation import find_metric
from longrope.evaluation.answers import Answer
from longrope.evaluation.metric import Context, Subject
from longrope.evaluation.prompts.prompt import Prompt
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors
from longrope.runs.records import Score

PROBE_TOKENS = 24  # a network is asked for its tables, and tried, with a few


def make_context(
    model: LanguageModel,
    table: FactorTable | None,
    windows: Tokens,
    length: int = 0,
    *,
    method: str = "none",
    text: TokenText | None = None,
    original: LanguageModel | None = None,
    cache: SampleCache | None = None,
    seed: int = 0,
    **settings: Any,
) -> Context:
    """One measurement on windows [W, M] of one document, by default at their whole length."""
    return Context(
        subject=Subject(model, table, method),
        original=Subject(original or model, None, "none"),
        text=text or TokenText(windows.ravel(), "measure"),
        windows=windows,
        documents=np.zeros_like(windows),
        lengths=(length or windows.shape[1],),
        length=length or windows.shape[1],
        settings=MeasureRecipe(**{"tail_tokens": 0, **settings}),
        seed=seed,
        cache=cache or SampleCache(),
    )


def scores_of(name: str, context: Context) -> list[Score]:
    """The scores of one metric."""
    metric = find_metric(name)
    return metric.scores(metric.samples(context), context.settings)


def compared(name: str, ours: Context, theirs: Context) -> Score:
    """One method against another by one metric."""
    metric = find_metric(name)
    return metric.compare(metric.samples(ours), metric.samples(theirs))


def passkey_context(model: LanguageModel, table: FactorTable | None, length: int, **given: Any) -> Context:
    """A measurement of passkeys, which needs no text: ``count`` of them."""
    windows = np.zeros((1, length), np.int32)
    return make_context(model, table, windows, passkeys=given.pop("count", 20), **given)


def answer_passkeys(patch: pytest.MonkeyPatch, answers: Callable[..., torch.Tensor]) -> None:
    """Let a function (of a model, prompts with their answers [B, N] and the tokens of an answer) say what is right."""
    patch.setattr("longrope.evaluation.passkey.greedy_answers", answers)


def find_prose_needles(patch: pytest.MonkeyPatch, find: Callable[[LanguageModel, ProseText], list[bool]]) -> None:
    """Let a function say which needles of each text of prose are found."""
    patch.setattr("longrope.evaluation.asked_texts.find_needles", find)


def answer_prompts(patch: pytest.MonkeyPatch, answer: Callable[[LanguageModel, Prompt], list[Answer]]) -> None:
    """Let a function answer the questions of each prompt."""
    patch.setattr("longrope.evaluation.answers.answer_prompt", answer)
    patch.setattr(
        "longrope.evaluation.answers.answer_each",
        lambda model, prompts: [one for prompt in prompts for one in answer(model, prompt)],
    )


class Passes:
    """Tokens that went through a network, counted at its embedding; where none may go, the first is an error."""

    def __init__(self) -> None:
        """Nothing has gone through it."""
        self.tokens = 0
        self.forbidden = False

    def __call__(self, _: object, given: tuple[Any, ...]) -> None:
        """Count one call of the embedding."""
        assert not self.forbidden, "measured again"
        self.tokens += given[0].numel()


@contextmanager
def counted(model: LanguageModel) -> Iterator[Passes]:
    """Count passes of a model."""
    passes = Passes()
    handle = model.network.get_input_embeddings().register_forward_pre_hook(passes)
    try:
        yield passes
    finally:
        handle.remove()


@contextmanager
def no_passes(most: int = PROBE_TOKENS) -> Iterator[None]:
    """Any model that reads more tokens at once than a probe, or than ``most``, is an error."""

    def refuse(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert not isinstance(module, nn.Embedding) or given[0].numel() <= most, "a pass was made"

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def brute_losses(model: LanguageModel, factors: RescaleFactors | None, windows: Any) -> np.ndarray:
    """[W, N - 1] losses in nats from the whole logits, window by window in float64."""
    rows = []
    for window in np.asarray(windows):
        with rescaled(model, factors), torch.no_grad():
            logits = model.network(torch.from_numpy(window)[None].long(), use_cache=False).logits[0].double()
        rows.append([-logits[i].log_softmax(0)[window[i + 1]].item() for i in range(len(window) - 1)])
    return np.array(rows)


def without_seconds(scores: list[Score]) -> list[Score]:
    """Scores as they must repeat; only the wall clock may differ."""
    return [replace(score, seconds=0.0) for score in scores]
