"""Questions about one of many documents (qa), from a file of the form of SQuAD."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longrope.data import Tokens, encode, read_document
from longrope.errors import TextsError, describe_error
from longrope.evaluation.prompts.prompt import Draft, Haystack, Source
from longrope.reading import parse_json


@dataclass(frozen=True)
class DocumentQuestion:
    """A document, a question about it, and answers of which each is right."""

    document: str
    question: str
    answers: tuple[str, ...]


def load_questions(path: Path) -> tuple[DocumentQuestion, ...]:
    """Read the questions of a file that have an answer.

    It is JSON as SQuAD has it (``data``, ``paragraphs``, ``qas``), or a list of rows (JSON, or one a line) with
    ``context``, ``question`` and ``answers``, as the hub has them.

    Raises:
        TextsError: the file is missing, has another form, or no question in it has an answer.
    """
    text = read_document(path)
    try:
        try:
            content = parse_json(text)
        except ValueError:
            content = [parse_json(line) for line in text.splitlines() if line.strip()]
        if isinstance(content, dict):  # a row alone is a JSON Lines file of one line
            content = _squad_rows(content) if "data" in content else [content]
        read = [_read_row(row) for row in content]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, describe_error(error)) from None
    if not (answered := tuple(question for question in read if question.answers)):
        raise _unreadable(path, "no question has an answer")
    return answered


def _squad_rows(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield {"context": paragraph["context"], **asked}


def _read_row(row: dict[str, Any]) -> DocumentQuestion:
    document, question, answers = row["context"], row["question"], _answers(row["answers"])
    if not all(isinstance(text, str) for text in (document, question, *answers)):
        raise TypeError("context, question and answers are to be texts")
    stripped = (answer.strip() for answer in answers)
    return DocumentQuestion(document, question, tuple(dict.fromkeys(filter(None, stripped))))


def _answers(stated: Any) -> list[Any]:
    """The answers, which are rows, columns, plain texts, or one of them alone."""
    listed = stated["text"] if isinstance(stated, dict) else stated
    return [listed] if isinstance(listed, str) else [x["text"] if isinstance(x, dict) else x for x in listed]


def _unreadable(path: Path, why: str) -> TextsError:
    return TextsError(
        f"{path} cannot be read as questions ({why}).",
        "JSON of the form of SQuAD is needed, or rows with context, question and answers.",
        "Correct measure.qa_data.",
    )


def ask_documents(source: Source, questions: Sequence[DocumentQuestion], asked: DocumentQuestion) -> Draft:
    """A question whose document stands among others of the same file, which come again where there are too few."""
    tokenizer, rng = source.tokenizer, source.rng
    others = sorted({question.document for question in questions} - {asked.document})
    order, depth = rng.permutation(len(others)), rng.random(1)
    needed = _encode_document(tokenizer, asked.document)

    def fill(room: int) -> Tokens:
        rows: list[list[int]] = []
        left = room - len(needed)
        while others:
            row = _encode_document(tokenizer, others[order[len(rows) % len(others)]])
            if len(row) > left:
                break
            rows.append(row)
            left -= len(row)
        return Haystack.of_pieces(rows).planted([needed], depth)

    opening = "Answer the question at the end from these documents.\n\n"
    question = f"Question: {asked.question}\nAnswer:"
    return Draft(opening, ((question, asked.answers),), len(needed), fill, any_of=True)


def choose_question(questions: Sequence[DocumentQuestion], seed: int, sample: int) -> DocumentQuestion:
    """The question of one sample; those of a seed are all different (raises TextsError where there are too few)."""
    if sample >= len(questions):
        raise TextsError(
            f"There are {len(questions)} questions about documents.",
            f"Question {sample + 1} was to be asked, and none is asked twice.",
            "Give more with measure.qa_data, or fewer measure.ruler_prompts.",
        )
    return questions[int(np.random.default_rng(seed).permutation(len(questions))[sample])]


def _encode_document(tokenizer: Any, document: str) -> list[int]:
    return encode(tokenizer, f"Document:\n{document}\n\n")
