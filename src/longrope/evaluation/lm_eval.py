"""Standard benchmarks through lm-evaluation-harness, an extra: what short prompts are answered by an extended model.

    longrope measure MODEL --factors F --measure-data PATH --metrics harness:arc_challenge,harness:hellaswag

The harness's own model object for transformers asks the questions, so that the original model scores as in the harness
alone. Its network is rescaled by one factor set for the whole benchmark, that which holds the longest request: no
request is cut, and all are answered by the same factors. With the settings of the paper (arXiv 2402.13753, section
4.2): ARC-Challenge by 25 examples, HellaSwag by 10, MMLU by 5, TruthfulQA by none.
"""

import copy
import difflib
import functools
import hashlib
import importlib.util
import io
import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from longrope import distributed
from longrope.engine.loss import LOGITS_PER_CHUNK
from longrope.errors import RecipeError, converting_errors
from longrope.evaluation.metric import Context, Metric, Subject
from longrope.evaluation.samples import Arrays, Identity, Samples
from longrope.evaluation.statistics import Z_95, Interval
from longrope.metrics import HARNESS, is_task_file
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score

SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0}
SEED = 1234  # the harness's own, of the examples before a question, so that numbers compare with published ones
RANKING = ("multiple_choice", "loglikelihood")
BOOTSTRAPS = 1000  # for the few metrics whose standard error has no formula
ASKED = ("doc_to_text", "doc_to_choice", "doc_to_target", "description", "target_delimiter", "fewshot_delimiter")


class Benchmark(Metric):
    """One benchmark that ranks given answers by their likelihood: a score ``harness:NAME:METRIC`` for each metric.

    Its name is ``harness:`` with the harness's name of a task or a group, or the path of a task file (.yaml), whose
    number of examples is its own. It is measured once; the record's window is the longest request, and its number of
    windows that of the questions. The 95 % interval is the harness's standard error 1.96 times to each side, infinite
    where the harness gives none.

    Samples: ``values`` and ``errors`` [K] of K metrics (an error that is not given is infinite), ``metrics`` [K] their
    names, and ``longest``, ``tokens``, ``questions``, counts.

    Raises, from each method that needs the task:
        RecipeError: lm-eval is not installed; the harness knows no such task, cannot load it, or has answers generated.
        FactorsError: the factors do not hold the longest request.
    """

    per_length = False

    def names(self, context: Context) -> tuple[str, ...]:
        """Those of the benchmark's own metrics; none of a method of attention, which the harness's model has not."""
        return () if context.subject.attention else self._known[0]

    def inputs(self, _: Context) -> str:
        """The questions, the examples that may stand before them, and how they are put."""
        return self._known[1]

    def identity(self, context: Context) -> Identity:
        """With the harness's seed; the window is known once it is measured."""
        return replace(super().identity(context), seed=SEED, context_tokens=0)

    def identity_of(self, score: Score) -> Identity:
        """Whatever its window."""
        return replace(Identity.of(score), context_tokens=0)

    def samples(self, context: Context) -> Samples:
        """The harness's results; its own process asks, while others wait."""
        identity, table = self.identity(context), context.subject.table

        def make() -> Arrays:
            return distributed.on_main(partial(self._evaluate, context.subject))

        arrays, seconds = context.cached("benchmark", (self.name, identity.texts_fingerprint), table, make)
        return Samples(identity, arrays, seconds)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score for each metric of the benchmark."""
        arrays = samples.arrays
        measured = replace(samples, identity=replace(samples.identity, context_tokens=int(arrays["longest"])))
        counts = {"num_tokens": int(arrays["tokens"]), "num_windows": int(arrays["questions"])}
        found = zip(arrays["metrics"].tolist(), arrays["values"].tolist(), arrays["errors"].tolist(), strict=True)
        return [
            measured.score(metric, Interval(value, value - Z_95 * error, value + Z_95 * error), **counts)
            for metric, value, error in found
        ]

    @cached_property
    def _known(self) -> tuple[tuple[str, ...], str]:
        """The names of its scores and the fingerprint of its texts, in all processes."""
        return distributed.on_main(self._describe)

    @cached_property
    def _loaded(self) -> tuple[str, Any]:
        with _quiet():
            return load_benchmark(self.name)

    def _describe(self) -> tuple[tuple[str, ...], str]:
        name, loaded = self._loaded
        with _quiet():
            texts = _fingerprint(loaded["tasks"])
        return tuple(f"{HARNESS}{name}:{key}" for key in sorted(_metrics(name, loaded))), texts

    def _evaluate(self, subject: Subject) -> Arrays:
        from lm_eval.evaluator import evaluate

        name, loaded = self._loaded
        with _quiet():
            answering = _model_object(subject)
            found = evaluate(answering, loaded, bootstrap_iters=BOOTSTRAPS, log_samples=False)
        results = {key.partition(",")[0]: value for key, value in found["results"][name].items()}  # "acc,none" is acc
        keys = sorted(_metrics(name, loaded))
        errors = [results[f"{key}_stderr"] for key in keys]
        return {
            "metrics": np.asarray([f"{HARNESS}{name}:{key}" for key in keys]),
            "values": np.asarray([float(results[key]) for key in keys]),
            "errors": np.asarray([error if isinstance(error, float) else math.inf for error in errors]),
            "longest": np.asarray(answering.longest),
            "tokens": np.asarray(answering.num_tokens),
            "questions": np.asarray(sum(found["n-samples"][task]["effective"] for task in loaded["tasks"])),
        }


def _model_object(subject: Subject) -> Any:
    """The harness's model object over our network, rescaled while it answers."""
    from lm_eval.models.huggingface import HFLM

    model = subject.model

    class RescaledLM(HFLM):  # type: ignore[misc]  # the harness has no types
        longest = num_tokens = 0

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> Any:
            """Answer all requests of a benchmark, which come in one call, by one factor set, and cut none."""
            sizes = [len(context) + len(continuation) for _, context, continuation in requests]
            self.longest, self.num_tokens = max(sizes), sum(sizes)
            self._max_length = self.longest
            rows = max(1, LOGITS_PER_CHUNK // (self.longest * model.network.config.vocab_size))
            self.batch_size_per_gpu = rows
            with subject.reading(self.longest):
                return super()._loglikelihood_tokens(requests)

    return RescaledLM(pretrained=model.network, tokenizer=copy.deepcopy(model.tokenizer))  # it sets a padding token


def load_benchmark(metric: str, manager: Any = None) -> tuple[str, Any]:
    """The name of a benchmark and its tasks, as the harness loads them, with the number of examples set.

    Without a manager by one of all tasks of the harness, or of none where the name is a file's (raises RecipeError).
    """
    asked = metric.removeprefix(HARNESS)
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError(
            f"The metric {metric!r} was asked for, and lm-eval is not installed.",
            "Benchmarks need the extra longrope[harness].",
            "Install it: pip install 'longrope[harness]'.",
        )
    is_file = is_task_file(metric)
    manager = manager or _manager(known_tasks=not is_file)
    if is_file and not Path(asked).is_file():
        raise RecipeError(f"{asked} is no file.", "A task file of lm-evaluation-harness is needed.", "Check the path.")
    names = [*manager.all_subtasks, *manager.all_groups]
    if not is_file and asked not in names:
        near = difflib.get_close_matches(asked, names, n=1)
        raise RecipeError(
            f"lm-evaluation-harness has no task or group {asked!r}.",
            f"The nearest name is {near[0]!r}." if near else "It resembles none of the known names.",
            "`lm-eval ls tasks` lists them; a file of your own is given by its path, ending in .yaml.",
        )
    with converting_errors(  # task files hold code, and their data come from anywhere
        RecipeError,
        f"The benchmark {asked!r} cannot be loaded",
        "Its task file and its data set are needed.",
        "Check the file; without a network (set HF_HUB_OFFLINE=1) the data set must be in the cache of `datasets`.",
    ):
        loaded = manager.load([asked])
    name = next(iter(loaded.get("groups") or loaded["tasks"]))
    for task in loaded["tasks"].values():
        _check_ranking(name, task)
        task.set_config(key="num_fewshot", value=SHOTS.get(name, task.get_config("num_fewshot") or 0))
        task.set_fewshot_seed(SEED)
    return name, loaded


@functools.cache  # it reads thousands of files
def _manager(*, known_tasks: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=known_tasks)


def _check_ranking(name: str, task: Any) -> None:
    if task.OUTPUT_TYPE not in RANKING:
        raise RecipeError(
            f"The benchmark {name!r} asks for {task.OUTPUT_TYPE}.",
            "Those that rank given answers by their likelihood can be measured.",
            "Choose another, or run the exported checkpoint in lm-evaluation-harness itself.",
        )


def _metrics(name: str, loaded: Any) -> list[str]:
    """The metrics of a task or a group, by the harness's names."""
    group = loaded.get("groups", {}).get(name)
    if group is None:
        return list(loaded["tasks"][name].aggregation())
    if not group.aggregate_metric_list:
        raise RecipeError(
            f"{name!r} is a group of tasks without a score of its own.",
            "A task, or a group with a mean over its tasks, is needed.",
            f"Name its tasks: {', '.join(sorted(loaded['tasks']))}.",
        )
    return [aggregate.metric for aggregate in group.aggregate_metric_list]


def _fingerprint(tasks: dict[str, Any]) -> str:
    """Sixteen hex digits that name the questions, the examples that may stand before them, and how they are put."""
    digest = hashlib.sha256()
    for name in sorted(tasks):
        task = tasks[name]
        config, shots = task.dump_config(), task.get_config("num_fewshot")
        content = [name, shots, {key: config.get(key) for key in ASKED}, list(task.eval_docs)]
        content += list(task.fewshot_docs()) if shots else []
        digest.update(json.dumps(content, default=str, sort_keys=True).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's remarks on what is meant here, and without progress bars where no terminal shows them."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with ExitStack() as stack:
            if not sys.stderr.isatty():
                stack.enter_context(redirect_stderr(io.StringIO()))
            yield
    finally:
        logger.setLevel(level)
