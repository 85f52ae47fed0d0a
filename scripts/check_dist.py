"""Check the built files of a release: python scripts/check_dist.py dist.

The metadata as the index of packages would (twine, strictly), that wheel and sdist hold every file of the package and
nothing else than they should, the command, the version, and that every dependency has a lower and an upper bound.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "longrope"
WITH_SDIST = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}


def package_files(root: Path = SOURCE) -> set[str]:
    """The files of the package, as paths below src/."""
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root.parent).as_posix() for path in files}


def check_wheel(wheel: Path, files: set[str], version: str) -> list[str]:
    """What is wrong with a wheel, in words."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = f"longrope-{version}.dist-info"
        if f"{info}/METADATA" not in names:
            return [f"{wheel.name} has no metadata of version {version}"]
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        points = archive.read(f"{info}/entry_points.txt").decode()
    others = {name for name in names - files if not name.startswith(f"{info}/")}
    wrong = [f"{wheel.name} lacks {name}" for name in sorted(files - names)]
    wrong += [f"{wheel.name} has {name}, which is no file of the package" for name in sorted(others)]
    needed = [line for line in metadata.get_all("Requires-Dist", []) if not line.startswith("longrope[")]
    wrong += [f"no lower or no upper bound: {line}" for line in needed if not is_bounded(line)]
    wrong += [] if _has_command(points, names) else [f"{wheel.name} has no command longrope"]
    wrong += [] if f"{info}/licenses/LICENSE" in names else [f"{wheel.name} has no licence"]
    return wrong


def _has_command(points: str, names: set[str]) -> bool:
    """Whether the command longrope is a function of a module that is there."""
    found = re.search(r"^longrope = ([\w.]+):\w+$", points, re.MULTILINE)
    places = [found[1].replace(".", "/") + ending for ending in (".py", "/__init__.py")] if found else []
    return bool(names.intersection(places))


def is_bounded(requirement: str) -> bool:
    """Whether a requirement has both ends. Versions by date, such as llama.cpp's, have no upper one."""
    by_date = re.search(r">=20\d\d\.", requirement)
    return ">=" in requirement and ("<" in requirement.split(";", maxsplit=1)[0] or bool(by_date))


def check_sdist(sdist: Path, files: set[str], version: str) -> list[str]:
    """What is wrong with a source distribution, in words."""
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"longrope-{version}/") for name in archive.getnames()}
    wanted = {f"src/{name}" for name in files} | WITH_SDIST
    wrong = [f"{sdist.name} lacks {name}" for name in sorted(wanted - names)]
    return wrong + [f"{sdist.name} has {name}, which does not belong there" for name in sorted(names - wanted)]


def check_folder(folder: Path) -> list[str]:
    """What is wrong with the one wheel and the one sdist of a folder, in words."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{folder} has {len(wheels)} wheels and {len(sdists)} sdists, not one of each"]
    found = re.search(r'^__version__ = "(.*)"$', (SOURCE / "__init__.py").read_text(), re.MULTILINE)
    version = found[1] if found else ""
    files = package_files()
    return check_wheel(wheels[0], files, version) + check_sdist(sdists[0], files, version)


if __name__ == "__main__":
    built = Path(sys.argv[1])
    problems = check_folder(built)
    if problems:
        sys.exit("\n".join(problems))
    subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *sorted(map(str, built.glob("longrope-*")))], check=True
    )
