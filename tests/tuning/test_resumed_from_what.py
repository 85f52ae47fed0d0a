"""A training goes on from its own checkpoint alone: of the same weights, with the same tensors, undamaged."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pico
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainings import QUICK, TEXT, CrashError, stop_after, train

from longrope.errors import RunError
from longrope.models import LanguageModel
from longrope.models.weights import name_weights
from longrope.runs.provenance import record_session
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    """A training that was stopped after a checkpoint."""
    run = RunDir(tmp_path)
    with suppress(CrashError):
        fine_tune(pico.make_model(), None, TEXT, settings=QUICK, run=run, on_step=stop_after(4, CrashError))
    return run


def change(run: RunDir, edit: Callable[[dict[str, Tensor]], None], *, keep_sums: bool = False) -> None:
    """Write the checkpoint again with other tensors."""
    tensors = load_file(run.tuning)
    with safe_open(run.tuning, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if keep_sums or key != "checksums"}
    edit(tensors)
    save_file(tensors, run.tuning, metadata)


def scaled_model() -> LanguageModel:
    model = pico.make_model()
    with torch.no_grad():
        next(iter(model.network.parameters())).mul_(1.3)
    return model


def test_other_weights_of_the_same_shapes_are_refused(begun: RunDir) -> None:
    with pytest.raises(RunError, match=r"another training: content = \w{16} \(was \w{16}\)"):
        train(scaled_model(), run=begun)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tensors: tensors.pop("weight/lm_head.weight"), "lm_head.weight is missing"),
        (lambda tensors: tensors.update({"weight/x": torch.ones(2)}), "weight/x is of another training"),
        (lambda tensors: tensors.update({"weight/lm_head.weight": torch.ones(2)}), "lm_head.weight is of another"),
        (lambda tensors: tensors.update({"evil/lm_head.weight": torch.ones(2)}), "evil/lm_head.weight is of another"),
    ],
)
def test_tensors_of_another_training_are_refused(
    begun: RunDir, edit: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    change(begun, edit)
    with pytest.raises(RunError, match=words):
        train(run=begun)


def test_a_flipped_bit_is_noticed(begun: RunDir) -> None:
    content = bytearray(begun.tuning.read_bytes())
    content[-100] ^= 1
    begun.tuning.write_bytes(content)
    with pytest.raises(RunError, match="its tensors have other checksums"):
        train(run=begun)


def test_a_run_knows_the_weights_that_began_it(tmp_path: Path) -> None:
    """By the name that they were loaded by; the number format does not matter, and earlier versions wrote none."""
    run, model = RunDir(tmp_path), pico.make_model()
    own, other = (name_weights(x, in_any_format=True) for x in (model, scaled_model()))
    assert own == name_weights(pico.make_model(dtype=torch.bfloat16), in_any_format=True)
    assert own != other
    record_session(run, device="cpu", choices=())
    record_session(run, device="cpu", choices=(), model="m", weights=own)
    record_session(run, device="cpu", choices=(), model="another", weights=other)
    with pytest.raises(RunError, match=f"weights and the RoPE of 'm' are {other}, and .* was begun with {own}"):
        record_session(run, device="cpu", choices=(), model="m", weights=other)
