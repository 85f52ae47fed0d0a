"""Import every module of the installed package; called by .ci/run where only its own dependencies are installed."""

import importlib.util
import pkgutil
import sys
from pathlib import Path

HEAVY = {"torch", "transformers"}
NEEDS = {f"longrope.engine.{name}": "triton" for name in ("cross_entropy", "hopper")}  # it comes with torch for GPUs


def check_light(name: str) -> None:
    """Import a module that must be quick to import, and exit if it brought torch with it."""
    importlib.import_module(name)
    if heavy := HEAVY & sys.modules.keys():
        sys.exit(f"import {name} imports {', '.join(sorted(heavy))}.")


def import_modules(package_name: str) -> list[str]:
    """Import every module below a package, and exit if a file of it was left out or a module runs at import."""
    package = importlib.import_module(package_name)
    names = [package_name]
    for module in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        names.append(module.name)
        if module.name in NEEDS and importlib.util.find_spec(NEEDS[module.name]) is None:
            continue
        try:
            importlib.import_module(module.name)
        except SystemExit:
            sys.exit(f"import {module.name} runs the program.")
    num_files = sum(1 for root in package.__path__ for _ in Path(root).rglob("*.py"))
    if len(names) != num_files:
        sys.exit(f"{num_files} files, but {len(names)} modules to import: a folder has no __init__.py.")
    return names


if __name__ == "__main__":
    check_light("longrope")
    check_light("longrope.cli")
    print(f"{len(import_modules('longrope'))} modules imported")
