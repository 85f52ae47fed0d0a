"""Samples: what scores are computed from, such as the loss of every token or the answer to every prompt.

Measuring fills the sample cache. Scores, ratios and intervals are computed from it, in any order and without a model:
no window goes through a model twice, and two methods are compared by looking both up.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.errors import RunError
from longrope.evaluation.statistics import Interval, share_interval
from longrope.labels import Source
from longrope.runs.identity import hash_inputs
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

Arrays = dict[str, NDArray[Any]]
SECONDS = "seconds"  # the name of the array that says how long the others took
KEY = "key"  # and of the one that says what they are of: what ``SampleCache.get`` was asked for
DONE = "done"  # and, while samples are made, of the one that says of how many windows or prompts they are
KEPT_AFTER = 10.0  # seconds after which the samples made so far are kept


@dataclass(frozen=True)
class Identity:
    """What makes two scores of one metric the same measurement.

    Two measurements with the same identity have the same samples, so a score that is in the records is not computed
    again.
    """

    source: Source
    context_tokens: int
    seed: int
    model: str
    texts_fingerprint: str
    factors_fingerprint: str

    @classmethod
    def of(cls, score: Score) -> "Identity":
        """The identity of a recorded score."""
        return cls(**{field.name: getattr(score, field.name) for field in fields(cls)})

    def is_same(self, other: "Identity") -> bool:
        """Whether both are the same measurement, also where one was recorded before records had ``chosen_by``."""
        named = replace(other, source=self.source)
        return self == named and self.source.known_as == other.source.known_as


@dataclass(frozen=True)
class Samples:
    """The samples of one measurement.

    Attributes:
        identity: what was measured.
        arrays: the samples by name; each metric says which ones it has, with their shapes.
        seconds: wall clock of the passes that made them. Several scores may be computed from one pass.
    """

    identity: Identity
    arrays: Arrays
    seconds: float

    def share(self, answers: str, own: NDArray[np.bool_] | None = None) -> Interval:
        """The mean of shares, with its interval by the texts that the prompts stand in.

        Args:
            answers: the array [K] of the shares.
            own: [K] which of them count; None for all.
        """
        shares, texts = self.arrays[answers], self.arrays.get("texts")
        own = np.ones(len(shares), bool) if own is None else own
        return share_interval(shares[own].tolist(), None if texts is None else texts[own])

    def score(self, metric: str, interval: Interval, *, num_tokens: int, num_windows: int) -> Score:
        """A score that was computed from these samples."""
        return Score(
            metric=metric,
            **interval._asdict(),
            num_tokens=num_tokens,
            num_windows=num_windows,
            seconds=round(self.seconds, 3),
            **self.identity.source._asdict(),
            **{field.name: getattr(self.identity, field.name) for field in fields(self.identity)[1:]},
        )


class SampleCache:
    """Samples by what decides them: in a run directory, or without one in memory for as long as this object lives.

    A loss takes four bytes and the number of its document one or two: a method that is measured on a million tokens
    takes about 5 MB for each length.
    """

    def __init__(self, run: RunDir | None = None) -> None:
        """Keep samples in this run directory."""
        self.run = run
        self._in_memory: dict[str, Arrays] = {}
        self._alike: dict[tuple[Hashable, ...], str] = {}

    def get(
        self, kind: str, key: tuple[str, ...], make: Callable[[], Arrays], alike: tuple[Hashable, ...] = ()
    ) -> tuple[Arrays, float]:
        """Look samples up, or make and keep them.

        Args:
            kind: what they are, such as ``losses``; begins the name of the file.
            key: all that decides them: model, number format, method, factors, windows or prompts.
            make: called by all processes where nothing is kept; may return the seconds of an interrupted measurement
                whose samples it took over, as ``grow`` does.
            alike: what decides them whatever the method is called: samples of one process that have the same are made
                once, and kept under each key.

        Returns:
            The arrays, and the seconds that they took when they were made.

        Raises:
            RunError: the file is damaged.
        """
        name = f"{kind}-{hash_inputs(key)}"
        kept = self._read(name)
        if kept is None:
            began = time.perf_counter()
            same = self._read(self._alike[kind, *alike]) if (kind, *alike) in self._alike else None
            kept = same or make()
            before = float(kept.get(SECONDS, 0.0))
            seconds = before if same else distributed.on_main(lambda: before + time.perf_counter() - began)
            kept |= {KEY: np.asarray(key), SECONDS: np.asarray(seconds)}
            self._write(name, kept)
        elif self.run:
            _check_kept(self.run.samples(name), kept, key)
        if self.run:  # also after a process that was killed between both
            self.run.remove(self.run.samples(_unfinished(name)))
        if alike:
            self._alike.setdefault((kind, *alike), name)
        return {name: array for name, array in kept.items() if name not in (KEY, SECONDS)}, float(kept[SECONDS])

    def grow(
        self,
        kind: str,
        key: tuple[str, ...],
        count: int,
        rows: int,
        make: Callable[[int, int], Arrays],
        passed: Callable[[int], None] = lambda _: None,
    ) -> Arrays:
        """Make samples some at a time; in a run directory those of an interrupted measurement are taken over.

        Args:
            kind: as for ``get``, in whose ``make`` this is called.
            key: likewise.
            count: of windows or prompts.
            rows: how many of them ``make`` is given at first, and twice as many each time that it takes little. What it
                has made is kept if ten seconds have passed.
            make: given the first one and the one after the last, returns their samples. Samples are joined along their
                first axis.
            passed: is called with how many were taken over.

        Returns:
            The arrays of all, and under ``seconds`` those that an interrupted measurement took.

        Raises:
            RunError: the file of the interrupted measurement is damaged.
        """
        name = _unfinished(f"{kind}-{hash_inputs(key)}")
        kept = (self._read(name) if self.run else None) or {}
        if self.run and kept:
            _check_kept(self.run.samples(name), kept, key)
        done, before = int(kept.pop(DONE, 0)), float(kept.pop(SECONDS, 0.0))
        kept.pop(KEY, None)
        if done:
            passed(done)
        parts, began = [kept] * (done > 0), time.perf_counter()
        kept_at, size = began, rows if self.run else count
        while done < count:
            started, last = time.perf_counter(), min(done + size, count)
            parts.append(make(done, last))
            done = last
            if not self.run or done == count:
                continue
            if _seconds_since(started) < KEPT_AFTER / 4:
                size *= 2
            if _seconds_since(kept_at) > KEPT_AFTER:
                parts = [_joined(parts)]
                stated = {KEY: key, SECONDS: before + _seconds_since(began), DONE: done}
                self._write(name, parts[0] | {array: np.asarray(value) for array, value in stated.items()})
                kept_at = time.perf_counter()
        return _joined(parts) | {SECONDS: np.asarray(before)}

    def _read(self, name: str) -> Arrays | None:
        kept = self.run.read_samples(name) if self.run else self._in_memory.get(name)
        return dict(kept) if kept else None

    def _write(self, name: str, arrays: Arrays) -> None:
        if self.run:
            self.run.write_samples(name, arrays)
        else:
            self._in_memory[name] = arrays


def _seconds_since(moment: float) -> float:
    """By the clock of the main process, the same in all."""
    return distributed.on_main(lambda: time.perf_counter() - moment)


def _unfinished(name: str) -> str:
    """The name of samples while they are made."""
    return f"{name}-unfinished"


def _joined(parts: list[Arrays]) -> Arrays:
    """The samples of several windows or prompts after each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_kept(path: Path, kept: Arrays, key: tuple[str, ...]) -> None:
    """Raise RunError for a file of samples of something else; its checksums were compared when it was read."""
    seconds, stated = kept.get(SECONDS), kept.get(KEY)
    timed = seconds is not None and seconds.shape == () and np.issubdtype(seconds.dtype, np.floating)
    if not timed or (stated is not None and tuple(map(str, stated.ravel())) != tuple(map(str, key))):
        raise RunError(
            f"{path} holds samples of something else.",
            "Samples of this model, these factors and these texts are needed.",
            "Remove it; its samples are made again.",
        )
