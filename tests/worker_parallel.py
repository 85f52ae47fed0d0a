"""One process of a launch of tests/distributed: it runs all cases and leaves their results in a file.

    torchrun --standalone --nproc-per-node 2 tests/worker_parallel.py FOLDER
    torchrun --standalone --nproc-per-node 2 tests/worker_parallel.py FOLDER COMMAND...   the command line, no cases

A launch takes seconds, so there is one for each number of processes. A case is a function that gets the folder; its
result has its name. Those of ``ROWS`` run with every process in a row of its own, those of ``SHARED`` with all in one.
"""

import io
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attending
import numpy as np
import pico
import torch
from parallel_work import (
    FAMILIES,
    LENGTHS,
    SHORTER,
    TRAINING,
    TRAININGS,
    gradient_of_objective,
    needles_found,
    passes_of,
    train,
    whole_tensors,
)
from torch.utils.checkpoint import checkpoint

from longrope import cli, distributed, pipeline
from longrope.engine.pass_seconds import PassTimer
from longrope.errors import LongRopeError, TextsError
from longrope.pipeline import Cost, comparison_costs
from longrope.recipe import load_recipe
from longrope.runs.records import TrainStep
from longrope.runs.run_dir import RunDir

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


DEVICE = "cuda" if torch.cuda.device_count() >= RANKS > 1 else "cpu"  # then the tensors of a shared sequence go by NCCL


def fail_at(bad: int, item: int) -> int:
    """Refuse one item."""
    if item == bad:
        raise TextsError(f"Item {item} was found.", "Another is needed.", "Leave it out.")
    return item


def error_of(work: Callable[[], Any]) -> tuple[str, ...]:
    """The type and the three parts of the error that some work ends in."""
    try:
        work()
    except LongRopeError as error:
        return type(error).__name__, error.found, error.needed, error.remedy
    return ()


def map_work(_: Path) -> Any:
    """Which rank worked on which item, for several numbers of items."""
    return [distributed.map_ranks(range(count), lambda item: (item, RANK)) for count in (0, 1, 2, 3, 8)]


def nested_work(_: Path) -> Any:
    """Which rank worked on which part of an item, for one item and for two."""
    parts: Callable[[int], Any] = lambda item: distributed.map_ranks(range(3), lambda part: (item, part, RANK))  # noqa: E731
    return [distributed.map_ranks(range(count), parts) for count in (1, 2)]


def failing_work(_: Path) -> Any:
    """What each process is told of bad input that one process finds, and that work goes on after it."""
    errors = [error_of(lambda bad=bad: distributed.map_ranks(range(5), partial(fail_at, bad))) for bad in (0, 1, 4)]  # type: ignore[misc]
    errors.append(error_of(lambda: distributed.map_ranks([3], partial(fail_at, 3))))
    errors.append(error_of(lambda: distributed.on_main(partial(fail_at, RANK, RANK))))
    return errors, distributed.map_ranks(range(3), str)


def led_work(_: Path) -> Any:
    """What one process did for all, whether it was alone then, and what it says."""
    calls: list[int] = []

    def work() -> tuple[int, bool, list[int]]:
        calls.append(RANK)
        return RANK, distributed.shard() is None, distributed.map_ranks([1, 2], lambda item: item)

    return distributed.on_main(work), calls, distributed.on_main(lambda: {"rank": RANK})


def scattered_weights(_: Path) -> Any:
    """What the first process alone has read, in half the bits of what it is to fill."""
    read = torch.arange(5, dtype=torch.bfloat16) if RANK == 0 else None
    filled = distributed.scatter(read, torch.zeros(5))
    return filled.dtype, filled.tolist()


def lone_work(_: Path) -> Any:
    """Which rank worked on which item, and whether it had sequences whole then."""
    work: Callable[[int], Any] = lambda item: (item, RANK, distributed.shard() is None)  # noqa: E731
    return [distributed.map_ranks(range(count), work, alone=True) for count in (0, 1, 4)]


def needles(_: Path) -> Any:
    """The scores of needles."""
    return needles_found()


def standing(_: Path) -> Any:
    """What a process knows of its place."""
    return (
        distributed.is_main(),
        distributed.ranks(),
        distributed.workers(),
        distributed.shard() is None,
        distributed.choices(),
    )


def timed_passes(_: Path) -> Any:
    """The lengths of the passes that an estimate times, and its seconds, by clocks that differ between processes."""
    read, now = list[int](), [0.0]

    def run(_: Any, ids: Any) -> None:
        read.append(ids.shape[1])
        now[0] += 1e-6 * ids.shape[1] ** (1.5 - RANK)

    return PassTimer(pico.make_model(), run=run, clock=lambda: now[0])(8192), read


def compared(folder: Path) -> Any:
    """The scores of a comparison: both searches, perplexities and passkeys."""
    run = RunDir(folder / "compared")
    return pipeline.compare(load_recipe(folder / "recipe.toml"), run)


def written_files(folder: Path) -> Any:
    """What is read of files that all processes write at the same time, each with its own rank, and of damaged ones."""
    run = RunDir(folder / f"written-{distributed.workers()}")
    run.append(TrainStep(RANK, 1.0, 1, 1, 1.0, 1.0, 1.0))
    run.write_text(run.rope, f"by {RANK}")
    run.write_samples("ranks", {"rank": np.asarray(RANK)})
    found = run.read_steps(), run.read_text(run.rope), run.read_samples("ranks"), run.read_text(run.costs)
    run.write_text(run.scores, "damaged\n")
    return found, run.has(run.rope), error_of(run.read_scores), error_of(lambda: RunDir(run.rope))


def cramped(folder: Path) -> Any:
    """What each process is told of a run for which the last one of them has too little memory."""
    free = 2 if RANK == RANKS - 1 else 8
    run, needed = RunDir(folder / "cramped"), [Cost("tune 64k", 60.0, 5 * 2**30, free * 2**30, "Take more.")]
    with patch.object(comparison_costs, "estimate_stages", lambda *_: needed):
        return error_of(lambda: pipeline.extend(load_recipe(folder / "recipe.toml"), run))


def resumed(folder: Path) -> Any:
    """The factors of a search whose first trials are there."""
    return pipeline.search(load_recipe(folder / "recipe.toml"), RunDir(folder / "resumed"))


def shard_tensors(_: Path) -> Any:
    """Positions, and what the collectives make of tensors that the test knows, too."""
    shard = distributed.shard()
    assert shard is not None
    results: dict[str, Any] = {"padded": [shard.padded(n) for n in LENGTHS]}
    results["positions"] = [shard.positions(n) for n in results["padded"]]
    for tokens, positions in zip(results["padded"], results["positions"], strict=True):
        x, weights = (tensor.to(DEVICE) for tensor in whole_tensors(tokens, RANKS))
        results[f"gathered {tokens}"] = shard.gather(x[:, :, positions].bfloat16()).float().cpu()
        results[f"joined {tokens}"] = shard.join(x[:, 0, positions]).cpu()
        for how in ("plain", "checkpointed"):
            own = x[:, :, positions].clone().requires_grad_()
            work = partial(part_of_loss, shard, weights[RANK])
            loss = work(own) if how == "plain" else checkpoint(work, own, use_reentrant=False)
            loss.backward()
            assert own.grad is not None
            results[f"{how} {tokens}"] = (shard.total(loss).cpu(), own.grad.cpu())
    parameters = [torch.ones(2, device=DEVICE, requires_grad=True) for _ in range(2)]
    parameters[0].grad = torch.tensor([1.0, RANK], device=DEVICE)
    shard.sum_gradients(parameters)
    return results | {"summed": [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]}


def part_of_loss(shard: distributed.Shard, weights: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A loss of one rank that depends on all tokens, and on each in its own way."""
    return (shard.gather(own.sin()).square() * weights).sum()


def objective_gradient(_: Path) -> Any:
    """The loss of a window and its gradient, by a pass that the processes share."""
    return gradient_of_objective()


def shared_passes(_: Path) -> Any:
    """What passes over windows that the processes share give."""
    return {family: passes_of(family) for family in FAMILIES}


def shared_attention(_: Path) -> Any:
    """The same of families that attend in ways of their own."""
    return {family: attending.shared_pass(family) for family in attending.FAMILIES}


def trained_models(_: Path) -> Any:
    """What trainings give in these processes, and what they say of batches that do not divide among them."""
    refused = {"batch": error_of(lambda: train(replace(SHORTER, batch_windows=7)))}
    mixed = replace(SHORTER, short_share=0.5, windows_at_once=2)
    refused["mixed"] = error_of(lambda: train(mixed))
    return {name: train(settings, **changes) for name, (settings, changes) in TRAININGS.items()}, refused


def stopped_training(folder: Path) -> Any:
    """The first steps of a training that leaves a checkpoint."""
    return train(TRAINING, RunDir(folder / "stopped"), stop=2)


def resumed_training(folder: Path) -> Any:
    """The steps that are left of a training that another number of processes has begun."""
    return train(TRAINING, RunDir(folder / "begun"))


def run_cli(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    sys.argv = ["longrope", *map(str, arguments)]
    code = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


ROWS = (
    *(standing, map_work, nested_work, lone_work, failing_work, led_work, needles, cramped, compared, resumed),
    *(written_files, timed_passes),
    *(trained_models, stopped_training, resumed_training),
)


SHARED = (
    *(standing, map_work, lone_work, failing_work, led_work, needles, written_files, timed_passes),
    *(scattered_weights, shard_tensors, objective_gradient, shared_passes, shared_attention, trained_models),
)


def main() -> None:
    """Run the cases, or a command."""
    folder, *command = Path(sys.argv[1]), *sys.argv[2:]
    (folder / f"{RANK}.pid").write_text(str(os.getpid()))
    if command:
        sys.argv = ["longrope", *command]
        cli.main()
        return
    results: dict[str, Any] = {}
    for context, cases in ((1, ROWS), (RANKS, SHARED)):
        with distributed.launched(context, device=DEVICE):
            results |= {f"{case.__name__} {context}": case(folder) for case in cases}
    recipe = folder / "recipe.toml"
    results["finished"] = run_cli("search", "--recipe", recipe, "--out", folder / "resumed")
    results["refused"] = run_cli("search", "--recipe", recipe, "--out", recipe)  # the last case: it ends the process
    (folder / f"{RANK}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
