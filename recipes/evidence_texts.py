"""Make the token arrays of recipes/evidence-64k.toml: prose, manuals and code to search, to train and to measure on.

Run: python recipes/evidence_texts.py MODEL UNPACKED OUT      (recipes/evidence-64k.sh unpacks the packages)

OUT/measure gets the window in the middle of every document of ``recipes/long_texts.py`` that has one, so a window is a
document. OUT/search and OUT/train get whole windows of documents, as many of each kind and in both, so that the halves
of a recipe with these two folders are these. No window is joined from two documents. Arrays travel better than text to
a machine without a network; none of them may be passed on.
"""

import gzip
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from longrope.data import encode
from longrope.models import load_model

sys.path.insert(0, str(Path(__file__).parent))
import long_texts
from long_texts import by_number, plain, read_chapters
from manual_texts import make_document

WINDOW = 65_536  # tokens
KINDS = ("code", "manual", "prose")
WINDOWS = 34  # of each kind to search on, and of each to train on
CHARACTERS = 13_000_000  # of a document at most: more than all windows of a kind
DICT = "usr/share/dictd"
PAGES = {  # name of a set -> pattern of its pages; the part of the path that names the document, None: all are one
    "manual-erlang": ("erlang-doc/usr/share/doc/erlang-doc/lib/**/*.html", 6),
    "manual-pascal": ("fp-docs-3.2.2/usr/share/doc/fp-docs/3.2.2/*/*.html", 6),
    "manual-office": ("libreoffice-help-en-us/**/*.html", None),
    "code-go": ("golang-1.19-src/usr/share/go-1.19/src/**/*.go", 5),
}
LEFT_OUT = r"release_notes|notes\.html|testdata|_test\.go|/vendor/|tables|zip|rewrite|opGen|/z[^/]*$|syscall"
JAVA = "openjdk-17-source/usr/lib/jvm/openjdk-17/lib/src.zip"
LICENCE = re.compile(r"\A\s*/\*.*?\*/", re.DOTALL)
SOURCE = re.compile(r"[ \t]*\[[^]\n]*(Webster|PJC|WordNet)[^]\n]*\][ \t]*$", re.MULTILINE)  # of an entry of GCIDE
Documents = Iterator[tuple[str, str]]
Tokens = NDArray[np.uint16]


def dictionaries(unpacked: Path) -> Documents:
    """Two dictionaries, the glosses of WordNet, and Matthew Henry's concise commentary."""
    for name in ("foldoc", "gcide"):
        packed = (unpacked / f"dict-{name}" / DICT / f"{name}.dict.dz").read_bytes()
        yield f"prose-{name}", SOURCE.sub("", gzip.decompress(packed).decode("utf-8", "replace"))
    data = sorted((unpacked / "wordnet-base/usr/share/wordnet").glob("data.*"))
    yield "prose-wordnet", "\n".join(gloss for file in data for gloss in re.findall(r"\| (.*)", file.read_text()))
    stems = [unpacked / "sword-comm-mhcc/usr/share/sword/modules/comments/zcom/mhcc" / name for name in ("ot", "nt")]
    yield "prose-henry", "\n".join(plain(chapter) for stem in stems for chapter in read_chapters(stem, "b"))


def manuals_and_go(unpacked: Path) -> Documents:
    """Documents whose pages or sources are files: those of a folder are one."""
    for name, (pattern, place) in PAGES.items():
        found = defaultdict[str, list[Path]](list)
        for page in sorted(unpacked.glob(pattern), key=by_number):
            if page.is_file() and not re.search(LEFT_OUT, page.relative_to(unpacked).as_posix()):
                found["" if place is None else f"-{page.relative_to(unpacked).parts[place]}"].append(page)
        for suffix, pages in found.items():
            text = "".join(page.read_text("utf-8") for page in pages) if "code" in name else make_document(pages)
            yield name + suffix, text


def java(unpacked: Path) -> Documents:
    """The packages of Java's base module, without the licence at the head of each file."""
    found = defaultdict[str, list[str]](list)
    with ZipFile(unpacked / JAVA) as sources:
        for name in sorted(sources.namelist()):
            parts = name.split("/")
            if name.startswith("java.base/java/") and name.endswith(".java") and len(parts) > 3:
                found[parts[2]].append(LICENCE.sub("", sources.read(name).decode()))
    for package, files in found.items():
        yield f"code-java-{package}", "".join(files)


def training(unpacked: Path) -> Documents:
    """All documents to train on."""
    for make in (dictionaries, manuals_and_go, java):
        yield from make(unpacked)


def whole_windows(documents: Documents, tokenize: Callable[[str], list[int]], window: int) -> dict[str, Tokens]:
    """The tokens of documents that have a window, cut to as many windows as fit; the middle ones are kept."""
    found = {}
    for name, text in documents:
        tokens = np.asarray(tokenize(text[:CHARACTERS]), np.uint16)
        if fitting := len(tokens) // window:
            first = (len(tokens) - fitting * window) // 2
            found[name] = tokens[first : first + fitting * window]
    return found


def share(windows: Sequence[int], total: int) -> list[int]:
    """How many windows to take of each document for ``total`` in all: as evenly as they have them."""
    assert sum(windows) >= total, f"{sum(windows)} windows, and {total} are needed"
    level = next(n for n in range(1, total + 1) if sum(min(n, have) for have in windows) >= total)
    taken = [min(level, have) for have in windows]
    for i in [i for i, n in enumerate(taken) if n == level][: sum(taken) - total]:
        taken[i] -= 1
    return taken


def balanced(documents: dict[str, Tokens], window: int, windows: int) -> dict[str, Tokens]:
    """The same documents with as many windows of each kind in all."""
    found = {}
    for kind in KINDS:
        own = [name for name in sorted(documents) if name.startswith(kind)]
        for name, taken in zip(own, share([len(documents[x]) // window for x in own], windows), strict=True):
            found[name] = documents[name][: taken * window]
    return {name: tokens for name, tokens in found.items() if len(tokens)}


def read_long(unpacked: Path) -> dict[str, list[tuple[str, str]]]:
    """The documents of recipes/long_texts.py, to search on and to measure on."""
    found: dict[str, list[tuple[str, str]]] = {"search": [], "measure": []}
    for make in (long_texts.commentary, long_texts.manuals, long_texts.code):
        for name, text in make(unpacked):
            part, _, document = name.partition("/")
            found[part].append((document, text))
    return found


def write(folder: Path, documents: dict[str, Tokens], window: int) -> None:
    """Write arrays, and print how many documents, windows and tokens there are of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tokens in documents.items():
        np.save(folder / name, tokens)
    for kind in KINDS:
        sizes = {name: len(tokens) for name, tokens in documents.items() if name.startswith(kind)}
        total = sum(sizes.values())
        print(f"{folder.name}, {kind}: {len(sizes)} documents, {total // window} windows, {total:,} tokens")
        print("   ", ", ".join(f"{name.removeprefix(kind + '-')} {size:,}" for name, size in sizes.items()))


def main(model: str, unpacked: Path, out: Path, window: int = WINDOW, windows: int = WINDOWS) -> None:
    """Write the arrays of all three sets."""
    tokenizer = load_model(model, device="cpu").tokenizer
    long = read_long(unpacked)

    def cut(documents: Documents) -> dict[str, Tokens]:
        return whole_windows(documents, lambda text: encode(tokenizer, text), window)

    measured = cut(iter(long["measure"]))
    middle = {name: tokens[len(tokens) // window // 2 * window :][:window] for name, tokens in measured.items()}
    write(out / "measure", middle, window)
    write(out / "search", balanced(cut(iter(long["search"])), window, windows), window)
    write(out / "train", balanced(cut(training(unpacked)), window, windows), window)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
