"""The texts of recipes/first_session.py, from Debian's bash-doc and maxima-doc.

Run: python recipes/first_texts.py FOLDER

maxima.jsonl has a page of Maxima's manual in each row, bash.parquet Bash's manual in one; bash.pdf is a PDF file, and
notes.txt is in Latin-1. It needs pyarrow.
"""

import html
import json
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

DOCS = Path("/usr/share/doc")
NOTES = "Café notes of François and Zoë: señor Müller's naïve résumé, déjà vu in Ångström units.\n"


def page(path: Path) -> str:
    """The text of a page of HTML."""
    text = re.sub(r"(?is)^.*?(?=<body)", "", path.read_text(errors="replace"), count=1)
    text = re.sub(r"(?i)<(br|/p|/div|/li|/tr|/h\d|/dt|/dd|/pre)\b[^>]*>", "\n", text)
    return re.sub(r"(\n[ \t]*)+\n", "\n", html.unescape(re.sub(r"(?s)<[^>]+>", "", text)))


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = sorted(DOCS.glob("maxima-doc/html/maxima_[0-9]*.html"))
    rows = [json.dumps({"page": path.name, "text": page(path)}) for path in pages]
    (folder / "maxima.jsonl").write_text("".join(f"{row}\n" for row in rows))
    manual = pa.table({"title": ["Bash"], "text": [page(DOCS / "bash" / "bashref.html")]})
    pyarrow.parquet.write_table(manual, folder / "bash.parquet")
    shutil.copy(DOCS / "bash" / "bash.pdf", folder / "bash.pdf")
    notes = NOTES + page(DOCS / "maxima-doc" / "html" / "intromax.html")
    (folder / "notes.txt").write_bytes(notes.encode("latin-1", "replace"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
