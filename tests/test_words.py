"""What readers see is written in the words of the field: private words of this project are refused."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from documents import DOCS
from typer.testing import CliRunner

from longrope.cli import app

PRIVATE = re.compile(
    r"\b(doors?|rooms?|walk(s|ed)?|rivals?|told|carried on|as it is|turn(ed)? fully|recovered tier|tiers?|"
    r"embedded (model|default))\b",
    re.IGNORECASE,
)
PAGES = (
    *("architecture", "clusters", "deviations", "expectations", "first-run", "how-it-works", "install", "own-model"),
    *("performance", "python", "report", "results", "uses"),
)
SOURCE = Path(__file__).parents[1] / "src" / "longrope"
TEMPLATES = ("exports/card.md.j2", "report/page.html.j2", "assets/nano.toml", "assets/nano/README.md")
RECIPES = sorted((SOURCE.parents[1] / "recipes").glob("*.toml"))
COMMANDS = ("", *sorted(typer.main.get_group(app).commands))
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


@pytest.mark.parametrize("command", COMMANDS)
def test_no_private_word_stands_in_the_help_of_a_command(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert "--help" in shown.output
    assert [line for line in shown.output.splitlines() if PRIVATE.search(line)] == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_private_word_stands_in_a_template(name: str) -> None:
    """Its own tags aside."""
    text = re.sub(r"\{[%{].*?[%}]\}", "", (SOURCE / name).read_text(), flags=re.DOTALL)
    assert [line for line in text.splitlines() if PRIVATE.search(line)] == []


@pytest.mark.parametrize("path", RECIPES, ids=[path.name for path in RECIPES])
def test_no_private_word_stands_in_a_recipe(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if PRIVATE.search(line)] == []


def sentences(code: str) -> Iterator[tuple[int, str]]:
    """Every text of several words in a module that is no docstring: messages, errors, labels, help."""
    nodes = list(ast.walk(ast.parse(code)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    for constant in constants:
        if isinstance(constant.value, str) and " " in constant.value:  # a name or a key of a file has none
            yield constant.lineno, constant.value


def test_no_private_word_stands_in_a_message() -> None:
    texts = [
        (path.relative_to(SOURCE), line, text)
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in sentences(path.read_text(encoding="utf-8"))
    ]
    assert len(texts) > 500
    assert [f"{path}:{line}: {text}" for path, line, text in texts if PRIVATE.search(text)] == []


def test_sentences_are_those_of_messages_and_not_of_docstrings() -> None:
    code = '"""A door."""\ndef f(x):\n    """A room."""\n    raise Error(f"{x} of two tiers", "tiers", "A rival.")\n'
    assert sorted(sentences(code)) == [(4, " of two tiers"), (4, "A rival.")]


OLD_NAMES = re.compile(
    r"(^|_)(doors?|walk(s|ed)?|rivals?|told|tiers?|carried|recover(ed|y)?|closed_forms?)(_|$)", re.IGNORECASE
)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: f"{path.relative_to(SOURCE)}")
def test_no_private_word_stands_in_an_identifier(path: Path) -> None:
    """But for the hidden option of old command lines."""
    with path.open("rb") as file:
        names = {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    former = {"tiers"} if path.name == "results.py" and path.parent.name == "cli" else set()
    assert {name for name in names if OLD_NAMES.search(name)} == former | ({"walk"} if "ast" in names else set())
