"""The rotary module that takes the place of a model's own.

Shape legend: B = batch, N = positions, P = rotated pairs.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from longrope.rope import RescaleFactors, RopeSpec

LAYOUTS: dict[Literal["half", "interleaved"], Any] = {
    "half": lambda angles: torch.cat((angles, angles), dim=-1),
    "interleaved": lambda angles: angles.repeat_interleave(2, dim=-1),
}


class RescaledRotary(nn.Module):
    """Our rotary module: angles in float64, start tokens, attention factor, optionally learnable lambdas.

    With factors that change nothing it hands over to the model's own module, so logits stay bit-identical.
    """

    def __init__(
        self,
        native: Any,
        spec: RopeSpec,
        factors: RescaleFactors,
        *,
        learnable: bool = False,
        precision: torch.dtype = torch.float64,
    ) -> None:
        """Take the place of ``native`` with these factors; with ``learnable`` they become float64 parameters."""
        super().__init__()
        self._precision = precision
        self._native = (native,)  # in a tuple, so that it is no submodule
        self._spec = spec
        self._start_tokens = factors.start_tokens
        self._identity = factors.is_identity and not learnable
        self.lambdas = nn.Parameter(torch.tensor(factors.lambdas, dtype=torch.float64), requires_grad=learnable)
        self.attention_factor = nn.Parameter(
            torch.tensor(factors.attention_factor, dtype=torch.float64), requires_grad=learnable
        )

    @property
    def native(self) -> Any:
        """The model's own rotary module."""
        return self._native[0]

    def forward(self, x: Tensor, position_ids: Tensor, **extra: Any) -> tuple[Tensor, Tensor]:
        """Return cos and sin ([B, N, rotary_dim], the dtype of x) for position_ids [B, N].

        The angles are n * f / lambda in float64: at n = 2 ** 21 float32 would be off by up to 0.06 rad.
        """
        if self._identity:
            return self.native(x, position_ids, **extra)  # type: ignore[no-any-return]
        frequencies = torch.from_numpy(self._spec.frequencies).to(x.device)
        positions = position_ids[..., None].to(self._precision)
        rescaled = frequencies / self.lambdas.to(x.device)
        angles = positions * torch.where(positions < self._start_tokens, frequencies, rescaled).to(self._precision)
        scale = self.attention_factor.to(x.device) * self._spec.attention_factor
        layout = LAYOUTS[self._spec.pairing]
        return layout(angles.cos() * scale).to(x.dtype), layout(angles.sin() * scale).to(x.dtype)
