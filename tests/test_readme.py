"""The README: its length, its first screen, its badges, and the numbers of its table of needs."""

import json
import re
import tomllib

from documents import DOCS, RESULTS, ROOT, lines, words

README = DOCS["README.md"]
WORDS = words("README.md")


def test_it_is_short() -> None:
    """At most 1,300 words, those of tables and code, too, and three tables."""
    assert len(README.split()) <= 1300
    assert len(re.findall(r"^\| ---", README, re.MULTILINE)) <= 3


def test_its_chapters_are_those_that_a_reader_looks_for() -> None:
    titles = re.findall(r"^## (.*)", README, re.MULTILINE)
    wanted = ("texts", "Results", "pay", "Commands", "Python", "FAQ", "Contributing", "Citing")
    assert [name for name in wanted if not any(name in title for title in titles)] == []


def test_what_is_code_fits_into_eighty_columns_on_the_first_screen() -> None:
    """Prose wraps on a screen, code does not: install, demo and how to load the result are read whole."""
    first = README.split("\n## ")[0]
    code = re.findall(r"```\w*\n(.*?)```", first, re.DOTALL)
    assert len(code) == 2
    assert max(len(line) for block in code for line in block.splitlines()) <= 80
    assert first.index("pip install") < first.index("from_pretrained")


def test_the_badges_are_true() -> None:
    """Of the versions of Python and the licence, by pyproject.toml; nothing is asked of the network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [line.rpartition(" :: ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    badges = (ROOT / "docs" / "badges").glob("*.svg")
    said = {path.stem: re.findall(r">([^<>\n]+)</text>", path.read_text()) for path in badges}
    assert said == {
        "python": ["python", f"{versions[0]} to {versions[-1]}"],
        "licence": ["licence", project["license"]],
    }
    assert set(re.findall(r"docs/badges/(\w+)\.svg", README)) == set(said)
    first, last = versions[0], f"3.{int(versions[-1][2:]) + 1}"
    assert project["requires-python"] == f">={first},<{last}"


def test_the_times_of_a_search_and_a_training_are_those_of_the_records() -> None:
    """Seconds of a search by gradient and of a hundred training steps, and the device."""
    run = "evidence-64k-first/searched"
    entries = json.loads((RESULTS / run / "provenance.json").read_text())
    assert {entry["device"].split()[1] for entry in entries} == {"H200"}
    stages = {
        path.parent.name.split("-")[1]: json.loads(path.read_text())["seconds"]
        for path in (RESULTS / run / "stages").glob("*/stage.json")
    }
    took = f"takes {stages['search']:.0f} seconds, 100 training steps {stages['tune']:.0f}."
    assert f"On one H200 a search for SmolLM2-135M at 64k {took}" in README
    assert len(lines(f"{run}/stages/2-tune-64k-92b7e3cb/train.jsonl")) == 100
