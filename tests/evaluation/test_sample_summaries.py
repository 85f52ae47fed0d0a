"""Runs are compared without their samples, by what sample-summaries.jsonl keeps of them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pico
import pytest
from paired_runs import LENGTH, LOSSES, METRICS, PROMPTS, TAIL, document_numbers, make_finished, make_samples

from longrope.data import TokenText
from longrope.errors import RunError
from longrope.evaluation import measure
from longrope.evaluation.pairing import pair_runs
from longrope.evaluation.statistics import perplexity_interval, share_difference
from longrope.evaluation.summaries import is_paired
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

FEW, MANY = 3, 9  # documents: resampled by blocks, and by documents
IN_TAILS = 6  # of the nine


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Two runs that measured the same nine documents and the same prompts."""
    documents = document_numbers(MANY)
    return make_finished(tmp_path / "critical", 1, documents), make_finished(tmp_path / "yarn", 2, documents)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_comparisons_are_those_of_the_differences_token_by_token(count: int, tmp_path: Path) -> None:
    documents = document_numbers(count)
    run, reference = (make_finished(tmp_path / f"{seed}", seed, documents) for seed in (1, 2))
    found = pair_runs(run, reference)
    assert [one.metric for one in found] == list(METRICS)
    ours, theirs = (make_samples(seed, documents)["perplexity"]["losses"].astype(float) for seed in (1, 2))
    for one, last in zip(found[: len(LOSSES)], (0, TAIL, TAIL), strict=True):
        expected = perplexity_interval((ours - theirs)[:, -last:], documents[:, -last:], 7)
        assert (one.value, one.low, one.high) == pytest.approx(expected[:3], rel=1e-12)
        assert (one.resampled, one.pairs) == (expected.resampled, ours[:, -last:].size)
        assert one.resampled == ("blocks" if count == FEW else "documents")


def test_answers_are_compared_by_prompt(pair: tuple[RunDir, RunDir]) -> None:
    """A needle of which half the references were found is not found."""
    of = [make_samples(seed, document_numbers(MANY)) for seed in (1, 2)]
    right = {name: [some[name]["right"] for some in of] for name in ("passkey", "many-passkeys", "prose-needle")}
    right["needle"] = [some["needle"]["shares"] == 1 for some in of]
    found = {one.metric: one for one in pair_runs(*pair) if one.metric in right}
    assert {metric: (one.value, one.low, one.high, "") for metric, one in found.items()} == {
        metric: tuple(share_difference(*both)) for metric, both in right.items()
    }
    assert {(one.pairs, one.resampled) for one in found.values()} == {(PROMPTS, "")}


def test_a_summary_is_small_and_names_its_measurement(pair: tuple[RunDir, RunDir]) -> None:
    run, _ = pair
    found = run.read_summaries()
    assert [(s.metric, s.context_tokens, s.method) for s in found] == [(m, LENGTH, "longrope-tuned") for m in METRICS]
    assert [len(s.counts) for s in found] == [MANY, IN_TAILS, IN_TAILS, 0, 0, 0, 0]
    assert [len(s.answers) for s in found] == [0, 0, 0, PROMPTS, PROMPTS, PROMPTS, PROMPTS]
    assert run.summaries.stat().st_size < 6000


def test_ratios_depths_and_kinds_have_no_pairs_of_their_own() -> None:
    assert all(map(is_paired, METRICS))
    others = ("last-tokens-ratio-to-yarn", "ratio-to-none", "far-context-last-4096", "prose-needle-depth-0.05")
    assert not any(map(is_paired, (*others, "prose-needle-name", "prefix-perplexity", "accuracy")))


def test_a_run_without_the_summary_of_a_score_is_refused(pair: tuple[RunDir, RunDir]) -> None:
    run, reference = pair
    first, *rest = run.summaries.read_text().splitlines(keepends=True)
    run.summaries.write_text("".join(rest))
    with pytest.raises(RunError, match=r"sample-summaries.jsonl holds nothing of the perplexity at 1,024 tokens"):
        pair_runs(run, reference)
    run.summaries.write_text("".join([first.replace("tuned 1", "tuned 3"), *rest]))
    with pytest.raises(RunError, match="holds nothing of the perplexity"):
        pair_runs(reference, run)
    run.summaries.unlink()
    with pytest.raises(RunError, match="holds nothing of the perplexity"):
        pair_runs(run, reference)


def test_runs_of_earlier_versions_are_compared_by_the_metrics_that_they_kept(pair: tuple[RunDir, RunDir]) -> None:
    whole, later = pair_runs(*pair), ("last-tokens-", "many-passkeys")
    for run in pair:
        lines = run.summaries.read_text().splitlines(keepends=True)
        run.summaries.write_text("".join(line for line in lines if not any(name in line for name in later)))
    assert pair_runs(*pair) == [one for one in whole if not one.metric.startswith(later)]
    for run in pair:
        run.summaries.unlink()
    with pytest.raises(RunError, match="holds nothing of the perplexity"):
        pair_runs(*pair)


def test_measurements_without_factors_of_their_own_are_compared(pair: tuple[RunDir, RunDir]) -> None:
    """Those of one method beside the original; of two it is not known which one is meant."""
    whole = pair_runs(*pair)
    for run in pair:
        run.factors().unlink()
        first = run.read_scores()[0]
        run.append(replace(first, method="none", factors_fingerprint=""))
    assert pair_runs(*pair) == whole
    pair[1].append(replace(first, method="yarn"))
    with pytest.raises(RunError, match="yarn holds no scores of factors that it has found, or of one method alone"):
        pair_runs(*pair)


def test_runs_of_other_documents_are_refused(tmp_path: Path) -> None:
    """The same number of them, of the same lengths in another order of windows; and one answer less."""
    documents = document_numbers(MANY)
    run, other = make_finished(tmp_path / "run", 1, documents), make_finished(tmp_path / "other", 2, documents[::-1])
    with pytest.raises(RunError, match=r"The perplexity at 1,024 tokens of run and other are of other documents"):
        pair_runs(run, other)
    third = make_finished(tmp_path / "third", 3, documents)
    lines = [json.loads(line) for line in third.summaries.read_text().splitlines()]
    lines[3]["answers"] = lines[3]["answers"][1:]
    third.summaries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=r"The passkey at 1,024 tokens of run and third are of .* answers"):
        pair_runs(run, third)


def test_runs_of_other_texts_are_refused(tmp_path: Path) -> None:
    documents = document_numbers(MANY)
    run = make_finished(tmp_path / "run", 1, documents)
    other = make_finished(tmp_path / "other", 2, documents, texts="b" * 16)
    with pytest.raises(RunError, match=r"of run and other are of other texts \(a{16} and b{16}\)"):
        pair_runs(run, other)


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
        (4, {"answers": ""}, "either answers or sums of losses are needed"),
        (4, {"answers": "01x"}, "answers is '01x', not a text of 0 and 1"),
        (4, {"sums": [1.0], "counts": [1]}, "it has 1 sums and 1 counts"),
        (4, {"share": 0.5}, "fields ['share']"),
    ],
)
def test_a_damaged_file_is_refused(
    pair: tuple[RunDir, RunDir], line: int, change: dict[str, object], reason: str
) -> None:
    run, reference = pair
    lines = [asdict(summary) for summary in run.read_summaries()]
    run.summaries.write_text(
        "".join(json.dumps(one | (change if i == line else {})) + "\n" for i, one in enumerate(lines))
    )
    with pytest.raises(RunError) as refused:
        pair_runs(run, reference)
    assert f"sample-summaries.jsonl:{line + 1}: no SampleSummary record ({reason})" in f"{refused.value}"


def test_measuring_writes_them_before_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score that has pairs has one, and its sums give its value; a stop between the two loses nothing."""
    model, texts = pico.make_model(num_hidden_layers=1), np.random.default_rng(5).integers(1, 300, 4800)
    text = TokenText(texts.astype(np.int32), "measure", None, np.arange(10) * 480)
    metrics = ("perplexity", "far-context", "many-passkeys")
    settings = MeasureRecipe(lengths=(480,), windows=10, tail_tokens=20, metrics=metrics, passkeys=2)
    run = RunDir(tmp_path)
    append = run.append
    monkeypatch.setattr(run, "append", lambda *records: append(*(r for r in records if not isinstance(r, Score))))
    measure(model, None, text, settings=settings, run=run)
    assert not run.read_scores()
    monkeypatch.undo()
    scores = [score for score in measure(model, None, text, settings=settings, run=run) if is_paired(score.metric)]
    assert {score.metric for score in scores} == {"perplexity", "perplexity-last-20", "last-tokens-63", "many-passkeys"}
    kept = {(one.metric, one.context_tokens): one for one in run.read_summaries()}
    assert len(kept) == len(scores)
    for score in scores:
        one = kept[score.metric, score.context_tokens]
        share = one.answers.count("1") / len(one.answers) if one.answers else np.exp(sum(one.sums) / sum(one.counts))
        assert share == pytest.approx(score.value)
