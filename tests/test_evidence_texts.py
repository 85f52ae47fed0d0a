"""The token arrays of recipes/evidence-64k.sh: whole windows of documents, as many of each kind."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipe_scripts import load_script


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module."""
    return load_script("evidence_texts")


def tokenize(text: str) -> list[int]:
    """A token a character."""
    return [ord(character) for character in text]


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_document_gives_the_whole_windows_of_its_middle(script: Any) -> None:
    found = script.whole_windows(iter([("long", "abcdefghijk"), ("short", "abc")]), tokenize, 4)
    assert {name: "".join(map(chr, tokens)) for name, tokens in found.items()} == {"long": "bcdefghi"}


@pytest.mark.parametrize(
    ("windows", "total", "taken"),
    [
        ([1, 5, 9], 6, [1, 2, 3]),
        ([1, 5, 9], 15, [1, 5, 9]),
        ([4, 4], 8, [4, 4]),
        ([9, 9, 9], 7, [2, 2, 3]),
        ([5, 5, 5], 1, [0, 0, 1]),
    ],
)
def test_documents_share_the_windows_of_a_kind_evenly(
    windows: list[int], total: int, taken: list[int], script: Any
) -> None:
    assert script.share(windows, total) == taken


def test_every_kind_has_as_many_windows(script: Any) -> None:
    lengths = {"code-a": 12, "code-b": 4, "manual-a": 20, "prose-a": 8, "prose-b": 40}
    documents = {name: np.arange(length, dtype=np.uint16) for name, length in lengths.items()}
    found = script.balanced(documents, 4, 3)
    assert {name: len(tokens) for name, tokens in found.items()} == {
        "code-a": 8,
        "code-b": 4,
        "manual-a": 12,
        "prose-a": 4,
        "prose-b": 8,
    }
    with pytest.raises(AssertionError, match="4 windows, and 5 are needed"):
        script.balanced(documents, 4, 5)


def test_the_training_documents_are_read_out_of_their_packages(script: Any, tmp_path: Path) -> None:
    for name, entry in {"gcide": "Cat, n. A pet. [1913 Webster]\n", "foldoc": "bit\n"}.items():
        write(tmp_path / f"dict-{name}" / script.DICT / f"{name}.dict.dz", gzip.compress(entry.encode()))
    write(tmp_path / "wordnet-base/usr/share/wordnet/data.noun", "1 n 01 cat 0 | a pet\n2 n 01 dog 0 | another\n")
    for stem in ("ot", "nt"):
        for part in ("bzs", "bzz"):
            write(tmp_path / f"sword-comm-mhcc/usr/share/sword/modules/comments/zcom/mhcc/{stem}.{part}", b"")
    manuals, go = "fp-docs-3.2.2/usr/share/doc/fp-docs/3.2.2", "golang-1.19-src/usr/share/go-1.19/src"
    write(tmp_path / manuals / "ref/b2.html", "<p>two</p>")
    write(tmp_path / manuals / "ref/b10.html", "<p>ten</p>")
    write(tmp_path / manuals / "prog/a.html", "<p>one</p>")
    write(tmp_path / go / "net/http/a.go", "package http\n")
    write(tmp_path / go / "net/b_test.go", "package net\n")
    (tmp_path / script.JAVA).parent.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / script.JAVA, "w") as sources:
        sources.writestr("java.base/java/util/A.java", "/* licence */\nclass A {}\n")
        sources.writestr("java.desktop/java/awt/B.java", "class B {}\n")
    found = {name: text.split() for name, text in script.training(tmp_path)}
    assert found == {
        "prose-foldoc": ["bit"],
        "prose-gcide": ["Cat,", "n.", "A", "pet."],
        "prose-wordnet": ["a", "pet", "another"],
        "prose-henry": [],
        "manual-pascal-prog": ["one"],
        "manual-pascal-ref": ["two", "ten"],
        "code-go-net": ["package", "http"],
        "code-java-util": ["class", "A", "{}"],
    }
