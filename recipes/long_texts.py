"""Make long plain-text documents of three kinds from unpacked packages, to search on and to measure on.

Run: python recipes/long_texts.py UNPACKED OUT      (recipes/gemma3-64k.sh unpacks the packages)

OUT/measure and OUT/search get prose, manuals and source code, each from other packages. A document is a book, a manual
or a part of a source tree, of at least ``SHORTEST`` characters; the first ``LONGEST`` are taken, so that no document
outweighs the others.
"""

import re
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from manual_texts import Plain, make_document

SHORTEST, LONGEST = 200_000, 1_000_000  # characters of a document: about 50,000 and 250,000 tokens
PSALMS = (1, 27, 53, 79, 104, 119, 125, 151)  # the first psalm of each volume of the Treasury of David, and the end
COMMENTARY = "sword-comm-tdavid/usr/share/sword/modules/comments/zcom/tdavid/ot"
MANUALS = {  # name of a set -> pattern of its pages; what the star of its last folder matches names the document
    "measure/manual-lilypond": "lilypond-doc-html/usr/share/doc/lilypond/html/Documentation/*-big-page.html",
    "measure/manual-ada": "ada-reference-manual-2012/usr/share/doc/ada-reference-manual-2012/aarm2012.txt/aa-*.TXT",
    "measure/manual-maxima": "maxima-doc/usr/share/doc/maxima-doc/html/maxima_singlepage.html",
    "search/manual-racket": "racket-doc/usr/share/doc/racket/*/**/*.html",
    "search/prose-speeches": "package/sotu/data/*.txt",
    "search/prose-novel": "package/moby-dick/data/chapter_*.txt",
}
CODE = {  # name of a set -> root, files, and what is left out
    "measure/code-sbcl": ("sbcl-source/usr/share/sbcl-source", "*.lisp", r"test|tools-for|enc-|jpn"),
    "search/code-sympy": ("python3-sympy/usr/lib/python3/dist-packages/sympy", "*.py", r"tests/|benchmarks/|rubi/"),
}
EACH_A_DOCUMENT = {"measure/manual-lilypond": 0, "search/manual-racket": 5}  # set -> part of the path that names it


def plain(page: str) -> str:
    """The text of a page with tags, a line a block."""
    reader = Plain()
    reader.feed(page)
    return "\n".join(line for raw in "".join(reader.pieces).splitlines() if (line := raw.strip()))


def read_chapters(stem: Path, unit: str = "c") -> list[str]:
    """The compressed blocks of a SWORD commentary, one a chapter (``c``) or a book (``b``); its title comes first."""
    index, blocks = (stem.with_name(f"{stem.name}.{unit}z{kind}").read_bytes() for kind in "sz")
    places = struct.iter_unpack("<III", index)  # where each block begins, its size packed and unpacked
    return [zlib.decompress(blocks[start : start + size]).decode() for start, size, _ in places]


def commentary(unpacked: Path) -> Iterator[tuple[str, str]]:
    """The seven volumes of Spurgeon's Treasury of David."""
    chapters = [plain(chapter) for chapter in read_chapters(unpacked / COMMENTARY)]
    for volume, (first, after) in enumerate(pairwise(PSALMS), 1):
        yield f"measure/prose-treasury-{volume}", "\n".join(chapters[first + 1 : after + 1])


def by_number(path: Path) -> list[str | int]:
    """Chapter 10 comes after chapter 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def manuals(unpacked: Path) -> Iterator[tuple[str, str]]:
    """Manuals and books whose pages are files."""
    for name, pattern in MANUALS.items():
        documents = defaultdict[str, list[Path]](list)
        for page in sorted(unpacked.glob(pattern), key=by_number):
            parts = page.relative_to(unpacked).parts
            place = EACH_A_DOCUMENT.get(name)
            documents["" if place is None else "-" + (page.stem if place == 0 else parts[place])].append(page)
        for suffix, pages in documents.items():
            yield name + suffix, make_document(pages)


def code(unpacked: Path) -> Iterator[tuple[str, str]]:
    """Parts of source trees: the files of a folder two below the root, one after the other."""
    for name, (root, pattern, left_out) in CODE.items():
        documents = defaultdict[str, list[str]](list)
        for path in sorted((unpacked / root).rglob(pattern)):
            inside = path.relative_to(unpacked / root)
            if path.is_file() and not re.search(left_out, str(inside)):
                documents["-".join(inside.parts[:-1][:2])].append(path.read_text(encoding="utf-8", errors="replace"))
        for folder, files in documents.items():
            yield f"{name}-{folder}", "".join(files)


def main(unpacked: Path, out: Path, shortest: int = SHORTEST) -> None:
    """Write the documents that are long enough."""
    for make in (commentary, manuals, code):
        for name, text in make(unpacked):
            if len(text) < shortest:
                continue
            path = out / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text[:LONGEST], encoding="utf-8")
            print(f"{name}: {len(text[:LONGEST]):,} of {len(text):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
