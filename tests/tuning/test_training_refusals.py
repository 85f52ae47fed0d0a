"""Trainings that are refused, and how windows are dealt to batches."""

import math
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trainings import QUICK, TEXT, CrashError, assert_same, make_factors, stop_after, train, weights_of

from longrope.data import TokenText, fingerprint
from longrope.engine.passes import token_losses
from longrope.errors import FactorsError, LongRopeError, RecipeError, RunError, TextsError
from longrope.recipe import TuneRecipe
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import cut_batches, fine_tune
from longrope.tuning.batches import Batches

# Refusals


@pytest.mark.parametrize("stop", [4, -1], ids=["begun", "finished"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": replace(QUICK, learning_rate=2e-3)}, "tune.learning_rate = 0.002 (was 0.001)"),
        ({"settings": replace(QUICK, steps=9)}, "tune.steps = 9 (was 8)"),
        ({"seed": 1}, "seed = 1 (was 0)"),
        ({"text": replace(TEXT, tokens=TEXT.tokens[:-1])}, "text = "),
        ({"text": replace(TEXT, bos=1)}, "text = "),
        ({"factors": make_factors(pico.make_model())}, "factors = "),
        ({"model": replace(pico.make_model(), name="other")}, "model = other (was pico-llama)"),
        ({"model": replace(pico.make_model("mistral", num_hidden_layers=1), name="pico-llama")}, "weights = "),
        ({"model": pico.make_model(dtype=torch.bfloat16)}, "weights = "),
    ],
)
def test_another_training_is_refused_naming_the_change(
    tmp_path: Path, stop: int, change: dict[str, Any], named: str
) -> None:
    given: dict[str, Any] = {"factors": None, "text": TEXT, "settings": QUICK, "run": RunDir(tmp_path)}
    with suppress(CrashError):
        fine_tune(pico.make_model(), **given, on_step=stop_after(stop, CrashError))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    changed = {"model": pico.make_model(), **given, **change}
    weights = weights_of(changed["model"])
    with pytest.raises(RunError) as caught:
        fine_tune(**changed)
    assert named in caught.value.found
    assert "; " not in caught.value.found
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
    assert_same(weights_of(changed["model"]), weights)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuning.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"tuning\.safetensors cannot be read"):
        train(run=RunDir(tmp_path))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_by_name(tmp_path: Path, poison: float) -> None:
    """Before a weight is changed; what came before stays on record."""
    model, run = pico.make_model(), RunDir(tmp_path)

    def spoil(record: TrainStep) -> None:
        if record.step == 3:
            model.network.lm_head.weight.data[5] = poison

    with pytest.raises(LongRopeError, match=r"training step 4 is nan") as caught:
        fine_tune(model, None, TEXT, settings=QUICK, run=run, on_step=spoil)
    assert caught.value.needed
    assert "tune.learning_rate" in caught.value.remedy
    assert model.network.model.embed_tokens.weight.isfinite().all()
    assert all(weight.grad is None for weight in model.network.parameters())
    assert [record.step for record in read_records(run.train, TrainStep)] == [0, 1, 2, 3]
    assert all(tensor.isfinite().all() for tensor in load_file(run.tuning).values())


def test_a_text_that_holds_no_window_is_refused() -> None:
    model = pico.make_model()
    with pytest.raises(TextsError, match="47 tokens"):
        fine_tune(model, None, replace(TEXT, tokens=TEXT.tokens[:47]), settings=QUICK)
    with pytest.raises(TextsError, match=f"{10**6:,} tokens"):  # the window of the factors
        fine_tune(model, make_factors(model, 10**6), TEXT)


def test_factors_of_another_geometry_are_refused() -> None:
    model = pico.make_model()
    with pytest.raises(FactorsError):
        fine_tune(model, make_factors(pico.make_model("qwen3")), TEXT, settings=QUICK)
    assert not any(weight.requires_grad for weight in model.network.parameters())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window_tokens": 1}, "tune.window_tokens = 1"),
        ({"window_tokens": -64}, "tune.window_tokens = -64"),
        ({"steps": 0}, "tune.steps = 0"),
        ({"batch_windows": 0}, "tune.batch_windows = 0"),
        ({"windows_at_once": 0}, "tune.windows_at_once = 0"),
        ({"windows_at_once": 33}, "tune.windows_at_once = 33 with tune.batch_windows = 32"),
        ({"learning_rate": 0.0}, "tune.learning_rate = 0.0"),
        ({"learning_rate": math.nan}, "tune.learning_rate = nan"),
        ({"warmup_steps": -1}, "tune.warmup_steps = -1"),
        ({"warmup_steps": 400}, "tune.warmup_steps = 400 with tune.steps = 400"),
        ({"schedule": "step"}, "tune.schedule = 'step'"),
        ({"weight_decay": -0.1}, "tune.weight_decay = -0.1"),
        ({"clip_norm": 0.0}, "tune.clip_norm = 0.0"),
        ({"checkpoint_every": 0}, "tune.checkpoint_every = 0"),
        ({"short_share": -0.1}, "tune.short_share = -0.1"),
        ({"short_share": 1.1}, "tune.short_share = 1.1"),
        ({"short_share": math.nan}, "tune.short_share = nan"),
        ({"skipped_positions": -1, "window_tokens": 64}, "tune.skipped_positions = -1"),
        ({"skipped_positions": 64, "window_tokens": 64}, "tune.skipped_positions = 64 with tune.window_tokens = 64"),
        ({"skipped_positions": 65}, "tune.skipped_positions = 65 with tune.window_tokens = 0"),
        (
            {"skipped_positions": 65, "window_tokens": 64, "isolate_documents": True},
            "tune.skipped_positions = 65 with tune.isolate_documents",
        ),
    ],
)
def test_a_setting_that_no_training_can_use_is_refused_by_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TuneRecipe(**change)
    assert named in caught.value.found


# Batches


@pytest.mark.parametrize("bos", [None, 7])
def test_an_epoch_holds_every_window_once(bos: int | None) -> None:
    """103 tokens hold 10 windows of 10, always the same ones, in an order of each epoch; 3 tokens are left out."""
    text = TokenText(np.arange(100, 203, dtype=np.int32), "tune", bos)
    batches = Batches.cut(text, 10 + (bos is not None), 2, seed=3)
    orders = []
    for epoch in range(6):
        rows = np.concatenate([batches.at(step) for step in range(5 * epoch, 5 * epoch + 5)])
        if bos is not None:
            assert (rows[:, 0] == bos).all()
            rows = rows[:, 1:]
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.arange(100, 200).reshape(10, 10))
        assert (np.diff(rows) == 1).all()
        orders.append(tuple(rows[:, 0].tolist()))
    assert len(set(orders)) == 6
    assert tuple(sorted(orders[0])) not in orders


def test_batches_are_functions_of_seed_and_step() -> None:
    """In any order of asking; another seed gives others; a batch may be larger than an epoch."""
    first = [Batches.cut(TEXT, 48, 4, seed=0).at(step) for step in range(40)]
    again = Batches.cut(TEXT, 48, 4, seed=0)
    for step in reversed(range(40)):
        assert np.array_equal(again.at(step), first[step])
    assert not np.array_equal(Batches.cut(TEXT, 48, 4, seed=1).at(0), first[0])
    assert Batches.cut(replace(TEXT, tokens=TEXT.tokens[:50]), 48, 4, seed=0).at(3).shape == (4, 48)


def test_a_training_of_an_earlier_version_is_known_again(tmp_path: Path) -> None:
    """Settings that are off are not among what it is resumed by; those that are on are, with the documents."""
    old = {"window_tokens", "steps", "batch_windows", "windows_at_once", "learning_rate", "warmup_steps", "schedule"}
    old |= {"weight_decay", "clip_norm", "checkpoint_every", "recompute"}
    run = RunDir(tmp_path)
    train(settings=replace(QUICK, steps=3), run=run)
    with safe_open(run.tuning, framework="pt") as file:
        found = dict(file.metadata())
    newer = {"content", "checksums"}
    assert found.keys() - newer == {"model", "weights", "factors", "text", "seed", "step", *(f"tune.{k}" for k in old)}
    save_file(load_file(run.tuning), run.tuning, {key: value for key, value in found.items() if key not in newer})
    assert not train(settings=replace(QUICK, steps=3), run=run), "nothing is left to do"
    assert found["text"] == f"{fingerprint(TEXT.tokens)}, opened by None"
    with pytest.raises(RunError, match=r"opened by None, documents .*prefer_documents = True \(was nothing\)"):
        train(settings=replace(QUICK, steps=3, prefer_documents=True), run=run)


def test_other_documents_make_another_training_where_they_matter(tmp_path: Path) -> None:
    settings, other = replace(QUICK, steps=3), replace(TEXT, documents=np.asarray([0, 500], np.int64))
    for prefer in (False, True):
        run = RunDir(tmp_path / str(prefer))
        asked = replace(settings, prefer_documents=prefer)
        train(settings=asked, run=run)
        with pytest.raises(RunError, match="documents") if prefer else nullcontext():
            fine_tune(pico.make_model(), None, other, settings=asked, run=run)


def test_preferred_documents_are_read_first() -> None:
    """The first step of such a training reads windows of the one document that is long enough."""
    text = replace(TEXT, documents=np.asarray([*range(0, 1200, 40), 1200, 1450], np.int64))
    settings, model, steps = replace(QUICK, steps=3, prefer_documents=True), pico.make_model(), list[TrainStep]()
    batches = cut_batches(model, None, text, settings, seed=0)
    batch = batches.at(0)
    begins = [*range(1200, 1450 - 47, 48), *range(1450, len(TEXT.tokens) - 47, 48)]
    windows = {tuple(TEXT.tokens[begin : begin + 48].tolist()) for begin in begins}
    assert {tuple(row) for row in batch.tolist()} <= windows
    expected = token_losses(model, batch).mean().item()
    fine_tune(model, None, text, settings=settings, on_step=steps.append)
    assert steps[0].loss_nats == pytest.approx(expected, rel=1e-5)


def test_window_is_the_target_of_the_factors_or_the_trained_one() -> None:
    model, settings = pico.make_model(), replace(QUICK, window_tokens=0, steps=1, warmup_steps=0)
    assert train(model, settings)[0].num_tokens == 4 * 63
    steps: list[TrainStep] = []
    fine_tune(model, make_factors(model, 200), TEXT, settings=settings, on_step=steps.append)
    assert steps[0].num_tokens == 4 * 199
