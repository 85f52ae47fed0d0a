"""Passkeys in any tokenizer: prompts, answers and their differences."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from measuring import Passes, answer_passkeys, compared, passkey_context, scores_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from longrope.data import TokenText, fingerprint
from longrope.engine.passes import greedy_answers
from longrope.errors import TextsError
from longrope.evaluation import Evaluation, measure, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.prompts.passkeys import (
    FILLER,
    NEEDLE,
    OPENING,
    QUESTION,
    build_passkey,
    build_passkeys,
    tasks_fingerprint,
)
from longrope.evaluation.samples import SampleCache
from longrope.evaluation.statistics import difference_interval, wilson_interval
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import as_table, baseline_factors
from longrope.runs.run_dir import RunDir

DIGITS = "0123456789"
SENTENCES = [OPENING, FILLER, NEEDLE, QUESTION, pico.make_text(600)]
NUMBERS = " ".join(str(n) for n in range(10000, 99999, 997))  # one piece, or many
TOKENIZERS = {
    "byte-level": pico.make_tokenizer(),
    "unigram": pico.make_unigram(SENTENCES, 250, DIGITS),
    "word-piece": pico.make_word_piece([*SENTENCES, NUMBERS], 400, DIGITS),
}
EVERY_TOKENIZER = pytest.mark.parametrize("kind", TOKENIZERS)


def squeezed(text: object) -> str:
    """A text in lower case without spaces, in which tokenizers differ."""
    return re.sub(r"\s+", "", str(text)).lower()


def shortest(tokenizer: Any) -> int:
    """The shortest prompt that the tokenizer allows, by the number in the refusal."""
    with pytest.raises(TextsError) as caught:
        build_passkey(tokenizer, 1, 0.5, "12345")
    return int(re.findall(r"\d+", caught.value.needed)[0])


@EVERY_TOKENIZER
@pytest.mark.parametrize("depth", [0.0, 0.05, 0.37, 0.5, 0.95, 1.0])
def test_a_prompt_has_its_length_its_needle_and_its_answer(kind: str, depth: float) -> None:
    tokenizer = TOKENIZERS[kind]
    least = shortest(tokenizer)
    for key, length in (
        ("10000", least + 1),
        ("99999", least + 100),
        ("40213", 1024),
        ("40213", 1025),
        ("73105", 3001),
    ):
        task = build_passkey(tokenizer, length, depth, key)
        assert task.tokens.shape == (length,)
        assert task.tokens.dtype == np.int32
        assert task.depth == depth
        words = squeezed(tokenizer.decode(task.tokens, skip_special_tokens=True))
        needle, ending = squeezed(NEEDLE.format(key=key)), squeezed(f"{QUESTION} {key}")
        assert words.count(needle) == 1
        assert words.count(key) == 3
        assert words.endswith(ending)
        assert squeezed(tokenizer.decode(task.tokens[-task.answer_tokens :])) == key
        before = squeezed(tokenizer.decode(task.tokens[: -task.answer_tokens], skip_special_tokens=True))
        assert before.endswith(ending.removesuffix(key))


@EVERY_TOKENIZER
def test_the_answer_is_tokenized_as_in_running_text(kind: str) -> None:
    """What a model would generate after the question, not the key on its own."""
    tokenizer = TOKENIZERS[kind]
    task = build_passkey(tokenizer, 512, 0.5, "58317")
    whole = tokenizer(f"{QUESTION} 58317", add_special_tokens=False)["input_ids"]
    assert task.tokens[-len(whole) :].tolist() == whole


def test_the_answer_begins_where_the_key_changes_the_question() -> None:
    """A tokenizer whose pieces reach over spaces: the last word of the question and the first digit are one piece."""
    merged = ["s ", *(f"s {digit}" for digit in range(10))]
    pieces = [*dict.fromkeys(OPENING + FILLER + NEEDLE + QUESTION + "0123456789"), *merged]
    merges = [("s", " "), *(("s ", str(digit)) for digit in range(10))]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    question = wrapped(QUESTION)["input_ids"]
    whole = wrapped(f"{QUESTION} 40213")["input_ids"]
    assert whole[: len(question)] != question
    task = build_passkey(wrapped, 700, 0.5, "40213")
    assert task.tokens.shape == (700,)
    assert task.tokens[-len(whole) :].tolist() == whole
    assert wrapped.convert_ids_to_tokens(whole[-task.answer_tokens :]) == ["s 4", "0", "2", "1", "3"]


@EVERY_TOKENIZER
def test_needles_stand_at_their_depths(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    line = len(tokenizer(FILLER, add_special_tokens=False)["input_ids"])
    needle = tokenizer(NEEDLE.format(key="58317"), add_special_tokens=False)["input_ids"]
    least = shortest(tokenizer)
    for depth in (0.0, 0.25, 0.5, 0.9, 1.0):
        tokens = build_passkey(tokenizer, 4000, depth, "58317").tokens.tolist()
        at = next(i for i in range(len(tokens)) if tokens[i : i + len(needle)] == needle)
        first = build_passkey(tokenizer, 4000, 0.0, "58317").tokens.tolist()
        head = next(i for i in range(len(first)) if first[i : i + len(needle)] == needle)
        assert at - head == pytest.approx(depth * (4000 - least), abs=line)


@pytest.mark.parametrize("kind", ["byte-level", "unigram"])
def test_a_prompt_opens_as_the_tokenizer_opens_texts(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    opening = tokenizer(OPENING)["input_ids"]
    assert build_passkey(tokenizer, 600, 0.5, "58317").tokens[: len(opening)].tolist() == opening


@EVERY_TOKENIZER
def test_a_length_without_room_is_refused_with_the_least_one(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    least = shortest(tokenizer)
    assert build_passkey(tokenizer, least, 0.5, "12345").tokens.shape == (least,)
    with pytest.raises(TextsError, match=f"At least {least} tokens"):
        build_passkey(tokenizer, least - 1, 0.5, "12345")


def test_tasks_schedule_through_ten_depths_with_keys_of_five_digits() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tasks = build_passkeys(tokenizer, 600, 20, seed=5)
    assert [task.depth for task in tasks] == pytest.approx([0.05 + 0.1 * (i % 10) for i in range(20)])
    keys = [squeezed(tokenizer.decode(task.tokens[-task.answer_tokens :])) for task in tasks]
    assert all(re.fullmatch(r"[1-9]\d{4}", key) for key in keys)
    assert len(set(keys)) == 20
    again, other = build_passkeys(tokenizer, 600, 20, seed=5), build_passkeys(tokenizer, 600, 20, seed=6)
    assert all((a.tokens == b.tokens).all() for a, b in zip(tasks, again, strict=True))
    assert not any((a.tokens == b.tokens).all() for a, b in zip(tasks, other, strict=True))


class SampleBuilder:
    """A network that reads: it copies what stands after the words of the needle, or it says a constant."""

    def __init__(self, tokenizer: Any, *, copies: bool) -> None:
        """Read with this tokenizer."""
        self.tokenizer, self.copies = tokenizer, copies

    def answers(self, _: object, tokens: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        """Stand in for ``greedy_answers``: the prompt without its answer is all that is looked at."""
        right = []
        for row in tokens:
            prompt = self.tokenizer.decode(row[:-answer_tokens], skip_special_tokens=True)
            key = re.findall(r"pass key is (\d{5})", prompt)[0] if self.copies else "55555"
            expected = self.tokenizer(f"{QUESTION} {key}", add_special_tokens=False)["input_ids"]
            right.append(expected[-answer_tokens:] == row[-answer_tokens:].tolist())
        return torch.tensor(right)


@EVERY_TOKENIZER
@pytest.mark.parametrize(("copies", "share"), [(True, 1.0), (False, 0.0)])
def test_a_copying_reader_scores_one_and_a_constant_one_nothing(
    kind: str, copies: bool, share: float, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TOKENIZERS[kind]
    answer_passkeys(monkeypatch, SampleBuilder(tokenizer, copies=copies).answers)
    scores = scores_of("passkey", passkey_context(replace(model, tokenizer=tokenizer), None, 700))
    assert [score.value for score in scores] == [share] * 11
    assert [score.num_windows for score in scores] == [20] + [2] * 10
    assert (scores[0].low, scores[0].high) == wilson_interval(round(20 * share), 20)


def test_depths_are_scored_apart(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that forgets the first half of its text."""
    tokenizer = model.tokenizer

    def forgetful(_: object, tokens: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        key = tokenizer.decode(tokens[0, -answer_tokens:]).strip()
        return torch.tensor([key in tokenizer.decode(tokens[0, tokens.shape[1] // 2 : -answer_tokens])])

    answer_passkeys(monkeypatch, forgetful)
    scores = {score.metric: score for score in scores_of("passkey", passkey_context(model, None, 6000))}
    assert scores["passkey"].value == 0.5
    by_depth = [scores[f"passkey-depth-{depth:.2f}"].value for depth in np.arange(0.05, 1, 0.1)]
    assert by_depth == [0.0] * 5 + [1.0] * 5


def test_greedy_answers_are_those_of_generation(model: LanguageModel) -> None:
    """Teacher forcing against transformers' own greedy decoding, for right answers and for wrong ones."""
    prompts = torch.randint(5, 300, (6, 20), generator=torch.Generator().manual_seed(0))
    whole = model.network.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=4, min_new_tokens=4, do_sample=False
    )
    assert whole.shape == (6, 24)
    assert greedy_answers(model, whole, 4).tolist() == [True] * 6
    for position in range(20, 24):
        wrong = whole.clone()
        wrong[:, position] = (wrong[:, position] + 1) % 300
        assert greedy_answers(model, wrong, 4).tolist() == [False] * 6


def test_a_random_model_knows_no_passkey_and_the_record_says_what_was_asked(model: LanguageModel) -> None:
    table = as_table(baseline_factors(model.spec, "yarn", 700).factor_sets[0])
    scores = scores_of("passkey", passkey_context(model, table, 700, method="yarn", count=10, seed=3))
    assert scores[0].value == 0.0
    tasks = build_passkeys(model.tokenizer, 700, 10, 3)
    assert {score.texts_fingerprint for score in scores} == {fingerprint(np.stack([t.tokens for t in tasks]))}
    assert {score.factors_fingerprint for score in scores} == {table.fingerprint}
    assert (scores[0].num_tokens, scores[0].context_tokens, scores[0].seed) == (7000, 700, 3)


# Differences


def test_a_difference_is_that_of_two_measured_shares(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key's answer by one method is paired with its answer by the other, and none is asked for twice."""
    tables = baseline_factors(model.spec, "pi", 700), baseline_factors(model.spec, "yarn", 700)
    tasks = build_passkeys(model.tokenizer, 700, 20, 3)
    order = {task.tokens.tobytes(): i for i, task in enumerate(tasks)}
    right = {"pi": {0, 1, 2, 3, 4, 5, 9}, "yarn": {4, 5, 6}}
    methods = {table.factor_sets[0].lambdas: name for table, name in zip(tables, right, strict=True)}
    asked = []

    def spy_answers(rescaled: LanguageModel, tokens: np.ndarray, _: int) -> torch.Tensor:
        key, method = order[tokens[0].tobytes()], methods[tuple(rescaled.network.model.rotary_emb.lambdas.tolist())]
        asked.append((method, key))
        return torch.tensor([key in right[method]])

    answer_passkeys(monkeypatch, spy_answers)
    cache = SampleCache()
    pi, yarn = (
        passkey_context(model, table, 700, method=name, seed=3, cache=cache)
        for name, table in zip(right, tables, strict=True)
    )
    shares = [scores_of("passkey", context)[0].value for context in (pi, yarn)]
    score = compared("passkey", pi, yarn)
    assert score.value == pytest.approx(shares[0] - shares[1]) == pytest.approx((5 - 1) / 20)
    assert (score.low, score.high) == difference_interval(5, 1, 20)
    assert (score.metric, score.method, score.context_tokens) == ("difference-to-yarn", "pi", 700)
    assert (score.num_windows, score.num_tokens, score.seed) == (20, 14_000, 3)
    assert (score.factors_fingerprint, score.texts_fingerprint) == (tables[0].fingerprint, tasks_fingerprint(tasks))
    assert sorted(asked) == sorted((name, key) for name in right for key in range(20))


def test_methods_are_compared_by_what_was_measured_before(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    """Losses and answers of both are in the run directory: the paired numbers take no pass, in a later process too."""
    settings = MeasureRecipe((300, 700), ("perplexity", "passkey"), tail_tokens=16, passkeys=10)
    pi, yarn = (name_subject(model, baseline_factors(model.spec, name, 700)) for name in ("pi", "yarn"))
    original, run = Subject(model, None, "none"), RunDir(tmp_path)
    for subject in (original, pi, yarn):
        measure(model, subject.table, text, settings=settings, run=run)
    passes.forbidden = True
    for subject in (original, pi):
        evaluation = Evaluation(text, settings, original, SampleCache(RunDir(tmp_path)))
        scores = evaluation.compare(subject, yarn)
        assert [score.metric for score in scores] == ["ratio-to-yarn", "difference-to-yarn"]
        assert {(score.method, score.context_tokens) for score in scores} == {(subject.method, 700)}
        assert scores[0].low < scores[0].value < scores[0].high
