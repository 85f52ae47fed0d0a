"""Varied needles of a training: what is planted can be found again, in long and in short windows, by words alone."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
import torch
from training_samples import QUICK, TEXT, TOKENIZER, losses_of, make_factors

from longrope.data import plant_needles
from longrope.data.facts import TEMPLATES, draw_varied
from longrope.evaluation.prompts import many_passkeys, passkeys, prose
from longrope.models import rescaled
from longrope.runs.records import TrainStep
from longrope.tuning import fine_tune
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder, TrainingSample

LONG, SHORT = 4000, 2000
WHOLE = replace(TEXT, tokens=np.tile(TEXT.tokens, 6), documents=np.zeros(1, np.int64))


def words_of(window: np.ndarray) -> str:
    return str(TOKENIZER.decode(window.tolist()))


def answered(window: np.ndarray, answers: np.ndarray) -> list[str]:
    """The words of each stretch of answers."""
    at = np.flatnonzero(answers) + 1
    return [words_of(window[part]).strip() for part in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)]


def asked(window: np.ndarray) -> list[tuple[str, str]]:
    """Beginning and answer after each question, by their words."""
    beginnings = [beginning for templates in TEMPLATES.values() for _, beginning in templates]
    form = "|".join(re.escape(beginning).replace(re.escape("{thing}"), r"\w+ \w+") for beginning in beginnings)
    return re.findall(rf"\?\s+({form})\s+([\w ]+?)\s*(?=\n|$)", words_of(window))


def test_every_question_has_its_fact_before_it() -> None:
    window, answers = plant_needles(WHOLE.tokens[:LONG], TOKENIZER, np.random.default_rng(0), "varied")
    assert len(window) == LONG
    found = asked(window)
    assert len(found) > 1
    assert answered(window, answers) == [answer for _, answer in found]
    text = words_of(window)
    for beginning, answer in found:
        assert text.count(f"{beginning} {answer}") == 2, "the fact, and the answer"
        assert text.index(f"{beginning} {answer}.") < text.index("?")


def test_a_long_window_holds_thirty_two_of_all_kinds_about_different_things() -> None:
    facts = draw_varied(np.random.default_rng(1))
    assert len({fact.question.split(" the ")[-1] for fact in facts}) == len(facts) == 32
    kinds = ["number" if fact.answer.isdigit() else len(fact.answer.split()) for fact in facts]
    assert set(kinds) == {"number", 2, 6}
    long = np.tile(TEXT.tokens, 40)[:300_000]
    window, _ = plant_needles(long, TOKENIZER, np.random.default_rng(1), "varied")
    assert len(asked(window)) == 32


def test_training_has_no_words_of_the_needles_that_are_measured() -> None:
    facts = [fact for seed in range(40) for fact in draw_varied(np.random.default_rng(seed))]
    words = {word for fact in facts for word in f"{fact.beginning} {fact.answer}".split()}
    measured = [*prose.PEOPLE, *prose.SENTENCES, many_passkeys.THINGS]
    common = {"the", "green", "bright"}  # no thing, person or place
    assert not {word for part in measured for word in part} & words - common
    sentences = [beginning for templates in prose.TEMPLATES.values() for _, beginning in templates]
    sentences += [passkeys.NEEDLE, many_passkeys.NEEDLE]
    assert not {" ".join(s.split()[:3]) for s in sentences} & {" ".join(f.beginning.split()[:3]) for f in facts}


@pytest.mark.parametrize("change", [{}, {"isolate_documents": True}], ids=str)
def test_short_windows_have_needles_too(change: dict[str, Any]) -> None:
    """Each window with needles has the same part of the weight; isolated documents would not see their facts."""
    settings = replace(
        QUICK, window_tokens=LONG, batch_windows=2, short_share=0.5, needle_weight=0.7, needle_kinds="varied", **change
    )
    reader = SampleBuilder(Batches.cut(WHOLE, LONG, 2, seed=5), settings, SHORT, TOKENIZER)
    rows = reader.batches.rows(0)
    samples = list(reader.read(rows))
    assert [sample.own_rope for sample in samples] == [False, True]
    planted = [sample for sample in samples if sample.answers is not None]
    assert len(planted) == (1 if change else 2)
    sums = [float(reader.answer_weights(sample, rows).sum()) for sample in planted]
    assert sums == pytest.approx([0.7 / len(planted)] * len(planted))
    for sample in planted:
        assert sample.answers is not None
        for window, answers in zip(sample.tokens, sample.answers, strict=True):
            assert answered(window, answers) == [answer for _, answer in asked(window)]


def test_a_step_weighs_the_answers_of_long_and_short_windows() -> None:
    """The mean over all tokens, plus the weight times the mean over windows of the mean over their answers."""
    settings = replace(
        QUICK, window_tokens=SHORT, steps=1, batch_windows=2, short_share=0.5, needle_weight=0.7, needle_kinds="varied"
    )
    ours, hand = (pico.make_model(max_position_embeddings=SHORT // 2) for _ in range(2))
    steps: list[TrainStep] = []
    fine_tune(ours, make_factors(ours), WHOLE, settings=settings, seed=5, on_step=steps.append)
    reader = SampleBuilder(Batches.cut(WHOLE, SHORT, 2, seed=5), settings, SHORT // 2, TOKENIZER)
    every, means = [], []
    for sample in reader.read(reader.batches.rows(0)):
        with rescaled(hand, None if sample.own_rope else make_factors(hand)), torch.no_grad():
            losses = [losses_of(hand.network, tokens) for tokens in sample.tokens]
        every += losses
        means.append(torch.stack(_means_of_answers(sample, losses)).mean())
    expected = torch.cat(every).mean() + 0.7 * torch.stack(means).mean()
    assert len(means) == 2
    assert steps[0].loss_nats == pytest.approx(expected.item(), rel=1e-5)


def _means_of_answers(sample: TrainingSample, losses: list[torch.Tensor]) -> list[torch.Tensor]:
    assert sample.answers is not None
    return [loss[torch.from_numpy(answers)].mean() for loss, answers in zip(losses, sample.answers, strict=True)]
