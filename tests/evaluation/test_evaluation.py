"""What a measurement refuses, records, resumes and takes from its samples."""

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intervals import document_interval
from measurements import SETTINGS
from measuring import Passes, brute_losses, without_seconds
from spying import before

from longrope import evaluation
from longrope.data import TokenText, fingerprint, sketch
from longrope.errors import FactorsError, RecipeError, RunError, TextsError
from longrope.evaluation import Evaluation, measure, name_subject
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors, baseline_factors
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir


def test_measuring_on_searched_text_is_refused(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(128, 3)
    factors = replace(baseline_factors(model.spec, "ntk", 128).factor_sets[0], searched=sketch(windows))
    with pytest.raises(TextsError, match="no search has seen"):
        measure(model, factors, text, settings=SETTINGS)
    other = TokenText(np.random.default_rng(0).integers(0, 300, 3000).astype(np.int32), "measure")
    assert measure(model, factors, other, settings=SETTINGS)


def test_every_factor_set_is_asked_what_it_was_searched_on(model: LanguageModel, text: TokenText) -> None:
    short = baseline_factors(model.spec, "ntk", 96).factor_sets[0]
    factor_sets = (
        replace(short, searched=sketch(text.windows(128, 3))),
        baseline_factors(model.spec, "ntk", 128).factor_sets[0],
    )
    with pytest.raises(TextsError, match="no search has seen"):
        measure(model, FactorTable(factor_sets), text, settings=SETTINGS)


def test_windows_are_compared_once_with_what_factors_were_searched_on(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again for other factors, and for other windows."""
    compared: list[tuple[int, int]] = []
    before(monkeypatch, evaluation, "check_unsearched", lambda windows, some: compared.append((len(windows), some[0])))
    found = baseline_factors(model.spec, "ntk", 128).factor_sets[0]
    evaluating = Evaluation(text, SETTINGS, name_subject(model, None))
    for sketched in (7, 9):
        for _ in range(2):
            evaluating.measure(name_subject(model, replace(found, searched=(sketched, 2**63))))
            evaluating.readings(name_subject(model, replace(found, searched=(sketched, 2**63))))
    assert compared == [(3, 7), (3, 9)]
    other = replace(evaluating, settings=replace(SETTINGS, windows=2))
    other.measure(name_subject(model, replace(found, searched=(7, 2**63))))
    assert compared[2:] == [(2, 7)]


def test_factors_that_do_not_reach_or_do_not_fit_are_refused(model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(FactorsError, match="longest window of these factors is 96"):
        measure(model, baseline_factors(model.spec, "ntk", 96), text, settings=SETTINGS)
    foreign = replace(baseline_factors(model.spec, "ntk", 128).factor_sets[0], spec_fingerprint="0" * 16)
    with pytest.raises(FactorsError, match="geometry"):
        measure(model, foreign, text, settings=SETTINGS)


def test_unknown_metrics_are_refused(model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(RecipeError, match="beauty"):
        measure(model, None, text, settings=replace(SETTINGS, metrics=("perplexity", "beauty")))


def test_too_short_texts_are_refused(model: LanguageModel) -> None:
    text = TokenText(np.zeros(100, np.int32), "measure")
    with pytest.raises(TextsError, match="measure text has 100 tokens"):
        measure(model, None, text, settings=SETTINGS)


def test_the_lengths_default_to_the_trained_and_the_target_window(model: LanguageModel, text: TokenText) -> None:
    settings = MeasureRecipe(metrics=("perplexity",), windows=1)
    assert [s.context_tokens for s in measure(model, None, text, settings=settings)] == [64]
    ntk = baseline_factors(model.spec, "ntk", 192)
    assert [s.context_tokens for s in measure(model, ntk, text, settings=settings)] == [64, 192]


def test_records_carry_everything_and_nothing_twice(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    settings = MeasureRecipe(lengths=(600, 64, 600), windows=2, tail_tokens=16, passkeys=10, metrics=("perplexity",))
    long_settings = replace(settings, lengths=(600,), metrics=("passkey", "perplexity"))
    ntk = baseline_factors(model.spec, "ntk", 600)
    scores = measure(model, None, text, settings=settings, run=run, seed=4)
    scores += measure(model, ntk, text, settings=long_settings, run=run, seed=4)
    lines = [json.loads(line) for line in run.scores.read_text().splitlines()]
    assert sorted(map(json.dumps, lines)) == sorted(json.dumps(asdict(score)) for score in scores)
    for line in lines:
        assert list(line) == [f.name for f in fields(Score)]
        assert line["low"] * (1 - 1e-9) <= line["value"] <= line["high"] * (1 + 1e-9)
        assert (line["seed"], line["model"]) == (4, model.name)
        assert (line["method"], bool(line["factors_fingerprint"])) in {("none", False), ("ntk", True)}
        assert line["seconds"] > 0
        assert min(line["num_tokens"], line["num_windows"]) > 0
        assert re.fullmatch(r"[0-9a-f]{16}", line["texts_fingerprint"])
    keys = [(line["method"], line["context_tokens"], line["metric"]) for line in lines]
    assert len(set(keys)) == len(keys) == 2 * 2 + 2 + 11
    perplexities = {line["texts_fingerprint"] for line in lines if line["metric"].startswith("perplexity")}
    assert perplexities == {fingerprint(text.windows(600, 2))}


def test_progress_and_estimates_are_of_what_is_left(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """Of a new run all, of a finished one nothing, of one without scores of a length that one, by samples, too."""
    settings = MeasureRecipe(lengths=(64, 600), metrics=("perplexity",), windows=2, tail_tokens=16)
    subject = name_subject(model, baseline_factors(model.spec, "ntk", 600))

    def measured(run: RunDir, lengths: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[int], int]:
        reports: list[tuple[int, int]] = []
        evaluation = Evaluation(
            text,
            replace(settings, lengths=lengths),
            name_subject(model, None),
            SampleCache(run),
            on_progress=lambda _, done, total: reports.append((done, total)),
        )
        kept = evaluation.kept(subject)
        left = [reading.tokens for reading in evaluation.readings(subject, kept)]
        evaluation.measure(subject)
        return reports, left, len(kept)

    run, windows = RunDir(tmp_path), 2 * (600 // 64)
    reports, left, kept = measured(run, (64, 600))
    assert (reports[-1], left, kept) == ((windows + 2, windows + 2), [64, 600], 0)
    assert measured(run, (64, 600)) == ([], [], 4)
    lines = run.scores.read_text().splitlines(keepends=True)
    run.scores.write_text("".join(line for line in lines if '"context_tokens": 600' not in line))
    assert measured(run, (64, 600)) == ([(2, 2)], [600], 2)


def test_what_is_in_the_run_is_not_measured_again(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    settings = MeasureRecipe(lengths=(64, 600), metrics=("perplexity",), windows=2, tail_tokens=16, passkeys=10)
    both = replace(settings, lengths=(600,), metrics=("perplexity", "passkey"))
    ntk, run = baseline_factors(model.spec, "ntk", 600), RunDir(tmp_path)
    first = measure(model, ntk, text, settings=settings, run=run)
    second = measure(model, ntk, text, settings=both, run=run)
    written = run.scores.read_bytes()
    passes.forbidden = True
    again = measure(model, ntk, text, settings=settings, run=run)
    assert sorted(again, key=repr) == sorted(first, key=repr)
    assert sorted(measure(model, ntk, text, settings=both, run=run), key=repr) == sorted(second, key=repr)
    assert run.scores.read_bytes() == written
    with pytest.raises(AssertionError, match="measured again"):
        measure(model, None, text, settings=settings, run=run, method="none")


def interrupted_after(lines: int, model: LanguageModel, text: TokenText, folder: Path) -> tuple[list[Score], ...]:
    """Measure; again with a file cut in the line after ``lines`` whole ones: scores and file of both."""
    settings = MeasureRecipe(lengths=(600,), windows=2, tail_tokens=16, passkeys=10)
    whole, broken = RunDir(folder / "whole"), RunDir(folder / "broken")
    expected = measure(model, None, text, settings=settings, run=whole)
    content = whole.scores.read_bytes()
    assert content.count(b"\n") == 13
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    broken.scores.write_bytes(content[: ([0, *ends][lines] + 20)])
    scores = measure(model, None, text, settings=settings, run=broken)
    files = [read_records(run.scores, Score) for run in (broken, whole)]
    broken_file, whole_file, scores, expected = (
        sorted(without_seconds(some), key=repr) for some in (*files, scores, expected)
    )
    return scores, expected, broken_file, whole_file


@pytest.mark.parametrize("lines", [0, 1, 2, 7, 12, 13])
def test_measuring_that_was_interrupted_gives_the_same_scores(
    lines: int, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    scores, expected, *_ = interrupted_after(lines, model, text, tmp_path)
    assert scores == expected


@pytest.mark.parametrize("lines", [1, 7])
def test_measuring_that_was_interrupted_writes_every_score_once(
    lines: int, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Whoever reads scores.jsonl must not count the parts of a metric twice: cut among them, and measured again."""
    *_, written, expected = interrupted_after(lines, model, text, tmp_path)
    assert written == expected


def measured_or_refused(*given_to_measure: Any, run: RunDir) -> list[Score] | None:
    """Scores by their order in print, or None where the run directory is refused."""
    try:
        return sorted(without_seconds(measure(*given_to_measure, settings=SETTINGS, run=run)), key=repr)
    except RunError:
        return None


def test_scores_of_other_factors_are_not_taken_for_these(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """One run directory, one method name, two tables of factors: the second is measured, or the directory refused."""
    run = RunDir(tmp_path)
    one = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    other = replace(one, lambdas=(2.0, 3.0, 4.0, 9.0))
    measure(model, one, text, settings=SETTINGS, run=run)
    expected = sorted(without_seconds(measure(model, other, text, settings=SETTINGS)), key=repr)
    assert measured_or_refused(model, other, text, run=run) in (None, expected)


def test_scores_of_other_texts_are_not_taken_for_these(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    run, other = RunDir(tmp_path), TokenText(text.tokens[::-1].copy(), "measure")
    measure(model, None, text, settings=SETTINGS, run=run)
    expected = sorted(without_seconds(measure(model, None, other, settings=SETTINGS)), key=repr)
    assert measured_or_refused(model, None, other, run=run) in (None, expected)


def test_a_missing_score_is_computed_from_the_samples(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    """Whichever line is lost, no pass is made again; so all intervals can be computed without a model."""
    run, settings = (
        RunDir(tmp_path),
        replace(SETTINGS, metrics=("perplexity", "passkey"), lengths=(128, 600), passkeys=10),
    )
    settings = replace(settings, metrics=("perplexity",), lengths=(64, 128))
    scores = measure(model, None, text, settings=settings, run=run)
    passes.forbidden = True
    lines = run.scores.read_text().splitlines(keepends=True)
    for lost in range(len(lines)):
        run.scores.write_text("".join(line for i, line in enumerate(lines) if i != lost))
        assert measure(model, None, text, settings=settings, run=run) == scores
        assert sorted(run.scores.read_text().splitlines(keepends=True)) == sorted(lines)


def test_another_tail_is_scored_from_the_same_samples(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    run = RunDir(tmp_path)
    measure(model, None, text, settings=SETTINGS, run=run)
    passes.forbidden = True
    scores = measure(model, None, text, settings=replace(SETTINGS, tail_tokens=20), run=run)
    assert {score.metric for score in scores} == {"perplexity", "perplexity-last-20"}
    assert len(read_records(run.scores, Score)) == 4 + 2


# Documents


def of_documents(text: TokenText, count: int) -> TokenText:
    """The same tokens in so many documents."""
    return replace(text, documents=np.linspace(0, len(text.tokens), count, endpoint=False).astype(np.int64))


def test_a_score_says_what_was_resampled(model: LanguageModel, text: TokenText) -> None:
    """Whole documents of the windows, which reach over both of two windows here, by hand; values are the same."""
    settings = replace(SETTINGS, windows=2, lengths=(len(text.tokens) // 2,), tail_tokens=0)
    blocks = measure(model, None, of_documents(text, 4), settings=settings)
    documents = measure(model, None, of_documents(text, 15), settings=settings)
    assert [score.resampled for score in (*blocks, *documents)] == ["blocks", "documents"]
    assert blocks[0].value == documents[0].value
    windows = text.windows(settings.lengths[0], 2)
    starts = of_documents(text, 15).documents
    length = settings.lengths[0]
    at = np.concatenate([np.arange(length), np.arange(len(text.tokens) - length, len(text.tokens))]).reshape(2, length)
    numbers = (at[:, 1:, None] >= starts).sum(2)
    low, high = document_interval(brute_losses(model, None, windows), numbers, 0)
    assert (documents[0].low, documents[0].high) == pytest.approx((low, high), rel=1e-4)


def test_samples_of_other_documents_are_not_taken(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """The tokens are the same, and so are the losses; an interval is always of the documents that the text has."""
    run, settings = RunDir(tmp_path), replace(SETTINGS, windows=8, lengths=(128,), tail_tokens=0)
    measure(model, None, of_documents(text, 2), settings=settings, run=run)
    run.scores.unlink()
    again = measure(model, None, of_documents(text, 60), settings=settings, run=run)
    assert without_seconds(again) == without_seconds(measure(model, None, of_documents(text, 60), settings=settings))
    assert again[0].resampled == "documents"
