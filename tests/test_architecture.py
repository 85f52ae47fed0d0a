"""The layers of the package, held by its imports: deferred ones, and those by name, count like all others.

A room is a module or a folder directly below ``src/longrope``; the tables here say what each may import. A module of a
folder may have a row of its own, which then says all that it may import.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "longrope"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

NOUNS = (
    *("errors", "lengths", "reading", "checksums", "rows", "registry", "metrics", "labels", "settings", "schedule"),
    *("rope", "tune_recipe", "search_recipe", "recipe", "recipe_template"),
)
EDGES = ("distributed", "runs", "models", "data", "engine", "verdict")
STEPS = ("search", "tuning", "evaluation", "exports", "report", "generation")

# Room -> the rooms that it may import, besides itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **{noun: NOUNS[:i] for i, noun in enumerate(NOUNS)},
    "distributed": NOUNS,
    "distributed.state": (),
    "distributed.failures": ("errors", "distributed.state"),
    "distributed.context_parallel": ("distributed.state", "distributed.failures"),
    "distributed.fsdp": ("distributed.state", "distributed.failures"),
    "distributed.launch": ("errors", "distributed.state", "distributed.failures"),
    "runs": (*NOUNS, "distributed"),
    "verdict": (*NOUNS, "runs"),
    "models": (*NOUNS, "data"),
    "data": NOUNS,
    "engine": (*NOUNS, "distributed", "models"),
    **{f"engine.{x}": () for x in ("adapters", "cross_entropy", "flash4", "hopper", "merging")},
    "engine.kernels": ("errors", "engine.flash4", "engine.hopper", "engine.merging"),
    "engine.backward": ("errors", "engine.flash4", "engine.kernels", "engine.merging"),
    "engine.trials": ("errors", "engine.backward", "engine.kernels"),
    "engine.graphs": ("engine.backward", "engine.kernels", "engine.trials"),
    "engine.attention": tuple(f"engine.{x}" for x in ("backward", "graphs", "kernels", "merging", "trials")),
    "engine.compiling": ("errors",),
    "engine.native_cache": ("errors",),
    "engine.kv_cache": ("errors", "models", "engine.native_cache"),
    "engine.masks": ("errors",),
    "engine.indexers": ("engine.attention",),
    "engine.compressing": ("engine.attention",),
    "engine.biases": ("engine.attention", "engine.masks"),
    "engine.parted": (*("errors", "rope", "engine.attention", "engine.backward", "engine.kernels", "engine.merging"),),
    "engine.context": (
        *("errors", "distributed", "engine.adapters", "engine.attention", "engine.indexers", "engine.kv_cache"),
        *("engine.backward", "engine.biases", "engine.compressing", "engine.masks", "engine.parted"),
    ),
    "engine.saved_document": ("errors", "models", "engine.kv_cache", "runs"),
    "engine.loss": ("models", "engine.cross_entropy", "engine.kv_cache"),
    **dict.fromkeys(STEPS, (*NOUNS, *EDGES)),
    "verification": (*NOUNS, *EDGES, "evaluation"),
    "verification.ask_client": (),
    "pipeline": (*NOUNS, *EDGES, *STEPS, "verification"),
    "cli": (*NOUNS, *EDGES, *STEPS, "verification", "pipeline", "__init__"),
    "cli.options": (*NOUNS, "runs"),
    "__main__": ("cli",),
    "assets": (),
}

# Folders that import nothing of the package from outside themselves.
ALONE = ("report.charts",)

# Heavy library -> the modules that may import it; all others, the nouns first of all, do without.
MAY_KNOW: dict[str, tuple[str, ...]] = {
    "torch": (
        *("distributed", "models", "engine"),
        *("tuning.adapters", "tuning.low_rank", "tuning.training", "tuning.progress", "exports.lists"),
        *("exports.comparison", "exports.gguf_weights", "verification.ask_client"),
    ),
    "triton": ("engine.cross_entropy", "engine.hopper"),
    "transformers": (
        *("models", "engine.context", "engine.kv_cache", "engine.loss", "engine.native_cache"),
        "verification.ask_client",
    ),
    "lm_eval": ("evaluation.lm_eval",),
    "datasets": ("models", "data"),
    "safetensors": ("models", "tuning.adapters", "tuning.progress", "engine.saved_document"),
}


class Import(NamedTuple):
    """One import: its line, the full name of what is imported, and whether it runs when the module is imported."""

    line: int
    name: str
    eager: bool


class Module(NamedTuple):
    """One file: its path, its dotted name below the package ("" for the package itself) and its imports."""

    path: Path
    name: str
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """The part of the house that it belongs to."""
        return self.name.split(".")[0] or "__init__"


def read_modules(root: Path) -> list[Module]:
    """Every module below a source root, which is the folder of the package."""
    names = {path: _dotted(path.relative_to(root)) for path in sorted(root.rglob("*.py"))}
    known = {f"{PACKAGE}.{name}".rstrip(".") for name in names.values()}
    return [Module(path, name, tuple(_imports(path, root, known))) for path, name in names.items()]


def _dotted(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, root: Path, known: set[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    eager = set(_eager(tree))
    package = (PACKAGE, *path.relative_to(root).parent.parts)
    for node in ast.walk(tree):
        for name in _imported_names(node, package, known):
            yield Import(getattr(node, "lineno", 0), name, node in eager)


def _eager(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs at import: not inside a function, nor for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _eager(child)


def _imported_names(node: ast.AST, package: tuple[str, ...], known: set[str]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package[: len(package) - level + 1] if level else ()
            origin = ".".join([*above, *([module] if module else [])])
            for alias in names:  # `from longrope import rope` imports a module, `from longrope import extend` does not
                whole = f"{origin}.{alias.name}"
                yield whole if whole in known else origin
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str() as name), *_],
        ):
            yield name


def find_violations(root: Path) -> list[str]:
    """What breaks the tables, one line each: the file, its line, the import, and what would be allowed."""
    modules = read_modules(root)
    if not modules:
        return [f"{root} holds no module"]
    found = [violation for module in modules for violation in _violations(module)]
    return [*found, *_cycles(modules)]


def _violations(module: Module) -> Iterator[str]:
    if module.room == "__init__":
        for line, name, eager in module.imports:
            if eager and name.split(".")[0] in MAY_KNOW:
                yield f"{module.path}:{line} imports {name}; importing the package must not import it"
        return
    if module.room not in MAY_IMPORT:
        yield f"{module.path} is in no layer; give {module.room!r} its row in {Path(__file__).name}"
        return
    for line, name, _ in module.imports:
        top, _, below = name.partition(".")
        room = below.split(".")[0] or "__init__"
        who = module.name if module.name in MAY_IMPORT else module.room
        allowed = MAY_IMPORT[who]
        own = () if "." in who else (who,)
        if top == PACKAGE and not {room, below} & {*own, *allowed}:
            yield f"{module.path}:{line} imports {name}; {who} may import {', '.join(allowed) or 'nothing'}"
        for folder in ALONE:
            if top == PACKAGE and _within(module.name, folder) and not _within(below, folder):
                yield f"{module.path}:{line} imports {name}; {folder} imports nothing outside itself"
        if top in MAY_KNOW and not {module.room, module.name} & set(MAY_KNOW[top]):
            yield f"{module.path}:{line} imports {name}; only {', '.join(MAY_KNOW[top])} may"


def _within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def _cycles(modules: list[Module]) -> Iterator[str]:
    """The tables forbid cycles between rooms; this finds those within one."""
    graph = {f"{PACKAGE}.{m.name}": {i.name for i in m.imports} - {f"{PACKAGE}.{m.name}"} for m in modules if m.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"import cycle: {' <- '.join(error.args[1])}"


def test_source_keeps_its_layers() -> None:
    assert not find_violations(SOURCE), "\n".join(find_violations(SOURCE))


def test_every_imported_library_is_declared() -> None:
    """Each library that the package imports is a dependency or in an extra, by the distribution that brings it."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in listed}
    libraries = {name.name.split(".")[0] for module in read_modules(SOURCE) for name in module.imports}
    foreign = libraries - sys.stdlib_module_names - {PACKAGE}
    brought = packages_distributions()
    missing = {lib for lib in foreign if not {d.lower().replace("_", "-") for d in brought.get(lib, [lib])} & declared}
    assert {"torch", "lm_eval", "huggingface_hub"} <= foreign
    clients = {"mlx", "mlx_lm", "vllm"}  # of the scripts of verify, which run in environments of their own
    own_build = {"flash_attn_interface"} & foreign  # offered where it is installed
    assert missing == own_build | clients


def test_source_has_modules_to_check() -> None:
    assert {module.room for module in read_modules(SOURCE)} >= set(NOUNS)


def test_steps_may_not_import_each_other() -> None:
    assert all(not set(MAY_IMPORT[step]) & set(STEPS) for step in STEPS)


def plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return find_violations(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"rope/a.py": "from longrope.recipe import Recipe"}, "a.py:1 imports longrope.recipe; rope may"),
        ({"rope.py": "import longrope.models"}, "rope.py:1 imports longrope.models; rope may import errors, lengths"),
        ({"errors.py": "def f():\n    from longrope import rope", "rope.py": ""}, "errors.py:2 imports longrope.rope"),
        ({"errors.py": "from . import rope", "rope.py": ""}, "errors.py:1 imports longrope.rope; errors may"),
        ({"errors.py": "from .rope import RopeSpec"}, "errors.py:1 imports longrope.rope; errors may import nothing"),
        ({"labels.py": "from longrope import RopeSpec"}, "labels.py:1 imports longrope; labels may"),
        ({"recipe.py": "def f():\n    import torch"}, "recipe.py:2 imports torch; only distributed, models,"),
        ({"recipe.py": "from torch.nn import Module"}, "recipe.py:1 imports torch.nn; only distributed"),
        ({"recipe.py": "import importlib\nimportlib.import_module('torch')"}, "recipe.py:2 imports torch; only"),
        ({"recipe.py": "torch = __import__('torch')"}, "recipe.py:1 imports torch; only"),
        ({"recipe.py": "class A:\n    import transformers"}, "recipe.py:2 imports transformers; only"),
        ({"engine/attention.py": "import triton"}, "attention.py:1 imports triton; only engine.cross_entropy"),
        (
            {"engine/context.py": "from longrope.engine import hopper", "engine/hopper.py": ""},
            "context.py:1 imports longrope.engine.hopper; engine.context may",
        ),
        ({"engine/passes.py": "import transformers"}, "passes.py:1 imports transformers; only"),
        ({"cli/commands.py": "import datasets"}, "commands.py:1 imports datasets; only"),
        ({"models.py": "from longrope.runs import RunDir"}, "models.py:1 imports longrope.runs; models may"),
        ({"models.py": "import longrope.engine.passes"}, "models.py:1 imports longrope.engine.passes; models may"),
        (
            {"engine/attention.py": "import longrope.distributed"},
            "attention.py:1 imports longrope.distributed; engine.attention may",
        ),
        (
            {"engine/kernels.py": "from longrope.models import f"},
            "kernels.py:1 imports longrope.models; engine.kernels may",
        ),
        ({"distributed/a.py": "import longrope.engine"}, "a.py:1 imports longrope.engine; distributed may"),
        ({"distributed/a.py": "from longrope.models import f"}, "a.py:1 imports longrope.models; distributed may"),
        ({"distributed/a.py": "def f():\n    import transformers"}, "a.py:2 imports transformers; only models"),
        ({"models.py": "import longrope.distributed.state"}, "models.py:1 imports longrope.distributed.state; models"),
        (
            {"distributed/state.py": "from longrope.errors import ModelError"},
            "state.py:1 imports longrope.errors; distributed.state may import nothing",
        ),
        (
            {"distributed/fsdp.py": "import longrope.distributed.launch", "distributed/launch.py": ""},
            "fsdp.py:1 imports longrope.distributed.launch; distributed.fsdp may import distributed.state, ",
        ),
        ({"engine/a.py": "from longrope.data import load_texts"}, "a.py:1 imports longrope.data; engine may"),
        ({"search/score.py": "from ..evaluation import passkey"}, "score.py:1 imports longrope.evaluation; search may"),
        ({"search/score.py": "import longrope.pipeline"}, "score.py:1 imports longrope.pipeline; search may"),
        ({"search/score.py": "import torch"}, "score.py:1 imports torch; only"),
        ({"exports/gguf.py": "import torch"}, "gguf.py:1 imports torch; only"),
        ({"exports/hf.py": "def f():\n    import transformers"}, "hf.py:2 imports transformers; only"),
        (
            {"report/charts/lines.py": "from longrope.recipe import format_tokens"},
            "lines.py:1 imports longrope.recipe; report.charts imports nothing outside itself",
        ),
        (
            {"report/charts/rows.py": "def f():\n    import longrope.report.palette", "report/palette.py": ""},
            "rows.py:2 imports longrope.report.palette; report.charts imports nothing",
        ),
        ({"pipeline/a.py": "from longrope.cli import main"}, "a.py:1 imports longrope.cli; pipeline may"),
        ({"utils.py": ""}, "utils.py is in no layer; give 'utils' its row"),
        ({"helpers/tools.py": ""}, "tools.py is in no layer; give 'helpers' its row"),
        ({"__init__.py": "import torch"}, "__init__.py:1 imports torch; importing the package must not"),
        (
            {"search/a.py": "import longrope.search.b", "search/b.py": "import longrope.search.a"},
            "import cycle: longrope.search.",
        ),
        ({}, "holds no module"),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, files: dict[str, str], message: str) -> None:
    found = plant(tmp_path, files)
    assert len(found) == 1, found
    assert message in found[0]


def test_allowed_imports_pass(tmp_path: Path) -> None:
    files = {
        "__init__.py": "if TYPE_CHECKING:\n    import torch\ndef __getattr__(name):\n    import torch",
        "__main__.py": "from longrope.cli import main",
        "cli/__init__.py": "from longrope.cli.commands import app",
        "cli/commands.py": "from longrope import __version__\ndef f():\n    from longrope.pipeline import extend",
        "rope.py": "import numpy\nfrom longrope.errors import ModelError",
        "engine/attention.py": "import torch\nfrom longrope.engine.kernels import CPU",
        "engine/kernels.py": "import torch\nfrom longrope.errors import ModelError",
        "distributed/__init__.py": "from longrope.distributed.collectives import total",
        "distributed/collectives.py": "import torch.distributed\nfrom longrope.distributed.state import ranks",
        "distributed/failures.py": "from longrope.errors import ProcessLostError\nimport longrope.distributed.state",
        "distributed/state.py": "",
        "engine/passes.py": "import torch\nfrom longrope import distributed\nimport longrope.engine.kernels",
        "search/__init__.py": "from longrope.search.evolve import evolve",
        "search/evolve.py": "import longrope.search.score, longrope.search.space",
        "search/score.py": "from longrope import distributed\nfrom longrope.engine.passes import loss",
        "exports/lists.py": "import torch",
        "report/charts/lines.py": "import longrope.report.charts.axes\nfrom longrope.report.charts import svg",
        "report/charts/axes.py": "",
        "report/charts/svg.py": "",
        "report/parts.py": "import longrope.report.charts.lines",
        "pipeline/extension.py": "import longrope.search, longrope.exports.hf",
    }
    assert plant(tmp_path, files) == []


def test_files_of_tests_have_one_subject() -> None:
    """Of at most 350 lines."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in Path(__file__).parent.rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > 350} == {}
