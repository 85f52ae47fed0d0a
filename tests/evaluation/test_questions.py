"""Questions about documents: the files that hold them, and the prompts that ask them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ruler_prompts import KEEPERS, QUESTIONS, TOKENIZERS, build, essay_of, every_tokenizer, hub_rows, squad, words_of

from longrope.errors import TextsError
from longrope.evaluation.prompts import build_prompt
from longrope.evaluation.prompts.documents import DocumentQuestion, load_questions


@pytest.mark.parametrize("form", ["squad", "list", "lines", "plain answers"])
def test_questions_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    plain = [{"context": q.document, "question": q.question, "answers": [*q.answers, q.answers[0]]} for q in QUESTIONS]
    texts = {
        "squad": json.dumps(squad()),
        "list": json.dumps(hub_rows()),
        "lines": "\n".join(json.dumps(row) for row in hub_rows()) + "\n\n",
        "plain answers": json.dumps(plain),
    }
    (tmp_path / "questions").write_text(texts[form])
    assert load_questions(tmp_path / "questions") == QUESTIONS
    (tmp_path / "one").write_text(json.dumps(hub_rows()[0]))
    assert load_questions(tmp_path / "one") == QUESTIONS[:1]


@pytest.mark.parametrize("answers", ["Ulm", {"text": "Ulm", "answer_start": 3}])
def test_a_single_answer_is_not_taken_for_a_list_of_letters(answers: Any, tmp_path: Path) -> None:
    """Of which one stands in nearly every text."""
    (tmp_path / "one").write_text(json.dumps({"context": "c", "question": "q", "answers": answers}))
    assert load_questions(tmp_path / "one") == (DocumentQuestion("c", "q", ("Ulm",)),)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "3",
        '{"data": []}',
        '{"data": [{"paragraphs": [{"qas": []}, 5]}]}',
        '[{"context": "c", "question": "q"}]',
        '[{"context": "c", "question": "q", "answers": [" "]}]',
        '{"context": "c", "question": "q", "answers": [{"txt": "a"}]}',
        '{"context": "c", "question": "q", "answers": ["a"]}\n{"context"',
        '{"context": "c", "question": "q", "answers": [{"text": 3}]}',
        '{"context": {"title": ["c"]}, "question": "q", "answers": ["a"]}',
        '{"context": "c", "question": ["q"], "answers": ["a"]}',
        None,
    ],
)
def test_a_file_that_holds_no_questions_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TextsError, match=r"questions\.json"):
        load_questions(path)


@every_tokenizer
def test_documents_fill_the_prompt(kind: str) -> None:
    """The asked one once, the others as often as there is room, and each prompt asks another question."""
    tokenizer = TOKENIZERS[kind]
    asked = set()
    for sample in range(len(QUESTIONS)):
        prompt = build(kind, "qa", 2000, sample=sample)
        (place,) = re.findall(r"lighthouse of (\w+)", words_of(tokenizer, prompt.questions[0].tokens))
        asked.add(place)
        messages = Counter(re.findall(r"lighthouse of (\w+) stands", words_of(tokenizer, prompt.text)))
        assert (messages.pop(place), set(messages) | {place}) == (1, {name.lower() for name in KEEPERS})
        assert max(messages.values()) - min(messages.values()) <= 1
        assert sum(messages.values()) > 8
    assert len(asked) == len(QUESTIONS)


def test_a_question_without_others_is_asked_alone() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prompt = build_prompt(tokenizer, "qa", 500, essay_of(tokenizer, 500), questions=QUESTIONS[:1])
    assert words_of(tokenizer, prompt.text).count("stands on a rock") == 1
    assert len(prompt.text) + len(prompt.questions[0].tokens) + prompt.questions[0].answer_tokens == 500


def test_too_few_questions_are_reported() -> None:
    with pytest.raises(TextsError, match=r"There are 6 questions .* Question 7 .* measure\.qa_data"):
        build("byte-level", "qa", 500, sample=6)
