"""The estimate of an export: what it counts against what is read, and its sum by fixed seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pico
import pytest
import sweep
import torch
from exporting import make_factors
from torch.nn.modules.module import register_module_forward_pre_hook
from verifying import run_here

from longrope.data import load_texts
from longrope.errors import RecipeError
from longrope.exports import hf
from longrope.models import LanguageModel
from longrope.pipeline import Callbacks, Session, export_costs, extend, tune
from longrope.pipeline.export_costs import ExportTexts, count_lists, estimate_export, export_readings, texts_of
from longrope.pipeline.exporting import export
from longrope.recipe import ExportRecipe, Recipe, Stage, TuneRecipe
from longrope.rope import dump_factors
from longrope.runs.run_dir import RunDir
from longrope.verification import checking, exported

NAME = "export, open again and compare"


@contextmanager
def counting_tokens() -> Iterator[list[int]]:
    """The tokens of every pass of any model, inside a ``with`` block."""
    calls: list[int] = []

    def count(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if isinstance(module, torch.nn.Embedding):
            calls.append(given[0].numel())

    handle = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture
def opened_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are opened in this process, by transformers alone."""
    monkeypatch.setattr(hf, "reopen_alone", sweep.reopen_here)
    monkeypatch.setattr(exported, "verify", partial(checking.verify, run=run_here))


@pytest.mark.usefixtures("opened_here")
@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("start_tokens", [0, 16])
def test_readings_are_the_tokens_that_are_read(
    start_tokens: int, factor_sets: str, recipe: Recipe, tmp_path: Path
) -> None:
    """By the model and by what is opened of its checkpoint; of clients some passes may not be needed."""
    model = pico.make_model(rope_theta=5e5)
    texts = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)
    settings = ExportRecipe(factor_sets=factor_sets, drop_start_tokens=True)
    session = Session(replace(recipe, export=settings), RunDir(tmp_path), model, texts)
    factors = make_factors(model, start_tokens=start_tokens)
    session.run.write_text(session.run.factors(), dump_factors(factors))
    with counting_tokens() as calls:
        export(session, factors)
    clients, lists = len(_opened(session.run)), count_lists(settings)
    readings = export_readings(model, texts_of(session, factors, "hf"), clients, lists)
    counted = sum(reading.tokens * reading.passes for reading in readings)
    assert 0.8 * counted <= sum(calls) <= counted
    assert {reading.kind for reading in readings} >= {"probe", "short texts", "prompt"}
    assert any(reading.kind == "start tokens" for reading in readings) == bool(start_tokens)


def _opened(run: RunDir) -> list[str]:
    """The rows of a model card that say in what the checkpoint was opened."""
    _, _, section = (run.checkpoint / "README.md").read_text().partition("## In other runtimes")
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model()


def test_seconds_are_those_of_passes_and_of_loading(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token takes a second; the checkpoint is written, opened, and no client is at hand."""
    monkeypatch.setattr(export_costs, "quick_clients", lambda *_: ())
    short, measured = np.zeros((16, 64), np.int32), np.zeros((2, 256), np.int32)
    for read, tokens in (
        (ExportTexts(), 0),
        (ExportTexts(short), 3 * 16 * 64),
        (ExportTexts(short, measured), 3 * 16 * 64 + 2 * 2 * 256),
    ):
        cost = estimate_export(model, float, 10.0, read)
        assert cost.stage == NAME
        assert cost.seconds == 20 + 6 * 64 + tokens


def test_a_client_opens_the_checkpoint_again(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_costs, "quick_clients", lambda *_: ("one", "other"))
    seconds = estimate_export(model, lambda _: 0.0, 10.0).seconds
    assert seconds == 10 * (1 + 1 + 1 + 2)


def test_the_reopened_model_must_fit_beside_this_one(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_costs, "free_memory", lambda _: 5 * 10**4)
    with pytest.raises(RecipeError, match="GiB at the peak") as caught:
        estimate_export(model, float, 10.0).check()
    assert caught.value.remedy == "Take a machine with more memory."


def costs_of(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines if "GiB at the peak" in line]


@pytest.mark.usefixtures("unopened")
def test_a_run_announces_its_export_until_it_is_made(recipe: Recipe, tmp_path: Path) -> None:
    """Of a run with stages estimates are always said."""
    staged = replace(recipe, search=replace(recipe.search, method="yarn"), stages=(Stage(search=recipe.target_tokens),))
    run, said, again = RunDir(tmp_path), list[str](), list[str]()
    extend(staged, run, Callbacks(on_step=said.append))
    assert costs_of(said)[-2:] == [NAME, "in all"]
    extend(staged, run, Callbacks(on_step=again.append))
    assert costs_of(again) == []


@pytest.mark.usefixtures("unopened")
def test_a_training_announces_its_export(recipe: Recipe, tmp_path: Path) -> None:
    settings = replace(recipe, tune=TuneRecipe(steps=1, warmup_steps=0))
    factors = tmp_path / "factors.json"
    factors.write_text(dump_factors(make_factors(pico.make_model())))
    said: list[str] = []
    tune(settings, factors, RunDir(tmp_path / "run"), Callbacks(on_step=said.append))
    assert costs_of(said) == ["tune", NAME, "in all"]
