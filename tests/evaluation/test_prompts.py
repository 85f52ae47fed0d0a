"""Prompts of RULER's tasks and of needles have exactly their length in any tokenizer, and the benchmark's content."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ruler_prompts import (
    REFERENCES,
    TOKENIZERS,
    build,
    essay_of,
    every_task,
    every_tokenizer,
    made_up_words,
    variables_of,
    words_of,
)

from longrope.data import Tokens
from longrope.errors import TextsError
from longrope.evaluation.prompts.needles import build_needles
from longrope.evaluation.prompts.passkeys import FILLER
from longrope.evaluation.prompts.prompt import Prompt, fingerprint_prompts
from longrope.evaluation.prompts.words import WORDS, draw_compounds, draw_letters


def least_of(work: Callable[[], object]) -> int:
    """The least length by the number in the refusal."""
    with pytest.raises(TextsError) as caught:
        work()
    return int(re.findall(r"\d+", caught.value.needed)[0])


@every_tokenizer
@every_task
def test_a_prompt_and_its_answer_have_the_length(task: str, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    least = least_of(lambda: build(kind, task, 1))
    for length in (least, least + 1, least + 57, 2500, 4099):
        prompt = build(kind, task, length)
        (question,) = prompt.questions
        assert prompt.text.dtype == question.tokens.dtype == np.int32
        assert len(prompt.text) + len(question.tokens) + question.answer_tokens == length
        assert len(question.references) == REFERENCES.get(task, 2 if task == "qa" else 1)
        written = tokenizer(" " + ", ".join(question.references), add_special_tokens=False)["input_ids"]
        assert question.answer_tokens >= (16 if task == "qa" else max(16, 2 * len(written)))
        opened = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        assert (prompt.text == tokenizer.bos_token_id).sum() == opened
        assert not opened or prompt.text[0] == tokenizer.bos_token_id


@every_tokenizer
@every_task
def test_a_length_without_room_is_refused_with_the_least_one(task: str, kind: str) -> None:
    for sample in (0, 1):
        least = least_of(lambda sample=sample: build(kind, task, 1, sample=sample))  # type: ignore[misc]
        build(kind, task, least, sample=sample)
        with pytest.raises(TextsError, match=f"At least {least} tokens .* Measure ruler-{task} at greater"):
            build(kind, task, least - 1, sample=sample)


@every_task
def test_a_prompt_is_decided_by_seed_and_sample(task: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prints = [
        fingerprint_prompts([build("byte-level", task, 2500, seed=seed, sample=sample)], tokenizer)
        for seed, sample in ((0, 0), (0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@every_task
def test_a_fingerprint_names_text_question_and_references(task: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prompt = build("byte-level", task, 2500)
    (question,) = prompt.questions
    others = [
        replace(prompt, text=np.append(prompt.text[:-1], prompt.text[-1] + 1)),
        replace(prompt, questions=(replace(question, tokens=question.tokens[:-1]),)),
        replace(prompt, questions=(replace(question, references=("another",)),)),
        replace(prompt, text=prompt.text[:-1], questions=(replace(question, tokens=prompt.text[-1:]),)),
    ]
    prints = {fingerprint_prompts([one], tokenizer) for one in (prompt, *others)}
    assert len(prints) == 5


def find(tokens: Sequence[int] | Tokens, piece: Sequence[int] | Tokens) -> list[int]:
    """Where a piece stands in tokens."""
    tokens, piece = np.asarray(tokens), np.asarray(piece)
    views = np.lib.stride_tricks.sliding_window_view(tokens, len(piece))
    return np.flatnonzero((views == piece).all(1)).tolist()


def facts_of(tokenizer: Any, prompt: Prompt) -> list[tuple[str, str, str]]:
    """Kind, name and value of every needle, in their order."""
    return re.findall(r"the seal (number|code) of (\S+) is (\S+?) ?\.", words_of(tokenizer, prompt.text))


def without(tokens: list[int], piece: list[int]) -> list[int]:
    """Tokens without a piece that must stand in them just once."""
    (at,) = find(tokens, piece)
    return tokens[:at] + tokens[at + len(piece) :]


@every_tokenizer
@pytest.mark.parametrize(
    ("task", "kind_of_value", "needles"),
    [
        ("niah_single_2", "number", 1),
        ("niah_single_3", "code", 1),
        ("niah_multikey_1", "number", 4),
        ("niah_multivalue", "number", 4),
        ("niah_multiquery", "number", 4),
    ],
)
def test_an_essay_goes_on_after_its_needles(task: str, kind_of_value: str, needles: int, kind: str) -> None:
    """Without the needles, which stand there once and whole, its tokens are those of the running text."""
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, task, 2500)
    facts = facts_of(tokenizer, prompt)
    rest = prompt.text.tolist()
    for _, name, value in facts:
        line = f"\nThe seal {kind_of_value} of {name} is {value}.\n"
        rest = without(rest, tokenizer(line, add_special_tokens=False)["input_ids"])
    assert [fact[0] for fact in facts] == [kind_of_value] * needles
    assert len({name for _, name, _ in facts}) == (1 if task == "niah_multivalue" else needles)
    essay = essay_of(tokenizer, 2500).tolist()
    (start,) = find(rest, essay[:30])
    assert rest[start:] == essay[: len(rest) - start]
    assert start < 150 < len(rest) - start


@every_tokenizer
def test_noise_is_one_line_again_and_again(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, "niah_single_1", 2500)
    ((_, name, value),) = facts_of(tokenizer, prompt)
    needle = tokenizer(f"The seal number of {name} is {value}.\n", add_special_tokens=False)["input_ids"]
    rest = without(prompt.text.tolist(), needle)
    line = tokenizer(FILLER, add_special_tokens=False)["input_ids"]
    lines = (len(rest) - rest[::-1].index(rest[-1])) // len(line)
    body = [*line * lines][-(len(rest) // len(line) - 3) * len(line) :]
    assert rest[-len(body) :] == body
    assert len(body) > 1500


@every_tokenizer
@pytest.mark.parametrize(("task", "kind_of_value"), [("niah_multikey_2", "number"), ("niah_multikey_3", "code")])
def test_needles_of_other_names_fill_the_haystack(task: str, kind_of_value: str, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, task, 2500)
    facts = facts_of(tokenizer, prompt)
    lines = [f"The seal {kind_of_value} of {name} is {value}.\n" for _, name, value in facts]
    rows = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    body = [token for row in rows for token in row]
    assert prompt.text[-len(body) :].tolist() == body
    assert len(prompt.text) - len(body) < 150 + max(map(len, rows))
    asked = words_of(tokenizer, prompt.questions[0].tokens)
    assert [value for _, name, value in facts if f" {name}?" in asked.replace(" ?", "?")] == [
        *prompt.questions[0].references
    ]


@every_tokenizer
def test_needles_of_the_map_stand_at_their_depths(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = np.stack([essay_of(tokenizer, 3000), essay_of(tokenizer, 3000)[::-1]])
    built = build_needles(tokenizer, 3000, texts, 23, seed=5)
    assert [len(prompt.questions) for prompt, _ in built] == [10, 10, 3]
    assert [depth for _, depths in built for depth in depths] == pytest.approx(
        [0.05 + 0.1 * (i % 10) for i in range(23)]
    )
    for i, (prompt, depths) in enumerate(built):
        essay, rest, places = texts[i % 2].tolist(), prompt.text.tolist(), []
        for (_, name, value), question in zip(facts_of(tokenizer, prompt), prompt.questions, strict=True):
            assert question.references == (value,)
            assert f"{name} is" in words_of(tokenizer, question.tokens)
            assert len(prompt.text) + len(question.tokens) + question.answer_tokens == 3000
            line = tokenizer(f"\nThe seal number of {name} is {value}.\n", add_special_tokens=False)["input_ids"]
            places += find(rest, line)
            rest = without(rest, line)
        (start,) = find(rest, essay[:30])
        assert rest[start:] == essay[: len(rest) - start]
        assert places == pytest.approx([start + depth * (len(rest) - start) for depth in depths], abs=1)


def test_a_needle_can_stand_alone_in_its_text() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    texts = np.stack([essay_of(tokenizer, 3000), essay_of(tokenizer, 3000)[::-1]])
    built = build_needles(tokenizer, 3000, texts, 5, 5, 1)
    assert [depths for _, depths in built] == [pytest.approx([0.05 + 0.1 * i]) for i in range(5)]
    assert all(len(facts_of(tokenizer, prompt)) == len(prompt.questions) == 1 for prompt, _ in built)
    assert len({prompt.questions[0].references for prompt, _ in built}) == 5


def test_fewer_needles_share_a_short_text() -> None:
    """They take half of what opening, question and answer leave, but for a single one."""
    tokenizer = TOKENIZERS["byte-level"]
    least = least_of(lambda: build_needles(tokenizer, 1, essay_of(tokenizer, 3000)[None], 1, seed=0))
    shares = []
    for length in (least, least + 60, 800, 3000):
        built = build_needles(tokenizer, length, essay_of(tokenizer, 3000)[None], 1 if length == least else 20, seed=0)
        assert sum(len(prompt.questions) for prompt, _ in built) == (1 if length == least else 20)
        shares.append(len(built[0][0].questions))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (1, 10)
    assert shares[2] in range(2, 10)
    with pytest.raises(TextsError, match=f"At least {least} tokens"):
        build_needles(tokenizer, least - 1, essay_of(tokenizer, 3000)[None], 1, seed=0)


@every_tokenizer
def test_variables_hang_together(kind: str) -> None:
    """Five have the value, by four steps; the worked example has five others and another value."""
    prompt = build(kind, "vt", 2500)
    words = words_of(TOKENIZERS[kind], [*prompt.text, *prompt.questions[0].tokens])
    shown, asked = dict.fromkeys(re.findall(r"have the value (\d{5}) ?\?", words))
    assert variables_of(words, asked) == [name.lower() for name in prompt.questions[0].references]
    answered = re.findall(rf"with the value {shown} are ([a-z, ]+)", words)
    assert [name.strip() for name in answered[0].split(",")] == variables_of(words, shown)
    assert len({*variables_of(words, asked), *variables_of(words, shown)}) == 10


@pytest.mark.parametrize(("length", "often", "seldom"), [(3000, 6, 1), (6000, 30, 3)])
@every_tokenizer
def test_common_words_come_as_often_as_in_the_benchmark(length: int, often: int, seldom: int, kind: str) -> None:
    prompt = build(kind, "cwe", length)
    example, listed = words_of(TOKENIZERS[kind], prompt.text).split("most often in this list are")
    numbered = re.findall(r"(\d+) ?\. ([a-z-]+)", listed)
    assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
    counted = Counter(word for _, word in numbered)
    common = set(prompt.questions[0].references)
    assert {word for word, count in counted.items() if count == often} == common
    assert {count for word, count in counted.items() if word not in common} == {seldom}
    shown = [word for word, _ in Counter(re.findall(r"\d+ ?\. ([a-z-]+)", example)).most_common(10)]
    assert set(re.findall(r"[a-z-]+", listed.split(".")[0])) == set(shown)
    assert not set(shown) & set(counted)


@pytest.mark.parametrize("length", [3000, 8192])
@every_tokenizer
def test_common_words_have_the_form_of_all_others(length: int, kind: str) -> None:
    """As many parts, of which none is a part of a rare word: the count alone tells them."""
    prompt = build(kind, "cwe", length)
    _, listed = words_of(TOKENIZERS[kind], prompt.text).split("most often in this list are")
    words = {word for _, word in re.findall(r"(\d+) ?\. ([a-z-]+)", listed)}
    common = set(prompt.questions[0].references)
    assert len({word.count("-") for word in words}) == 1
    parts = [{part for word in some for part in word.split("-")} for some in (common, words - common)]
    assert not parts[0] & parts[1]


@every_tokenizer
def test_frequent_words_fall_with_the_square_of_their_rank(kind: str) -> None:
    prompt = build(kind, "fwe", 4000)
    counted = made_up_words(words_of(TOKENIZERS[kind], prompt.text))
    ranked = [count for _, count in counted.most_common(8)]
    assert [word for word, _ in counted.most_common(3)] == list(prompt.questions[0].references)
    assert ranked == pytest.approx([ranked[0] * 4 / rank**2 for rank in range(2, 10)], abs=1)
    assert ranked[2] > ranked[3]


def test_the_third_word_stands_out_even_in_the_shortest_text() -> None:
    for sample in range(5):
        least = least_of(lambda sample=sample: build("byte-level", "fwe", 1, sample=sample))  # type: ignore[misc]
        for length in range(least, least + 40):
            prompt = build("byte-level", "fwe", length, sample=sample)
            counted = made_up_words(words_of(TOKENIZERS["byte-level"], prompt.text))
            ranked = [count for _, count in counted.most_common(4)]
            assert ranked[2] > ranked[3], (sample, length)


def test_no_word_is_a_part_of_another() -> None:
    assert [(a, b) for a in WORDS for b in WORDS if a != b and a in b] == []
    assert len(set(WORDS)) == len(WORDS)


def test_drawn_words_are_all_different() -> None:
    rng = np.random.default_rng(0)
    for count, parts in ((5, 1), (len(WORDS), 1), (len(WORDS) + 1, 2), (40_000, 3)):
        drawn = draw_compounds(rng, count)
        assert len(set(drawn)) == count
        assert {word.count("-") + 1 for word in drawn} == {parts}
    assert len(set(draw_letters(rng, 600, letters=2))) == 600
