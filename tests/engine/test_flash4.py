"""FlashAttention 4 as a kernel and as one operation with a backward pass, by a stand-in, against float64."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flash4_stand_in
import pytest
import torch
from attention_oracle import SCALE, assert_right, make_inputs, oracle
from torch import Tensor

from longrope.engine import kernels, trials
from longrope.engine.attention import attend, attend_causal, attend_within
from longrope.engine.backward import KernelPair
from longrope.engine.kernels import CPU, CUDNN, FLASH, FLASH_4, Heads

MASKS: dict[str, dict[str, Any]] = {
    "window": {"window": 9},
    "softcap": {"softcap": 1.5},
    "both": {"window": 9, "softcap": 1.5},
    "sinks": {"sinks": True},
    "all": {"window": 9, "softcap": 1.5, "sinks": True},
}
GPU = torch.device("cuda", 0)  # it need not be there
LENGTHS = [(37, 37), (18, 36), (2, 37)]


@pytest.fixture(autouse=True)
def forget_package() -> Iterator[None]:
    """No test sees the package of another one."""
    flash4_stand_in.forget()
    yield
    flash4_stand_in.forget()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """The stand-in, as if it were the only kernel, in short trials; the calls of it."""
    flash4_stand_in.install(monkeypatch, tmp_path)
    monkeypatch.setattr(trials, "list_kernels", lambda _: (FLASH_4,))
    monkeypatch.setattr(trials, "TRIAL_TOKENS", 16)
    for choice in (trials.choose_for_gradients, trials.choose_masked):
        choice.cache_clear()
    from flash_attn.cute import interface  # type: ignore[import-not-found]

    yield interface.CALLS
    for choice in (trials.choose_for_gradients, trials.choose_masked):
        choice.cache_clear()


def expected_of(given: list[Tensor], sinks: Tensor | None, masks: dict[str, Any]) -> Tensor:
    """By the brute-force softmax; a sink takes its share of each sum."""
    output, nats = oracle(*given, **masks)
    return output if sinks is None else output * torch.sigmoid(nats - sinks.double()[:, None])[..., None]


def assert_same_gradients(output: Tensor, expected: Tensor, given: list[Tensor]) -> None:
    toward = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(output, given, toward)
    for ours, plain in zip(found, torch.autograd.grad(expected, given, toward.double()), strict=True):
        assert plain.abs().max() > 0
        assert_right(ours, plain.double())


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("masks", [{}, *MASKS.values()], ids=["plain", *MASKS])
def test_output_and_gradients(package: list[Any], lengths: tuple[int, int], masks: dict[str, Any]) -> None:
    """Queries at the end of the keys, two of them on each key head."""
    given = [x.requires_grad_() for x in make_inputs((4, 2), lengths)]
    plain = {name: x for name, x in masks.items() if name != "sinks"}
    sinks = torch.tensor([-30.0, 0.7, 2.5, 30.0]).requires_grad_() if "sinks" in masks else None
    output = attend_causal(*given, scale=SCALE, sinks=sinks, **plain)
    assert_right(output.detach(), expected_of(given, sinks, plain).detach())
    leaves = given if sinks is None else [*given, sinks]
    assert_same_gradients(output, expected_of(given, sinks, plain), leaves)
    own = [call for call in package if call[1:3] == lengths]
    assert [call[0] for call in own] == ["forward", "backward"]
    window = plain.get("window")
    assert own[1][4:] == ((None, None) if window is None else (window - 1, 0), plain.get("softcap", 0.0))


def test_gradients_within_documents(package: list[Any]) -> None:
    """Each document by a call of its own, its queries at the end of its keys."""
    given = [x.requires_grad_() for x in make_inputs((4, 2), (20, 37), rows=1)]
    output = attend_within([(0, 11, 23)], lambda *x: attend(*x, scale=SCALE), *given)
    assert_same_gradients(output, oracle(*given, starts=(0, 11, 23))[0], given)
    assert {(6, 12), (14, 14)} <= {call[1:3] for call in package if call[0] == "backward"}


def test_a_single_query_in_a_window_goes_another_way(package: list[Any]) -> None:
    given = make_inputs((4, 2), (1, 37))
    assert_right(attend_causal(*given, scale=SCALE, window=9), oracle(*given, window=9)[0])
    assert not package


def spoil(monkeypatch: pytest.MonkeyPatch, folder: Path, right: str, wrong: str) -> None:
    """Put another stand-in before the first one, in which something is wrong."""
    assert right in flash4_stand_in.INTERFACE
    flash4_stand_in.install(monkeypatch, folder, flash4_stand_in.INTERFACE.replace(right, wrong))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("wrong", ["v.to(scores) * 1.1", "v.to(scores).roll(1, 2)", "v.to(scores) * float('nan')"])
def test_wrong_numbers_are_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In windows, and with gradients; then another way is taken."""
    heads = Heads(4, 2, 8)
    spoil(monkeypatch, tmp_path / "spoilt", "v.to(scores)", wrong)
    with pytest.raises(RuntimeError, match="wrong numbers"):
        trials.check_gradients(FLASH_4, torch.device("cpu"), torch.float32, heads, whole=True, backward=FLASH_4)
    given = make_inputs((4, 2), (18, 36))
    assert_right(attend_causal(*given, scale=SCALE, window=9), oracle(*given, window=9)[0])


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("right", ["slope * softmax_scale", "share.mT @ dout", "toward.mT @ q", "exp() * met"])
def test_wrong_gradients_are_noticed(right: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = torch.device("cpu"), torch.float32, Heads(4, 2, 8)
    masks: dict[str, Any] = {"window": 99, "softcap": 1.5, "sinks": torch.zeros(4)}
    trials.check_gradients(FLASH_4, *given, whole=False, backward=FLASH_4, **masks)
    spoil(monkeypatch, tmp_path / "spoilt", right, f"1.5 * {right}" if "@" in right else f"{right} * 1.5")
    trials.check_gradients(FLASH_4, *given, whole=False, **masks)
    with pytest.raises(RuntimeError, match="wrong numbers"):
        trials.check_gradients(FLASH_4, *given, whole=False, backward=FLASH_4, **masks)


# The choice


def test_it_is_offered_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On GPUs of capability 9.0 or later; flash-attn 2 has the package without this part."""
    (tmp_path / "two" / "flash_attn").mkdir(parents=True)
    (tmp_path / "two" / "flash_attn" / "__init__.py").write_text("raise ImportError('built for another torch')")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    capability = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "two")
        assert FLASH_4 not in kernels.list_kernels(GPU)
    flash4_stand_in.install(monkeypatch, tmp_path)
    for found in ((9, 0), (10, 0), (12, 0), (8, 9), (8, 0)):
        capability[0] = found
        assert (FLASH_4 in kernels.list_kernels(GPU)) == (found >= (9, 0))


@pytest.mark.parametrize(
    "failure", ["AssertionError('no such head')", "ImportError('other torch')", "RuntimeError('x')"]
)
def test_what_fails_is_no_kernel(failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flash4_stand_in.install(monkeypatch, tmp_path, f"def flash_attn_func(*_, **__): raise {failure}")
    with pytest.raises(RuntimeError, match=r"no such head|other torch|x"):
        kernels.partial_attention(FLASH_4, *make_inputs((4, 2), (9, 9)), causal=True, scale=SCALE)


def test_the_fastest_kernels_are_taken_each_way() -> None:
    """Measured apart forwards and backwards, for whole windows and for queries at their end."""
    forwards = {CUDNN: 400.0, FLASH: 300.0, FLASH_4: 500.0, kernels.HOPPER: 600.0}
    backwards = {CUDNN: 350.0, FLASH: 300.0, FLASH_4: 325.0}
    asked = []

    def speed(kernel: kernels.Kernel, *, way: str, lengths: tuple[int, int], **_: Any) -> float:
        asked.append(lengths)
        return (forwards if way == trials.FORWARD else backwards)[kernel]

    choose = partial(trials.choose_for_gradients, GPU, torch.bfloat16, Heads(4, 2, 8), speed=speed)
    for listed, best in (
        ((CUDNN, FLASH, kernels.EFFICIENT), KernelPair(CUDNN, CUDNN)),
        ((CUDNN, FLASH, kernels.HOPPER), KernelPair(kernels.HOPPER, CUDNN)),
        ((FLASH, FLASH_4), KernelPair(FLASH_4, FLASH_4)),
        ((CUDNN, FLASH, FLASH_4), KernelPair(FLASH_4, CUDNN)),
    ):
        for whole in (True, False):
            pair, reason = choose(whole=whole, listed=listed)
            assert pair == best
            assert f"gradients by {best.backward.name} attention" in reason
    tokens = kernels.TRIAL_TOKENS
    assert set(asked) == {(tokens, tokens), (tokens // 2, tokens)}


def test_a_forward_kernel_whose_output_spoils_gradients_is_not_taken() -> None:
    """Its own numbers are right; the log-sum-exp is not in nats, which the backward pass of another kernel reads."""

    def in_bits(*given: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
        output, lse = CPU.run(*given, **settings)
        return output, lse / math.log(2)

    spoiled = replace(CPU, name="in bits", run=in_bits)
    measured = partial(trials.measure, device=torch.device("cpu"), dtype=torch.float32, heads=Heads(4, 2, 8))
    for kernel, wrong in ((CPU, False), (spoiled, True)):
        with pytest.raises(RuntimeError, match="wrong numbers") if wrong else nullcontext():
            assert measured(kernel, lengths=(64, 64), way=trials.FORWARD, backward=CPU, repeats=1) > 0
        assert measured(kernel, lengths=(64, 64), way=trials.FORWARD, repeats=1) > 0
    assert measured(CPU, lengths=(32, 64), way=trials.BACKWARD, repeats=1) > 0


def test_no_kernel_with_gradients_leaves_torchs() -> None:
    """As on a CPU; and where the only one gives wrong numbers."""

    def fail(*_: object, **__: object) -> float:
        raise RuntimeError("wrong numbers")

    choose = partial(trials.choose_for_gradients, torch.device("cpu"), torch.float32, Heads(4, 2, 8), whole=False)
    assert choose() == choose(listed=(FLASH,), speed=fail) == (None, "")
    assert choose(whole=True)[0] == KernelPair(CPU, CPU)


# Merged parts


@pytest.mark.usefixtures("with_backward")
@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
@pytest.mark.parametrize("lengths", [(37, 37), (5, 37), (18, 36), (1, 37)])
def test_gradients_of_merged_parts(heads: tuple[int, int], lengths: tuple[int, int]) -> None:
    """A kernel that cannot align: the prefix and the triangle have their backward passes with what was merged."""
    given = [x.requires_grad_() for x in make_inputs(heads, lengths)]
    output = attend(*given, scale=SCALE)
    assert_right(output.detach(), oracle(*given)[0].detach())
    assert_same_gradients(output, oracle(*given)[0], given)
