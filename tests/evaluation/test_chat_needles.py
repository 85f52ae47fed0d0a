"""Needles in the format of a chat model: one message of its template, of exactly the asked length."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from ruler_prompts import TOKENIZERS, essay_of, every_tokenizer, text_of

from longrope.errors import RecipeError
from longrope.evaluation import measure
from longrope.evaluation.prompts.chat import ChatFormat, chat_format
from longrope.evaluation.prompts.needles import build_needles
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.runs.run_dir import RunDir

TEMPLATE = (
    "{{ bos_token }}<|system|>Be brief.\n"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
LENGTH = 1600


def chatting(model: LanguageModel, template: str | None = TEMPLATE) -> LanguageModel:
    """The same model with a chat template."""
    model.tokenizer.chat_template = template
    return model


@every_tokenizer
def test_text_and_question_are_one_message_of_the_template(kind: str) -> None:
    """The oracle is the template itself, applied to the message as a whole."""
    tokenizer: Any = TOKENIZERS[kind]
    tokenizer.chat_template = TEMPLATE
    try:
        built = build_needles(tokenizer, 900, essay_of(tokenizer, 900)[None], 4, 3, 2, chat_format(tokenizer))
        plain = build_needles(tokenizer, 900, essay_of(tokenizer, 900)[None], 4, 3, 2)
        whole = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        before, after = tokenizer.apply_chat_template([{"role": "user", "content": "MESSAGE"}], **whole).split(
            "MESSAGE"
        )
        head, end = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
        for (prompt, depths), (bare, same) in zip(built, plain, strict=True):
            assert depths == same
            assert prompt.text[: len(head)].tolist() == head
            for question, without in zip(prompt.questions, bare.questions, strict=True):
                assert question.tokens[-len(end) :].tolist() == end
                assert len(prompt.text) + len(question.tokens) + question.answer_tokens == 900
                assert question.references == without.references
                asked = question.tokens[: -len(end)].tolist()
                assert asked == without.tokens[: len(asked)].tolist()  # without the beginning of an answer
                written = tokenizer(question.references[0], add_special_tokens=False)["input_ids"]
                assert question.answer_tokens >= len(asked) + len(written)  # which is a sentence of its own
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "has no chat template"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "longrope-message longrope-message"),
        ("{{ raise_exception('Only systems may speak.') }}", "Only systems may speak"),
    ],
)
def test_a_template_that_takes_no_message_is_refused(template: str | None, found: str) -> None:
    tokenizer: Any = chatting(pico.make_model(), template).tokenizer
    with pytest.raises(RecipeError, match=found) as caught:
        chat_format(tokenizer)
    assert "Measure needle" in caught.value.remedy


def test_both_kinds_stand_in_the_records(tmp_path: Path) -> None:
    """Asking in chat adds records and changes none; without a template it is refused before anything is measured."""
    model = pico.make_model()
    text = text_of(model.tokenizer, 2 * LENGTH)
    run = RunDir(tmp_path / "run")
    plain = MeasureRecipe((LENGTH,), ("needle",), windows=1, needles=2, needles_per_text=2)
    before = measure(model, None, text, settings=plain, run=run)
    settings = replace(plain, metrics=("needle", "chat-needle"))
    with pytest.raises(RecipeError, match="no chat template"):
        measure(model, None, text, settings=settings, run=run)
    both = measure(chatting(model), None, text, settings=settings, run=run)
    assert [score for score in both if score.metric.startswith("needle")] == before
    assert [score.metric for score in both if score not in before] == [f"chat-{score.metric}" for score in before]
    assert run.read_scores() == [*before, *(score for score in both if score not in before)]


def test_tokens_are_those_of_special_tokens() -> None:
    """What the template writes by its special tokens is encoded as these, not as their letters."""
    tokenizer: Any = chatting(pico.make_model(), "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}").tokenizer
    tokenizer.bos_token = tokenizer.eos_token
    assert chat_format(tokenizer) == ChatFormat((tokenizer.eos_token_id,), (tokenizer.eos_token_id,))
    assert np.asarray(chat_format(tokenizer).before).dtype.kind == "i"


def test_prompts_are_the_same_on_another_day(model: LanguageModel) -> None:
    """Templates of some models write the date."""
    dated = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
    found = chat_format(chatting(model, dated).tokenizer)
    written = model.tokenizer.decode(found.before)
    assert "2024" in written
