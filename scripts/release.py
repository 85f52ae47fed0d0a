"""Check, build and tag a release: python scripts/release.py VERSION [--publish].

Refused unless the tree is clean and the package, CITATION.cff and CHANGELOG.md name the version. Without
``--publish`` nothing leaves this machine; with it twine sends both files to the package index, and git the tag.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = {
    "src/longrope/__init__.py": r'^__version__ = "(.*?)"$',
    "CITATION.cff": r"^version: (.*)$",
    "CHANGELOG.md": r"^## (\S+) \(\d{4}-\d\d-\d\d\)$",
}


def check_versions(root: Path, version: str) -> list[str]:
    """Which files do not name the version, in words; of the changelog, the first dated heading counts."""
    wrong = []
    for name, pattern in NAMED.items():
        found = re.search(pattern, (root / name).read_text(), re.MULTILINE)
        if not found or found[1] != version:
            wrong.append(f"{name} names {found[1] if found else 'no version'}, not {version}")
    return wrong


def run(*command: str) -> str:
    """Run a command in the repository, and return what it printed."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(version: str, *, publish: bool) -> None:
    """Check, build, tag and perhaps publish."""
    problems = check_versions(ROOT, version)
    if run("git", "status", "--porcelain"):
        problems.append("the tree has changes that are not committed")
    if problems:
        sys.exit("\n".join(problems))
    run("make", "dist")
    run("git", "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    if publish:
        run(sys.executable, "-m", "twine", "upload", *sorted(str(path) for path in (ROOT / "dist").glob("longrope-*")))
        run("git", "push", "origin", f"v{version}")
    print(f"v{version} is tagged; dist/ holds its files{'' if publish else ', which were not published'}.")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--publish"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], publish="--publish" in sys.argv)
