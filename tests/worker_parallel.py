"""One process of a launch of tests/distributed/test_launches.py: it runs all cases and leaves their results in a file.

    torchrun --standalone --nproc-per-node 2 tests/worker_parallel.py FOLDER
    torchrun --standalone --nproc-per-node 2 tests/worker_parallel.py FOLDER COMMAND...   the command line, no cases

A launch takes seconds, so there is one for each number of processes. A case is a function that gets the folder; its
result has its name. Those of ``ROWS`` run with every process in a row of its own, those of ``SHARED`` with all in one.
"""

import io
import math
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pico
import torch
from torch.utils.checkpoint import checkpoint

from longrope import cli, distributed, pipeline
from longrope.data import TokenText
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import greedy_answers, token_losses, weighted_loss_with_graph
from longrope.errors import LongRopeError, TextsError
from longrope.evaluation import measure
from longrope.models import rescaled
from longrope.pipeline import Cost, extension
from longrope.recipe import MeasureRecipe, TuneRecipe, load_recipe
from longrope.rope import baseline_factors
from longrope.runs.records import Score, TrainStep
from longrope.runs.run_dir import RunDir
from longrope.search.score import WindowObjective
from longrope.tuning import fine_tune

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
DEVICE = "cuda" if torch.cuda.device_count() >= RANKS > 1 else "cpu"  # then the tensors of a shared sequence go by NCCL
LENGTHS = (1, 7, 12, 13)
LISTS: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 8.0]}
LISTS = {**LISTS, "original_max_position_embeddings": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {},
    "gemma2": {},
    "mistral": {"sliding_window": 60},  # more than a process has of the window, less than the window
    "phi3": {"rope": LISTS, "max_position_embeddings": 256, "original_max_position_embeddings": 64},
    "qwen2": {"rope": {"rope_type": "dynamic", "factor": 4.0}},  # both choose by the length of the whole window
}
WINDOW = 101  # of the objective: no multiple of 2 * ranks
DOCUMENTS = ((0, 13, 14, 61), (0, 37))  # of two such windows
POSITIONS = np.stack([np.arange(WINDOW), np.concatenate([np.arange(30), np.arange(70, 70 + WINDOW - 30)])])
TUNED_ON = TokenText(
    np.asarray(pico.make_tokenizer()(pico.make_text(1500))["input_ids"], np.int32),
    "tune",
    documents=np.asarray([0, 30, 31, 500, *range(600, 2600, 37)]),
)
TRAINING = TuneRecipe(
    WINDOW, steps=4, batch_windows=6, learning_rate=1e-3, warmup_steps=1, clip_norm=0.3, checkpoint_every=2
)
SHORTER = replace(TRAINING, steps=2)
TRAININGS: dict[str, tuple[TuneRecipe, dict[str, Any]]] = {  # with what is changed in the model
    "clipped": (TRAINING, {}),
    "unclipped": (replace(SHORTER, clip_norm=math.inf, weight_decay=0.1), {"tie_word_embeddings": True}),
    "kept": (replace(SHORTER, recompute=False, windows_at_once=2), {"family": "gpt_neox", "attention_bias": False}),
    "sliding": (SHORTER, {"family": "gemma2"}),
    "read": (replace(SHORTER, isolate_documents=True, short_share=0.5), {}),
    "needles": (replace(SHORTER, window_tokens=1400, needle_weight=0.7), {}),
    "adapters": (replace(SHORTER, lora_rank=3, learning_rate=1e-2), {}),
    "unclipped adapters": (replace(SHORTER, lora_rank=3, lora_also=("norms",), clip_norm=math.inf), {}),
}


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


def needles_found() -> list[Score]:
    """The scores of needles by a pico model, under factors, without what their wall clock says."""
    model = pico.make_model()
    ids = model.tokenizer(pico.make_text(1200))["input_ids"]
    text, table = TokenText(np.asarray(ids, np.int32), "measure"), baseline_factors(model.spec, "yarn", 600)
    settings = MeasureRecipe((600,), ("needle",), windows=2, needles=11)
    scores = measure(model, table, text, settings=settings)
    return [replace(score, seconds=0.0) for score in scores]


def standing(_: Path) -> Any:
    """What a process knows of its place."""
    return (
        distributed.is_main(),
        distributed.ranks(),
        distributed.workers(),
        distributed.shard() is None,
        distributed.choices(),
    )


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
    run, needed = RunDir(folder / "cramped"), [Cost("tune 64k", 60.0, 5 * 2**30, free * 2**30)]
    with patch.object(extension, "estimate_stages", lambda *_: needed):
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


def whole_tensors(tokens: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor [B, G, N, D] of small integers, and weights for the loss of each rank."""
    made = torch.Generator().manual_seed(tokens)
    shape = (2, 3, tokens, 4)
    return torch.randint(-8, 8, shape, generator=made).float(), torch.randn((ranks, *shape), generator=made)


def part_of_loss(shard: distributed.Shard, weights: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A loss of one rank that depends on all tokens, and on each in its own way."""
    return (shard.gather(own.sin()).square() * weights).sum()


def objective_gradient(_: Path) -> Any:
    """The loss of a window and its gradient, by a pass that the processes share."""
    return gradient_of_objective()


def gradient_of_objective() -> Any:
    """The loss of a window of a pico model and its gradient by the factors."""
    model = pico.make_model()
    windows = np.random.default_rng(0).integers(1, 300, (2, WINDOW)).astype(np.int32)
    objective = WindowObjective.prepare(model, windows[:1], windows[1:], 1, tail_tokens=40)
    return objective.gradient(baseline_factors(model.spec, "yarn", 128).factor_sets[0], 0)


def shared_passes(_: Path) -> Any:
    """What passes over windows that the processes share give."""
    return {family: passes_of(family) for family in FAMILIES}


def passes_of(family: str) -> dict[str, torch.Tensor]:
    """Losses, a slice of them, greedy answers and the gradients of all weights of a rescaled pico model."""
    model = pico.make_model(family, **FAMILIES[family])
    tokens = np.random.default_rng(1).integers(1, pico.BASE["vocab_size"], (2, WINDOW))
    factors = replace(baseline_factors(model.spec, "yarn", 2 * WINDOW).factor_sets[0], start_tokens=5)
    weights = np.random.default_rng(2).random((2, WINDOW - 1))
    weights[:, :30] = 0
    found = {"losses of the original": token_losses(model, tokens)}
    with rescaled(model, factors):
        found["losses"] = token_losses(model, tokens)
        found["last losses"] = token_losses(model, tokens, slice(-7, None))
        found["losses within documents"] = token_losses(model, tokens, documents=DOCUMENTS)
        found["losses at positions"] = token_losses(model, tokens, positions=POSITIONS)
        greedy = model.network(torch.from_numpy(tokens), use_cache=False).logits[0, -2].argmax()
        tokens[0, -1] = greedy
        found["answers"] = greedy_answers(model, tokens, 1)
        found["after a prompt"] = read_prompt(model, tokens[0], KeyValueCache(model, WINDOW))  # whole in every process
        ways: dict[str, dict[str, Any]] = {
            "whole": {},
            "within documents": {"documents": DOCUMENTS},
            "at positions": {"positions": POSITIONS},
        }
        for recompute, (way, settings) in product((True, False), ways.items()):
            model.network.requires_grad_(True)
            loss = weighted_loss_with_graph(model, tokens, weights, recompute=recompute, **settings)
            loss.backward()
            parameters, loss = list(model.network.parameters()), loss.detach()
            if shard := distributed.shard():
                shard.sum_gradients(parameters)
                loss = shard.total(loss)
            found[f"loss, recompute {recompute}, {way}"] = loss
            gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
            found[f"gradients, recompute {recompute}, {way}"] = torch.cat(gradients)
            model.network.zero_grad(set_to_none=True)
            model.network.requires_grad_(False)
    return found


def trained_models(_: Path) -> Any:
    """What trainings give in these processes, and what they say of batches that do not divide among them."""
    refused = {"batch": error_of(lambda: train(replace(SHORTER, batch_windows=7)))}
    mixed = replace(SHORTER, short_share=0.5, windows_at_once=2)
    refused["mixed"] = error_of(lambda: train(mixed))
    return {name: train(settings, **changes) for name, (settings, changes) in TRAININGS.items()}, refused


def train(settings: TuneRecipe, run: RunDir | None = None, stop: int = -1, **changes: Any) -> dict[str, Any]:
    """Losses, gradient norms and tokens of all steps of a training of a pico model, and its weights after them."""
    model, steps = pico.make_model(**changes), list[TrainStep]()
    factors = replace(baseline_factors(model.spec, "yarn", 2 * WINDOW).factor_sets[0], start_tokens=5)

    def on_step(record: TrainStep) -> None:
        steps.append(record)
        if record.step == stop:
            raise InterruptedError

    with suppress(InterruptedError):
        fine_tune(model, factors, TUNED_ON, settings=settings, run=run, seed=5, on_step=on_step)
    return {
        "losses": [record.loss_nats for record in steps],
        "norms": [record.gradient_norm for record in steps],
        "tokens": [record.tokens_seen for record in steps],
        "weights": {name: weight.clone() for name, weight in model.network.state_dict().items()},
    }


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
    written_files,
    *(trained_models, stopped_training, resumed_training),
)
SHARED = (
    *(standing, map_work, lone_work, failing_work, led_work, needles, written_files),
    *(scattered_weights, shard_tensors, objective_gradient, shared_passes, trained_models),
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
