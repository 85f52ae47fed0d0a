"""The trained window can be stated where a config understates it, as Vicuna-16k's does."""

from pathlib import Path

import numpy as np
import pico
import pytest
from typer.testing import CliRunner

from longrope.cli import app
from longrope.errors import ModelError
from longrope.models import load_model
from longrope.recipe import Recipe, dump_recipe, load_recipe
from longrope.rope import baseline_factors


@pytest.fixture
def vicuna(tmp_path: Path) -> Path:
    """A window of 64 before linear scaling by 4: it serves 256."""
    return pico.save_pico(tmp_path / "vicuna", rope={"rope_type": "linear", "factor": 4.0})


def test_a_stated_window_is_that_of_the_geometry(vicuna: Path) -> None:
    """Positions on the way to 512 are divided by 2 besides the model's own 4, not by 8."""
    model = load_model(vicuna, device="cpu", trained_window=256)
    assert model.spec.trained_window == 256
    assert model.spec.native is not None
    assert list(model.spec.native.lambdas) == [4.0] * 4
    assert "trained window 256, as stated" in model.choices
    pi = baseline_factors(model.spec, "pi", 512).factor_sets[-1]
    np.testing.assert_allclose(pi.lambdas, 2.0)
    as_it_is = load_model(vicuna, device="cpu")
    np.testing.assert_allclose(baseline_factors(as_it_is.spec, "pi", 512).factor_sets[-1].lambdas, 8.0)


def test_linear_scaling_is_pointed_out_with_the_option(vicuna: Path) -> None:
    assert any("--trained-window 256" in choice for choice in load_model(vicuna, device="cpu").choices)


def test_a_window_where_the_scaling_begins_cannot_be_another(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "internlm", rope={"rope_type": "dynamic", "factor": 6.0})
    assert load_model(folder, device="cpu", trained_window=64).spec.trained_window == 64
    with pytest.raises(ModelError, match="dynamic"):
        load_model(folder, device="cpu", trained_window=256)


def test_a_recipe_keeps_a_stated_window(tmp_path: Path) -> None:
    recipe = Recipe("vicuna", 512, ("books",), trained_window=256)
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe
    path.write_text(dump_recipe(recipe).replace("trained_window = 256\n", ""))
    assert load_recipe(path).trained_window == 0


def test_the_option_is_read_as_a_length(vicuna: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(vicuna), "--trained-window", "16k"])
    assert shown.exit_code == 0, shown.output
    assert "trained_window: 16384" in shown.output
    assert "target_window: 131072" in shown.output
