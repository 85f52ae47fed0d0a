"""Several processes do what one does: launches of two and three by torchrun, with gloo, on pico models.

The oracles: brute force over whole tensors, autograd in one process, and the run of one process. One file, so that
each launch is made once.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import attending
import pytest
import torch
from launching import KEPT_TRIALS, Alone, Launch, timeless
from parallel_work import (
    FAMILIES,
    LENGTHS,
    TRAINING,
    TRAININGS,
    WINDOW,
    gradient_of_objective,
    needles_found,
    passes_of,
    train,
    whole_tensors,
)

from longrope import pipeline
from longrope.recipe import MeasureRecipe, Recipe
from longrope.rope import dump_factors
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir


@pytest.mark.parametrize("found", ["lengths", "target", "factors", "both"])
def test_the_longest_window_of_a_run_is_known_before_the_model(found: str, recipe: Recipe, alone: Alone) -> None:
    lengths = {"lengths": (64, 512), "both": (64, 128)}.get(found, ())
    asked = replace(recipe, target_tokens=1024 if found == "target" else 1, measure=MeasureRecipe(lengths=lengths))
    factors = alone.run.factors("longrope-gradient") if found in ("factors", "both") else None
    expected = {"lengths": 512, "target": 1024, "factors": 256, "both": 128}[found]
    assert pipeline.longest_window(asked, factors) == expected


# What the processes are told


def test_each_process_knows_its_place(launch: Launch, ranks: int) -> None:
    choice = f"{ranks} processes: {{}} for windows and candidates x {{}} for a sequence (as asked)"
    rows, shared = (choice.format(ranks, 1),), (choice.format(1, ranks),)
    places = [(rank == 0, ranks) for rank in range(ranks)]
    assert launch.all("standing 1") == [(*place, ranks, True, rows) for place in places]
    assert launch.all(f"standing {ranks}") == [(*place, 1, False, shared) for place in places]


def test_items_are_dealt_round_and_results_come_in_order(launch: Launch, ranks: int) -> None:
    expected = [[(item, item % ranks if count > 1 else 0) for item in range(count)] for count in (0, 1, 2, 3, 8)]
    assert launch.same("map_work 1") == expected
    alike = [[(item, 0) for item in range(count)] for count in (0, 1, 2, 3, 8)]
    assert launch.same(f"map_work {ranks}") == alike


def test_a_single_item_is_divided_itself(launch: Launch, ranks: int) -> None:
    one, two = launch.same("nested_work 1")
    assert one == [[(0, part, part % ranks) for part in range(3)]]
    assert two == [[(item, part, item) for part in range(3)] for item in range(2)]


@pytest.mark.parametrize("in_one_row", [False, True])
def test_lone_work_is_dealt_to_single_processes(in_one_row: bool, launch: Launch, ranks: int) -> None:
    """Even where they share sequences, each has its own whole."""
    expected = [[(item, item % ranks, True) for item in range(count)] for count in (0, 1, 4)]
    assert launch.same(f"lone_work {ranks if in_one_row else 1}") == expected


@pytest.mark.parametrize("in_one_row", [False, True])
def test_the_main_process_reads_and_writes_the_files_of_a_run(in_one_row: bool, launch: Launch, ranks: int) -> None:
    """Each file has one record, the main process's, and a damaged one is the same error in all processes."""
    context = ranks if in_one_row else 1
    found, there, damaged, no_directory = launch.same(f"written_files {context}")
    assert found == ([TrainStep(0, 1.0, 1, 1, 1.0, 1.0, 1.0)], "by 0", {"rank": 0}, None)
    assert there
    assert (damaged[0], no_directory[0]) == ("RunError", "RunError")
    assert "scores.jsonl:1: " in damaged[1]
    assert "is a file" in no_directory[1]
    assert len((launch.folder / f"written-{ranks // context}" / "train.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("in_one_row", [False, True])
def test_bad_input_in_one_process_is_reported_in_all(in_one_row: bool, launch: Launch, ranks: int) -> None:
    errors, afterwards = launch.same(f"failing_work {ranks if in_one_row else 1}")
    bad = [0, 1, 4, 3, 0]
    assert errors == [("TextsError", f"Item {i} was found.", "Another is needed.", "Leave it out.") for i in bad]
    assert afterwards == ["0", "1", "2"]


def test_a_schedule_that_does_not_fit_one_process_ends_in_all(launch: Launch) -> None:
    kind, found, *_ = launch.same("cramped 1")
    assert (kind, found) == ("RecipeError", "tune 64k: about 1.0 min, 5.0 GiB at the peak (2.0 GiB are free).")
    left = {path.name for path in (launch.folder / "cramped").glob("*")}
    assert not left & {"scores.jsonl", "trials.jsonl", "stages"}, "before anything is done"


@pytest.mark.parametrize("in_one_row", [False, True])
def test_one_process_leads(in_one_row: bool, launch: Launch, ranks: int) -> None:
    results = launch.all(f"led_work {ranks if in_one_row else 1}")
    assert [result for result, _, _ in results] == [(0, True, [1, 2])] * ranks
    assert [calls for _, calls, _ in results] == [[0]] + [[]] * (ranks - 1)
    assert [said for _, _, said in results] == [{"rank": 0}] * ranks


@pytest.mark.parametrize("in_one_row", [False, True])
def test_estimates_time_the_same_passes_in_every_process(in_one_row: bool, launch: Launch, ranks: int) -> None:
    """What the clocks say decides which passes are made; processes that share a window would wait for each other."""
    seconds, read = launch.same(f"timed_passes {ranks if in_one_row else 1}")
    assert seconds > 0
    assert sorted(read) == [2048, 2048, 4096, 4096, 8192, 8192]


def test_weights_in_fewer_bits_reach_every_process(launch: Launch, ranks: int) -> None:
    """A finished training keeps its weights in the model's format, and goes on in another one."""
    assert launch.same(f"scattered_weights {ranks}") == (torch.float32, [0, 1, 2, 3, 4])


# A sequence that is shared


def zigzag(tokens: int, ranks: int) -> list[list[int]]:
    """The positions of each rank, by brute force."""
    size = tokens // (2 * ranks)
    chunks = [list(range(i * size, (i + 1) * size)) for i in range(2 * ranks)]
    return [chunks[rank] + chunks[-1 - rank] for rank in range(ranks)]


def padded(tokens: int, ranks: int) -> int:
    return next(n for n in range(tokens, tokens + 2 * ranks) if n % (2 * ranks) == 0)


def test_positions_zigzag(launch: Launch, ranks: int) -> None:
    results = launch.all(f"shard_tensors {ranks}")
    for i, tokens in enumerate(LENGTHS):
        length = padded(tokens, ranks)
        assert [result["padded"][i] for result in results] == [length] * ranks
        assert [result["positions"][i].dtype for result in results] == [torch.int64] * ranks
        assert [result["positions"][i].tolist() for result in results] == zigzag(length, ranks)


def test_parts_come_together_in_order(launch: Launch, ranks: int) -> None:
    for result in launch.all(f"shard_tensors {ranks}"):
        for tokens in LENGTHS:
            length = padded(tokens, ranks)
            x, _ = whole_tensors(length, ranks)
            assert torch.equal(result[f"gathered {length}"], x)
            assert torch.equal(result[f"joined {length}"], x[:, 0])


@pytest.mark.parametrize("how", ["plain", "checkpointed"])
def test_gradients_of_all_processes_come_back(how: str, launch: Launch, ranks: int) -> None:
    for tokens in LENGTHS:
        length = padded(tokens, ranks)
        x, weights = whole_tensors(length, ranks)
        x.requires_grad_()
        loss = (x.sin().square() * weights).sum()
        loss.backward()
        assert x.grad is not None
        for rank, result in enumerate(launch.all(f"shard_tensors {ranks}")):
            total, gradient = result[f"{how} {length}"]
            torch.testing.assert_close(total, loss.detach(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(gradient, x.grad[:, :, zigzag(length, ranks)[rank]])


def test_gradients_of_parameters_are_summed(launch: Launch, ranks: int) -> None:
    for result in launch.all(f"shard_tensors {ranks}"):
        assert result["summed"] == [[ranks, sum(range(ranks))], [0, 0]]


def test_a_shared_window_has_the_gradient_of_a_whole_one(launch: Launch, ranks: int) -> None:
    whole, shared = gradient_of_objective(), launch.same(f"objective_gradient {ranks}")
    assert shared.loss_nats == pytest.approx(whole.loss_nats, rel=1e-5)
    assert shared.gradient == pytest.approx(whole.gradient, rel=1e-3, abs=1e-5)
    assert replace(shared, loss_nats=0, gradient=()) == replace(whole, loss_nats=0, gradient=())


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_over_shared_windows_are_those_over_whole_ones(launch: Launch, ranks: int, family: str) -> None:
    """Losses, answers and gradients: grouped queries, partial rotary, sliding windows and caps, an uneven length.

    Documents that do not see each other begin and end anywhere in the chunks of a process, and positions
    that are told are those of the whole window.
    """
    whole = passes_of(family)
    assert whole["losses"].shape == (2, WINDOW - 1)
    assert whole["answers"].tolist()[0] is True
    assert whole["after a prompt"].std() > 0.01
    assert (whole["losses within documents"] - whole["losses"]).abs().amax(1).min() > 0.01
    assert (whole["losses at positions"] - whole["losses"]).abs().amax(1)[1] > 0.01
    for rank, shared in enumerate(launch.all(f"shared_passes {ranks}")):
        for name, expected in whole.items():
            given = shared[family][name]
            scale = expected.abs().max().item() if "gradients" in name else 1.0
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5 * scale, msg=f"{name} on rank {rank}")


@pytest.mark.parametrize("family", attending.FAMILIES)
def test_families_with_ways_of_their_own_attend_across_processes(launch: Launch, ranks: int, family: str) -> None:
    """Each process has a head and a tail part: positions jump, and the results are those of eager attention."""
    network = attending.make_network(family)
    wanted = [*attending.sinks_of(network), network.get_input_embeddings().weight]
    for weight in wanted:
        weight.requires_grad_()
    whole = attending.eager_losses(network)
    expected = attending.gradients(whole.mean(), wanted)
    for result in launch.all(f"shared_attention {ranks}"):
        losses, found = result[family]
        torch.testing.assert_close(losses.double(), whole.detach(), rtol=1e-5, atol=5e-5)
        for own, of_one in zip(found, expected, strict=True):
            torch.testing.assert_close(own, of_one, rtol=1e-3, atol=1e-4 * of_one.abs().max().item())


# Trainings


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, Any]]:
    """What one process makes of the trainings."""
    return {name: train(settings, **changes) for name, (settings, changes) in TRAININGS.items()}


def assert_same_training(given: dict[str, Any], expected: dict[str, Any], steps: slice = slice(None)) -> None:
    """Losses, norms and each matrix to 1e-5 of its size, in which noise that Adam makes large is small; the tokens."""
    assert given["tokens"] == expected["tokens"][steps]
    assert given["losses"] == pytest.approx(expected["losses"][steps], rel=1e-5)
    assert given["norms"] == pytest.approx(expected["norms"][steps], rel=1e-5)
    for name, weight in expected["weights"].items():
        assert (given["weights"][name] - weight).norm() <= 1e-5 * weight.norm(), name


@pytest.mark.parametrize("in_one_row", [False, True], ids=["rows", "shared"])
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_of_several_processes_are_those_of_one(
    name: str, in_one_row: bool, launch: Launch, ranks: int, trained: dict[str, dict[str, Any]]
) -> None:
    """Rows that divide a batch, and processes that share each window; whole weights, divided among them, or adapters.

    Grouped queries, partial rotary, sliding windows, documents kept apart, short windows and needles are among them.
    """
    expected = trained[name]
    assert expected["losses"][-1] < expected["losses"][0]
    for result, _ in launch.all(f"trained_models {ranks if in_one_row else 1}"):
        assert_same_training(result[name], expected)
    weights = [result[name]["weights"] for result, _ in launch.all(f"trained_models {ranks if in_one_row else 1}")]
    assert all(torch.equal(weight, other[name]) for other in weights for name, weight in weights[0].items())


def test_clipping_has_something_to_do(trained: dict[str, dict[str, Any]]) -> None:
    assert all(min(trained[name]["norms"]) > 0.3 for name in TRAININGS)


def test_a_batch_that_does_not_divide_is_refused(launch: Launch, ranks: int) -> None:
    """Among rows; processes that share each window need not divide it."""
    (refused, *others) = (messages for _, messages in launch.all("trained_models 1"))
    assert all(other == refused for other in others)
    kind, found, _, remedy = refused["batch"]
    assert (kind, f"tune.batch_windows = 7, and {ranks} rows" in found) == ("RecipeError", True)
    assert f"multiple of {ranks}" in remedy
    kind, found, _, remedy = refused["mixed"]
    assert kind == "RecipeError"
    assert f"tune.short_share = 0.5 with tune.windows_at_once = 2 in {ranks} rows" in found
    for _, messages in launch.all(f"trained_models {ranks}"):
        assert messages == {"batch": (), "mixed": ()}


def test_a_training_goes_on_in_another_number_of_processes(
    launch: Launch, trained: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Two go on with what one has begun, three with what two have begun, and one with what each of them has begun."""
    whole = trained["clipped"]
    for result in launch.all("resumed_training 1"):
        assert_same_training(result, whole, slice(2, None))
    begun = read_records(launch.folder / "begun" / "train.jsonl", TrainStep)
    assert [record.step for record in begun] == list(range(4))
    assert [record.loss_nats for record in begun] == pytest.approx(whole["losses"], rel=1e-5)
    for result in launch.all("stopped_training 1"):
        assert result["losses"] == pytest.approx(whole["losses"][:3], rel=1e-5)
    shutil.copytree(launch.folder / "stopped", tmp_path / "run")
    assert_same_training(train(TRAINING, RunDir(tmp_path / "run")), whole, slice(2, None))


# The run


def test_searches_of_several_processes_are_those_of_one(launch: Launch, alone: Alone) -> None:
    run = RunDir(launch.folder / "compared")
    theirs, ours = (map(timeless, read_records(of.trials, Trial)) for of in (run, alone.run))
    assert list(theirs) == list(ours)
    for method in ("longrope-evolution", "longrope-gradient"):
        assert run.factors(method).read_bytes() == alone.run.factors(method).read_bytes()


def test_measurements_of_several_processes_are_those_of_one(launch: Launch, alone: Alone) -> None:
    written = read_records(RunDir(launch.folder / "compared").scores, Score)
    assert sorted(map(same_number, written)) == sorted(map(same_number, alone.scores))
    for scores in launch.all("compared 1"):
        assert [same_number(score) for score in scores] == [same_number(score) for score in alone.scores]
    assert (launch.folder / "compared" / "report.html").exists()


def same_number(score: Score) -> tuple[Any, ...]:
    """A score whose last digits, which depend on the number of windows in a batch, do not count."""
    value, low, high = (float(f"{number:.5g}") for number in (score.value, score.low, score.high))
    return tuple(vars(replace(score, value=value, low=low, high=high, seconds=0.0)).values())


@pytest.mark.parametrize("in_one_row", [False, True])
def test_needles_found_by_several_processes_are_those_of_one(in_one_row: bool, launch: Launch, ranks: int) -> None:
    """Answers are decoded, also where the processes share long windows; the passes of all processes are counted."""
    found, (done, total) = launch.same(f"needles {ranks if in_one_row else 1}")
    assert (found, (done, total)) == needles_found()
    assert done == total > 1


def test_a_search_goes_on_in_another_number_of_processes(launch: Launch, alone: Alone) -> None:
    run = RunDir(launch.folder / "resumed")
    trials, whole = read_records(run.trials, Trial), read_records(alone.run.trials, Trial)
    whole = [trial for trial in whole if trial.method == "longrope-gradient"]
    assert trials[:KEPT_TRIALS] == whole[:KEPT_TRIALS]
    assert list(map(timeless, trials)) == list(map(timeless, whole))
    found = launch.same("resumed 1")
    assert dump_factors(found) == run.factors().read_text() == alone.run.factors(found.chosen_by).read_text()


def test_one_process_prints(launch: Launch, ranks: int) -> None:
    first, *others = launch.all("finished")
    messages = (
        f"factors: {launch.folder / 'resumed' / 'factors.json'}\nmethod: {launch.same('resumed 1').source.label}\n"
    )
    assert first[0] == 0
    assert first[1].startswith(f"{messages}loss on held-out windows: ")
    assert first[1].count(messages) == 1
    assert first[2].count("device cpu (as asked)") == 1
    assert f"; {ranks} processes: {ranks} for windows and candidates x 1 for a sequence (the longest" in first[2]
    assert others == [(0, "", "")] * (ranks - 1)


def test_one_process_tells_of_bad_input(launch: Launch) -> None:
    results = launch.all("refused")
    messages = [result for result in results if result[2]]
    found = f"{launch.folder / 'recipe.toml'} is a file."
    assert messages == [(2, "", f"longrope: {found} A run needs a directory. Give another path with --out.\n")]
    assert all(result in (messages[0], (1, "", "")) for result in results)
