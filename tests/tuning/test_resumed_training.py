"""Trainings that were interrupted, and the checkpoints and lines that they leave."""

import os
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from disk import note_names, note_syncs
from outcomes import Countdown, InterruptError
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainings import QUICK, TEXT, CrashError, assert_same, stop_after, train, weights_of

from longrope.runs.records import TrainStep, append_records, read_records
from longrope.runs.run_dir import RunDir
from longrope.runs.train_log import TrainLog
from longrope.tuning import fine_tune
from longrope.tuning.progress import Checkpoint


def strip(steps: list[TrainStep]) -> list[TrainStep]:
    """Without wall clock."""
    return [replace(record, seconds=0.0, tokens_per_second=0.0) for record in steps]


@pytest.mark.parametrize("error", [CrashError, KeyboardInterrupt])
@pytest.mark.parametrize("stops", [(0,), (1, 2), (2,), (3, 5), (4, 6), (7,)])
def test_resumed_training_is_the_same_to_the_bit(
    tmp_path: Path, stops: tuple[int, ...], error: type[BaseException], whole: Any
) -> None:
    """However often and wherever it breaks, weights and records are those of a training without a break.

    After a crash it goes on from the last checkpoint, after an interrupt from the very step.
    """
    run, expected = RunDir(tmp_path), whole[torch.float32]
    for stop in stops:
        with pytest.raises(error):
            fine_tune(pico.make_model(), None, TEXT, settings=QUICK, run=run, on_step=stop_after(stop, error))
        assert [record.step for record in read_records(run.train, TrainStep)] == list(range(stop + 1))
    model = pico.make_model()
    made = train(model, run=run)
    at = stops[-1] + 1
    assert len(made) == 8 - (at if error is KeyboardInterrupt else 3 * (at // 3))
    assert_same(weights_of(model), expected[0])
    assert strip(read_records(run.train, TrainStep)) == strip(expected[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl", "tuning.safetensors"]


def test_resumed_training_in_bfloat16_is_the_same_to_the_bit(tmp_path: Path, whole: Any) -> None:
    """The checkpoint holds the float32 weights, which bfloat16 would have rounded."""
    for stop in (4, -1):
        model = pico.make_model(dtype=torch.bfloat16)
        try:
            fine_tune(model, None, TEXT, settings=QUICK, run=RunDir(tmp_path), on_step=stop_after(stop, CrashError))
        except CrashError:
            assert load_file(tmp_path / "tuning.safetensors")["weight/lm_head.weight"].dtype == torch.float32
    assert_same(weights_of(model), whole[torch.bfloat16][0])


def test_finished_training_is_read_and_not_repeated(tmp_path: Path, whole: Any) -> None:
    run = RunDir(tmp_path)
    assert len(train(run=run)) == 8
    saved = run.tuning.read_bytes(), run.train.read_bytes()
    assert {name.split("/")[0] for name in load_file(run.tuning)} == {"weight"}, "moments are not kept"
    model = pico.make_model()
    assert train(model, run=run) == []
    assert_same(weights_of(model), whole[torch.float32][0])
    assert (run.tuning.read_bytes(), run.train.read_bytes()) == saved


def test_interrupt_while_weights_change_leaves_the_last_checkpoint(tmp_path: Path, whole: Any) -> None:
    """A checkpoint of half a step would be wrong; the steps since the last one are done again."""
    run, count = RunDir(tmp_path), 0

    def interrupt(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(run=run)
    hook.remove()
    model = pico.make_model()
    assert [record.step for record in train(model, run=run)] == [3, 4, 5, 6, 7]
    assert_same(weights_of(model), whole[torch.float32][0])


def test_crash_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    run = RunDir(tmp_path)
    with monkeypatch.context() as patch:
        note_names(patch, Countdown(2))
        with pytest.raises(InterruptError):
            train(run=run)
    model = pico.make_model()
    assert train(model, run=run)[0].step == 3
    assert_same(weights_of(model), whole[torch.float32][0])


def test_checkpoint_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lines of its steps are there before it."""
    synced: list[str] = []

    def look(descriptor: int) -> None:
        synced.append(
            next(
                path.name
                for path in (tmp_path, *tmp_path.iterdir())
                if path.stat().st_ino == os.fstat(descriptor).st_ino
            )
        )

    note_syncs(monkeypatch, look)
    train(run=RunDir(tmp_path))
    files = [re.sub(r"\.[0-9a-f]{16}\.", ".", name) for name in synced if name != tmp_path.name]
    assert [name for name, _ in groupby(files)] == ["train.jsonl", ".tuning.safetensors.partial.safetensors"] * 3
    assert synced[-1] == tmp_path.name, "the folder that holds the name"


def make_steps(count: int) -> list[TrainStep]:
    return [TrainStep(step, 1.0, 1, 1, 1.0, 1.0, 1.0) for step in range(count)]


def test_lines_are_written_every_second(tmp_path: Path) -> None:
    """Not at every step, and not only at checkpoints."""
    now, seen, path = [0.0], [], tmp_path / "train.jsonl"
    log = TrainLog(path, clock=lambda: now[0])
    log.begin(0)
    for record in make_steps(8):
        log.add(record)
        seen.append(len(path.read_text().splitlines()) if path.exists() else 0)
        now[0] += 0.4
    assert seen == [0, 0, 0, 4, 4, 4, 7, 7]
    log.flush()
    assert read_records(path, TrainStep) == make_steps(8)


def test_an_interrupted_flush_is_written_over(tmp_path: Path) -> None:
    """Half of the lines and a torn one are not there twice."""
    path, steps = tmp_path / "train.jsonl", make_steps(4)
    log = TrainLog(path)
    log.begin(0)
    log.add(steps[0])
    log.flush()
    for record in steps[1:3]:
        log.add(record)
    append_records(path, steps[1:2])
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    log.flush()
    assert read_records(path, TrainStep) == steps[:3]
    again = TrainLog(path)
    again.begin(3)
    again.add(steps[3])
    again.flush()
    assert read_records(path, TrainStep) == steps


def test_an_interrupt_before_a_steps_line_leaves_no_checkpoint_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    """Else the line would be missing for good: a resumed training begins after the checkpoint."""
    run, add = RunDir(tmp_path), TrainLog.add

    def interrupted(log: TrainLog, record: TrainStep) -> None:
        if record.step == 4:
            raise KeyboardInterrupt
        add(log, record)

    monkeypatch.setattr(TrainLog, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(pico.make_model(), run=run)
    monkeypatch.setattr(TrainLog, "add", add)
    train(pico.make_model(), run=run)
    assert strip(read_records(run.train, TrainStep)) == strip(whole[torch.float32][1])


def test_a_resumed_training_lets_go_of_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the memory of weights and moments once more."""
    run, read, kept = RunDir(tmp_path), Checkpoint.read, list[dict[str, Any]]()
    with pytest.raises(CrashError):
        fine_tune(pico.make_model(), None, TEXT, settings=QUICK, run=run, on_step=stop_after(4, CrashError))

    def reading(checkpoint: Checkpoint) -> Any:
        done, tensors = read(checkpoint)
        kept.append(tensors)
        assert tensors
        return done, tensors

    monkeypatch.setattr(Checkpoint, "read", reading)
    train(pico.make_model(), run=run)
    assert kept == [{}]
