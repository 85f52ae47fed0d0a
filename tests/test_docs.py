"""The docs are held to the code and the records: tables, tree, commands, names, recipes."""

import importlib.util
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import longrope
from longrope.cli import app
from longrope.factors import load_factors
from longrope.recipe import load_recipe
from longrope.records import Score, Trial, read_records

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/recipe.toml"))


def test_tables_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing them again from the records changes nothing, and there are some."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "results" / "tables.py")
    assert spec
    assert spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    monkeypatch.setattr(Path, "write_text", lambda *_: None)
    assert tables.write_tables() == []
    assert "| YaRN | 25.55 |" in README


def test_ratios_follow_from_the_scores() -> None:
    """One of the published ratios, worked out from the raw lines without the script."""
    lines = (ROOT / "results" / "smollm2-64k-text" / "scores.jsonl").read_text().splitlines()

    def perplexity(method: str, tokens: int) -> float:
        opening = f'{{"metric": "perplexity", "value": (\\S+), .*"method": "{method}", "context_tokens": {tokens},'
        found = [re.match(opening, line) for line in lines]
        return next(float(match[1]) for match in found if match)

    ratio = perplexity("longrope-evolution", 65536) / perplexity("yarn", 65536)
    assert f"| LongRoPE, evolution, text score | 21.42 | {ratio:.3f} |" in README


def test_the_tree_is_the_real_one() -> None:
    """Every line of the README's tree exists, and every module and folder has its line."""
    tree = README.split("## The tree\n\n```\n")[1].split("```")[0]
    named = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    package = ROOT / "src" / "longrope"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert named == modules | folders
    tops = [line.split()[0] for line in tree.splitlines() if line and not line.startswith(" ")]
    assert all((ROOT / top).is_dir() for top in tops)


def test_every_door_is_described() -> None:
    doors = set(re.findall(r"^longrope (\w+)  ", README, re.MULTILINE))
    assert doors == {command.callback.__name__ for command in app.registered_commands if command.callback}
    for door in doors:
        assert CliRunner().invoke(app, [door, "--help"]).exit_code == 0


def test_flags_in_the_readme_exist() -> None:
    helps = "".join(
        CliRunner().invoke(app, [c.callback.__name__, "--help"]).output for c in app.registered_commands if c.callback
    )
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"}
    assert len(flags) > 5
    assert {flag for flag in flags if flag not in helps} == set()


def test_names_in_the_walk_are_public() -> None:
    walk = README.split("```python\n")[1].split("```")[0]
    names = set(re.findall(r"longrope\.(\w+)", walk))
    assert len(names) > 5
    assert names <= set(longrope.__all__)
    compile(walk, "README.md", "exec")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert load_recipe(path).target_tokens > 8192


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_published_records_load_and_belong_together(run: Path) -> None:
    """Scores, trials and factors open with this version; the longrope scores are those of the factors beside them."""
    scores, trials = read_records(run / "scores.jsonl", Score), read_records(run / "trials.jsonl", Trial)
    recipe = load_recipe(run / "recipe.toml")
    assert {score.context_tokens for score in scores} == set(recipe.measure.lengths)
    for method in ("longrope-evolution", "longrope-gradient"):
        factors = load_factors(run / f"factors-{method}.json").tiers[0]
        made = {score.factors_fingerprint for score in scores if score.method == method}
        assert made == {factors.fingerprint}
        validated = [t for t in trials if t.method == method and t.kind == "validation"]
        assert (factors.lambdas, factors.start_tokens) in {(t.lambdas, t.start_tokens) for t in validated}
