"""The scripts of recipes/ as modules."""

import importlib.util
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent.parent / "recipes"


def load_script(name: str) -> Any:
    """A new module of a script."""
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
