"""Needles in prose: where they stand, what is asked, and that teacher forcing finds what greedy decoding writes."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from measuring import compared, find_prose_needles, make_context, scores_of
from ruler_prompts import TOKENIZERS, essay_of, every_tokenizer

from longrope.data import Tokens
from longrope.data.facts import CODED
from longrope.engine.decoding import decode, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.questions import follow_greedily
from longrope.errors import TextsError
from longrope.evaluation.asked_texts import find_needles
from longrope.evaluation.metric import Context, Subject
from longrope.evaluation.prompts.prose import (
    KINDS,
    MOST,
    PEOPLE,
    PLACES,
    SENTENCES,
    TEMPLATES,
    ProseNeedle,
    ProseText,
    _draw_facts,
    build_prose,
)
from longrope.evaluation.samples import SampleCache
from longrope.evaluation.statistics import difference_interval, share_interval, wilson_interval
from longrope.metrics import METRICS
from longrope.models import LanguageModel, rescaled
from longrope.rope import baseline_factors

LENGTH = 900


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model(num_hidden_layers=1)


def built(kind: str, count: int = 30, per_text: int = 10, seed: int = 1) -> list[ProseText]:
    """Needles in two running texts, which are taken in turn."""
    tokenizer = TOKENIZERS[kind]
    essays = np.stack([essay_of(tokenizer, LENGTH), essay_of(tokenizer, LENGTH)[::-1]])
    return build_prose(tokenizer, LENGTH, essays, count, seed, per_text)


def words(tokenizer: Any, tokens: Tokens) -> str:
    """The text of tokens with single spaces and no case, which some tokenizers change."""
    return " ".join(str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).lower().split())


@every_tokenizer
def test_every_answer_stands_in_the_text_where_it_was_put(kind: str) -> None:
    """The needle at its depth, its question at the end, and no text longer than asked."""
    tokenizer = TOKENIZERS[kind]
    texts = built(kind)
    needles = [needle for text in texts for needle in text.needles]
    assert [needle.kind for needle in needles] == [*KINDS] * 10
    for text in texts:
        longest = max(len(needle.tokens) for needle in text.needles)
        assert len(text.tokens) + longest <= LENGTH
        assert len(text.tokens) >= LENGTH - max(len(needle.tokens) for needle in needles)
        whole = words(tokenizer, text.tokens)
        for needle in text.needles:
            answer = words(tokenizer, needle.tokens[-needle.answer_tokens :])
            beginning = words(tokenizer, needle.tokens[: -needle.answer_tokens]).rpartition("? ")[2]
            assert f"{beginning} {answer}" in whole
            place = whole.index(f"{beginning} {answer}") / len(whole)
            assert place == pytest.approx(needle.depth, abs=0.3)  # other needles stand before it


def test_depths_are_drawn_evenly_and_differ_between_lengths_and_seeds() -> None:
    depths = np.asarray([needle.depth for text in built("byte-level", 120) for needle in text.needles])
    assert np.histogram(depths, 4, (0, 1))[0].min() > 15
    assert len({round(depth, 6) for depth in depths}) == 120
    again, other = built("byte-level", 120), built("byte-level", 120, seed=2)
    assert all((a.tokens == b.tokens).all() for a, b in zip(built("byte-level", 120), again, strict=True))
    assert any(
        len(a.tokens) != len(b.tokens) or (a.tokens != b.tokens).any() for a, b in zip(again, other, strict=False)
    )


def test_no_two_needles_are_about_one_thing_of_one_place() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    asked = [words(tokenizer, n.tokens[: -n.answer_tokens]) for text in built("byte-level", 300) for n in text.needles]
    assert len(set(asked)) == 300


def test_a_text_holds_as_many_needles_as_asked_or_as_fit_a_quarter_of_it() -> None:
    assert {len(text.needles) for text in built("byte-level", 6, per_text=1)} == {1}
    crowded = built("byte-level", 60, per_text=60)
    assert all(len(text.needles) < 12 for text in crowded)
    tokenizer = TOKENIZERS["byte-level"]
    with pytest.raises(TextsError, match="Measure prose-needle at greater lengths"):
        build_prose(tokenizer, 60, essay_of(tokenizer, LENGTH)[None], 3, 0, 10)


def test_training_plants_none_of_their_words() -> None:
    """Neither the names nor the word that trainings ask for, nor the passkey's."""
    drawn = {part.lower() for part in itertools.chain(*PLACES, *PEOPLE, *SENTENCES)}
    templates = " ".join(part for pairs in TEMPLATES.values() for pair in pairs for part in pair).lower()
    assert not drawn & {name.lower() for name in CODED}
    assert not {*CODED, "code", "key", "seal"} & set(templates.replace("?", " ").split())


def decoded(model: LanguageModel, text: Tokens, question: Tokens, count: int) -> list[int]:
    """What greedy decoding writes after a text and a question, token by token."""
    cache = KeyValueCache(model, len(text) + len(question) + count)
    read_prompt(model, text, cache)
    logits = read_prompt(model, question, cache)
    return list(decode(replace_end(model), logits, cache, lambda x: int(x.argmax()), count))


def replace_end(model: LanguageModel) -> LanguageModel:
    """The same model without tokens that end an answer."""
    network, tokenizer = model.network, pico.make_tokenizer()
    network.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    return replace(model, tokenizer=tokenizer)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_teacher_forcing_finds_what_decoding_writes(family: str) -> None:
    """The greedy answer is found, and none that differs from it in any one token; under factors, text shared."""
    model = pico.make_model(family)
    rng = np.random.default_rng(2)
    text = rng.integers(1, 300, 200).astype(np.int32)
    needles, wanted = [], []
    with rescaled(model, baseline_factors(model.spec, "yarn", 256).factor_sets[0]):
        for size in (3, 5, 8):
            question = rng.integers(1, 300, size).astype(np.int32)
            answer = np.asarray(decoded(model, text, question, size), np.int32)
            assert len(answer) == size
            for changed in (None, *range(size)):
                other = answer.copy()
                if changed is not None:
                    other[changed] = (other[changed] + 1) % 300
                needles.append(ProseNeedle("number", 0.5, np.concatenate([question, other]), size))
                wanted.append(changed is None)
        assert find_needles(model, ProseText(text, tuple(needles))) == wanted
    assert sum(wanted) == 3


def test_questions_are_read_in_one_pass(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not token by token: one pass for the text and one for both needles."""
    calls: list[int] = []
    hook = model.network.get_input_embeddings().register_forward_pre_hook(lambda _, x: calls.append(x[0].numel()))
    text = np.arange(1, 90, dtype=np.int32)
    needle = ProseNeedle("number", 0.5, np.arange(5, 25, dtype=np.int32), 4)
    find_needles(model, ProseText(text, (needle, needle)))
    hook.remove()
    assert calls == [89, 40]


def test_an_answer_needs_space_in_the_cache(model: LanguageModel) -> None:
    cache = KeyValueCache(model, 10)
    read_prompt(model, np.arange(1, 8, dtype=np.int32), cache)
    with pytest.raises(Exception, match="5 tokens are to follow 7 in a cache of 10"):
        follow_greedily(model, [(np.arange(1, 6, dtype=np.int32), 2)], cache)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[ProseNeedle], bool]], None]:
    """Let a function say which needles are found."""

    def make(judge: Callable[[ProseNeedle], bool]) -> None:
        find_prose_needles(monkeypatch, lambda _, text: [judge(needle) for needle in text.needles])

    return make


def prose_context(model: LanguageModel, **settings: Any) -> Context:
    tokenizer = TOKENIZERS["byte-level"]
    context = make_context(model, None, essay_of(tokenizer, 2 * LENGTH).reshape(2, -1), **settings)
    return replace(context, subject=replace(context.subject, model=replace(model, tokenizer=tokenizer)))


def test_scores_are_shares_of_all_of_each_kind_and_of_each_tenth(model: LanguageModel, found: Any) -> None:
    """Against counts by hand: numbers are found, and what stands in the second half."""
    context = prose_context(model, needles=60)
    built = build_prose(context.subject.model.tokenizer, LENGTH, context.windows, 60, 0, 10)
    needles = [needle for text in built for needle in text.needles]
    found(lambda needle: needle.kind == "number" or needle.depth > 0.5)
    scores = {score.metric: score for score in scores_of("prose-needle", context)}
    right = [needle.kind == "number" or needle.depth > 0.5 for needle in needles]
    whole = scores["prose-needle"]
    assert (whole.value, whole.num_windows) == (sum(right) / 60, 60)
    texts = np.repeat(np.arange(len(built)), [len(text.needles) for text in built])
    interval = share_interval([float(one) for one in right], texts)
    assert (whole.low, whole.high) == interval[1:3]
    assert whole.low < wilson_interval(sum(right), 60)[0]
    assert scores["prose-needle-number"].value == 1
    late = [needle.depth > 0.5 for needle in needles if needle.kind == "name"]
    assert scores["prose-needle-name"].value == pytest.approx(sum(late) / 20)
    for tenth in range(10):
        own = [r for r, n in zip(right, needles, strict=True) if int(n.depth * 10) == tenth]
        score = scores[f"prose-needle-depth-{tenth / 10 + 0.05:.2f}"]
        assert score.value == pytest.approx(sum(own) / len(own))
        assert score.num_windows == len(own)
    assert all(name in METRICS or "-depth-" in name for name in scores)


def test_two_methods_are_compared_on_the_same_needles(model: LanguageModel, found: Any) -> None:
    cache = SampleCache()
    first = prose_context(model, needles=30, cache=cache)
    other = replace(first.subject.model, name="other weights")
    second = replace(first, subject=Subject(other, None, "other"))
    found(lambda needle: needle.kind != "name")
    scores_of("prose-needle", first)
    found(lambda needle: needle.kind != "number" and needle.depth < 0.7)
    scores_of("prose-needle", second)
    score = compared("prose-needle", first, second)
    texts = build_prose(first.subject.model.tokenizer, LENGTH, first.windows, 30, 0, 10)
    pairs = [(n.kind != "name", n.kind != "number" and n.depth < 0.7) for text in texts for n in text.needles]
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    assert score.metric == "prose-needle-difference-to-other"
    assert score.value == pytest.approx((gained - lost) / 30)
    assert (score.low, score.high) == difference_interval(gained, lost, 30)


def test_needles_are_measured_by_a_model(model: LanguageModel) -> None:
    """A pico model knows nothing of them; every token of texts and questions is counted once, and no filling."""
    context = prose_context(model, needles=6, needles_per_text=3)
    whole, *_ = scores_of("prose-needle", context)
    built = build_prose(context.subject.model.tokenizer, LENGTH, context.windows, 6, 0, 3)
    pushed = sum(len(text.tokens) + sum(len(needle.tokens) for needle in text.needles) for text in built)
    assert (whole.value, whole.num_tokens, whole.num_windows) == (0, pushed, 6)


def test_more_needles_than_there_are_names_for_are_refused() -> None:
    rng = np.random.default_rng(0)
    assert len({(question, begins) for _, question, begins, _ in _draw_facts(rng, MOST)}) == MOST
    with pytest.raises(TextsError, match=r"3,421 needles in prose .* names for 3,420"):
        _draw_facts(rng, MOST + 1)
