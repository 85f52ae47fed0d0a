"""Uses of long windows: a reader of the words alone answers all of them, a guesser answers by chance."""

import re
from collections import Counter
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from measuring import make_context, scores_of
from ruler_prompts import TOKENIZERS, essay_of, every_tokenizer

from longrope.data import Tokens
from longrope.errors import TextsError
from longrope.evaluation.answers import share_found
from longrope.evaluation.prompts.prompt import Source, assemble
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.prompts.uses import (
    Writer,
    build_texts,
    draft_summary,
    write_dialogue,
    write_manual,
    write_shots,
)
from longrope.metrics import SHOTS, SUMMARY, USES
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe

LENGTH = 2500
WRITERS: dict[str, Writer] = {
    "many-shot": partial(write_shots, 0),
    "many-shot-16": partial(write_shots, 16),
    "manual-questions": write_manual,
    "dialogue-memory": write_dialogue,
}


def built(name: str, kind: str = "byte-level", count: int = 24, seed: int = 3, length: int = LENGTH) -> list[ProseText]:
    tokenizer = TOKENIZERS[kind]
    essays = np.stack([essay_of(tokenizer, length)] * 2)
    return build_texts(WRITERS[name], name, tokenizer, length, essays, count, seed, 10)


def words(tokenizer: Any, tokens: Tokens) -> str:
    """What tokens say, without case and without the spaces that lossy tokenizers put around signs."""
    text = tokenizer.decode(np.asarray(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False).lower()
    return re.sub(r"\s*([-=.:?,])\s*", r"\1", re.sub(r"\s+", " ", text))


def look_up(text: str, question: str) -> str:
    """The answer by the words of the text."""
    if found := re.search(r"(\w+) (\w+)=$", question):
        return str(re.findall(rf"\b{found[1]} \w+=(\w+)", text)[-1])
    limits = dict(re.findall(r"valve (\w\w-\d{3}):the limit is (\d{4}) bar", text))
    if found := re.search(r"the valve that (\w\w-\d{3}) replaces", question):
        (code,) = re.findall(rf"valve {found[1]}:the limit is \d{{4}} bar\.it replaces (\w\w-\d{{3}})", text)
        return str(limits[code])
    if found := re.search(r"of valve (\w\w-\d{3}) is$", question):
        return str(limits[found[1]])
    speaker, thing = re.findall(r"did (\w+) give last\?the (\w+) has", question)[0]
    turns = re.split(r"(anna:|ben:)", text)
    said = [
        number
        for who, turn in zip(turns[1::2], turns[2::2], strict=True)
        for number in re.findall(rf"the number of my {thing} is(?: now)? (\d{{4}})", turn)
        if who == f"{speaker}:"
    ]
    return str(said[-1])


@every_tokenizer
@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_of_the_words_answers_all(name: str, kind: str) -> None:
    """The ceiling is one; every text with its longest question is exactly as long as asked."""
    tokenizer = TOKENIZERS[kind]
    texts = built(name, kind)
    assert sum(len(text.needles) for text in texts) == 24
    for text in texts:
        assert len(text.tokens) + max(len(needle.tokens) for needle in text.needles) == LENGTH
        whole = words(tokenizer, text.tokens)
        for needle in text.needles:
            question, answer = (
                words(tokenizer, part).strip()
                for part in (needle.tokens[: -needle.answer_tokens], needle.tokens[-needle.answer_tokens :])
            )
            assert look_up(whole, question) == answer, (question, answer)
            assert 0 <= needle.depth <= 1


def test_a_guesser_of_labels_is_right_once_in_four() -> None:
    """Labels come up alike often, so that the most frequent one of the examples wins no more."""
    hits = []
    for seed in range(40):
        for text in built("many-shot-16", count=10, seed=seed, length=600):
            tokenizer = TOKENIZERS["byte-level"]
            labels = re.findall(r"=(\w+)", words(tokenizer, text.tokens))
            guess = Counter(labels).most_common(1)[0][0]
            answers = [words(tokenizer, n.tokens[-n.answer_tokens :]).strip() for n in text.needles]
            assert set(answers) <= set(labels)
            hits += [answer == guess for answer in answers]
    assert 0.2 < np.mean(hits) < 0.3


@pytest.mark.parametrize("length", [300, 600, LENGTH])
def test_no_question_about_a_manual_is_asked_twice(length: int) -> None:
    """Of short texts there are fewer questions, and more texts."""
    for seed in range(10):
        texts = built("manual-questions", count=20, seed=seed, length=length)
        assert sum(len(text.needles) for text in texts) == 20
        assert (len(texts) > 2) == (length == 300)
        for text in texts:
            assert len({needle.tokens.tobytes() for needle in text.needles}) == len(text.needles)


def test_texts_whose_first_draws_are_all_different_have_the_questions_of_earlier_versions() -> None:
    """Which asked by these draws alone; records of them are published."""
    same = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        script = write_manual(tokenizer := TOKENIZERS["byte-level"], rng, np.zeros(0, np.int32), 2000, 10)
        written = "".join(str(tokenizer.decode(piece)) for _, piece in zip(range(40), script.pieces, strict=False))
        codes, drawn = re.findall(r"Valve (\S+):", written), deepcopy(rng).integers(1, 40, size=10).tolist()
        if len(set(drawn[::2])) == len(set(drawn[1::2])) == 5:
            forms = ("of valve {}", "of the valve that {} replaces")
            before = [f"\nThe limit in bar {forms[n % 2].format(codes[i])} is" for n, i in enumerate(drawn)]
            assert [asked.question for asked in script.ask(40)] == before
            same += 1
    assert 10 < same < 40


def test_half_of_the_questions_are_the_hard_ones() -> None:
    for name, kinds in (("manual-questions", ("one step", "two steps")), ("dialogue-memory", ("kept", "changed"))):
        count = Counter(needle.kind for text in built(name, count=20) for needle in text.needles)
        assert count == dict.fromkeys(kinds, 10)


def test_shots_are_as_many_as_asked_or_as_fit() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    for text in built("many-shot-16"):
        assert len(re.findall(r"=", words(tokenizer, text.tokens))) == 16
    few, many = (
        len(re.findall(r"=", words(tokenizer, built("many-shot", length=length)[0].tokens))) for length in (500, 2000)
    )
    assert few < many / 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TextsError, match="many-shot-16 was asked for at 120 tokens"):
        built("many-shot-16", length=120)
    with pytest.raises(TextsError, match="dialogue-memory was asked for at 150 tokens"):
        built("dialogue-memory", length=150)


def test_nothing_can_be_known_from_another_seed() -> None:
    for name in WRITERS:
        first, same, other = (built(name, seed=seed)[0] for seed in (1, 1, 2))
        assert np.array_equal(first.tokens, same.tokens)
        assert not np.array_equal(first.tokens, other.tokens)


@every_tokenizer
def test_a_summary_of_all_notes_is_whole_and_one_without_has_none(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    source = Source(tokenizer, LENGTH, essay_of(tokenizer, LENGTH), np.random.default_rng(0))
    prompt = assemble(source, SUMMARY, draft_summary(source))
    (question,) = prompt.questions
    assert len(prompt.text) + len(question.tokens) + question.answer_tokens == LENGTH
    notes = re.findall(r"note:(the code of the [\w-]+ is \d{7})", words(tokenizer, prompt.text))
    assert sorted(notes) == sorted(reference.lower() for reference in question.references)
    assert share_found(" ".join(notes[:2]), question.references) == 2 / 5
    longest = len(tokenizer(f" {', '.join(question.references)}", add_special_tokens=False)["input_ids"])
    assert question.answer_tokens >= 2 * longest


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model(num_hidden_layers=1)


@pytest.mark.parametrize("name", ["many-shot", "many-shot-4", "manual-questions", "dialogue-memory", SUMMARY])
def test_a_model_without_training_is_measured(name: str, model: LanguageModel) -> None:
    """The count of questions, and shares between none and all; asked again, the cache answers."""
    windows = np.arange(1600, dtype=np.int32).reshape(1, -1) % 300
    context = make_context(model, None, windows, needles=4, needles_per_text=4, ruler_prompts=1)
    (score,) = scores_of(name, context)
    assert score.metric == name
    assert score.num_windows == (1 if name == SUMMARY else 4)
    assert 0 <= score.value <= 1
    assert scores_of(name, context) == [score]


def test_every_number_of_shots_is_a_metric() -> None:
    assert [name for name in USES if name.startswith("many-shot-")] == [f"many-shot-{count}" for count in SHOTS]
    assert (SHOTS[0], SHOTS[-1]) == (4, 2048)


def test_the_recipe_asks_for_metrics_that_there_are() -> None:
    script = (Path(__file__).parents[2] / "recipes" / "uses.sh").read_text()
    (names,) = re.findall(r"^metrics=(\S+)$", script, re.MULTILINE)
    assert set(names.split(",")) <= {*USES, SUMMARY}
    settings = re.findall(r"--set measure\.(\w+)=", script)
    assert set(settings) <= {field.name for field in fields(MeasureRecipe)}
