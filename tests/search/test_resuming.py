"""Both searches are deterministic, and an interrupted search ends as an uninterrupted one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from valleys import (
    BOTH,
    EVOLUTION,
    GRADIENT,
    QUICK_DESCENT,
    QUICK_EVOLUTION,
    InterruptError,
    Search,
    Valley,
    descending,
    evolving,
    without_seconds,
)

from longrope.errors import RunError
from longrope.runs.records import Trial, read_records
from longrope.search.score import TrialLog


def test_evolution_is_decided_by_its_seed() -> None:
    logs = [TrialLog(None, EVOLUTION) for _ in range(3)]
    found = [evolving(Valley(), log, seed=seed) for log, seed in zip(logs, (7, 7, 8), strict=True)]
    assert found[0] == found[1]
    assert without_seconds(logs[0].made) == without_seconds(logs[1].made)
    assert without_seconds(logs[0].made) != without_seconds(logs[2].made)


def test_descent_is_deterministic() -> None:
    logs = [TrialLog(None, GRADIENT) for _ in range(2)]
    assert descending(Valley(), logs[0]) == descending(Valley(), logs[1])
    assert without_seconds(logs[0].made) == without_seconds(logs[1].made)


@BOTH
@pytest.mark.parametrize("share", [0.0, 0.02, 0.15, 0.5, 0.9, 0.999])
def test_an_interrupted_search_goes_on_and_repeats_nothing(
    search: Search, method: str, share: float, tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"
    whole, whole_log = Valley(), TrialLog(tmp_path / "whole.jsonl", method)
    expected = search(whole, whole_log)
    first = Valley(patience=int(share * len(whole.calls)))
    with pytest.raises(InterruptError):
        search(first, TrialLog(path, method))
    second, log = Valley(), TrialLog(path, method)
    assert search(second, log) == expected
    assert first.calls + second.calls == whole.calls
    assert without_seconds(read_records(path, Trial)) == without_seconds(whole_log.made)
    assert without_seconds(log.made) == without_seconds(whole_log.made)


@BOTH
def test_a_search_interrupted_again_and_again_ends_the_same(search: Search, method: str, tmp_path: Path) -> None:
    """Seven more evaluations each time, and every second time the last line is torn by the crash."""
    whole = Valley()
    expected, found, rounds, spent = search(whole), None, 0, 0
    while found is None:
        valley = Valley(patience=7)
        try:
            found = search(valley, TrialLog(tmp_path / "trials.jsonl", method))
        except InterruptError:
            with (tmp_path / "trials.jsonl").open("a") as file:
                file.write('{"method": "longrope-' * (rounds % 2))
        rounds, spent = rounds + 1, spent + len(valley.calls)
    assert found == expected
    assert spent == len(whole.calls)
    assert rounds == -(-len(whole.calls) // 7) or rounds == len(whole.calls) // 7 + 1


@BOTH
def test_a_finished_search_is_answered_from_its_log_alone(search: Search, method: str, tmp_path: Path) -> None:
    expected = search(Valley(), TrialLog(tmp_path / "trials.jsonl", method))
    seen: list[Trial] = []
    log = TrialLog(tmp_path / "trials.jsonl", method, on_trial=seen.append)
    assert search(Valley(patience=0), log) == expected
    assert seen == log.made


def test_two_searches_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with pytest.raises(InterruptError):
        evolving(Valley(patience=20), TrialLog(path, EVOLUTION))
    descended = descending(Valley(), TrialLog(path, GRADIENT))
    assert evolving(Valley(), TrialLog(path, EVOLUTION)) == evolving(Valley())
    assert descending(Valley(patience=0), TrialLog(path, GRADIENT)) == descended


@pytest.mark.parametrize(
    ("search", "method", "changes"),
    [
        (evolving, EVOLUTION, {"seed": 1}),
        (evolving, EVOLUTION, {"attention_factor": 1.2}),
        (evolving, EVOLUTION, {"settings": replace(QUICK_EVOLUTION, mutation_probability=0.5)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, validate_every=2)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, learning_rate=0.2)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, start="yarn")}),
    ],
)
def test_the_log_of_another_search_is_refused(
    search: Search, method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"
    search(Valley(), TrialLog(path, method))
    before = path.read_bytes()
    with pytest.raises(RunError, match="another search"):
        search(Valley(), TrialLog(path, method), **changes)
    assert path.read_bytes() == before
