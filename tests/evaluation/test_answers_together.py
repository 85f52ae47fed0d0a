"""Answers that are written side by side are those of prompts that are asked one by one, in fewer passes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pico
import pytest
from long_passes import hooked

from longrope.engine import rows
from longrope.engine.near_exact import self_extend
from longrope.evaluation.answers import answer_each, answer_prompt
from longrope.evaluation.prompts.prompt import Prompt, Question
from longrope.models import LanguageModel


def prompts_of(model: LanguageModel, count: int) -> list[Prompt]:
    """Texts, questions and answers of unlike lengths; two in three answers are known, so drafts are long and short."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(count):
        text, question = (rng.integers(1, 300, size).astype(np.int32) for size in (90 + 7 * i, 3 + i))
        found.append(Prompt(text, (Question(question, ("never written",), False, 6 + 3 * i),)))
        (answer,) = answer_prompt(model, found[-1])
        if i % 3 and answer.text.strip():
            found[-1] = Prompt(text, (Question(question, (answer.text.strip(), "nor this"), False, 6 + 3 * i),))
    return found


@pytest.mark.parametrize(
    ("family", "reading"), [("llama", None), ("gemma2", None), ("qwen3", self_extend)]
)  # every second layer of Gemma-2 slides
def test_answers_are_those_of_prompts_one_by_one(
    family: str, reading: Callable[[LanguageModel, int], AbstractContextManager[None]] | None
) -> None:
    model = pico.make_model(family)
    passes: list[tuple[int, ...]] = []
    with reading(model, 256) if reading else nullcontext():
        prompts = prompts_of(model, 5)
        alone = [answer for prompt in prompts for answer in answer_prompt(model, prompt)]
        with hooked(model.network.get_input_embeddings(), lambda _, given: passes.append(tuple(given[0].shape))):
            together = answer_each(model, prompts)
    assert together == alone
    assert len({answer.text for answer in alone}) == 5
    written = passes[2 * len(prompts) :]
    assert max(shape[0] for shape in written) == 5
    assert len(written) < 20  # the longest answer alone takes about as many


def test_in_little_memory_prompts_are_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico.make_model("llama", num_hidden_layers=1)
    prompts = prompts_of(model, 3)
    expected = [answer for prompt in prompts for answer in answer_prompt(model, prompt)]
    monkeypatch.setattr(rows, "free_memory", lambda _: 0)
    shapes: list[int] = []
    with hooked(model.network.get_input_embeddings(), lambda _, given: shapes.append(len(given[0]))):
        assert answer_each(model, prompts) == expected
    assert set(shapes) == {1}
