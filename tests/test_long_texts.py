"""The texts of recipes/gemma3-64k.sh, made of small packages of the same forms."""

import struct
import zlib
from pathlib import Path

import pytest
from recipe_scripts import load_script


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_commentary(stem: Path) -> None:
    """A title, a preface and 150 psalms, a compressed block each, as a SWORD module has them."""
    chapters = ["<title/>", "<p>Preface</p>", *(f"<chapter/>Psalm {n}<br/><b>praise</b>" for n in range(1, 151))]
    packed = [zlib.compress(chapter.encode()) for chapter in chapters]
    sizes = zip(packed, chapters, strict=True)
    index, place = b"", 0
    for block, chapter in sizes:
        index += struct.pack("<III", place, len(block), len(chapter))
        place += len(block)
    stem.parent.mkdir(parents=True)
    stem.with_name("ot.czs").write_bytes(index)
    stem.with_name("ot.czz").write_bytes(b"".join(packed))


@pytest.fixture
def documents(tmp_path: Path) -> dict[str, str]:
    """Every document that the script makes of a few pages, by its name."""
    script = load_script("long_texts")
    unpacked, out = tmp_path / "unpacked", tmp_path / "out"
    write_commentary(unpacked / script.COMMENTARY)
    lilypond, racket = "lilypond-doc-html/usr/share/doc/lilypond/html/Documentation", "racket-doc/usr/share/doc/racket"
    write(unpacked / lilypond / "web-big-page.html", "<html><head>no</head><body><p>Notes</p></body></html>")
    for page in ("gui/index.html", "gui/events/a.html", "draw/index.html"):
        write(unpacked / racket / page, f"<body><p>page {page}</p></body>")
    for number in (1, 2, 10):
        write(unpacked / f"package/moby-dick/data/chapter_{number}.txt", f"chapter {number}\n")
    sbcl, sympy = (unpacked / root for root, *_ in script.CODE.values())
    write(sbcl / "src/code/array.lisp", "(defun a)\n")
    write(sbcl / "src/code/deep/b.lisp", "(defun b)\n")
    write(sbcl / "tests/c.lisp", "(defun c)\n")
    write(sympy / "core/add.py", "x = 1\n" * script.LONGEST)
    script.main(unpacked, out, shortest=1)
    return {f"{path.relative_to(out).with_suffix('')}": path.read_text("utf-8") for path in out.rglob("*.txt")}


def test_a_volume_is_the_psalms_of_the_printed_one(documents: dict[str, str]) -> None:
    volumes = [documents[f"measure/prose-treasury-{n}"].splitlines() for n in range(1, 8)]
    assert volumes[0][:3] == ["Psalm 1", "praise", "Psalm 2"]
    assert [volume[0] for volume in volumes] == [f"Psalm {n}" for n in (1, 27, 53, 79, 104, 119, 125)]
    assert volumes[-1][-2:] == ["Psalm 150", "praise"]
    assert sum(map(len, volumes)) == 300


def test_manuals_are_read_page_by_page_in_the_order_of_their_numbers(documents: dict[str, str]) -> None:
    assert documents["measure/manual-lilypond-web-big-page"].split() == ["Notes"]
    assert documents["search/manual-racket-draw"].split() == ["page", "draw/index.html"]
    assert documents["search/manual-racket-gui"].split() == ["page", "gui/events/a.html", "page", "gui/index.html"]
    assert documents["search/prose-novel"].split("\n")[:-1] == ["chapter 1", "chapter 2", "chapter 10"]


def test_code_is_read_folder_by_folder_without_its_tests_and_cut(documents: dict[str, str]) -> None:
    assert documents["measure/code-sbcl-src-code"] == "(defun a)\n(defun b)\n"
    assert not [name for name in documents if "sbcl" in name and "tests" in name]
    assert documents["search/code-sympy-core"] == ("x = 1\n" * 1_000_000)[:1_000_000]
