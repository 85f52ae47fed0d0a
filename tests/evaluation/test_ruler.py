"""Scores of RULER's tasks and of needles: a reader of the decoded words gets all points, a constant answer none."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measuring import answer_prompts, make_context, scores_of
from ruler_prompts import (
    REFERENCES,
    SampleBuilder,
    every_task,
    every_tokenizer,
    hub_rows,
    made_up_words,
    measure_needles,
    measure_ruler,
    text_of,
    variables_of,
)

from longrope.data import Tokens, TokenText
from longrope.evaluation import find_metric
from longrope.evaluation.answers import Answer
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts.prompt import Prompt
from longrope.evaluation.ruler import mean_interval
from longrope.evaluation.statistics import wilson_interval
from longrope.metrics import RULER_TASKS
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe

# Readers


def reply(prompt: str) -> str:
    """The answer to any task, from the words of its prompt alone."""
    asked = re.findall(r"what (?:is|are) the seal \w+ of (.+?) ?\? the seal", prompt)
    if asked:
        values = re.findall(r"the seal (?:number|code) of (\S+) is (\S+?) ?\.", prompt)
        names = re.split(r", | and ", asked[-1])
        return ", ".join(value for name, value in values if name in names)
    if asked := re.findall(r"which variables have the value (\d+)", prompt):
        return ", ".join(variables_of(prompt, asked[-1]))
    if "most often in this list" in prompt:
        listed = prompt.split("most often in this list are")[1]
        return ", ".join(word for word, _ in Counter(re.findall(r"\d+ ?\. ([a-z-]+)", listed)).most_common(10))
    if "made-up words that come" in prompt:
        return ", ".join(word for word, _ in made_up_words(prompt).most_common(3))
    if asked := re.findall(r"keeper of the lighthouse of (\w+) ?\?", prompt):
        return "".join(re.findall(rf"lighthouse of {asked[-1]} stands on a rock ?\. its keeper is (\w+)", prompt))
    return ""


@every_tokenizer
@every_task
def test_a_copying_reader_scores_one_and_a_constant_one_nothing(
    task: str, kind: str, reading: Callable[..., tuple[LanguageModel, SampleBuilder]], tmp_path: Path
) -> None:
    length = 3000
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in hub_rows()))
    settings = MeasureRecipe(metrics=("ruler",), ruler_prompts=3, qa_data=str(tmp_path / "qa.jsonl"))
    constant = "one thing and another, and nothing more"
    for answer, share in ((reply, 1.0), (lambda _: constant, 0.0), (lambda _: "", 0.0)):
        fake, reader = reading(kind, answer)
        text = text_of(fake.tokenizer, length)
        score = measure_ruler(fake, text, text.windows(length, 2), task, length, settings)
        assert (score.metric, score.value, score.num_windows) == (f"ruler-{task}", share, 3)
        assert (score.num_tokens, max(reader.read_lengths) <= length) == (reader.pushed, True)
        assert (score.low, score.high) == wilson_interval(3 * share, 3)


@every_tokenizer
def test_a_copying_reader_finds_every_needle_and_a_constant_one_none(
    kind: str, reading: Callable[..., tuple[LanguageModel, SampleBuilder]]
) -> None:
    for answer, share in ((reply, 1.0), (lambda _: "one thing and another", 0.0)):
        fake, reader = reading(kind, answer)
        text = text_of(fake.tokenizer, 2000)
        scores = measure_needles(fake, text, text.windows(2000, 2), 2000, 20)
        assert [score.value for score in scores] == [share] * 11
        assert [score.num_windows for score in scores] == [20] + [2] * 10
        assert [score.metric for score in scores[:2]] == ["needle", "needle-depth-0.05"]
        assert max(reader.read_lengths) <= 2000


def test_depths_are_scored_apart(reading: Callable[..., tuple[LanguageModel, SampleBuilder]]) -> None:
    """A reader that has forgotten the first half of its text."""
    fake, _ = reading("byte-level", lambda prompt: reply(prompt[len(prompt) // 2 :]))
    text = text_of(fake.tokenizer, 4000)
    scores = measure_needles(fake, text, text.windows(4000, 2), 4000, 20)
    assert [score.value for score in scores] == [0.5] + [0.0] * 5 + [1.0] * 5
    assert (scores[0].low, scores[0].high) == wilson_interval(10, 20)


def test_answers_in_part_count_in_part(reading: Callable[..., tuple[LanguageModel, SampleBuilder]]) -> None:
    """A reader that stops after its first word, and one that says the words in another order."""
    shares = {}
    for name, change in (("first", lambda words: words[:1]), ("turned", lambda words: words[::-1])):
        fake, _ = reading("byte-level", lambda prompt, change=change: " ".join(change(reply(prompt).split(", "))))
        text = text_of(fake.tokenizer, 3000)
        settings = MeasureRecipe(ruler_prompts=2)
        measured = (text, text.windows(3000, 1))
        for task in REFERENCES:
            score = measure_ruler(fake, *measured, task, 3000, settings)
            shares[name, task] = score.value
    assert shares == {
        (name, task): pytest.approx(1 / count if name == "first" else 1)
        for name in ("first", "turned")
        for task, count in REFERENCES.items()
    }


# Scores


def test_essays_are_the_measured_windows_without_their_opening_token() -> None:
    plain = TokenText(np.arange(1, 101, dtype=np.int32), "measure")
    opened = replace(plain, bos=0)
    assert essays(plain, plain.windows(40, 2), 20).ravel().tolist() == plain.windows(40, 2).ravel().tolist()
    cut = essays(opened, opened.windows(41, 2), 21)
    assert cut.shape == (4, 20)
    assert cut.ravel().tolist() == opened.windows(41, 2)[:, 1:].ravel().tolist()


def test_each_prompt_takes_another_essay(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tokens] = []

    def answer(_: object, prompt: Prompt) -> list[Answer]:
        read.append(prompt.text)
        return [Answer("", 0.0, 1)]

    answer_prompts(monkeypatch, answer)
    text = TokenText(np.random.default_rng(0).integers(1, 300, 3000).astype(np.int32), "measure")
    windows, settings = text.windows(900, 3), MeasureRecipe(ruler_prompts=5)
    measure_ruler(model, text, windows, "niah_single_2", 450, settings)
    starts = [f" {' '.join(map(str, piece[:5]))} " for piece in windows.reshape(-1, 450)]
    held = [[start in f" {' '.join(map(str, tokens))} " for start in starts] for tokens in read]
    assert held == np.eye(6, dtype=bool)[:5].tolist()


def test_the_mean_is_over_tasks(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task counts the same; the tokens, prompts and seconds of all are added."""
    text = text_of(model.tokenizer, 1600)
    answer_prompts(monkeypatch, lambda _, prompt: [Answer("", len(prompt.text) % 4 / 4, 30)])
    context = make_context(model, None, text.windows(1600, 2), text=text, seed=3, ruler_prompts=3)
    tasks = {name: find_metric(name) for name in find_metric("ruler").parts(context.settings)}
    assert list(tasks) == [f"ruler-{task}" for task in RULER_TASKS if task != "qa"]
    scores = [score for name in tasks for score in scores_of(name, context)]
    [mean] = scores_of("ruler", context)
    assert len({score.value for score in scores}) > 2
    assert mean.value == pytest.approx(np.mean([score.value for score in scores]))
    assert (mean.metric, mean.num_windows) == ("ruler", 33)
    assert mean.num_tokens == sum(score.num_tokens for score in scores)
    assert (mean.low, mean.high) == pytest.approx(wilson_interval(mean.value * 33, 33))
    assert mean.seconds == pytest.approx(sum(score.seconds for score in scores), abs=0.001 * 11)
    assert (mean.method, mean.context_tokens, mean.seed) == ("none", 1600, 3)
    assert mean.texts_fingerprint not in {score.texts_fingerprint for score in scores}
    assert re.fullmatch(r"[0-9a-f]{16}", mean.texts_fingerprint)


def test_the_mean_of_unlike_shares_by_hand() -> None:
    interval = mean_interval([[1.0, 1.0], [0.5, 0.0], [0.25, 0.0]])
    assert interval.value == pytest.approx((1 + 0.25 + 0.125) / 3)
    assert interval[1:3] == pytest.approx(wilson_interval(6 * interval.value, 6))


def test_the_intervals_cover_as_often_as_they_say() -> None:
    """Shares of four references, which depend on each other or not, and means over unlike tasks: 95 % or more."""
    rng = np.random.default_rng(0)
    for difficulties in ([0.7], [0.1], [0.95, 0.6, 0.2, 0.05]):
        for together in (False, True):
            inside = 0
            for _ in range(500):
                found = rng.random((len(difficulties), 20, 1 if together else 4)) < np.reshape(difficulties, (-1, 1, 1))
                interval = mean_interval(found.mean(2).tolist())
                inside += int(interval.low <= np.mean(difficulties) <= interval.high)
            assert inside / 500 >= 0.93, (difficulties, together)
