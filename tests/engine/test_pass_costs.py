"""What is reported before a pass: its kernel for one token, and its seconds."""

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pico
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longrope.engine import kernels, passes
from longrope.engine.pass_seconds import PassTimer
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel

# Messages before a pass


def test_the_kernel_for_one_token_is_reported_where_one_decodes(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    messages = passes.describe_pass(model)
    assert passes.describe_pass(model, decoding=True) == messages  # a CPU has one kernel
    reasons = {False: "best for a pass", True: "best for a token"}
    monkeypatch.setattr(passes, "choose_kernel", lambda *_, decoding=False: (kernels.CPU, reasons[decoding]))
    assert passes.describe_pass(model).startswith("best for a pass; tiles")
    assert passes.describe_pass(model, decoding=True).startswith("best for a pass; best for a token; tiles")


# The seconds of a pass


class Clock:
    """A clock that passes of a known cost alone move on."""

    now = 0.0

    def __init__(self, linear: float, squared: float, warm_up: float = 0.0, overhead: float = 0.0) -> None:
        """Of a pass over N tokens: overhead + linear * N + squared * N**2 seconds."""
        self.linear, self.squared, self.read = linear, squared, list[int]()
        self.warm_up, self.overhead = warm_up, overhead

    def run(self, _: Any, ids: Any) -> None:
        """A pass; the first over a length takes longer."""
        tokens = ids.shape[1]
        self.now += self.overhead + self.linear * tokens + self.squared * tokens**2
        self.now += self.warm_up * (tokens not in self.read)
        self.read.append(tokens)


@pytest.mark.parametrize("tokens", [100, 4096, 65536, 2**21])
@pytest.mark.parametrize(("linear", "squared"), [(1e-3, 0.0), (1e-4, 1e-7), (0.0, 2e-7)])
def test_seconds_of_a_pass_are_extrapolated_from_short_ones(linear: float, squared: float, tokens: int) -> None:
    """Exactly where a part grows with the tokens and one with their square; what warms up does not count."""
    clock = Clock(linear, squared, warm_up=1.0)
    expected = linear * tokens + squared * tokens**2
    found = PassTimer(pico.make_model(), run=clock.run, clock=lambda: clock.now)(tokens)
    assert found == pytest.approx(expected, rel=1e-6)
    assert max(clock.read) <= min(tokens, 4096)


def test_passes_of_many_lengths_are_timed_by_the_same_two() -> None:
    """On a slow machine each of them takes a while in which nothing is said."""
    clock = Clock(1e-4, 1e-7)
    timer = PassTimer(pico.make_model(), run=clock.run, clock=lambda: clock.now)
    for tokens in (8192, 32768, 16384, 8192):
        assert timer(tokens) == pytest.approx(1e-4 * tokens + 1e-7 * tokens**2, rel=1e-6)
    assert sorted(set(clock.read)) == [2048, 4096]
    assert len(clock.read) == 4  # each once to warm up


@pytest.mark.parametrize(("tokens", "longest"), [(65536, 16384), (2**20, 16384), (8192, 8192)])
def test_passes_are_long_enough_that_what_each_takes_is_little(tokens: int, longest: int) -> None:
    """Each takes 0.05 s whatever its length, as launching kernels does; of the first two that would hide the square."""
    clock = Clock(1e-6, 2e-9, overhead=0.05)
    found = PassTimer(pico.make_model(), run=clock.run, clock=lambda: clock.now)(tokens)
    assert found == pytest.approx(0.05 + 1e-6 * tokens + 2e-9 * tokens**2, rel=0.2)
    assert max(clock.read) == longest


def test_of_two_passes_the_faster_one_counts() -> None:
    """Other programs may take the processor's time from either."""
    seconds = iter([0.0, 4.0, 4.0, 6.0, 6.0, 12.0, 12.0, 17.0])  # passes of 4, 2, 6 and 5 seconds
    timer = PassTimer(pico.make_model(), run=lambda *_: None, clock=lambda: next(seconds))
    assert timer(4096) == pytest.approx(5.0)


def test_a_disturbed_short_pass_is_timed_again_once() -> None:
    """Of 8 seconds, and 9 for twice as many tokens, so it is made again: 3 seconds, and no third time."""
    ends = [8.0, 8.0, 9.0, 9.0, 3.0]
    seconds = iter([edge for length in ends for edge in (0.0, length)])
    timer = PassTimer(pico.make_model(), run=lambda *_: None, clock=lambda: next(seconds))
    squared = (9 - 2 * 3) / (4096**2 - 2 * 2048**2)
    linear = 9 / 4096 - squared * 4096
    for _ in range(2):
        assert timer(8192) == pytest.approx(linear * 8192 + squared * 8192**2)


def test_a_slow_pass_is_not_made_twice() -> None:
    """Where it takes longer than ten seconds; the shorter one does not here."""
    clock = Clock(4e-3, 0.0)
    timer = PassTimer(pico.make_model(), run=clock.run, clock=lambda: clock.now)
    assert timer(32768) == pytest.approx(4e-3 * 32768)
    assert clock.read == [2048, 2048, 4096]


def test_seconds_of_a_pass_are_never_negative() -> None:
    """Where a longer pass was faster by chance, the estimate still grows with the window."""
    model, ticks = pico.make_model(), count()  # every pass takes a second
    one, twice = (
        PassTimer(model, run=lambda *_: None, clock=lambda: float(next(ticks)))(tokens) for tokens in (65536, 131072)
    )
    assert 0 < one < twice


@pytest.mark.parametrize(("device", "rows", "read"), [("cuda", 8, 4), ("cuda", 3, 3), ("cpu", 8, 1)])
def test_windows_that_are_read_side_by_side_are_timed_so_on_a_gpu(device: str, rows: int, read: int) -> None:
    """Of 8,192 tokens four windows are as many as are timed together; here a pass takes a second whatever it reads."""
    seen, ticks = list[int](), count()
    config = SimpleNamespace(vocab_size=300)
    model: Any = SimpleNamespace(device=torch.device(device), network=SimpleNamespace(config=config), compiled=False)
    timer = PassTimer(model, run=lambda _, ids: seen.append(len(ids)), clock=lambda: float(next(ticks)))
    first, again = timer.beside(8192, rows), timer.beside(8192, rows)
    assert set(seen) == {read}
    assert first == again == (1 / read if read > 1 else timer(8192))
    assert timer.beside(65536, rows) == timer(65536), "one window is enough to be timed alone"


class WorkClock(TorchDispatchMode):
    """A clock that moves on by the work of real passes: what operations write, and each query's keys in attention."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and count it."""
        made = func(*args, **(kwargs or {}))
        self.now += sum(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))
        if "attention" in str(func):
            self.now += args[0].numel() * args[1].shape[-2]
        return made


def test_seconds_of_a_pass_are_about_those_that_it_takes() -> None:
    """Of one twice as long as the longest that is tried, by the work that is done in place of seconds."""
    model, tokens = pico.make_model(), 8192
    with WorkClock() as clock:
        estimated, began = PassTimer(model, clock=lambda: clock.now)(tokens), clock.now
        token_losses(model, np.arange(tokens)[None] % 300)
    assert estimated == pytest.approx(clock.now - began, rel=1e-4)
