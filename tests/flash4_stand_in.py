"""What flash-attn-4 offers, with the same signatures, in plain torch: every score at once, the backward by hand.

As the package's own, the backward pass knows nothing of the forward pass but the output and the log-sum-exp that it is
given.
"""

import sys
from pathlib import Path

import pytest

INTERFACE = """
import torch

CALLS = []


def flash_attn_func(
    q, k, v, *, softmax_scale, causal, window_size=(None, None), learnable_sink=None, softcap=0.0, return_lse=False
):
    assert not torch.is_grad_enabled() or not any(x.requires_grad for x in (q, k, v)), "its own graph is not wanted"
    CALLS.append(("forward", q.shape[1], k.shape[1], causal, window_size, softcap, learnable_sink is not None))
    scores, _ = _scores(q, k, softmax_scale, causal, window_size, softcap)
    logits = scores if learnable_sink is None else torch.cat(
        (scores, learnable_sink.to(scores)[:, None, None].expand(*scores.shape[:3], 1)), dim=3
    )
    lse = logits.logsumexp(-1)
    v = v.transpose(1, 2).repeat_interleave(q.shape[2] // v.shape[2], dim=1)
    return ((scores - lse[..., None]).exp() @ v.to(scores)).to(q.dtype).transpose(1, 2), lse.float()


def _flash_attn_bwd(
    q, k, v, out, dout, lse, softmax_scale=None, causal=False, softcap=0.0, window_size_left=None,
    window_size_right=None, deterministic=False, dlse=None, learnable_sink=None,
):
    CALLS.append(("backward", q.shape[1], k.shape[1], causal, (window_size_left, window_size_right), softcap))
    scores, slope = _scores(q, k, softmax_scale, causal, (window_size_left, window_size_right), softcap)
    group = q.shape[2] // k.shape[2]
    q, k, v, out, dout = (x.transpose(1, 2).to(scores) for x in (q, k, v, out, dout))
    wide_k, wide_v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    met = (out * dout).sum(-1)
    share = (scores - lse[..., None]).exp()
    toward = share * (dout @ wide_v.mT - met[..., None]) * slope * softmax_scale
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (toward.mT @ q, share.mT @ dout))
    found = [x.to(TYPE(q)).transpose(1, 2) for x in (toward @ wide_k, dk, dv)]
    if learnable_sink is not None:
        found.append(-((learnable_sink.to(lse)[:, None] - lse).exp() * met).sum((0, 2)).to(learnable_sink.dtype))
    return tuple(found)


def TYPE(x):
    return x.dtype


def _scores(q, k, scale, causal, window_size, softcap):
    q, k = (x.transpose(1, 2).double() for x in (q, k))
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT * scale
    slope = torch.ones_like(scores)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
        slope = 1 - (scores / softcap) ** 2
    apart = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None] - torch.arange(k.shape[2])
    left, right = window_size
    seen = (apart >= 0) | torch.tensor(not causal and right is None)
    seen = seen if left is None else seen & (apart <= left)
    return scores.masked_fill(~seen, -torch.inf), slope
"""


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str = INTERFACE) -> None:
    """Have ``flash_attn.cute.interface`` be this text in one test."""
    package = folder / "flash_attn" / "cute"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interface.py").write_text(text)
    forget()
    monkeypatch.syspath_prepend(folder)


def forget() -> None:
    """Have the next import look for it anew."""
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        del sys.modules[name]
