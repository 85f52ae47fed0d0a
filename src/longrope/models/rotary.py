"""The rotary module that takes the place of a model's own.

Shape legend: B = batch, N = positions, P = rotated pairs, C = columns of cos and sin.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from longrope.errors import ModelError
from longrope.rope import Layout, RescaleFactors, RopeSpec, RotaryTable


def layout_of(spec: RopeSpec) -> Layout:
    """The layout that a pairing has in most models: every pair twice."""
    pairs = range(spec.num_pairs)
    halves = (*pairs, *pairs)
    return Layout(halves if spec.pairing == "half" else tuple(sorted(halves)))


class RescaledRotary(nn.Module):
    """Our rotary module: angles in float64, start tokens, attention factor, optionally learnable lambdas.

    With factors that change nothing it hands over to the model's own module, so logits stay bit-identical; so it does
    for tables of other layer types. Only where the model's own scaling depends on the length of the sequence the module
    would choose by the positions at hand, and the set of the planned length is computed here.
    """

    def __init__(
        self,
        native: Any,
        table: RotaryTable,
        factors: RescaleFactors,
        *,
        learnable: bool = False,
        precision: torch.dtype = torch.float64,
    ) -> None:
        """Take the place of ``native`` with these factors; with ``learnable`` they become float64 parameters.

        Otherwise they are no part of the network: it is trained, cast, saved and wrapped without them.
        """
        super().__init__()
        self._precision = precision
        self._native = (native,)  # in a tuple, so that it is no submodule
        self.replaced: tuple[Any, ...] = ()  # what stood in its places before, while it is installed
        self.columns: Tensor
        self.lambdas: Tensor
        self.attention_factor: Tensor
        self._spec, self.layer_type = table.geometry, table.layer_type
        self._frequencies = table.geometry.frequencies_at(factors.target_window)
        self._layout = table.layout or layout_of(table.geometry)
        last = table.geometry.num_pairs  # where an angle of 0 stands; index_select takes no negative numbers
        columns = [last if pair < 0 else pair for pair in self._layout.columns]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self._start_tokens = factors.start_tokens
        self._identity = factors.is_identity and not learnable and not table.geometry.by_length
        own = {"lambdas": factors.lambdas, "attention_factor": factors.attention_factor}
        for name, numbers in own.items():
            values = torch.tensor(numbers, dtype=torch.float64)
            setattr(self, name, nn.Parameter(values) if learnable else values)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RescaledRotary":  # noqa: FBT001, FBT002  # as of nn.Module
        """Follow the network to another device, and to no other number format."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        for name in ("lambdas", "attention_factor"):
            if name in vars(self):
                setattr(self, name, vars(self)[name].to(self.columns.device))
        return self

    def __getattr__(self, name: str) -> Any:
        """What models ask their rotary module for: its config, or the layer types that it knows."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["_native"][0], name)

    @property
    def native(self) -> Any:
        """The model's own rotary module."""
        return self._native[0]

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """Return what the native module does for position_ids [B, N] (or three equal rows of them, [3, B, N]).

        That is cos and sin, each [B, N, C], or one complex tensor of them. The angles are n * f / lambda in float64: at
        n = 2 ** 21 float32 would be off by up to 0.06 rad.

        Raises:
            ModelError: three rows of positions that differ, which no factors of one row describe.
        """
        if (self._identity and not self._beyond_native(position_ids)) or layer_type != self.layer_type:
            own = () if layer_type is None else (layer_type,)
            return self.native(x, position_ids, *own)  # type: ignore[no-any-return]
        if position_ids.ndim == 3:
            position_ids = _only_row(position_ids)
        frequencies = torch.from_numpy(self._frequencies).to(x.device)
        positions = position_ids[..., None].to(self._precision)
        rescaled = frequencies / self.lambdas.to(x.device)
        angles = positions * torch.where(positions < self._start_tokens, frequencies, rescaled).to(self._precision)
        scale = self.attention_factor.to(x.device) * self._spec.attention_factor
        return self._handed_over(angles.cos() * scale, angles.sin() * scale, scale, x.dtype)

    def _beyond_native(self, position_ids: Tensor) -> bool:
        """Whether the native module keeps its angles in a table that ends before some of these positions."""
        rows = getattr(self.native, "embed_positions", None)
        return rows is not None and bool((position_ids >= len(rows)).any())

    def _handed_over(
        self, cos: Tensor, sin: Tensor, scale: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | Tensor:
        """Cos and sin of every pair [B, N, P] as the native module gives them [B, N, C]."""
        if min(self._layout.columns) < 0:  # angles that are always 0 stand after those of the pairs
            cos = torch.cat((cos, scale.to(cos).expand(*cos.shape[:-1], 1)), dim=-1)
            sin = torch.cat((sin, torch.zeros_like(sin[..., :1])), dim=-1)
        wanted = dtype if self._layout.follows else torch.float32
        if not torch.is_grad_enabled():  # with gradients they are added up in float64
            cos, sin = cos.to(wanted), sin.to(wanted)
        cos, sin = (part.index_select(-1, self.columns).to(wanted) for part in (cos, sin))
        if self._layout.parts == "complex":
            return torch.complex(cos.float(), sin.float())
        return (cos, sin) if self._layout.parts == "cos_sin" else (sin, cos)


def _only_row(position_ids: Tensor) -> Tensor:
    """[B, N] of three equal rows of positions [3, B, N], as text has them."""
    if not (position_ids == position_ids[:1]).all():
        raise ModelError(
            "The positions of time, height and width differ.",
            "Factors are for text, whose three rows of positions are the same.",
            "Give text alone, without images or video.",
        )
    return position_ids[0]
