"""How long passes take on this device: extrapolated from two shorter ones, which are timed once."""

import time
from collections.abc import Callable

import numpy as np

from longrope import distributed
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel

PROBE_TOKENS = 2048  # of the shorter of the first two passes that are timed on a CPU
ON_CUDA = 8  # times as many there
ENOUGH = 0.5  # seconds of a pass, beside which what every pass takes whatever its length is little
SLOW = 10.0  # seconds, beside which what warms up on a CPU is little


class PassTimer:
    """About how many seconds a pass over one window takes: a part grows with its tokens, and one with their square."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        run: Callable[..., object] = token_losses,
        clock: Callable[[], float] = time.perf_counter,
        longest: int | None = None,
    ) -> None:
        """Time passes of a model when they are first asked for.

        Args:
            model: that is run.
            run: the pass, of the model and token ids [1, N].
            clock: in seconds.
            longest: tokens of the passes that are timed, as where a window is read only once.
        """
        self._model, self._run, self._clock = model, run, clock
        self._first = 2 * PROBE_TOKENS * (ON_CUDA if model.device.type == "cuda" else 1)
        self._longest = longest
        self._measured: dict[int, float] = {}
        self._beside: dict[tuple[int, int], float] = {}
        self._again: set[int] = set()

    def __call__(self, tokens: int) -> float:
        """The seconds of a pass over ``tokens``, by one that takes half a second or more and one half as long.

        The first is over 4,096 tokens (32,768 on a GPU), the next ones over twice as many each.
        """
        most = max(2, tokens if self._longest is None else min(tokens, self._longest))
        longer = min(self._first, most)
        shorter = max(2, longer // 2)
        half, whole = self._seconds(shorter), self._seconds(longer)
        while longer < most and whole < ENOUGH:
            longer = min(2 * longer, most)
            shorter = longer // 2
            half, whole = self._seconds(shorter), self._seconds(longer)
        if whole < 2 * half and shorter not in self._again:  # other programs took the processor's time from it
            self._again.add(shorter)
            half = self._measured[shorter] = min(half, self._time(shorter))
        squared = max(0.0, (whole - 2 * half) / (longer**2 - 2 * shorter**2))
        linear = max(0.0, whole / longer - squared * longer)
        return float(linear * tokens + squared * tokens**2)

    def beside(self, tokens: int, rows: int) -> float:
        """The seconds of each of ``rows`` windows that are read in one pass.

        A GPU is not busy with one short window, so as many of them are timed together as have 32,768 tokens. On a CPU a
        window takes as long as alone.
        """
        rows = min(rows, self._first // tokens) if self._model.device.type == "cuda" else 1
        if rows < 2:
            return self(tokens)
        if (tokens, rows) not in self._beside:
            self._beside[tokens, rows] = min(self._time(tokens, rows), self._time(tokens, rows)) / rows
        return self._beside[tokens, rows]

    def _seconds(self, tokens: int) -> float:
        """Those of a pass over so many tokens: the faster of two, or the first alone if it is slow uncompiled."""
        if tokens not in self._measured:
            first = self._time(tokens)
            is_slow = first > SLOW and self._model.device.type == "cpu" and not self._model.compiled
            self._measured[tokens] = first if is_slow else min(first, self._time(tokens))
        return self._measured[tokens]

    def _time(self, tokens: int, rows: int = 1) -> float:
        ids = np.arange(rows * tokens).reshape(rows, tokens) % self._model.network.config.vocab_size
        began = self._clock()
        self._run(self._model, ids)
        seconds = self._clock() - began
        return distributed.on_main(lambda: seconds)  # they decide which passes follow, and processes may share these
