"""Factors of one window or model as those of another: tuned models, compositions, longer windows."""

import math
from dataclasses import replace

from longrope.errors import FactorsError
from longrope.labels import join_methods
from longrope.rope.factors import RescaleFactors, unscaled
from longrope.rope.geometry import NativeScaling, RopeSpec, extension_ratio


def tuned_spec(spec: RopeSpec, tuned_with: RescaleFactors | None) -> RopeSpec:
    """The geometry of a model tuned with some factors: they count as its own, and their window as trained.

    A second search is relative to it, and every closed form, bound and critical pair with it. It is the same at every
    length: where the model's own scaling grows, that of the window it was trained with.
    """
    if tuned_with is None:
        return replace(spec, native=None) if spec.native and spec.native.growth else spec
    tuned_with.check_spec(spec)
    lambdas = tuple((spec.lambdas_at(tuned_with.target_window) * tuned_with.lambdas).tolist())
    native = NativeScaling("longrope", lambdas, spec.attention_factor * tuned_with.attention_factor)
    return replace(spec, trained_window=tuned_with.target_window, native=native)


def counted_from(spec: RopeSpec, tuned_with: RescaleFactors | None) -> RescaleFactors | None:
    """What factors relative to ``tuned_spec`` are to be composed with: those of the tuning, None for nothing.

    A model whose own scaling grows with the length counts as tuned with what it does in its trained window.
    """
    return unscaled(spec) if tuned_with is None and spec.native and spec.native.growth else tuned_with


def at_window(spec: RopeSpec, factors: RescaleFactors, window_tokens: int) -> tuple[float, ...]:
    """The lambdas that turn as these factors do, relative to what the model itself does at another window."""
    own, others = (spec.lambdas_at(tokens) for tokens in (factors.target_window, window_tokens))
    if (own == others).all():
        return factors.lambdas
    return tuple((factors.array * own / others).tolist())


def compose(tuned_with: RescaleFactors | None, relative: RescaleFactors, spec: RopeSpec) -> RescaleFactors:
    """Factors relative to a tuned model as factors of the model itself; start tokens of the tuning stay.

    Where it had none, they are those of the relative factors. They name the methods of both, and the search that chose
    the relative ones. ``spec`` is that of the model before it was tuned.
    """
    if tuned_with is None:
        return relative
    before = at_window(spec, tuned_with, relative.target_window)
    return replace(
        relative,
        lambdas=tuple(a * b for a, b in zip(before, relative.lambdas, strict=True)),
        attention_factor=tuned_with.attention_factor * relative.attention_factor,
        start_tokens=tuned_with.start_tokens or relative.start_tokens,
        spec_fingerprint=tuned_with.spec_fingerprint,
        relaxed=tuned_with.relaxed or relative.relaxed or before != tuned_with.lambdas,
        method=join_methods(tuned_with.method, relative.method),
        chosen_by=relative.chosen_by or tuned_with.chosen_by,
    )


def relative_to(tuned_with: RescaleFactors | None, factors: RescaleFactors, spec: RopeSpec) -> RescaleFactors:
    """Factors of a model as factors relative to those that it was tuned with: what ``compose`` undoes."""
    if tuned_with is None:
        return factors
    before = at_window(spec, tuned_with, factors.target_window)
    return replace(
        factors,
        lambdas=tuple(b / a for a, b in zip(before, factors.lambdas, strict=True)),
        attention_factor=factors.attention_factor / tuned_with.attention_factor,
        start_tokens=0 if tuned_with.start_tokens else factors.start_tokens,
        relaxed=True,  # quotients may fall below 1 by rounding
    )


def extrapolate(factors: RescaleFactors, spec: RopeSpec, target_tokens: int) -> RescaleFactors:
    """Extrapolate factors found for one window to another by the logarithm of the extension ratio.

    ``lambda -> lambda ** (ln s' / ln s)``, and the attention factor's excess over 1 grows by the same share. PI, NTK,
    the critical-pair rule and YaRN's attention factor are extrapolated exactly; what a search has found keeps its
    shape. A slow pair that it has left below s falls further behind, and turns at the new window as it never did in
    training.

    Args:
        factors: found for a window beyond the trained one.
        spec: the geometry that they are relative to.
        target_tokens: the window to extrapolate to.

    Raises:
        FactorsError: the factors are not for a window beyond the trained one.
    """
    ratio = extension_ratio(spec, factors.target_window)
    if ratio <= 1:
        raise FactorsError(
            f"Factors for {factors.target_window} tokens are to be extrapolated, of a model trained on "
            f"{spec.trained_window}.",
            "Factors for a window beyond the trained one are needed.",
            "Search some first.",
        )
    share = math.log(extension_ratio(spec, target_tokens)) / math.log(ratio)
    return replace(
        factors,
        lambdas=tuple(x**share for x in factors.lambdas),
        attention_factor=1 + share * (factors.attention_factor - 1),
        target_window=target_tokens,
    )
