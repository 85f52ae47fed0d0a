"""Norms and rotary embeddings of ours against the formulas in float64; on a GPU with ``-k cuda``."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from long_passes import TOKENS, gradients, needs_gpu
from torch import Tensor, nn
from transformers.models.cohere import modeling_cohere
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from longrope.engine import fusing
from longrope.engine.fusing import fused_norms, fused_rotations, is_usual_norm, is_usual_rotation, plain_rotation
from longrope.engine.passes import token_losses

needs_triton = pytest.mark.skipif(
    not any((Path(place) / "triton").exists() for place in sys.path), reason="Triton is not installed"
)


def make(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_near(found: Tensor, expected: Tensor, times: float = 1.0) -> None:
    """By as much as rounding to the format of the numbers explains."""
    rounding = max(torch.finfo(found.dtype).eps, 1e-6)
    assert ((found.double() - expected).norm() / expected.norm()).item() < times * rounding


def check_norm(dtype: torch.dtype, device: str, shape: tuple[int, ...] = (2, 35, 96)) -> None:
    """Output and gradients."""
    from longrope.engine.fused import fused_norm

    x, weight, toward = (
        make(shape, dtype, device, 0),
        make(shape[-1:], dtype, device, 1),
        make(shape, dtype, device, 2),
    )
    x[0, 0] *= 100
    leaves = [each.clone().requires_grad_() for each in (x, weight)]
    exact = [each.double().requires_grad_() for each in (x, weight)]
    ours = fused_norm(leaves[0].transpose(0, 1), leaves[1], 1e-3).transpose(0, 1)  # not one piece of memory
    plain = exact[1] * exact[0] * (exact[0].square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    assert ours.dtype == dtype
    assert_near(ours, plain)
    found = torch.autograd.grad(ours, leaves, toward)
    for a, b in zip(found, torch.autograd.grad(plain, exact, toward.double()), strict=True):
        assert_near(a, b)


def check_rotation(dtype: torch.dtype, device: str, sizes: tuple[int, ...] = (2, 9, 13, 12)) -> None:
    """Output and gradients, also of one row of cos and sin for all, and to another format."""
    from longrope.engine.fused import fused_rotation

    rows, heads, tokens, dim = sizes
    for seen in (1, rows):
        x = make((rows, tokens, heads, dim), dtype, device, 0).transpose(1, 2).requires_grad_()
        cos, sin = (make((seen, tokens, dim), torch.float32, device, seed) for seed in (1, 2))
        toward = make((rows, heads, tokens, dim), torch.bfloat16, device, 3)
        exact = x.detach().double().requires_grad_()
        plain = plain_rotation(exact, cos.double(), sin.double())
        assert_near(fused_rotation(x, cos, sin, torch.float32), plain)
        ours = fused_rotation(x, cos, sin, torch.bfloat16)
        assert ours.dtype == torch.bfloat16
        assert_near(ours, plain)
        (found,) = torch.autograd.grad(ours, x, toward)
        assert found.dtype == dtype
        assert_near(found, torch.autograd.grad(plain, exact, toward.double())[0])


@needs_triton
@pytest.mark.slow
def test_norms_and_rotations_without_a_gpu() -> None:
    """By Triton's interpreter, which has to be chosen before Triton is imported."""
    here = Path(__file__)
    work = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import test_fused as t, torch\n" + "".join(
        f"t.check_norm(torch.{dtype}, 'cpu')\nt.check_rotation(torch.{dtype}, 'cpu')\n"
        for dtype in ("float32", "bfloat16")
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", work], env=environment, check=True, timeout=300)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_and_rotations_on_cuda(dtype: torch.dtype) -> None:
    for width in (64, 576, 4096):
        check_norm(dtype, "cuda", (2, 1000, width))
    for dim in (64, 80, 128):
        check_rotation(dtype, "cuda", (2, 9, 1000, dim))


def test_usual_norms_are_known() -> None:
    assert is_usual_norm(modeling_llama.LlamaRMSNorm)
    assert is_usual_norm(modeling_qwen3.Qwen3RMSNorm)
    assert not is_usual_norm(modeling_gemma2.Gemma2RMSNorm)  # times one plus the weight
    assert not is_usual_norm(modeling_cohere.CohereLayerNorm)
    assert not is_usual_norm(nn.LayerNorm)


def test_usual_rotations_are_known() -> None:
    assert is_usual_rotation(modeling_llama.apply_rotary_pos_emb)
    assert is_usual_rotation(modeling_qwen3.apply_rotary_pos_emb)
    assert not is_usual_rotation(modeling_cohere.apply_rotary_pos_emb)  # of neighbours
    assert not is_usual_rotation(modeling_glm.apply_rotary_pos_emb)


def test_rotations_are_replaced_in_a_block_alone() -> None:
    """On a CPU they then go on to the family's own function, and gradients of cos and sin do so everywhere."""
    before, model = modeling_llama.apply_rotary_pos_emb, pico.make_model("llama")
    given = [torch.randn(shape) for shape in ((1, 4, 6, 8), (1, 2, 6, 8), (1, 6, 8), (1, 6, 8))]
    with fused_rotations(model.network):
        replaced: Any = modeling_llama.apply_rotary_pos_emb
        assert replaced is not before
        for a, b in zip(replaced(*given), before(*given), strict=True):
            assert torch.equal(a, b)
        wide = [x.transpose(1, 2) for x in given[:2]]
        for a, b in zip(replaced(*wide, *given[2:], unsqueeze_dim=2), before(*given), strict=True):
            assert torch.equal(a.transpose(1, 2), b)
    assert modeling_llama.apply_rotary_pos_emb is before
    assert fused_norms(model.network) == {}  # not on a GPU
    with fused_rotations(pico.make_model("cohere").network):
        assert not isinstance(modeling_cohere.apply_rotary_pos_emb, partial)


@needs_gpu
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
def test_passes_with_them_are_no_less_exact_on_cuda(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients in bfloat16 beside those by the family's operations, both against float32 on the CPU."""
    model, wide = pico.make_model(family, dtype=torch.bfloat16), pico.make_model(family)
    wide.network.load_state_dict({name: x.float() for name, x in model.network.state_dict().items()})
    exact = token_losses(wide, TOKENS), gradients(wide)
    model.network.to("cuda")
    found = []
    for fuses in (True, False):
        if not fuses:
            monkeypatch.setattr(fusing, "is_usual_norm", lambda _: False)
            monkeypatch.setattr(fusing, "is_usual_rotation", lambda _: False)
        assert bool(fused_norms(model.network)) == (fuses and family in ("llama", "qwen3"))
        with torch.no_grad():
            losses = token_losses(model, TOKENS)
        found.append([(losses - exact[0]).norm(), (gradients(model).float().cpu() - exact[1]).norm()])
    for ours, plain in zip(*found, strict=True):
        assert ours < 1.2 * plain + 1e-6
