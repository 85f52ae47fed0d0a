"""The docs are held to the code: length, tree, commands, options, links, paths and Python lines."""

import re
from pathlib import Path
from typing import Any

import pico
import pytest
from documents import DOCS, ROOT
from typer.testing import CliRunner

import longrope
from longrope.cli import app

README = DOCS["README.md"]
CURRENT = {name: text for name, text in DOCS.items() if name not in ("docs/log.md", "results/README.md")}  # no history
COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
OTHERS = {
    "--trust-remote-code",
    "--help",
    "--version",
    "--show-completion",
    "--index-url",
    "--standalone",
    "--nproc-per-node",
    "--port",
    "--max-model-len",
    "--enforce-eager",
    "--max-logprobs",
    "--parts",
    "--pico",
}  # torchrun's, transformers', vLLM's and those of benchmarks/gpu.py


def code_of(text: str) -> str:
    """All that a document sets as code, in blocks and in lines."""
    return "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))


def python_of(name: str) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"```python\n(.*?)```", DOCS[name], re.DOTALL)


def test_the_first_screen_shows_how_to_start() -> None:
    """What it is, a figure with a caption, three facts, the commands and how to load the result, before any chapter."""
    first = README.split("\n## ")[0]
    assert re.search(r"!\[.+\]\(results/by-length.svg\)\n\n\*.+", first)
    assert len(re.findall(r"^\* \*\*.*\d", first, re.MULTILINE)) == 3
    for needed in ("pip install", "make demo", "make test", "from_pretrained", "longrope.rescaled"):
        assert needed in first, needed


def test_the_tree_is_the_real_one() -> None:
    """Every line of the tree exists, and every module, package and folder has its line."""
    tree = DOCS["docs/architecture.md"].split("## The tree\n\n```\n")[1].split("```")[0]
    entries = [re.fullmatch(r"( *)(\S+) +(\S.*)", line) for line in tree.splitlines()[1:]]
    assert all(entries)
    named = [entry[2] for entry in entries if entry and entry[1]]
    package = ROOT / "src" / "longrope"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert sorted(named) == sorted(modules | folders)
    tops = [entry[2] for entry in entries if entry and not entry[1]]
    assert tops == ["tests/", "benchmarks/", "recipes/", "scripts/", "results/", "docs/"]
    assert all((ROOT / top).is_dir() for top in tops)


def test_every_command_is_described() -> None:
    described = re.findall(r"^longrope (\w+)  ", README.split("## Commands")[1], re.MULTILINE)
    assert sorted(described) == sorted(COMMANDS)


def test_commands_that_the_docs_name_exist() -> None:
    """Those of longrope and the targets of make."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[0].split())
    for name, text in CURRENT.items():
        code = code_of(text)
        assert set(re.findall(r"(?<![\w./-])longrope ([a-z]+)", code)) <= set(COMMANDS), name
        assert set(re.findall(r"\bmake ([\w-]+)", code)) <= targets, name
    assert set(re.findall(r"\bmake ([\w-]+)", code_of(README))) == {"demo", "docs", "test", "test-all"}


def test_options_that_the_docs_name_exist() -> None:
    helps = "".join(CliRunner().invoke(app, [command, "--help"]).output for command in COMMANDS)
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", helps)) | OTHERS
    for name, text in CURRENT.items():
        ours = re.sub(r"<!-- not run: .*?```.*?```", "", text, flags=re.DOTALL)  # those of other programs
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) - known == set(), name
    assert len(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - OTHERS) > 8


@pytest.mark.parametrize("name", DOCS)
def test_links_and_paths_resolve(name: str) -> None:
    """Links are relative to their file, paths in code to the root."""
    prose = re.sub(r"```.*?```", "", DOCS[name], flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    local = [link.split("#")[0] for link in links if not link.startswith("https://")]
    assert [link for link in local if not (ROOT / name).parent.joinpath(link).exists()] == []
    if name in CURRENT:
        paths = re.findall(r"`((?:src|tests|recipes|results|benchmarks|docs)/[\w./-]+)`", prose)
        assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_names_in_python_lines_are_public(name: str) -> None:
    code = "".join(python_of(name))
    names = set(re.findall(r"\blongrope\.(\w+)", code)) - {"engine", "recipe"}
    assert len(names) >= 5
    assert names <= set(longrope.__all__)
    compile(code, name, "exec")


def test_every_command_but_those_named_is_a_public_function() -> None:
    functions = {"search": "find_factors", "tune": "fine_tune", "export": "export_hf", "report": "write_report"}
    without = [name for name in sorted(COMMANDS) if functions.get(name, name) not in longrope.__all__]
    assert without == ["recipe", "upload"]
    assert "Every command except `recipe` and `upload` has a public function" in DOCS["docs/python.md"]


def test_the_readmes_lines_load_an_exported_checkpoint(
    pico_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unopened: None
) -> None:
    """They run as they stand, beside a checkpoint where the demo leaves its own."""
    model = longrope.load_model(pico_folder)
    factors = longrope.baseline_factors(model.spec, "yarn", 4 * model.spec.trained_window)
    longrope.export_hf(model, factors.factor_sets[0], tmp_path / "runs" / "nano-2k" / "hf")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python_of("README.md")[0], "README.md", "exec"), names)  # noqa: S102  # it is our own README
    assert names["model"].config.max_position_embeddings == 4 * model.spec.trained_window
    assert len(names["tokenizer"]) == len(model.tokenizer)


def test_a_model_from_scratch_is_built_and_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/python.md, with smaller numbers."""
    code = python_of("docs/python.md")[1]
    smaller = {"vocabulary=2048": "vocabulary=300", "d_model=256": "d_model=32", "layers=6": "layers=2"}
    smaller |= {"window=256": "window=64", "steps=2000": "steps=25", "batch_windows=64": "batch_windows=2"}
    smaller["2048"] = "256"
    for given, small in smaller.items():
        assert given in code
        code = code.replace(given, small)
    (tmp_path / "books").mkdir()
    for name in ("one", "two"):
        (tmp_path / "books" / f"{name}.txt").write_text(pico.make_text(12000, seed=len(name) + ord(name[0])))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102  # it is our own document
    assert names["losses"].shape == (1, 255)
    assert names["losses"].isfinite().all()
    assert names["factors"].target_window == 256


def test_the_citation_names_this_version() -> None:
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [longrope.__version__]
