"""What docs/2048k.md and the log say of Gemma-3-270M's trainings with two formulas and two seeds is in the records."""

import numpy as np
import pytest
from documents import ROOT, lines, words
from numpy.typing import NDArray
from tables_cells import Records
from tables_seeds import SEEDS, answered, paired, seeds_table

from longrope.evaluation.pairing import pair_runs
from longrope.runs.run_dir import RunDir

PAGE, LOG = words("docs/2048k.md"), words("docs/log.md")
RECORDS, LONGEST = Records(ROOT / "results"), 2**21
MANY, NEEDLES = "many-passkeys", "prose-needle"
Answers = dict[tuple[str, int], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[Answers, Answers]]:
    """Of the factors of NTK and of YaRN, by seed."""
    return {seed: (answered(RECORDS, runs[0]), answered(RECORDS, runs[1])) for seed, runs in SEEDS.items()}


def test_answers_are_those_of_the_scores(answers: dict[str, tuple[Answers, Answers]]) -> None:
    for seed, runs in SEEDS.items():
        for run, own in zip(runs, answers[seed], strict=True):
            scores = {(s["metric"], s["context_tokens"]): s["value"] for s in lines(f"{run}/scores.jsonl")}
            assert own
            assert all(right.mean() == scores[key] and len(right) == 100 for key, right in own.items())


def test_seed_1_turns_what_seed_0_said_of_passkeys(answers: dict[str, tuple[Answers, Answers]]) -> None:
    """Behind beyond the interval at two lengths, ahead beyond it in the window of the model with seed 0 alone."""
    ntk, yarn = answers["seed 1"]
    apart = {key for key in yarn if not contains_zero(paired(key[0], ntk[key], yarn[key]))}
    assert apart == {(MANY, at) for at in (2**19, LONGEST)}
    assert all(yarn[key].sum() < ntk[key].sum() for key in apart)
    assert "find more at 524,288 and 2,097,152 tokens ({} and {} of 100)".format(*found(ntk, yarn)) in PAGE
    said = "{1} and {0} of 100 at 2,097,152 tokens, {3} and {2} at 524,288, {5} and {4} at 131,072, each beyond"
    assert said.format(*(n for at in (LONGEST, 2**19, 2**17) for n in found(ntk, yarn, at))) in LOG
    within = [found(yarn, ntk, at) for at in (2**20, 2**15)]
    assert "{} and {} at 1,048,576 and {} and {} at 32,768, within".format(*within[0], *within[1]) in LOG
    first = paired(MANY, *(own[MANY, 2**15] for own in answers["seed 0"]))
    assert f"by {100 * first.value:.0f} of 100 in the model's own window" in LOG
    assert f"in the model's own window, on 100 prompts, they find {100 * first.value:.0f} more, beyond" in PAGE
    assert first.low > 0


def test_seeds_differ_as_formulas_do(answers: dict[str, tuple[Answers, Answers]]) -> None:
    """On the same hundred prompts, with the model's own RoPE."""
    fingerprints = {
        line["texts_fingerprint"]
        for runs in SEEDS.values()
        for run in runs
        for line in lines(f"{run}/sample-summaries.jsonl")
        if (line["metric"], line["context_tokens"]) == (MANY, 2**15)
    }
    assert len(fingerprints) == 1
    (ntk, yarn), (ntk_again, yarn_again) = ((a[MANY, 2**15], b[MANY, 2**15]) for a, b in answers.values())
    more, fewer = paired(MANY, ntk, ntk_again), paired(MANY, yarn_again, yarn)
    ends = [f"{100 * end:.0f}" for one in (more, fewer) for end in (one.value, one.low, one.high)]
    said = "find {} with seed 0 and {} with seed 1 ({} points more, {} to {}), YaRN's"
    assert said.format(ntk.sum(), ntk_again.sum(), *ends[:3]) in PAGE
    assert "YaRN's {} and {} ({} points fewer, {} to {})".format(yarn.sum(), yarn_again.sum(), *ends[3:]) in PAGE
    assert f"finds {ntk.sum()} and {ntk_again.sum()}, YaRN {yarn.sum()} and {yarn_again.sum()}." in LOG


def test_needles_are_not_separated(answers: dict[str, tuple[Answers, Answers]]) -> None:
    ntk, yarn = answers["seed 1"]
    needles = [paired(NEEDLES, ntk[key], yarn[key]) for key in yarn if key[0] == NEEDLES]
    assert len(needles) == 4
    assert min(n.value for n in needles) < 0 < max(n.value for n in needles)
    assert all(map(contains_zero, needles))
    assert f"they find {yarn[NEEDLES, 2**19].sum()} of 100 needles at 524,288 tokens, where 85 was the aim" in PAGE


def test_of_the_longest_needles_one_text_is_missing(answers: dict[str, tuple[Answers, Answers]]) -> None:
    """Of YaRN's factors with seed 1; the others have all, and neither reaches the aim of 80 %."""
    ntk, yarn = (of[NEEDLES, LONGEST] if (NEEDLES, LONGEST) in of else unfinished() for of in answers["seed 1"])
    assert (len(ntk), len(yarn)) == (100, 90)
    assert ntk.mean() < 0.8
    assert yarn.sum() + 10 < 80
    assert f"find {ntk.sum()} of 100 at 2,097,152 tokens" in PAGE
    beside = paired(NEEDLES, ntk[:90], yarn)
    ends = [f"{100 * end:.0f}" for end in beside[:3]]
    said = "they find {} of 90, the others {} of the same 90 ({} points, {} to {})"
    assert said.format(yarn.sum(), ntk[:90].sum(), *ends) in PAGE
    assert f"it finds {ntk.sum()} of 100 and {yarn.sum()} of 90" in PAGE
    assert f"with another seed {yarn.sum()} of 90; with NTK by" in words("README.md")
    assert f"of 60, {ntk.sum()} of 100 and 32 of 40 by seed)" in words("README.md")


def unfinished() -> NDArray[np.bool_]:
    """The answers that an interrupted measurement has kept."""
    (path,) = (ROOT / "results" / SEEDS["seed 1"][1] / "samples").glob("prose-needle-*-unfinished.npz")
    with np.load(path) as kept:
        right: NDArray[np.bool_] = kept["right"]
    return right


def test_perplexity_and_minutes() -> None:
    runs = [RunDir(ROOT / "results" / name) for name in ("gemma3-2048k-yarn-seed1", "gemma3-2048k-seed1")]
    (far,) = [one for one in pair_runs(*runs) if one.metric == "last-tokens-32767" and one.context_tokens == 2**17]
    said = f"{far.value:.3f} times as high with 131,072 tokens ({far.low:.3f}-{far.high:.3f})"
    assert f"With seed 1 it is {said}" in PAGE
    key = ("last-tokens-32767", 2**17)
    for name in ("gemma3-2048k", "gemma3-2048k-yarn"):
        first, again = (RECORDS.scores(of, "longrope-tuned")[key].value for of in (name, f"{name}-seed1"))
        assert f"differs by {100 * abs(again / first - 1):.1f} % there, with each of the two" in PAGE
    for run in runs:
        steps = [
            lines(path.relative_to(ROOT / "results").as_posix())
            for path in sorted(run.path.glob("stages/*/train.jsonl"))
        ]
        assert [round(sum(step["seconds"] for step in own) / 60, 1) for own in steps] == [2.2, 2.6, 4.1]
    assert "on one H200 each in 9 minutes" in PAGE
    assert "takes 8.8 minutes" in LOG


def test_the_table_says_what_is_missing() -> None:
    text = seeds_table(RECORDS)
    assert "| passkeys, 20 a text, 2,048k, seed 1 |" in text
    assert "| needles, 2,048k, seed 1 | 74 of 100 | not measured | not measured |" in text


def contains_zero(interval: tuple[float, float, float, str]) -> bool:
    return interval[1] <= 0 <= interval[2]


def found(first: Answers, second: Answers, length: int = LONGEST) -> tuple[int, int]:
    """Passkeys of both."""
    return int(first[MANY, length].sum()), int(second[MANY, length].sum())
