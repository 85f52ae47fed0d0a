"""Hooks of mkdocs: pages and figures from outside docs/ stand in the site, too, and links lead to them.

The reference of the public names is made from their docstrings.

The same files are read on a forge, where links are relative to their place in the repository.
"""

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import longrope

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "results/README.md": "records.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
REFERENCE = """# Reference

The public names of `longrope`, with shapes, units and the errors that they raise. All errors are a
[`LongRopeError`][longrope.LongRopeError]. [Python](python.md) shows them at work."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not name at its end, by their headings."""
    named = {page for entry in config.nav for page in entry.values()}
    for path in sorted(Path(config.docs_dir).glob("*.md")):
        if path.name not in named:
            config.nav.append({path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "): path.name})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, and the pages and the figures of other folders."""
    files.append(File.generated(config, "api.md", content=reference(longrope.__all__)))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for figure in (ROOT / "results").glob("*.svg"):
        files.append(File.generated(config, f"results/{figure.name}", abs_src_path=str(figure)))
    return files


def reference(names: Iterable[str]) -> str:
    """The page of some public names, functions first: mkdocstrings puts their docstrings in the place of its lines."""
    parts = [REFERENCE]
    for title, is_class in (("Functions", False), ("Classes", True)):
        parts += [f"## {title}", *(f"::: longrope.{name}" for name in names if name[0].isupper() == is_class)]
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page to those of the site."""
    at = {name: source for source, name in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else relink(part, at) for part in parts)


def relink(text: str, at: str) -> str:
    """A text of the file ``at`` of the repository, its links as the site has them.

    What the site does not hold, such as source files, keeps its name and loses its link.
    """

    def change(found: re.Match[str]) -> str:
        mark, label, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target:
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        if place in PAGES:
            return f"{mark}[{label}]({PAGES[place]}{anchor})"
        if place.startswith("docs/") or (place.startswith("results/") and place.endswith(".svg")):
            return f"{mark}[{label}]({place.removeprefix('docs/')}{anchor})"
        return label

    return LINK.sub(change, text)
