"""Every code block of the docs runs in a test, is parsed as a command, or says why it is not run."""

import html
import inspect
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from documents import DOCS, ROOT

import longrope
from longrope.cli import app
from longrope.recipe import Recipe
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

BLOCK = re.compile(r"(<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)
TABLE = "longrope extend    MODEL"  # a table of commands with words beside them; tests/test_docs.py reads it
PAGES = {name: text for name, text in DOCS.items() if name != "docs/log.md"}
PAGES |= {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
BLOCKS = [(name, found) for name, text in PAGES.items() for found in BLOCK.finditer(text)]
# Python blocks: tests/test_docs.py, tests/data/test_docs_data.py, and below
RUN = {"README.md": 2, "docs/python.md": 2, "docs/clusters.md": 1, "docs/data.md": 2}
COMMAND = typer.main.get_command(app)


def commands_of(body: str) -> list[str]:
    """The command lines of a block, continued lines joined, without comments and environment."""
    joined = re.sub(r"\\\n\s*", " ", body)
    lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def parse(line: str) -> None:
    """Parse a command line of longrope as it would be, without running it; raise typer's error if it is wrong."""
    words = shlex.split(line.replace("…", ""))
    at = words.index("-m") + 2 if words[0] == "torchrun" else 1
    arguments = words[at:]
    if not arguments:
        return
    group = COMMAND.commands  # type: ignore[attr-defined]
    group[arguments[0]].make_context("longrope", arguments[1:], resilient_parsing=False)


@pytest.mark.parametrize(("name", "found"), BLOCKS, ids=[f"{n}:{f['body'].splitlines()[0][:30]}" for n, f in BLOCKS])
def test_a_block_runs_or_says_why_not(name: str, found: re.Match[str]) -> None:
    """Commands of longrope are parsed with their arguments and options; drawings and trees are no code."""
    if found["why"] or found["kind"] == "bibtex" or found["body"].startswith(TABLE):
        return
    if found["kind"] == "python":
        compile(found["body"], name, "exec")
        return
    assert found["kind"] in ("", "bash"), found["body"]
    if not re.match(r"(longrope|torchrun|make|pip|python|bash) ", found["body"]):
        assert re.search(r"[▶│]|^src/", found["body"], re.MULTILINE), f"{name}: {found['body']}"
        return
    for line in commands_of(found["body"]):
        first = line.split()[0]
        if "longrope " in line:
            parse(line.partition(" | ")[2] or line)
        else:
            assert first in ("make", "pip", "python", "bash"), f"{name}: {line}"


def test_every_python_block_is_run_by_a_test() -> None:
    counts = dict.fromkeys(PAGES, 0)
    for name, found in BLOCKS:
        counts[name] += found["kind"] == "python" and not found["why"]
    assert {name: count for name, count in counts.items() if count} == RUN


def test_every_expectation_names_tests_that_there_are() -> None:
    """Each row names one or several, by the file and the name."""
    rows = re.findall(r"^\| (?!expectation \|).*\| (.+) \|$", DOCS["docs/expectations.md"], re.MULTILINE)
    assert len(rows) > 20
    for cell in rows:
        named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", cell)
        assert ", ".join(f"`{file}::{name}`" for file, name in named) == cell
        assert all(f"def {name}(" in (ROOT / file).read_text() for file, name in named), cell


@pytest.mark.parametrize("wrong", ["longrope extend M --too 64k", "longrope exten M", "torchrun -m longrope tune M"])
def test_a_wrong_command_is_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"No such option|'exten'|Missing parameter: factors"):
        parse(wrong)


def test_callbacks_of_the_docs_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/clusters.md, with a recipe that is not read and a run that only calls back."""
    (code,) = (found["body"] for name, found in BLOCKS if name == "docs/clusters.md" and found["kind"] == "python")
    passed: list[longrope.Callbacks] = []

    def extend(recipe: Recipe, run: RunDir, callbacks: longrope.Callbacks) -> list[Score]:
        passed.append(callbacks)
        return []

    monkeypatch.chdir(tmp_path)
    imported, _, code = code.partition("\n")
    assert imported == "import longrope"
    public = {name: getattr(longrope, name) for name in ("Callbacks", "RunDir")}
    names: dict[str, Any] = {"longrope": SimpleNamespace(**public, extend=extend, load_recipe=lambda path: path)}
    exec(compile(code, "docs/clusters.md", "exec"), names)  # noqa: S102  # it is our own document
    (callbacks,) = passed
    callbacks.on_scores([])
    callbacks.on_train(type("Step", (), {"loss_nats": 2.0})())
    assert names["losses"] == [2.0]


def test_links_between_places_become_links_of_the_site() -> None:
    """Pages of other folders, anchors, figures, source files and links to the web."""
    hooks = pytest.importorskip("mkdocs") and __import__("docs_hooks")
    assert hooks.relink("[a](../README.md#limits)", "docs/results.md") == "[a](index.md#limits)"
    assert hooks.relink("[a](docs/log.md)", "README.md") == "[a](log.md)"
    assert hooks.relink("![f](results/by-length.svg)", "README.md") == "![f](results/by-length.svg)"
    assert hooks.relink("[x](../recipes/nano.py)", "docs/models.md") == "x"
    assert hooks.relink("[w](https://arxiv.org)", "README.md") == "[w](https://arxiv.org)"


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Every page is in the navigation, every public name in the reference, and nothing comes from elsewhere."""
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    build(config)
    listed = {page for entry in config["nav"] for page in entry.values()}
    assert len(listed) == len(config["nav"])
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed
    assert (tmp_path / "search" / "search_index.json").is_file()
    reference = (tmp_path / "api.html").read_text()
    words = " ".join(html.unescape(re.sub("<[^>]+>", "", reference)).split())
    for name in longrope.__all__:
        assert f'id="longrope.{name}"' in reference
        assert (inspect.getdoc(getattr(longrope, name)) or "?").splitlines()[0].replace("`", "") in words, name
    for page in tmp_path.glob("*.html"):
        assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"?https?://", page.read_text()), page.name
