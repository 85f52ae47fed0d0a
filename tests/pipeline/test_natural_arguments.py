"""What one would try first from Python: it works, or the error says what to give."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pico
import pytest
import sweep
import torch

from longrope import generation
from longrope.data import load_texts
from longrope.errors import FactorsError, LongRopeError, ModelError, RecipeError, TextsError
from longrope.exports import export_hf
from longrope.models import load_model, rescaled
from longrope.pipeline import extend
from longrope.recipe import Recipe
from longrope.rope import FactorTable, RescaleFactors, as_table, baseline_factors, dump_factors, load_factors
from longrope.runs.run_dir import RunDir


def factors_for(window: int) -> RescaleFactors:
    return baseline_factors(pico.make_model().spec, "pi", window).factor_sets[0]


def test_what_a_file_of_factors_gives_is_taken(tmp_path: Path) -> None:
    """A table of one set; of several one is to be chosen."""
    (tmp_path / "factors.json").write_text(dump_factors(factors_for(256)))
    table, model = load_factors(tmp_path / "factors.json"), pico.make_model()
    assert table == as_table(factors_for(256))
    with rescaled(model, table) as module:
        assert module is not None
        assert module.lambdas.tolist() == list(factors_for(256).lambdas)
    export_hf(model, table, tmp_path / "hf", reopen=sweep.reopen_here)
    several = FactorTable((factors_for(128), factors_for(256)))
    with (
        pytest.raises(FactorsError, match=r"2 factor sets .* 128, 256 tokens\. .* table\.choose"),
        rescaled(model, several),
    ):
        pass


def test_a_network_of_transformers_is_refused_by_what_to_load() -> None:
    with (
        pytest.raises(ModelError, match=r"A LlamaForCausalLM was given\. .*longrope\.load_model"),
        rescaled(
            pico.make_network("llama"),
            factors_for(256),
        ),
    ):
        pass


def test_a_device_of_torch_is_taken(pico_folder: Path) -> None:
    assert load_model(pico_folder, device=torch.device("cpu")).device.type == "cpu"  # type: ignore[arg-type]


@pytest.mark.parametrize("document", [b"The river.", ["The river."], Path("river.txt")])
def test_a_document_that_is_no_text_is_refused(document: Any) -> None:
    with pytest.raises(TextsError, match=f"The document is a {type(document).__name__}"):
        generation.generate(pico.make_model(), None, document, "What?")


WEIGHTS: list[Any] = [float("nan"), float("inf"), 0.0]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights_are_numbers_above_zero(weight: Any, text_folders: tuple[Path, Path]) -> None:
    with pytest.raises(TextsError, match="A number above 0 is needed for each source"):
        load_texts(text_folders, pico.make_tokenizer(), weights=(weight, 1.0))


def test_sources_may_come_one_by_one_and_in_any_shares(text_folders: tuple[Path, Path]) -> None:
    whole = load_texts(text_folders, pico.make_tokenizer())
    assert load_texts(iter(text_folders), pico.make_tokenizer()).search.tokens.tolist() == whole.search.tokens.tolist()  # type: ignore[arg-type]
    texts = load_texts(text_folders, pico.make_tokenizer(), weights=(1e-9, 1.0))
    assert len(texts.search.tokens) > 1000


def clean(row: Any, end: str) -> str:
    return str(row["text"]) + end


FUNCTIONS: dict[str, Callable[..., str]] = {"lambda": lambda row: row["text"], "partial": partial(clean, end="\n")}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_without_a_name_is_refused_in_a_run(kind: str, recipe: Recipe, tmp_path: Path) -> None:
    """Another one could take its place when the run goes on; texts alone may be read with it."""
    with pytest.raises(RecipeError, match="remembers the function by its name") as error:
        extend(recipe, RunDir(tmp_path / "run"), preprocess=FUNCTIONS[kind])
    assert isinstance(error.value, LongRopeError)
    assert load_texts(recipe.data, pico.make_tokenizer(), preprocess=FUNCTIONS[kind]).search.tokens.size
