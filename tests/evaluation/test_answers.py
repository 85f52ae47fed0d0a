"""Answers are really written, against transformers' greedy decoding, and compared as in the benchmark."""

from collections.abc import Callable

import numpy as np
import pico
import pytest
import torch
from long_passes import hooked
from ruler_prompts import TOKENIZERS, SampleBuilder, measure_needles, text_of

from longrope.data import Tokens
from longrope.evaluation.answers import answer_prompt, share_found
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts.needles import build_needles
from longrope.evaluation.prompts.prompt import Prompt, Question
from longrope.models import LanguageModel, rescaled
from longrope.rope import baseline_factors


@pytest.mark.parametrize(
    ("text", "references", "any_of", "share"),
    [
        (" 123, then 45.", ("123", "45"), False, 1.0),
        (" 123", ("123", "45"), False, 0.5),
        ("", ("123",), False, 0.0),
        (" the SILVER-Fox", ("silver-fox",), False, 1.0),
        (" the silver fox", ("silver-fox",), False, 0.0),
        (" in Ulm", ("Paris", "Ulm"), True, 1.0),
        (" in Bern", ("Paris", "Ulm"), True, 0.0),
    ],
)
def test_references_are_looked_for_as_in_the_benchmark(
    text: str, references: tuple[str, ...], any_of: bool, share: float
) -> None:
    assert share_found(text, references, any_of=any_of) == share


def asking(*references: str, room: int = 12, any_of: bool = False) -> Prompt:
    """A prompt with one question of three tokens."""
    question = Question(np.asarray([5, 6, 7], np.int32), references, any_of, room)
    return Prompt(np.arange(1, 9, dtype=np.int32), (question,))


def test_writing_ends_when_everything_is_said_when_the_model_ends_or_when_the_room_is_full(
    reading: Callable[..., tuple[LanguageModel, SampleBuilder]],
) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    said = "The river turns the mill"
    words = [len(tokenizer(f" {part}")["input_ids"]) for part in ("The river", said)]
    cases = {
        "found": (asking("river", room=200), words[0], 1.0),
        "any": (asking("cloud", "river", room=200, any_of=True), words[0], 1.0),
        "ended": (asking("cloud", "river", room=200), words[1] + 1, 0.5),
        "full": (asking("mill", room=words[0]), words[0], 0.0),
    }
    for name, (prompt, pushed, share) in cases.items():
        fake, reader = reading("byte-level", lambda _: said)
        (answer,) = answer_prompt(fake, prompt)
        assert answer.share == share, name
        assert answer.pushed_tokens == reader.pushed - 8 >= 3 + pushed - 1, name
        assert f" {said}".startswith(answer.text), name


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_neox"])
def test_a_shared_text_gives_the_answers_of_separate_ones(family: str) -> None:
    """And both are those of transformers' own greedy decoding over the whole prompt, under factors."""
    model = pico.make_model(family, sliding_window=300) if family == "mistral" else pico.make_model(family)
    tokens = np.random.default_rng(0).integers(1, 300, (5, 700)).astype(np.int32)
    questions = tuple(Question(row[600 : 610 + i], ("?",), False, 12) for i, row in enumerate(tokens[1:]))
    prompt = Prompt(tokens[0, :600], questions)
    with rescaled(model, baseline_factors(model.spec, "yarn", 700).factor_sets[0]):
        together = answer_prompt(model, prompt)
        apart = [answer_prompt(model, Prompt(prompt.text, (question,)))[0] for question in questions]
        assert together == apart
        for question, answer in zip(questions, together, strict=True):
            assert answer.text == transformers_answer(model, np.concatenate([prompt.text, question.tokens]))
    assert len({answer.text for answer in together}) > 1


def transformers_answer(model: LanguageModel, tokens: Tokens) -> str:
    """Up to 12 tokens by transformers' ``generate``."""
    ids = torch.from_numpy(tokens)[None].long()
    with torch.no_grad():
        found = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    return str(model.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


def test_the_saving_of_shared_texts_stands_in_the_records(model: LanguageModel) -> None:
    """``needle`` counts what was pushed, the depths what separate runs push; both counted here at the network."""
    text = text_of(model.tokenizer, 1500)
    windows = text.windows(1500, 2)
    pushed: list[int] = []

    with hooked(model.network.get_input_embeddings(), lambda _, given: pushed.append(given[0].numel())):
        scores = measure_needles(model, text, windows, 1500, 20)
        assert scores[0].num_tokens == sum(pushed)
        pushed.clear()
        built = build_needles(model.tokenizer, 1500, essays(text, windows, 1500), 20, 0)
        for prompt, _ in built:
            for question in prompt.questions:
                answer_prompt(model, Prompt(prompt.text, (question,)))
    assert sum(score.num_tokens for score in scores[1:]) == sum(pushed)
    assert sum(pushed) > 4 * scores[0].num_tokens


def test_answers_by_transformers_own_cache_are_the_same(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which models with recurrent layers have; each question begins right after the text again."""
    questions = tuple(
        Question(np.asarray(ask, np.int32), ("nowhere",), False, 6) for ask in ([5, 6, 7], [9], [5, 6, 7])
    )
    prompt = Prompt(np.arange(1, 60, dtype=np.int32), questions)
    own = answer_prompt(model, prompt)
    monkeypatch.setattr("longrope.engine.kv_cache.remembers_keys_alone", lambda _: False)
    native = answer_prompt(model, prompt)  # nothing is proposed there
    assert [(answer.text, answer.share) for answer in native] == [(answer.text, answer.share) for answer in own]
    assert native[0].pushed_tokens == 3 + 5
    assert own[0] == own[2]
