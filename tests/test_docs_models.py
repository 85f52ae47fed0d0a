"""The model types that README.md and docs/log.md count are those of docs/models.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_model_types_are_counted() -> None:
    rows = re.findall(r"^\| [\w-]+ \| (works|partly|refused) \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    counted = f"{rows.count('works')} of {len(rows)} with RoPE"
    assert len(rows) > 100
    for name in ("README.md", "docs/log.md"):
        assert counted in " ".join((ROOT / name).read_text().split()).replace("with RoPE work", "with RoPE"), name
