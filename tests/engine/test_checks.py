"""How far losses of 16 bits may lie apart, and that what lies further is refused."""

import pytest
import torch

from longrope.engine.checks import CLOSE_NATS, SPACINGS, allowed_nats, check_passes
from longrope.engine.passes import token_losses
from longrope.models import load_model
from longrope.rope import baseline_factors

HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("logit", [0.3, 1.0, 5.9, 16.0, 31.0, 100.0])
def test_what_is_allowed_is_four_steps_to_the_next_number(dtype: torch.dtype, logit: float) -> None:
    here = torch.tensor(logit, dtype=torch.float64).to(dtype)
    there = torch.nextafter(here, torch.tensor(torch.inf, dtype=dtype))
    step = there.double() - here.double()
    assert allowed_nats(dtype, here.item()) == pytest.approx(max(CLOSE_NATS, SPACINGS * step.item()))


def test_wide_formats_and_logits_without_a_size_have_the_narrow_bound() -> None:
    cases = [(torch.float32, 16.0), (torch.float64, 16.0), (torch.bfloat16, 0.0), (torch.bfloat16, torch.nan)]
    assert {allowed_nats(*case) for case in cases} == {CLOSE_NATS}


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_lies_within_the_bound_and_a_wrong_mask_beyond_it(dtype: torch.dtype) -> None:
    """Of the bundled model: rounding is what 16 bits change; the fault is a pass whose first token is not seen."""
    model = load_model("nano", device="cpu", dtype="float32")
    tokens = (torch.arange(1, 25) * 37 % 1000)[None]

    def losses(skipped: int = 0) -> torch.Tensor:
        with torch.inference_mode():
            return token_losses(model, tokens[:, skipped:])[0].float()

    exact = losses()
    model.network.to(dtype)
    with torch.inference_mode():
        allowed = allowed_nats(dtype, model.network(tokens).logits.float().amax(-1).max().item())
    check_passes(model, baseline_factors(model.spec, "yarn", 1024).factor_sets[0])
    assert (losses() - exact).abs().quantile(0.9) < 0.6 * allowed
    assert (losses(skipped=1) - exact[1:]).abs().quantile(0.9) > 2 * allowed
