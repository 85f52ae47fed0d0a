"""Benchmarks through lm-evaluation-harness, on a task file and data of our own: no network is needed.

The oracle ranks the answers itself: the prompt is put together by hand, and the likelihoods come from whole logits.
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from measuring import counted

from longrope.data import TokenText
from longrope.errors import FactorsError, RecipeError
from longrope.evaluation import lm_eval as benchmarks
from longrope.evaluation import measure
from longrope.evaluation.lm_eval import SEED, SHOTS
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors, as_table, baseline_factors
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

QUESTIONS = 40
TEXT = TokenText(np.arange(300, dtype=np.int32), "measure")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
    train: {folder}/train.jsonl
  cache_dir: {folder}/cache
output_type: {kind}
test_split: test
fewshot_split: train
fewshot_config:
  sampler: first_n
num_fewshot: 6
doc_to_text: "The {{{{subject}}}}"
doc_to_target: right
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@dataclass(frozen=True)
class Benchmark:
    """A task file, its questions and the examples before each."""

    path: Path
    questions: list[dict[str, Any]]
    examples: list[dict[str, Any]]

    @property
    def metric(self) -> str:
        """As ``--metrics`` takes it."""
        return f"harness:{self.path}"


def write_benchmark(folder: Path, *, name: str = "winds", kind: str = "multiple_choice", seed: int = 0) -> Benchmark:
    """A small multiple-choice benchmark with answers of different lengths."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, count in (("test", QUESTIONS), ("train", 7)):
        splits[split] = [
            {
                "subject": str(rng.choice(pico.SUBJECTS)),
                "choices": [f"{verb} the {'old ' * int(rng.integers(4))}{rng.choice(pico.SUBJECTS)}" for verb in verbs],
                "right": int(rng.integers(4)),
            }
            for verbs in (rng.choice(pico.VERBS, 4, replace=False) for _ in range(count))
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in splits[split]))
    path = folder / f"{name}.yaml"
    path.write_text(TASK.format(name=name, folder=folder, kind=kind))
    return Benchmark(path, splits["test"], splits["train"][:6])


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return write_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A pico model whose attention is sharp enough for factors to change its answers."""
    return pico.make_model(initializer_range=0.4)


def measure_benchmark(model: LanguageModel, table: FactorTable | None, metric: str, **given: Any) -> list[Score]:
    """The scores of a benchmark alone."""
    return measure(model, table, TEXT, settings=MeasureRecipe((64,), (metric,), windows=1), **given)


def prompts(benchmark: Benchmark) -> list[str]:
    """Six examples with their answers, then the question."""
    shown = [f"The {row['subject']} {row['choices'][row['right']]}\n\n" for row in benchmark.examples]
    return [f"{''.join(shown)}The {row['subject']}" for row in benchmark.questions]


def answers_by_hand(
    model: LanguageModel, factors: RescaleFactors | None, benchmark: Benchmark
) -> dict[str, list[bool]]:
    """Whether the likeliest answer is the right one, by its likelihood, and by that a byte, for each question."""
    right: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for prompt, row in zip(prompts(benchmark), benchmark.questions, strict=True):
        before = model.tokenizer(prompt)["input_ids"]
        sums = []
        for choice in row["choices"]:
            tokens = model.tokenizer(f"{prompt} {choice}")["input_ids"]
            with rescaled(model, factors), torch.no_grad():
                logits = model.network(torch.tensor([tokens]), use_cache=False).logits[0].double().log_softmax(-1)
            sums.append(sum(float(logits[i - 1, tokens[i]]) for i in range(len(before), len(tokens))))
        lengths = [len(choice) for choice in row["choices"]]
        right["acc"].append(int(np.argmax(sums)) == row["right"])
        right["acc_norm"].append(int(np.argmax(np.divide(sums, lengths))) == row["right"])
    return right


def longest_request(model: LanguageModel, benchmark: Benchmark) -> int:
    """Tokens of the longest prompt with an answer."""
    pairs = zip(prompts(benchmark), benchmark.questions, strict=True)
    return max(len(model.tokenizer(f"{p} {choice}")["input_ids"]) for p, row in pairs for choice in row["choices"])


@pytest.mark.parametrize("name", ["none", "pi", "yarn"])
def test_accuracy_is_that_of_ranking_by_hand(name: str, model: LanguageModel, benchmark: Benchmark) -> None:
    table = None if name == "none" else baseline_factors(model.spec, name, 4096)
    scores = {s.metric: s for s in measure_benchmark(model, table, benchmark.metric, method=name)}
    right = answers_by_hand(model, table.factor_sets[0] if table else None, benchmark)
    assert set(scores) == {"harness:winds:acc", "harness:winds:acc_norm"}
    for metric, answered in right.items():
        score, share = scores[f"harness:winds:{metric}"], np.mean(answered)
        assert score.value == pytest.approx(share)
        error = math.sqrt(share * (1 - share) / (QUESTIONS - 1))  # of a mean of zeros and ones
        assert (score.low, score.high) == pytest.approx((share - 1.959964 * error, share + 1.959964 * error))
        assert (score.num_windows, score.method, score.seed, score.model) == (QUESTIONS, name, SEED, model.name)
        assert score.context_tokens == longest_request(model, benchmark)
        assert score.factors_fingerprint == (table.fingerprint if table else "")
        assert score.seconds > 0
    assert "sqlitedict" not in sys.modules  # the harness would read pickles with it (SECURITY.md)


def test_nothing_is_printed_where_there_is_no_terminal(
    model: LanguageModel, benchmark: Benchmark, capfd: pytest.CaptureFixture[str]
) -> None:
    measure_benchmark(model, None, benchmark.metric, method="none")
    assert capfd.readouterr() == ("", "")


def test_factors_change_the_answers(model: LanguageModel, benchmark: Benchmark) -> None:
    """Else the accuracies above would say nothing of what was measured."""
    pi = baseline_factors(model.spec, "pi", 4096).factor_sets[0]
    assert answers_by_hand(model, None, benchmark) != answers_by_hand(model, pi, benchmark)


def test_one_factor_set_answers_all_requests(model: LanguageModel, benchmark: Benchmark) -> None:
    """That of the longest request, although shorter ones would fit a smaller factor set."""
    longest = longest_request(model, benchmark)
    (pi,) = baseline_factors(model.spec, "pi", 4096).factor_sets
    plain = replace(pi, lambdas=(1.0,) * len(pi.lambdas))
    factor_sets = tuple(
        replace(pi if n == longest else plain, target_window=n) for n in range(longest - 1, longest + 2)
    )
    scores = measure_benchmark(model, FactorTable(factor_sets), benchmark.metric, method="pi")
    right, others = (answers_by_hand(model, factor_set, benchmark) for factor_set in (pi, plain))
    assert [s.value for s in scores] == pytest.approx([np.mean(right["acc"]), np.mean(right["acc_norm"])])
    assert [s.value for s in scores] != pytest.approx([np.mean(others["acc"]), np.mean(others["acc_norm"])])


def test_a_request_that_the_factors_do_not_hold_is_refused(model: LanguageModel, benchmark: Benchmark) -> None:
    longest = longest_request(model, benchmark)
    with pytest.raises(FactorsError, match=f"sequence of {longest} tokens"):
        measure_benchmark(model, baseline_factors(model.spec, "ntk", longest - 1), benchmark.metric, method="ntk")


def test_nothing_is_cut_beyond_the_models_own_window(model: LanguageModel, benchmark: Benchmark) -> None:
    """The harness alone would cut prompts at the window of the config, which is shorter than these."""
    assert longest_request(model, benchmark) > model.spec.trained_window
    scores = measure_benchmark(model, None, benchmark.metric, method="none")
    right = answers_by_hand(model, None, benchmark)
    assert [s.value for s in scores] == pytest.approx([np.mean(right["acc"]), np.mean(right["acc_norm"])])


def test_the_model_is_as_it_was_afterwards(model: LanguageModel, benchmark: Benchmark) -> None:
    padding, side = model.tokenizer.pad_token, model.tokenizer.padding_side
    weights = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    measure_benchmark(model, baseline_factors(model.spec, "pi", 512), benchmark.metric, method="pi")
    assert (model.tokenizer.pad_token, model.tokenizer.padding_side) == (padding, side)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.network.state_dict().items())


def test_benchmarks_are_a_metric_of_measure_and_are_kept(
    model: LanguageModel, benchmark: Benchmark, tmp_path: Path
) -> None:
    settings = MeasureRecipe(lengths=(64,), metrics=("perplexity", benchmark.metric), windows=2, tail_tokens=0)
    run, table = RunDir(tmp_path), as_table(baseline_factors(model.spec, "yarn", 512).factor_sets[0])
    scores = measure(model, table, TEXT, settings=settings, run=run)
    assert [score.metric for score in scores] == ["perplexity", "harness:winds:acc", "harness:winds:acc_norm"]
    assert read_records(run.scores, Score) == scores
    lines = run.scores.read_text().splitlines()

    with counted(model) as passes:
        passes.forbidden = True
        assert measure(model, table, TEXT, settings=settings, run=run) == scores
        with pytest.raises(AssertionError, match="measured again"):
            measure(model, None, TEXT, settings=replace(settings, metrics=(benchmark.metric,)), run=run)
        run.scores.write_text("\n".join(lines[:2]) + "\n")  # the records of one benchmark, torn
        assert measure(model, table, TEXT, settings=settings, run=run) == scores  # from the samples
    assert len(run.scores.read_text().splitlines()) == 3


def test_other_questions_are_measured_again(model: LanguageModel, tmp_path: Path) -> None:
    run, folders = RunDir(tmp_path / "run"), [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    first, other = (write_benchmark(folder, seed=seed) for seed, folder in enumerate(folders))
    moved = replace(first, path=tmp_path / "one" / "moved.yaml")
    moved.path.write_text(first.path.read_text())
    for some in (first, other, moved):
        measure_benchmark(model, None, some.metric, method="none", run=run)
    names = [score.texts_fingerprint for score in read_records(run.scores, Score)]
    assert len(names) == 4
    assert len(set(names)) == 2


GROUP = """
group: weather
task:
  - calm
  - gale
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
"""


def test_a_group_has_one_score_over_its_tasks(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MMLU is; its window is the longest request of any of them."""
    from lm_eval.tasks import TaskManager

    tasks = []
    for seed, (folder, name) in enumerate((("one", "calm"), ("other", "gale"))):
        (tmp_path / folder).mkdir()
        tasks.append(write_benchmark(tmp_path / folder, name=name, seed=seed))
    (tmp_path / "weather.yaml").write_text(GROUP)
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))
    monkeypatch.setattr(benchmarks, "_manager", lambda **_: manager)
    [score] = measure_benchmark(model, None, "harness:weather", method="none")
    answers = [answers_by_hand(model, None, task)["acc"] for task in tasks]
    assert score.metric == "harness:weather:acc"
    assert score.value == pytest.approx(np.mean(answers))
    assert score.num_windows == 2 * QUESTIONS
    assert score.context_tokens == max(longest_request(model, task) for task in tasks)
    assert 0 < score.high - score.value < 0.2


BROKEN = """
task: broken
dataset_path: json
dataset_kwargs:
  data_files: {absent}
output_type: multiple_choice
"""


def refused(folder: Path, kind: str) -> str:
    """A metric that cannot be measured."""
    if kind == "unwritten":
        return f"harness:{folder}/absent.yaml"
    if kind == "broken":
        absent = folder / "absent.jsonl"  # without a name, `datasets` would look through the whole working directory
        (folder / "broken.yaml").write_text(BROKEN.format(absent=absent))
        return f"harness:{folder}/broken.yaml"
    return write_benchmark(folder, kind="generate_until").metric


@pytest.mark.parametrize(
    ("kind", "message"),
    [("unwritten", "is no file"), ("broken", "cannot be loaded"), ("generated", "asks for generate_until")],
)
def test_benchmarks_that_cannot_be_measured_are_refused(
    kind: str, message: str, model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        measure_benchmark(model, None, refused(tmp_path, kind), method="none")


def test_an_unknown_name_is_reported_the_nearest_and_the_papers_are_known() -> None:
    """Some folders of the harness's tasks stand in for all of them, which take long to read."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    some = [str(folder / name) for name in ("arc", "hellaswag", "mmlu/default", "truthfulqa")]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=some)
    with pytest.raises(RecipeError, match=r"no task or group 'arc_chalenge'.*nearest name is 'arc_challenge'"):
        benchmarks.load_benchmark("harness:arc_chalenge", manager)
    assert set(SHOTS) <= {*manager.all_subtasks, *manager.all_groups}


def test_without_the_extra_its_name_is_reported(
    model: LanguageModel, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"longrope\[harness\]"):
        measure_benchmark(model, None, benchmark.metric, method="none")
