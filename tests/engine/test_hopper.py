"""Our kernel for Hopper: it compiles without a GPU; what it computes is compared on one, run with ``-k cuda``."""

import re
import subprocess
from contextlib import nullcontext
from subprocess import CalledProcessError
from typing import Any

import pytest
import torch
from attention_oracle import make_inputs, oracle
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.errors import TritonError
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language import NVMMASharedLayout, bfloat16

from longrope.engine import hopper
from longrope.engine.hopper import TILES, attend_on_hopper
from longrope.engine.kernels import FLASH

SETTINGS = ("STAGES", "WARPGROUPS", "REGISTERS")
SHARED_BYTES = 227 * 1024  # what one block of a Hopper GPU can have
needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="no Hopper GPU is here"
)


@pytest.mark.slow
@pytest.mark.parametrize("dim", TILES)
def test_it_compiles_and_keeps_everything_in_registers(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For Hopper, as it is called; with a register too many products would wait for memory."""
    tile, *settings = TILES[dim]
    names = hopper.attention_kernel.arg_names
    kinds = {"out": "*bf16", "lse": "*fp32", "scale": "fp32"} | dict.fromkeys(SETTINGS, "constexpr")
    for name, rows in (("query_map", 64), ("key_map", tile), ("value_map", tile)):
        layout = NVMMASharedLayout.get_default_for([1, 1, rows, dim], bfloat16)
        number = "fp16" if name == "key_map" else "bf16"
        kinds[name] = f"tensordesc<{number}[1, 1, {rows}, {dim}],{layout!r}>"
    source = GluonASTSource(
        hopper.attention_kernel,
        {name: kinds.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in zip(SETTINGS, settings, strict=True)},
        {
            (names.index(name),): [["tt.divisibility", 16]]
            for name in names
            if name in ("out", "lse") or "stride" in name
        },
    )
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_BYTES
    messages = subprocess.run(
        [triton.knobs.nvidia.ptxas.path, "-arch=sm_90a", "-v", "-o", "/dev/null", "-"],
        input=compiled.asm["ptx"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    stored, loaded = map(int, re.findall(r"(\d+) bytes spill", messages))
    assert stored + loaded < 100  # outside of the loops
    assert "serialized" not in messages


def assert_as_oracle(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = True, scale: float = 0.1) -> None:
    """As far from the truth as the rounding of shares to bfloat16 and of scaled queries to float16 explains."""
    output, total = attend_on_hopper(query, key, value, causal=causal, scale=scale)
    query, key, value = (x.cpu() for x in (query, key, value))
    expected, nats = oracle(query, key, value, causal=causal, scale=scale)
    squares = query.double().square() @ key.double().square().repeat_interleave(query.shape[1] // key.shape[1], 1).mT
    slack = 4 * 2**-12 * scale * squares.max().sqrt().item()  # nats, four deviations of a score
    largest = value.abs().max().item()
    torch.testing.assert_close(output.double().cpu(), expected, rtol=2e-2, atol=(2e-3 + slack) * largest)
    torch.testing.assert_close(total.double().cpu(), nats, rtol=0, atol=4e-3 + slack)


@needs_hopper
@pytest.mark.parametrize("dim", TILES)
@pytest.mark.parametrize(
    ("lengths", "causal"),
    [
        ((1, 1), True),
        ((1, 700), True),
        ((192, 192), True),
        ((1000, 1000), True),
        ((700, 1531), True),
        ((193, 4000), True),
        ((200, 1000), False),
        ((1000, 200), False),
        ((64, 1024), False),
    ],
)
def test_cuda_whole_tiles_masked_tiles_and_what_is_left(dim: int, lengths: tuple[int, int], causal: bool) -> None:
    assert_as_oracle(*make_inputs((6, 2), lengths, dim=dim, dtype=torch.bfloat16, device="cuda"), causal=causal)


@needs_hopper
@pytest.mark.parametrize("dim", TILES)
def test_cuda_inputs_lie_anywhere(dim: int) -> None:
    """Heads behind tokens as a projection leaves them, a part of a larger buffer, and rows that no copy can read."""
    query, key, value = make_inputs((4, 4), (500, 500), dim=dim, dtype=torch.bfloat16, device="cuda")
    wide = torch.zeros((2, 4, 700, dim + 3), dtype=torch.bfloat16, device="cuda")
    wide[:, :, 100:600, :dim] = value
    behind = query.transpose(1, 2).contiguous().transpose(1, 2)
    buffer = torch.full((2, 4, 900, dim), torch.nan, dtype=torch.bfloat16, device="cuda")
    buffer[:, :, :500] = key
    assert_as_oracle(behind, buffer[:, :, :500], wide[:, :, 100:600, :dim])
    assert_as_oracle(query, key[:, :1].expand(2, 4, 500, dim), value)


@needs_hopper
@pytest.mark.parametrize("dim", TILES)
@pytest.mark.parametrize("sharpness", [1.0, 4.0, 16.0])
def test_cuda_it_is_as_exact_as_torchs_kernels(dim: int, sharpness: float) -> None:
    """Also where few keys take all, and a small error of a large score counts; with and without bases to subtract."""
    query, key, value = make_inputs((4, 2), (1500, 1500), dim=dim, dtype=torch.bfloat16, device="cuda")
    query *= sharpness
    scale = 0.1 * min(1.0, 128 / dim) ** 0.5  # scores of heads of 256 spread as those of 128
    expected, _ = oracle(query.cpu(), key.cpu(), value.cpu(), scale=scale)
    errors = [
        (kernel(query, key, value, causal=True, scale=scale)[0].double().cpu() - expected).square().mean().sqrt().item()
        for kernel in (attend_on_hopper, FLASH.run)
    ]
    assert errors[0] < 1.25 * errors[1], errors


@needs_hopper
@pytest.mark.parametrize("dim", TILES)
def test_cuda_a_key_far_above_the_last_ones(dim: int) -> None:
    """It lies some hundred nats above all that the base was taken from: those blocks are done again."""
    query, key, value = make_inputs((2, 1), (1200, 1200), dim=dim, dtype=torch.bfloat16, device="cuda")
    key[0, :, 5] = 40 * query[0, 0, 700]
    scores = 0.1 * (query[0, 0] @ key[0, 0].T)
    assert scores[700, 5] > scores[700, 6:701].max() + 150
    assert_as_oracle(query, key, value)


@needs_hopper
def test_cuda_what_is_not_a_number_stays_so() -> None:
    query, key, value = make_inputs((2, 1), (1000, 1000), dim=64, dtype=torch.bfloat16, device="cuda")
    key[0, 0, 300, 0] = torch.nan
    output, total = attend_on_hopper(query, key, value, causal=True, scale=0.1)
    assert output[0, :, 300:].isnan().all()
    assert total[0, :, 300:].isnan().all()
    assert output[0, :, :300].isfinite().all()
    assert output[1].isfinite().all()


@needs_hopper
def test_cuda_a_key_that_float16_cannot_hold_is_seen() -> None:
    query, key, value = make_inputs((2, 1), (1000, 1000), dim=64, dtype=torch.bfloat16, device="cuda")
    key[0, 0, 300, 0] = 1e5
    query[:, :, :, 0] = -1e-3
    output, _ = attend_on_hopper(query, key, value, causal=True, scale=0.1)
    assert output[0, :, 300:].isnan().all()
    assert output[0, :, :300].isfinite().all()


@pytest.mark.parametrize(
    "failure",
    [OSError("no room"), CalledProcessError(1, "cc"), AssertionError("no libcuda"), TritonError("newer")],
    ids=repr,
)
def test_what_does_not_compile_is_no_kernel(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """No C compiler, no headers, another Triton: another kernel is to be taken."""

    class Broken:
        def __getitem__(self, _: tuple[int, int]) -> Any:
            raise failure

    monkeypatch.setattr(hopper, "attention_kernel", Broken())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    with pytest.raises(RuntimeError, match=r"Triton [\d.]+ does not compile it: "):
        attend_on_hopper(*make_inputs((2, 1), (9, 9), dim=64, dtype=torch.bfloat16), causal=True, scale=0.1)


def test_queries_that_do_not_stand_at_the_end_of_the_keys_are_refused() -> None:
    """They would wait for keys that nobody copies."""
    for lengths, causal in (((9, 8), True), ((0, 8), False), ((8, 0), False)):
        given = make_inputs((2, 1), lengths, dim=64, dtype=torch.bfloat16)
        with pytest.raises(RuntimeError, match=f"{lengths[0]} queries cannot stand at the end of {lengths[1]} keys"):
            attend_on_hopper(*given, causal=causal, scale=0.1)


@needs_hopper
def test_cuda_a_million_keys() -> None:
    """Tensor cores sum them; the sums stay as exact as a share."""
    query, key, value = make_inputs((2, 1), (64, 2**20), rows=1, dim=64, dtype=torch.bfloat16, device="cuda")
    output, total = attend_on_hopper(query, key, value, causal=True, scale=0.1)
    expected, nats = oracle(query.cpu(), key.cpu(), value.cpu(), scale=0.1)
    assert (output.double().cpu() - expected).norm() < 0.01 * expected.norm()
    torch.testing.assert_close(total.double().cpu(), nats, rtol=0, atol=6e-3)


@needs_hopper
@pytest.mark.parametrize(("dim", "dtype"), [(96, torch.bfloat16), (64, torch.float16)])
def test_cuda_other_heads_and_numbers_are_refused(dim: int, dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match="takes heads of 64, 128 or 256 in bfloat16 on Hopper alone"):
        attend_on_hopper(*make_inputs((2, 1), (9, 9), dim=dim, dtype=dtype, device="cuda"), causal=True, scale=0.1)
