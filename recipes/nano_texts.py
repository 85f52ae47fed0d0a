"""Pick hand-written Python out of unpacked packages, none of it from the standard library.

    python recipes/nano_texts.py TREE OUT

TREE holds one folder for each package; what is chosen is copied to OUT/<package>/<path>. The same packages and the
same Python give the same texts.
"""

import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHINGLE_LINES = 10
KNOWN_SHARE = 0.02  # of a file's shingles that may occur in the standard library
FILE_BYTES = range(1_000, 300_000)
PACKAGE_BYTES = 6_000_000  # so that no package is more than a twelfth of all

LEFT_OUT = {
    *("_vendor", "extern", "externals", "vendor", "third_party"),  # copies of other projects
    *("_antlr", "data", "locale", "locales", "results", "rubi"),  # tables and generated code
    *("test", "tests", "testing", "fixtures", "testdata", "test_data"),
}
LEFT_OUT_NAME = re.compile(
    r"test_.*|.*_test|conftest|.*parsetab|.*lextab|_version"
    r"|_\w+_builtins|unistring|_mapping|mathml_elements|unichar2tex|tex2unichar|resolvent_lookup"
)
GENERATED = re.compile(r"do not edit|@generated|auto(matically)?[- ]?generated", re.IGNORECASE)


def shingles(text: str) -> list[bytes]:
    """Hashes of every ten lines in a row, blank and comment lines left out."""
    lines = [stripped for line in text.splitlines() if (stripped := line.strip()) and not stripped.startswith("#")]
    runs = ("\n".join(lines[i : i + SHINGLE_LINES]) for i in range(max(1, len(lines) - SHINGLE_LINES + 1)))
    return [digest(run) for run in runs]


def digest(text: str) -> bytes:
    """Eight bytes that name a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def standard_library() -> set[bytes]:
    """The shingles of the running Python's standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    others = {"site-packages", "dist-packages", "test"}
    paths = (path for path in folder.rglob("*.py") if not others & {*path.relative_to(folder).parts})
    return {mark for path in paths for mark in shingles(path.read_text("utf-8", "replace"))}


def is_code(path: Path) -> bool:
    """Whether a path names code that someone wrote for this package."""
    return not LEFT_OUT & {*path.parts} and not LEFT_OUT_NAME.fullmatch(path.stem)


def is_written(text: str) -> bool:
    """Tell text that someone wrote from tables and the output of tools."""
    digits, lines = sum(map(text.count, "0123456789")), text.splitlines()
    foreign = len(text) - len(text.encode("ascii", "ignore"))
    usual = digits < 0.12 * len(text) and foreign < 0.05 * len(text)
    return usual and max(map(len, lines)) < 1000 and len(text) < 100 * len(lines) and not GENERATED.search(text[:1000])


def read_texts(package: Path) -> Iterator[tuple[Path, str]]:
    """The path below the package and the text of each file that may be chosen."""
    for path in sorted(package.rglob("*.py")):
        if path.is_symlink() or not is_code(path.relative_to(package)) or path.stat().st_size not in FILE_BYTES:
            continue
        text = path.read_text("utf-8")
        if is_written(text):
            yield path.relative_to(package), text


def pick(package: Path, known: set[bytes], seen: set[bytes]) -> dict[Path, str]:
    """The texts that are no copies, in an order that has nothing to do with their names, up to the package's limit."""
    chosen, room = {}, PACKAGE_BYTES
    for path, text in sorted(read_texts(package), key=lambda item: digest(item[1])):
        marks = shingles(text)
        copied = sum(mark in known for mark in marks) > KNOWN_SHARE * len(marks)
        if copied or digest(text) in seen or len(text) > room:
            continue
        seen.add(digest(text))
        chosen[path], room = text, room - len(text)
    return chosen


def main(tree: Path, out: Path) -> None:
    """Pick, copy and tell how much there is of each package."""
    known, seen, total = standard_library(), set(), 0
    for package in sorted(tree.iterdir()):
        chosen = pick(package, known, seen)
        for path, text in chosen.items():
            target = out / package.name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        size = sum(map(len, chosen.values()))
        total += size
        print(f"{package.name:24}{len(chosen):6} files{size:12,} characters")
    print(f"{total:,} characters in {out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
