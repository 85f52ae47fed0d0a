"""Print the lower end of every range in pyproject.toml as constraints: pip install -c <(python scripts/oldest.py) .

Torch is left out: which build of it an environment has is chosen before (scripts/install.py).
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(project: dict[str, object]) -> list[str]:
    """``name==version`` for every dependency and extra of a ``[project]`` table that says from which version on."""
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    dependencies: list[str] = project["dependencies"]  # type: ignore[assignment]
    lines = [*dependencies, *(line for name, lines in extras.items() if name != "dev" for line in lines)]
    ends = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", line) for line in lines)
    return sorted({f"{end[1]}=={end[2]}" for end in ends if end and end[1] != "torch"})


if __name__ == "__main__":
    print("\n".join(oldest(tomllib.loads(PROJECT.read_text())["project"])))
