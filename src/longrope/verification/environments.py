"""The Python that a client's script runs with: this one, or that of an environment made for the client.

Such an environment holds what the client needs in another version, or what is missing here; everything else, torch
first of all, it shares with the environment of this process, so it takes seconds and some megabytes.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from longrope.errors import RecipeError
from longrope.runs.files import make_folder, write_file, writing
from longrope.verification.clients import Client

MADE = "longrope.json"  # in an environment; written last
OWN_TOOLS = ("pip", "setuptools", "wheel")


def cache_folder() -> Path:
    """Where environments are kept: ``longrope/clients`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrope" / "clients"


def find_python(client: Client, folder: Path, on_message: Callable[[str], None] = lambda _: None) -> Path:
    """The Python for a client's script; where this one does not serve, an environment is made, or found again.

    Args:
        client: what is to run.
        folder: where environments are kept.
        on_message: called with what is installed.

    Raises:
        RecipeError: the client cannot be installed.
    """
    if client.at_hand:
        return Path(sys.executable)
    if not client.requirements:
        raise RecipeError(
            f"The client {client.name} is not installed here.",
            f"Its library {client.module} must be importable by {sys.executable}.",
            f"Install {client.module}, or start its server and give the address: --with http://localhost:8000/v1.",
        )
    place = folder / f"{client.same_as or client.name}-py{sys.version_info.major}.{sys.version_info.minor}"
    make_folder(folder, linked=True)
    with writing(place, RecipeError), FileLock(f"{place}.lock"):
        made_of: dict[str, object] = {
            "requirements": client.requirements,
            "shared": _shared(),
            "python": platform.python_version(),
        }
        if not _is_made(place, made_of):
            on_message(f"install {' '.join(client.requirements)} into {place}")
            _make(place, client)
            write_file(place / MADE, lambda unfinished: unfinished.write_text(json.dumps(made_of), encoding="utf-8"))
            on_message(f"{client.name}: {', '.join(_installed(place))}; all else is shared with this environment")
    return _python(place)


def _is_made(place: Path, made_of: dict[str, object]) -> bool:
    try:
        stated = json.loads((place / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stated == json.loads(json.dumps(made_of)))


def _make(place: Path, client: Client) -> None:
    """Make an environment whose search path ends with that of this process, and let pip add what is missing there."""
    shutil.rmtree(place, ignore_errors=True)
    own_pip = find_spec("pip") is not None  # it is quicker than a copy of it; environments made by uv have none
    _run(client, [sys.executable, "-m", "venv", *(["--without-pip"] if own_pip else []), str(place)])
    paths = "\n".join(_shared()) + "\n"
    write_file(_site(place) / "longrope_shared.pth", lambda unfinished: unfinished.write_text(paths, encoding="utf-8"))
    pip = (
        [sys.executable, "-m", "pip", "--python", str(_python(place))]
        if own_pip
        else [str(_python(place)), "-m", "pip"]
    )
    _run(client, [*pip, "install", "--quiet", "--disable-pip-version-check", *client.requirements])


def _run(client: Client, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = said[-1][:300] if said else f"exit code {done.returncode}"
        raise RecipeError(
            f"The client {client.name} cannot be installed: {why}",
            f"pip must reach a package index that has {' and '.join(client.requirements)}.",
            f"Try it by hand: {shlex.join(command)}",
        )


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that lead Python to other packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _shared() -> list[str]:
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def _installed(place: Path) -> list[str]:
    found = distributions(path=[str(_site(place))])
    return sorted(f"{each.name} {each.version}" for each in found if each.name not in OWN_TOOLS)


def _site(place: Path) -> Path:
    return place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _python(place: Path) -> Path:
    return place / "bin" / "python"
