"""All settings as a file to start from, and as the page of the docs; a recipe may leave some to the command line."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longrope import registry
from longrope.cli import options
from longrope.errors import RecipeError
from longrope.recipe import MeasureRecipe, Recipe, SearchRecipe, dump_recipe, load_recipe
from longrope.recipe_template import describe_fields, markdown, template
from longrope.schedule import Stage
from longrope.settings import hints_of, keys_of

ROOT = Path(__file__).parents[1]
PLAIN = Recipe("OWNER/NAME", 65_536, ("books/",))


def test_the_template_is_a_recipe_with_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(template())
    assert load_recipe(tmp_path / "a.toml") == PLAIN


def test_what_is_commented_out_are_the_defaults_of_all_settings(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z_]+ = )", "", template(), flags=re.MULTILINE)
    (tmp_path / "a.toml").write_text(text)
    assert load_recipe(tmp_path / "a.toml") == PLAIN
    content = tomllib.loads(text)
    for key, _ in keys_of(Recipe):
        place = content
        *tables, name = key.split(".")
        for table in tables:
            place = place[table]
        assert name in place, key


def test_the_page_is_made_of_the_settings() -> None:
    """After a change of settings: longrope recipe --markdown > docs/recipe.md."""
    page = (ROOT / "docs" / "recipe.md").read_text()
    assert page == markdown()
    for key, _ in keys_of(Recipe):
        assert f"| `{key.rpartition('.')[2]}` |" in page


@pytest.mark.parametrize("kind", [Recipe, SearchRecipe, Stage])
def test_every_setting_has_a_meaning(kind: type) -> None:
    tables = {"search", "tune", "measure", "export", "evolution", "gradient", "cma"} if kind is not Stage else set()
    assert set(hints_of(kind)) - tables <= set(describe_fields(kind))


def test_settings_that_share_a_meaning_have_it_each() -> None:
    meanings = describe_fields(type(PLAIN.search.evolution))
    assert meanings["mutations"] == meanings["crossovers"] == "new candidates per generation: 16, or 8 beyond 512k."


@pytest.mark.parametrize(
    ("kind", "key", "known"),
    [(SearchRecipe, "method", registry.factor_methods()), (MeasureRecipe, "baselines", registry.baselines())],
)
def test_every_method_is_named_where_one_is_chosen(kind: type, key: str, known: tuple[str, ...]) -> None:
    assert set(known) <= set(re.findall(r"[\w-]+", describe_fields(kind)[key]))


def test_lines_are_not_too_long() -> None:
    assert max(map(len, template().splitlines())) <= 120


PARTIAL = "[search]\ntail_tokens = 64\n[search.gradient]\nsteps = 3\n"
GIVEN: dict[str, Any] = {"model": "m", "to": "64k", "data": ["a", "b"]}


def test_a_partial_recipe_is_completed_by_options(tmp_path: Path) -> None:
    (tmp_path / "partial.toml").write_text(PARTIAL)
    full, path = options.prepare(out=None, recipe=tmp_path / "partial.toml", **GIVEN)
    assert (full.model, full.target_tokens, full.data) == ("m", 65_536, ("a", "b"))
    assert (full.search.tail_tokens, full.search.gradient.steps) == (64, 3)
    assert path == Path("runs/m-64k")


def test_a_partial_recipe_names_the_options_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "partial.toml").write_text(PARTIAL + "\n")
    with pytest.raises(RecipeError, match=r"--to and --data are missing.*partial.toml") as caught:
        options.prepare(out=None, recipe=tmp_path / "partial.toml", model="m", to=None, data=None)
    assert "longrope extend" in caught.value.remedy


def test_options_stand_in_the_place_of_what_a_recipe_has(tmp_path: Path) -> None:
    (tmp_path / "whole.toml").write_text(dump_recipe(replace(PLAIN, seed=7)))
    full, _ = options.prepare(out=None, recipe=tmp_path / "whole.toml", model=None, to="128k", data=None)
    assert full == replace(PLAIN, seed=7, target_tokens=131_072)
