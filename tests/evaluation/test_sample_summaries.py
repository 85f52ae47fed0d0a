"""Runs are compared without their samples, by what sample-summaries.jsonl keeps of them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from paired_runs import LENGTH, METRICS, PROMPTS, TAIL, document_numbers, make_finished, make_samples

from longrope.errors import RunError
from longrope.evaluation.pairing import keep_summaries, pair_runs
from longrope.evaluation.statistics import perplexity_interval, share_difference
from longrope.runs.run_dir import RunDir

FEW, MANY = 3, 9  # documents: resampled by blocks, and by documents
IN_TAILS = 6  # of the nine


def make_pair(folder: Path, documents: np.ndarray) -> tuple[RunDir, RunDir]:
    return make_finished(folder / "critical", 1, documents), make_finished(folder / "yarn", 2, documents)


def forget(run: RunDir) -> RunDir:
    """The run without its samples."""
    shutil.rmtree(run.path / "samples")
    return run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Two runs that measured the same nine documents and the same prompts."""
    return make_pair(tmp_path, document_numbers(MANY))


@pytest.mark.parametrize("count", [FEW, MANY])
def test_comparisons_are_the_same_with_and_without_samples(count: int, tmp_path: Path) -> None:
    """With the samples of both, of one, and of none; and they are those of the differences token by token."""
    documents = document_numbers(count)
    run, reference = make_pair(tmp_path, documents)
    whole = pair_runs(run, reference)
    assert [one.metric for one in whole] == list(METRICS)
    ours, theirs = (make_samples(seed, documents)["losses"]["losses"].astype(float) for seed in (1, 2))
    for one, last in zip(whole, (0, TAIL), strict=False):
        expected = perplexity_interval((ours - theirs)[:, -last:], documents[:, -last:], 7)
        assert (one.value, one.low, one.high) == pytest.approx(expected[:3], rel=1e-12)
        assert (one.resampled, one.pairs) == (expected.resampled, ours[:, -last:].size)
        assert one.resampled == ("blocks" if count == FEW else "documents")
    keep_summaries(run)
    keep_summaries(reference)
    assert pair_runs(forget(run), reference) == whole
    assert pair_runs(run, forget(reference)) == whole


def test_answers_are_compared_by_prompt(pair: tuple[RunDir, RunDir]) -> None:
    """A needle of which half the references were found is not found."""
    of = [make_samples(seed, document_numbers(MANY)) for seed in (1, 2)]
    right = {"passkey": [some["passkeys"]["right"] for some in of]}
    right["needle"] = [some["needles"]["shares"] == 1 for some in of]
    right["prose-needle"] = [some["prose-needle"]["right"] for some in of]
    for run in pair:
        keep_summaries(run)
        forget(run)
    found = {one.metric: one for one in pair_runs(*pair) if one.metric in right}
    assert {metric: (one.value, one.low, one.high, "") for metric, one in found.items()} == {
        metric: tuple(share_difference(*both)) for metric, both in right.items()
    }
    assert {(one.pairs, one.resampled) for one in found.values()} == {(PROMPTS, "")}


def test_a_summary_is_small_and_names_its_measurement(pair: tuple[RunDir, RunDir]) -> None:
    run, _ = pair
    keep_summaries(run)
    found = run.read_summaries()
    assert [(s.metric, s.context_tokens, s.method) for s in found] == [(m, LENGTH, "longrope-tuned") for m in METRICS]
    assert [len(s.counts) for s in found] == [MANY, IN_TAILS, 0, 0, 0]
    assert [len(s.answers) for s in found] == [0, 0, PROMPTS, PROMPTS, PROMPTS]
    assert run.summaries.stat().st_size < 4000


def test_what_is_kept_stays_where_samples_are_no_longer_there(pair: tuple[RunDir, RunDir]) -> None:
    run, reference = pair
    keep_summaries(run)
    whole = run.summaries.read_bytes()
    for path in run.path.glob("samples/losses-*"):
        path.unlink()
    keep_summaries(run)
    assert run.summaries.read_bytes() == whole
    keep_summaries(forget(run))
    assert run.summaries.read_bytes() == whole
    keep_summaries(forget(reference))
    assert not reference.summaries.exists(), "there is nothing to keep"


def test_a_run_with_neither_samples_nor_their_summary_is_refused(pair: tuple[RunDir, RunDir]) -> None:
    run, reference = pair
    keep_summaries(run)
    first, *rest = run.summaries.read_text().splitlines(keepends=True)
    run.summaries.write_text("".join(rest))
    with pytest.raises(RunError, match=r"critical holds no losses of its perplexity at 1,024 tokens") as refused:
        pair_runs(forget(run), reference)
    assert "sample-summaries.jsonl" in f"{refused.value}"
    run.summaries.write_text(first.replace("tuned 1", "tuned 3"))
    with pytest.raises(RunError, match="holds no losses of its perplexity"):
        pair_runs(run, reference)


def test_runs_of_other_documents_are_refused(tmp_path: Path) -> None:
    """The same number of them, of the same lengths in another order of windows; and one answer less."""
    documents = document_numbers(MANY)
    run, other = make_finished(tmp_path / "run", 1, documents), make_finished(tmp_path / "other", 2, documents[::-1])
    for _ in range(2):
        with pytest.raises(RunError, match=r"The perplexity at 1,024 tokens of run and other are of other documents"):
            pair_runs(run, other)
        keep_summaries(other)
        shutil.rmtree(other.path / "samples", ignore_errors=True)
    third = make_finished(tmp_path / "third", 3, documents)
    keep_summaries(third)
    lines = [json.loads(line) for line in third.summaries.read_text().splitlines()]
    lines[2]["answers"] = lines[2]["answers"][1:]
    third.summaries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=r"The passkey at 1,024 tokens of run and third are of .* answers"):
        pair_runs(run, forget(third))


def test_runs_of_other_texts_are_refused(tmp_path: Path) -> None:
    documents = document_numbers(MANY)
    run = make_finished(tmp_path / "run", 1, documents)
    other = make_finished(tmp_path / "other", 2, documents, texts="b" * 16)
    keep_summaries(other)
    with pytest.raises(RunError, match=r"of run and other are of other texts \(a{16} and b{16}\)"):
        pair_runs(run, forget(other))


@pytest.mark.parametrize(
    ("line", "change", "reason"),
    [
        (0, {"sums": None}, "sums is None, not a list"),
        (0, {"sums": [1.0]}, "it has 1 sums and 9 counts"),
        (0, {"sums": [], "counts": []}, "it has 0 sums and 0 counts"),
        (0, {"sums": [float("nan")] * MANY}, "a sum is not finite, or a count is 0"),
        (0, {"counts": [0] * MANY}, "a sum is not finite, or a count is 0"),
        (0, {"resampled": "windows"}, "resampled is 'windows'"),
        (0, {"answers": "01"}, "either answers or sums of losses are needed"),
        (2, {"answers": ""}, "either answers or sums of losses are needed"),
        (2, {"answers": "01x"}, "answers is '01x', not a text of 0 and 1"),
        (2, {"sums": [1.0], "counts": [1]}, "it has 1 sums and 1 counts"),
        (2, {"share": 0.5}, "fields ['share']"),
    ],
)
def test_a_damaged_file_is_refused(
    pair: tuple[RunDir, RunDir], line: int, change: dict[str, object], reason: str
) -> None:
    run, reference = pair
    keep_summaries(run)
    lines = [asdict(summary) for summary in run.read_summaries()]
    run.summaries.write_text(
        "".join(json.dumps(one | (change if i == line else {})) + "\n" for i, one in enumerate(lines))
    )
    with pytest.raises(RunError) as refused:
        pair_runs(forget(run), reference)
    assert f"sample-summaries.jsonl:{line + 1}: no SampleSummary record ({reason})" in f"{refused.value}"


def test_damaged_samples_are_refused_though_there_is_a_summary(pair: tuple[RunDir, RunDir]) -> None:
    run, reference = pair
    keep_summaries(run)
    run.samples("losses-0").write_bytes(b"damaged")
    for compare in (lambda: pair_runs(run, reference), lambda: keep_summaries(run)):
        with pytest.raises(RunError, match=r"losses-0\.npz cannot be read"):
            compare()
