"""Make long plain-text documents of unpacked Debian manuals, one document a manual: the training text of our recipes.

Run: python recipes/manual_texts.py UNPACKED OUT      (recipes/smollm2-64k-tuned.sh unpacks the packages)

Tags are dropped, scripts and styles with them; what repeats from page to page (headers, footers) is kept once.
"""

import gzip
import sys
from html.parser import HTMLParser
from pathlib import Path

SKIPPED = {"script", "style", "nav", "head"}
BLOCKS = {"p", "div", "li", "tr", "pre", "br", "h1", "h2", "h3", "h4", "h5", "dt", "dd", "table", "ul", "ol", "section"}
VOID = {"meta", "link", "input", "img", "hr", "br"}
MANUALS = {  # name of the document -> pattern of its pages below the folder of unpacked packages
    "debian-handbook": "debian-handbook/**/html/en-US/*.html",
    "debian-reference": "debian-reference-en/**/*.en.html",
    "debian-policy": "debian-policy/**/policy.txt.gz",
    "developers-reference": "developers-reference/**/developers-reference.txt.gz",
    "installation-guide": "installation-guide-amd64/**/en/*.html",
    "jargon": "jargon-text/**/jargon.txt.gz",
    "rust-book": "rust-doc/**/html/book/*.html",
    "rust-reference": "rust-doc/**/html/reference/**/*.html",
    "rust-nomicon": "rust-doc/**/html/nomicon/*.html",
    "postgresql": "postgresql-doc-15/**/*.html",
    "django": "python-django-doc/**/html/**/*.html",
    "sqlite": "sqlite3-doc/**/*.html",
    "zsh": "zsh-doc/**/*.html",
    "git": "git-doc/**/*.txt",
    "octave": "octave-doc/**/*.html",
    "emacs-news": "emacs-common/**/NEWS*",
    "perl": "perl-doc/**/*.pod",
}


class Plain(HTMLParser):
    """The text of a page, a line a block."""

    def __init__(self) -> None:
        """Begin with an empty page."""
        super().__init__()
        self.pieces, self.depth = [], 0

    def handle_starttag(self, tag, _attrs) -> None:
        """Skip what is no text; a block begins a line."""
        if tag in SKIPPED and tag not in VOID:
            self.depth += 1
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag) -> None:
        """A block ends a line."""
        if tag in SKIPPED:
            self.depth = max(0, self.depth - 1)
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data) -> None:
        """Keep the text."""
        if not self.depth:
            self.pieces.append(data)


def read(path: Path) -> str:
    """The plain text of a page; nothing if it is no UTF-8."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return ""
    if path.suffix == ".html":
        page = Plain()
        page.feed(text)
        text = "".join(page.pieces)
    return text


def make_document(pages: list[Path]) -> str:
    """All pages one after the other, without blank lines in a row; a long line that stood before is left out."""
    seen, lines = set(), []
    for page in pages:
        for line in read(page).splitlines():
            known = line.strip()
            if (known and known not in seen) or (len(known) < 40 and (not lines or known or lines[-1])):
                lines.append(line.rstrip())
            if len(known) >= 40:
                seen.add(known)
    return "\n".join(lines) + "\n"


def main(unpacked: Path, out: Path) -> None:
    """Write the documents."""
    out.mkdir(parents=True, exist_ok=True)
    for name, pattern in MANUALS.items():
        pages = sorted(path for path in unpacked.glob(pattern) if path.is_file() and not path.is_symlink())
        document = make_document(pages)
        assert len(document) > 100_000, f"{name}: {len(document)} characters in {len(pages)} pages"
        (out / f"{name}.txt").write_text(document, encoding="utf-8")
        print(f"{name}: {len(pages)} pages, {len(document):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
