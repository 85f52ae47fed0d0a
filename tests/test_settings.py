"""Settings check themselves: what the command line refuses, Python refuses, too, in the same words."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longrope.errors import RecipeError
from longrope.generation import GenerationSettings
from longrope.recipe import (
    EvolutionRecipe,
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    load_recipe,
)
from longrope.settings import listed

NEEDED: dict[type, dict[str, Any]] = {  # every class of settings, with what it cannot be made without
    EvolutionRecipe: {},
    GradientRecipe: {},
    SearchRecipe: {},
    TuneRecipe: {},
    MeasureRecipe: {},
    ExportRecipe: {},
    GenerationSettings: {},
    Stage: {"tune": 64},
    Recipe: {"model": "m", "target_tokens": 512, "data": ("books",)},
}
BAD = [  # values of the right type, and names, that no run can use
    (EvolutionRecipe, {"population": -1}),
    (EvolutionRecipe, {"windows": -3}),
    (EvolutionRecipe, {"validate_every": 0}),
    (EvolutionRecipe, {"mutation_probability": 0.0}),
    (EvolutionRecipe, {"mutation_probability": 1.5}),
    (EvolutionRecipe, {"mutation_probability": math.nan}),
    (GradientRecipe, {"steps": 0}),
    (GradientRecipe, {"start": "ntkk"}),
    (GradientRecipe, {"start": "dynamic-ntk"}),
    (GradientRecipe, {"scan_windows": 0}),
    (GradientRecipe, {"validate_every": -4}),
    (GradientRecipe, {"learning_rate": math.nan}),
    (GradientRecipe, {"learning_rate": -0.1}),
    (GradientRecipe, {"attention_rate": math.inf}),
    (SearchRecipe, {"method": "gradiant"}),
    (SearchRecipe, {"validation_windows": 0}),
    (SearchRecipe, {"tail_tokens": -1}),
    (SearchRecipe, {"needle_weight": math.inf}),
    (TuneRecipe, {"window_tokens": 1}),
    (TuneRecipe, {"weight_decay": math.inf}),
    (TuneRecipe, {"schedule": "step"}),
    (TuneRecipe, {"lora_also": ("biases",)}),
    (MeasureRecipe, {"metrics": ("perplexity", "beauty")}),
    (MeasureRecipe, {"metrics": ("harness:",)}),
    (MeasureRecipe, {"baselines": ("longrope-gradient",)}),
    (MeasureRecipe, {"lengths": (4096, 1)}),
    (MeasureRecipe, {"paired_windows": -1}),
    (ExportRecipe, {"factor_sets": "tow"}),
    (Recipe, {"dtype": "fp16"}),
    (Recipe, {"seed": -1}),
    (Recipe, {"target_tokens": 0}),
    (Stage, {"steps": -1}),
    (GenerationSettings, {"temperature": math.nan}),
    (GenerationSettings, {"top_p": 0.0}),
    (GenerationSettings, {"max_new_tokens": 0}),
]
OTHERS: dict[type, tuple[Any, ...]] = {  # values of other types
    int: (True, "3", 3.0, None, np.float64(3)),
    float: (True, "0.5", None),
    bool: (1, 0, "yes", None),
    str: (3, None, Path("x"), ("x",)),
    tuple: ("64k", 3, None, {1: 2}),
}


def wrong_types() -> Iterator[Any]:
    """Every setting of every class with each value of another type than its default has."""
    for kind, needed in NEEDED.items():
        made = kind(**needed)
        for field in fields(made):
            value = getattr(made, field.name)
            others: tuple[Any, ...] = ({}, None, "x") if is_dataclass(value) else OTHERS[type(value)]
            for other in others:
                yield pytest.param(kind, {field.name: other}, id=f"{kind.__name__}.{field.name}={other!r}")


def made_with(kind: type, change: dict[str, Any]) -> Any:
    """Settings of a class with one change."""
    return kind(**{**NEEDED[kind], **change})


@pytest.mark.parametrize(("kind", "change"), BAD)
def test_a_value_that_no_run_can_use_is_refused_where_the_settings_are_made(kind: type, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        made_with(kind, change)
    assert next(iter(change)) in caught.value.found
    assert caught.value.needed
    assert caught.value.remedy


@pytest.mark.parametrize(("kind", "change"), list(wrong_types()))
def test_a_value_of_another_type_is_refused_where_the_settings_are_made(kind: type, change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(RecipeError, match=key) as caught:
        made_with(kind, change)
    assert caught.value.needed.startswith("A value of the type ")


@pytest.mark.parametrize(
    ("kind", "change"),
    [(MeasureRecipe, {"lengths": (64, "128")}), (MeasureRecipe, {"metrics": (3,)}), (Recipe, {"data": (Path("x"),)})],
)
def test_an_item_of_another_type_is_refused_by_index(kind: type, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"{next(iter(change))}\[\d\]"):
        made_with(kind, change)


def test_python_and_a_file_refuse_in_the_same_words(tmp_path: Path) -> None:
    """The key that an error names is the one of the TOML file."""
    path = tmp_path / "recipe.toml"
    path.write_text('model = "m"\ntarget_tokens = 512\ndata = ["b"]\n[search.gradient]\nsteps = 0\n')
    with pytest.raises(RecipeError) as by_file:
        load_recipe(path)
    with pytest.raises(RecipeError) as by_python:
        GradientRecipe(steps=0)
    assert str(by_file.value) == str(by_python.value) == "search.gradient.steps = 0. At least 1 is needed. Correct it."


def test_whole_numbers_serve_as_real_ones_and_lists_as_tuples() -> None:
    """So settings that mean the same are equal, and have one hash in the name of a stage."""
    made = GradientRecipe(learning_rate=1)
    assert (type(made.learning_rate), made) == (float, GradientRecipe(learning_rate=1.0))
    listed = MeasureRecipe(lengths=[64, 128])  # type: ignore[arg-type]
    assert listed == MeasureRecipe(lengths=(64, 128))
    assert hash(listed) == hash(MeasureRecipe(lengths=(64, 128)))


def test_no_limit_to_the_norm_can_be_asked_for() -> None:
    assert TuneRecipe(clip_norm=math.inf).clip_norm == math.inf


def test_names_that_go_on_from_another_are_shown_together() -> None:
    """So that an error stays a line; a name that goes on from none is whole."""
    allowed = listed(lambda: ("ruler", "ruler-vt", "ruler-qa", "needle", "prose-needle"))
    assert allowed.needed() == "One of ruler, ruler-..., needle, prose-needle is needed."
    assert allowed.holds("ruler-vt")
    assert not allowed.holds("ruler-...")
