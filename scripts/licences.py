"""The licences of what an installation brings along, as a page: python scripts/licences.py > docs/licences.md.

From the metadata of the packages that are installed here: those that the package needs, and its extras for users, with
all that these need. Torch's own libraries for GPUs are left out, for which of them come depends on its build.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

EXTRAS = ("cma", "data", "gguf", "harness", "lora")
OF_GPUS = re.compile(r"(nvidia|cuda|triton)\b")
SAME = {  # how metadata of before 2024 names licences, and their names by SPDX
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
PAGE = """# Licences

This page lists the packages that `pip install 'longrope[{extras}]'` installs, with the licences that their metadata
state. longrope itself is under [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0) and contains none of these
packages. Torch's CUDA builds also install libraries of NVIDIA, which are under NVIDIA's own terms. A test compares the
table with the installed packages.

| package | licence |
| --- | --- |
{rows}
"""


def licence_of(package: Distribution) -> str:
    """The licence of a package by SPDX names; empty where its metadata state none."""
    metadata = package.metadata
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0])
    classifiers = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    named = [SAME[name] for name in classifiers if name in SAME]
    text = str([*metadata.get_all("License", []), ""][0]).partition("\n")[0].strip()
    if named:
        return " OR ".join(sorted(set(named)))
    return "MIT" if text.startswith("The MIT License") else SAME.get(text, text)


def installed_packages(root: str = "longrope", extras: tuple[str, ...] = EXTRAS) -> dict[str, Distribution]:
    """What a package and some of its extras need, by normalized names, and all that these packages need."""
    found: dict[str, Distribution] = {}
    asked, seen = [(root, extras)], set[tuple[str, tuple[str, ...]]]()
    while asked:
        wanted = asked.pop()
        if wanted in seen or OF_GPUS.match(wanted[0]):
            continue
        seen.add(wanted)
        with suppress(PackageNotFoundError):  # for another system
            found[wanted[0]] = distribution(wanted[0])
            asked += _needed(found[wanted[0]], wanted[1])
    return {name: found[name] for name in sorted(found.keys() - {root})}


def _needed(package: Distribution, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and extras of what a package needs here."""
    for line in package.requires or ():
        need = Requirement(line)
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield re.sub(r"[-_.]+", "-", need.name).lower(), tuple(sorted(need.extras))


def format_page() -> str:
    """The page of what is installed."""
    rows = "\n".join(f"| {name} | {licence_of(package)} |" for name, package in installed_packages().items())
    return PAGE.format(extras=",".join(EXTRAS), rows=rows)


if __name__ == "__main__":
    sys.stdout.write(format_page())
