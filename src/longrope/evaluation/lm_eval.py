"""Standard benchmarks through lm-evaluation-harness, an extra: what short prompts are answered by an extended model.

    longrope measure MODEL --factors F --measure-data PATH --metrics harness:arc_challenge,harness:hellaswag

The harness's own model object for transformers asks the questions, so that the model as it is scores as in the harness
alone. Its network is rescaled by one tier for the whole benchmark, that which holds the longest request: no request is
cut, and all are answered by the same factors. With the settings of the paper (arXiv 2402.13753, section 4.2):
ARC-Challenge by 25 examples, HellaSwag by 10, MMLU by 5, TruthfulQA by none.
"""

import copy
import difflib
import functools
import hashlib
import importlib.util
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from longrope.errors import RecipeError
from longrope.evaluation.samples import begin_score
from longrope.factors import FactorTable
from longrope.forward import LOGITS_PER_CHUNK
from longrope.models import LanguageModel, rescaled
from longrope.recipe import HARNESS
from longrope.records import Score, append_records, read_records
from longrope.rundir import RunDir

SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0}
SEED = 1234  # the harness's own, of the examples before a question, so that numbers compare with published ones
RANKING = ("multiple_choice", "loglikelihood")
BOOTSTRAPS = 1000  # for the few metrics whose standard error has no formula
ASKED = ("doc_to_text", "doc_to_choice", "doc_to_target", "description", "target_delimiter", "fewshot_delimiter")


def measure_benchmark(
    model: LanguageModel, table: FactorTable | None, metric: str, *, method: str, run: RunDir | None = None
) -> list[Score]:
    """Measure one benchmark that ranks given answers by their likelihood.

    Args:
        model: the model.
        table: its factors; None measures the model as it is.
        metric: ``harness:`` with the harness's name of a task or a group, or the path of a task file (.yaml), whose
            number of examples is its own.
        method: the name in the records.
        run: where the scores go; those that are there already are not measured again.

    Returns:
        One score for each metric of the benchmark, ``harness:NAME:METRIC``. Its 95 % interval is the harness's standard
        error 1.96 times to each side, infinite where the harness gives none; its window is the longest request, its
        number of windows that of the questions.

    Raises:
        RecipeError: lm-eval is not installed; the harness knows no such task, cannot load it, or has answers generated.
        FactorsError: the factors do not hold the longest request.
    """
    with _quiet():
        name, loaded = _load(metric)
        texts = _fingerprint(loaded["tasks"])
        wanted = {f"{HARNESS}{name}:{key}" for key in _metrics(name, loaded)}
        identity = (method, model.name, texts, table.fingerprint if table else "", SEED)
        known = [s for s in (read_records(run.scores, Score) if run else []) if s.metric in wanted]
        kept = {score.metric: score for score in known if _identity(score) == identity}
        if kept.keys() == wanted:
            return [kept[key] for key in sorted(wanted)]
        scores = _evaluate(model, table, name, loaded, method=method, texts=texts)
    if run:
        append_records(run.scores, [score for score in scores if score.metric not in kept])
    return scores


def _evaluate(
    model: LanguageModel, table: FactorTable | None, name: str, loaded: Any, *, method: str, texts: str
) -> list[Score]:
    from lm_eval.evaluator import evaluate

    began = time.perf_counter()
    answering = _model_object(model, table)
    found = evaluate(answering, loaded, bootstrap_iters=BOOTSTRAPS, log_samples=False)
    results = {key.partition(",")[0]: value for key, value in found["results"][name].items()}  # "acc,none" is acc
    seconds = time.perf_counter() - began
    begun = begin_score(model, table, answering.longest, texts, method=method, seed=SEED, seconds=seconds)
    questions = sum(found["n-samples"][task]["effective"] for task in loaded["tasks"])
    scores = []
    for key in sorted(_metrics(name, loaded)):
        value, error = float(results[key]), results[f"{key}_stderr"]
        reach = 1.959964 * error if isinstance(error, float) else float("inf")
        scores.append(
            begun(
                metric=f"{HARNESS}{name}:{key}",
                value=value,
                low=value - reach,
                high=value + reach,
                num_tokens=answering.num_tokens,
                num_windows=questions,
            )
        )
    return scores


def _model_object(model: LanguageModel, table: FactorTable | None) -> Any:
    """The harness's model object over our network, rescaled while it answers."""
    from lm_eval.models.huggingface import HFLM

    class RescaledLM(HFLM):  # type: ignore[misc]  # the harness has no types
        longest = num_tokens = 0

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> Any:
            """Answer all requests of a benchmark, which come in one call, by one tier, and cut none."""
            sizes = [len(context) + len(continuation) for _, context, continuation in requests]
            self.longest, self.num_tokens = max(sizes), sum(sizes)
            self._max_length = self.longest
            rows = max(1, LOGITS_PER_CHUNK // (self.longest * model.network.config.vocab_size))
            self.batch_size_per_gpu = rows
            with rescaled(model, table.choose(self.longest) if table else None):
                return super()._loglikelihood_tokens(requests)

    return RescaledLM(pretrained=model.network, tokenizer=copy.deepcopy(model.tokenizer))  # it sets a padding token


def _load(metric: str) -> tuple[str, Any]:
    """The name of a benchmark and its tasks, as the harness loads them, with the number of examples set."""
    asked = metric.removeprefix(HARNESS)
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError(
            f"The metric {metric!r} was asked for, and lm-eval is not installed.",
            "Benchmarks need the extra longrope[harness].",
            "Install it: pip install 'longrope[harness]'.",
        )
    is_file = Path(asked).suffix in (".yaml", ".yml")
    manager = _manager(known_tasks=not is_file)
    if is_file and not Path(asked).is_file():
        raise RecipeError(f"{asked} is no file.", "A task file of lm-evaluation-harness is needed.", "Check the path.")
    names = [*manager.all_subtasks, *manager.all_groups]
    if not is_file and asked not in names:
        near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0)[0]
        raise RecipeError(
            f"lm-evaluation-harness has no task or group {asked!r}.",
            f"The nearest name is {near!r}.",
            "`lm-eval ls tasks` lists them; a file of your own is given by its path, ending in .yaml.",
        )
    try:
        loaded = manager.load([asked])
    except Exception as error:  # noqa: BLE001  # task files hold code, and their data come from anywhere
        raise RecipeError(
            f"The benchmark {asked!r} cannot be loaded ({type(error).__name__}: {error}).",
            "Its task file and its data set are needed.",
            "Check the file; without a network the data set must be in the cache of `datasets`.",
        ) from None
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


def _identity(score: Score) -> tuple[str, str, str, str, int]:
    """What makes a score one that need not be measured again; its window is known once it is measured."""
    return score.method, score.model, score.texts_fingerprint, score.factors_fingerprint, score.seed


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
