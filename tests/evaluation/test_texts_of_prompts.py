"""Intervals of shares of which several prompts stand in one text: they take into account how texts differ."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paired_runs import document_numbers, make_finished

from longrope.evaluation import find_metric
from longrope.evaluation.effective import _resampled_means, harmonic_mean, length_area
from longrope.evaluation.pairing import UnpairedError, pair_runs
from longrope.evaluation.samples import Identity, Samples
from longrope.evaluation.statistics import (
    RESAMPLES,
    difference_interval,
    independent_prompts,
    share_difference,
    share_interval,
    wilson_interval,
)
from longrope.labels import Source
from longrope.recipe import MeasureRecipe
from longrope.runs.run_dir import RunDir

STUDENT = {4: 2.776445, 9: 2.262157, 19: 2.093024, 99: 1.984217}  # 97.5 % quantiles, as printed in tables


def prompts_by_hand(by_text: list[list[float]]) -> float:
    """The variance of the mean of single prompts over that of the mean of the texts' means, for texts of one size."""
    values = [value for text in by_text for value in text]
    count, groups, mean = len(values), len(by_text), sum(values) / len(values)
    alone = sum((value - mean) ** 2 for value in values) / count / count
    of_texts = [sum(text) / len(text) for text in by_text]
    together = sum((one - mean) ** 2 for one in of_texts) / (groups - 1) / groups
    return min(count, count * alone / together * (STUDENT[count - 1] / STUDENT[groups - 1]) ** 2)


@pytest.mark.parametrize(("groups", "size"), [(5, 4), (10, 10), (5, 20)])
def test_prompts_count_by_how_texts_differ(groups: int, size: int) -> None:
    rng = np.random.default_rng(groups)
    found = (rng.random((groups, size)) < np.linspace(0.1, 0.9, groups)[:, None]).astype(float)
    expected, texts = prompts_by_hand(found.tolist()), np.repeat(np.arange(groups) + 3, size)
    assert expected < groups * size
    assert independent_prompts(found.ravel(), texts) == pytest.approx(expected, rel=6e-3)
    shuffled = rng.permutation(groups * size)
    assert independent_prompts(found.ravel()[shuffled], texts[shuffled]) == pytest.approx(expected, rel=6e-3)
    interval = share_interval(found.ravel().tolist(), texts)
    assert interval[1:3] == pytest.approx(wilson_interval(found.mean() * expected, expected), abs=2e-3)
    theirs = found[::-1].ravel() == 1
    of_both = prompts_by_hand((found - found[::-1]).tolist())
    gained, lost = (float((sign * (found - found[::-1]) > 0).mean()) for sign in (1, -1))
    paired = share_difference(found.ravel() == 1, theirs, texts)
    assert paired[1:3] == pytest.approx(difference_interval(gained * of_both, lost * of_both, of_both), abs=2e-3)


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 9))
def test_prompts_count_once_at_most(right: list[bool], size: int) -> None:
    values, texts = np.asarray(right, float), np.arange(len(right)) // size
    found = independent_prompts(values, texts)
    assert 0 < found <= len(right)
    if size == 1 or len(right) <= size or len(set(right)) == 1:  # texts of their own, one text, and all alike
        assert found == len(right) == independent_prompts(values, None)


@pytest.mark.parametrize(("groups", "size"), [(5, 20), (10, 10)])
@pytest.mark.parametrize("alike", [0.0, 0.05, 0.15])
def test_intervals_hold_the_share_of_texts_that_differ(groups: int, size: int, alike: float) -> None:
    """Texts have their own shares around 70 %, with this correlation of two prompts of a text; 95 % is promised."""
    rng, share, texts = np.random.default_rng(7), 0.7, np.repeat(np.arange(groups), size)

    def answers() -> np.ndarray:
        spread = (1 - alike) / max(alike, 1e-9)
        own = rng.beta(share * spread, (1 - share) * spread, groups) if alike else np.full(groups, share)
        return rng.random(groups * size) < own[texts]

    def covered(by: np.ndarray | None) -> tuple[float, float]:
        alone, paired = [], []
        for _ in range(600):
            ours, theirs = answers(), answers()
            single, both = share_interval(ours.astype(float).tolist(), by), share_difference(ours, theirs, by)
            alone.append(single.low <= share <= single.high)
            paired.append(both.low <= 0 <= both.high)
        return float(np.mean(alone)), float(np.mean(paired))

    assert all(0.92 <= one <= 0.995 for one in covered(texts))
    if alike == 0.15:
        assert all(one < 0.85 for one in covered(None))


def test_the_bootstrap_of_accuracy_draws_as_many_prompts_as_are_independent() -> None:
    """The same ones of two methods, of which texts of one differ more."""
    texts = np.repeat(np.arange(5), 20)
    shares = np.stack([np.tile([0.0, 1], 50), np.where(texts < 3, np.arange(100) % 4 == 0, np.arange(100) % 4 != 0)])
    means = _resampled_means(shares[:, None].astype(float), np.random.default_rng(0), texts)
    assert means.shape == (2, 1 + RESAMPLES)
    assert means[:, 0].tolist() == [0.5, 0.45]
    drawn = round(independent_prompts(shares[1], texts))
    assert drawn < 20 < independent_prompts(shares[0], texts) == 100
    assert set(np.round(means[:, 1:] * drawn, 9).ravel().tolist()) <= set(range(drawn + 1))
    assert means[:, 1:].std(1) == pytest.approx(np.sqrt([0.25, 0.45 * 0.55]) / np.sqrt(drawn), rel=0.05)


@pytest.mark.parametrize(("share", "solved"), [(0.5, 0.98), (0.9, 1.0), (0.1, 0.5), (0.5, 0.5)])
def test_intervals_of_accuracy_hold_it(share: float, solved: float) -> None:
    """Of 20 needles and 600 prompts; as one share with as many trials as have its variance, 74 to 99 %."""
    rng = np.random.default_rng(5)

    def draw() -> Samples:
        arrays = {"needles": rng.random((1, 20)) < share, "ruler": rng.random((6, 100)) < solved}
        arrays = {name: right.astype(float) for name, right in arrays.items()}
        return Samples(
            Identity(Source("other"), 4096, 0, "model", "texts", ""), arrays | {"tokens": np.asarray(1)}, 1.0
        )

    def holds() -> bool:
        (found,) = find_metric("accuracy").scores(draw(), MeasureRecipe())
        return found.low <= (share + solved) / 2 <= found.high

    assert 0.93 <= np.mean([holds() for _ in range(600)]) <= 0.98


@pytest.mark.parametrize(("groups", "size", "alike"), [(1, 20, 0.0), (2, 10, 0.15)])
def test_intervals_of_the_area_hold_it(groups: int, size: int, alike: float) -> None:
    """Needles in few texts at three lengths, and 60 prompts of RULER; with whole texts one or two gave 13 to 75 %."""
    rng, texts, lengths = np.random.default_rng(11), np.repeat(np.arange(groups), size), (1024, 2048, 4096)
    expected = {n: (share, 0.6) for n, share in zip(lengths, (0.85, 0.7, 0.4), strict=True)}

    def area(at: dict[int, tuple[float, float]]) -> float:
        return harmonic_mean([length_area({n: both[kind] for n, both in at.items()}) for kind in range(2)])

    def needles(share: float) -> np.ndarray:
        spread = (1 - alike) / max(alike, 1e-9)
        own = rng.beta(share * spread, (1 - share) * spread, groups) if alike else np.full(groups, share)
        return (rng.random(len(texts)) < own[texts]).astype(float)[None]

    def holds() -> bool:
        arrays = {"tokens-1024": np.asarray(1)}
        for name, share in (("original", 0.9), *((str(n), both[0]) for n, both in expected.items())):
            arrays |= {f"needles-{name}": needles(share), f"ruler-{name}": rng.random((6, 10)) < 0.6}
            arrays[f"texts-{name}"] = texts
        samples = Samples(Identity(Source("other"), 4096, 0, "model", "texts", ""), arrays, 1.0)
        found = find_metric("effective-length").scores(samples, MeasureRecipe())[1]
        return found.low <= area(expected) <= found.high

    assert np.mean([holds() for _ in range(60)]) >= 0.9


def test_runs_are_paired_by_the_texts_of_their_prompts(tmp_path: Path) -> None:
    """Also where the summary of one is of an earlier version, which did not say which texts they were."""
    documents = document_numbers(9)
    runs = [make_finished(tmp_path / name, seed, documents, per_text=8) for name, seed in (("a", 1), ("b", 2))]
    before = [make_finished(tmp_path / name, seed, documents) for name, seed in (("c", 1), ("d", 2))]
    ours, theirs = (answers_of(run) for run in runs)
    texts = np.arange(len(ours)) // 8

    def paired(*both: RunDir) -> tuple[float, ...]:
        found = {one.metric: (one.value, one.low, one.high) for one in pair_runs(*both)}
        return found["many-passkeys"]

    by_text, by_prompt = share_difference(ours, theirs, texts)[:3], share_difference(ours, theirs)[:3]
    assert by_text != by_prompt
    assert paired(*runs) == paired(runs[0], before[1]) == paired(before[0], runs[1]) == by_text
    assert paired(*before) == by_prompt
    other = make_finished(tmp_path / "e", 2, documents, per_text=10)
    with pytest.raises(UnpairedError, match="other documents, or of other numbers of tokens or answers"):
        pair_runs(runs[0], other)


def answers_of(run: RunDir) -> np.ndarray:
    (summary,) = (one for one in run.read_summaries() if one.metric == "many-passkeys")
    return np.asarray([letter == "1" for letter in summary.answers])
