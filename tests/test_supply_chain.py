"""What the package depends on: accepted licences, listed as they are, and versions that are locked with hashes."""

import re
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import licences
import oldest
import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "scripts/lock.txt").read_text()
ACCEPTED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT"),
    *("PSF-2.0", "Zlib", "Apache-2.0 WITH LLVM-exception"),
    *("MPL-2.0", "LGPL-2.1-or-later"),  # for the files of these packages alone, which nothing of ours contains
}


def locked_versions() -> dict[str, set[str]]:
    """The versions of each package in the lock; there are several where they differ by Python or system."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+!-]+)", LOCK, re.MULTILINE):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    return found


PACKAGES = licences.installed_packages()


def test_all_kinds_of_dependencies_are_looked_at() -> None:
    """The package's own, those of extras, and what these need."""
    assert {"torch", "transformers", "numpy", "peft", "lm-eval", "gguf", "datasets", "aiohttp"} <= PACKAGES.keys()


def test_every_licence_is_accepted() -> None:
    for name, package in PACKAGES.items():
        parts = re.split(r" AND | OR |[()]", licences.licence_of(package))
        assert {part.strip() for part in parts if part.strip()} <= ACCEPTED, name
        assert licences.licence_of(package), name


def test_the_page_lists_them_as_they_are() -> None:
    """Of versions that are locked; another version may say it in other words."""
    rows = dict(re.findall(r"^\| ([\w-]+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text(), re.MULTILINE))
    locked = locked_versions()
    compared = [name for name, package in PACKAGES.items() if package.version in locked.get(name, ())]
    assert compared
    for name in compared:
        assert rows[name] == licences.licence_of(PACKAGES[name])


def test_every_locked_version_has_hashes() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.partition("\n")[0]


def test_ranges_begin_at_versions_that_are_mended() -> None:
    """What is below has a known vulnerability: in the sandbox of templates, in locks by links, in reading of files."""
    lower = dict(line.split("==") for line in oldest.oldest(tomllib.loads(oldest.PROJECT.read_text())["project"]))
    for name, mended in {"jinja2": "3.1.6", "filelock": "3.20.3", "pyarrow": "23.0.1"}.items():
        assert Version(lower[name]) >= Version(mended)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT AND Zlib", "MIT AND Zlib"),
        ("License: Apache", "Apache-2.0"),
        ("License: The MIT License (MIT)\n        Copyright (c) 2016", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License\nClassifier: License :: DFSG approved", "BSD-3-Clause"),
        ("License: Proprietary", "Proprietary"),
        ("Summary: nothing", ""),
    ],
)
def test_licences_are_read_from_every_form_of_metadata(metadata: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: a\nVersion: 1\n{metadata}\n")
    assert licences.licence_of(Distribution.at(tmp_path)) == licence
