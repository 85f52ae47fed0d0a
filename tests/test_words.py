"""What readers see is written in the words of the field: private words of this project are refused."""

import re

import pytest
from documents import DOCS

PRIVATE = re.compile(
    r"\b(doors?|rooms?|walk(s|ed)?|rivals?|told|carried on|as it is|turn(ed)? fully|recovered tier|tiers?|"
    r"embedded (model|default))\b",
    re.IGNORECASE,
)
PAGES = ("architecture", "deviations", "performance", "python", "results")
READ = ("README.md", "results/README.md", *(f"docs/{name}.md" for name in PAGES))


@pytest.mark.parametrize("name", READ)
def test_no_private_word_stands_in_a_document(name: str) -> None:
    lines = enumerate(DOCS[name].splitlines(), 1)
    assert [f"{name}:{number}: {line}" for number, line in lines if PRIVATE.search(line)] == []


@pytest.mark.parametrize("text", ["The doors", "a room", "walks", "as it is", "turn fully", "two tiers"])
def test_private_words_are_recognized(text: str) -> None:
    assert PRIVATE.search(text)
    assert not PRIVATE.search("an outdoor sidewalk, a retold story")


def test_the_old_generators_of_tables_leave_no_private_word() -> None:
    """Headings and labels of all tables, those of the log's old entries, too."""
    for name, text in DOCS.items():
        tables = re.findall(r"<!-- table \S+ -->.*?<!-- end -->", text, re.DOTALL)
        assert [line for table in tables for line in table.splitlines() if PRIVATE.search(line)] == [], name
