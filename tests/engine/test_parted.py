"""Merging of parts, and attention to a part by blocks, against all scores in float64."""

import pytest
import torch
from attention_oracle import SCALE, assert_right, every_head, make_inputs, oracle

from longrope.engine.merging import merge_parts
from longrope.engine.parted import attend_in_band
from longrope.rope.near_exact import Met, Part


def test_parts_are_merged_by_their_log_sum_exps() -> None:
    """Logits (1, 0) of values (2, 0) and (0.5, -1) of (4, 1), by hand."""
    parts = [((2.0, 0.0), (1.0, 0.0)), ((4.0, 1.0), (0.5, -1.0))]
    found = []
    for values, logits in parts:
        shares = torch.tensor(logits).softmax(0)
        output = (shares * torch.tensor(values)).sum()
        found.append((output.view(1, 1, 1, 1), torch.tensor(logits).logsumexp(0).view(1, 1, 1)))
    assert [lse.item() for _, lse in found] == pytest.approx([1.31326, 0.70141], abs=1e-5)
    assert [output.item() for output, _ in found] == pytest.approx([1.46212, 3.45272], abs=1e-5)
    output, lse = merge_parts(found)
    assert output.item() == pytest.approx(2.16209, abs=1e-5)
    assert lse.item() == pytest.approx(torch.tensor([1.0, 0.0, 0.5, -1.0]).logsumexp(0).item())


@pytest.mark.parametrize("high", [-200.0, 200.0])
def test_a_part_of_no_weight_and_one_of_all_weight(high: float) -> None:
    """Sums of exponentials of which float32 could not hold one; an empty part has -inf."""
    one, other = torch.full((1, 1, 1, 2), 3.0), torch.full((1, 1, 1, 2), 5.0)
    output, _ = merge_parts([(one, torch.zeros(1, 1, 1)), (other, torch.full((1, 1, 1), high))])
    assert output.unique().item() == (5 if high > 0 else 3)
    output, lse = merge_parts([(one, torch.zeros(1, 1, 1)), (other, torch.full((1, 1, 1), -torch.inf))])
    assert (output.unique().item(), lse.item()) == (3, 0)


def test_outputs_in_sixteen_bits_are_merged_in_float32() -> None:
    one, other = (torch.full((1, 1, 1, 2), x, dtype=torch.bfloat16) for x in (1.0, 1.0078125))
    output, _ = merge_parts([(one, torch.zeros(1, 1, 1)), (other, torch.zeros(1, 1, 1))])
    assert output.unique().item() == 1.00390625


@every_head
@pytest.mark.parametrize("most_scores", [2**26, 150])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 5), (True, 1), (False, None)])
@pytest.mark.parametrize("lengths", [(37, 37), (5, 37), (1, 37)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_blocks_of_a_part(
    heads: tuple[int, int],
    most_scores: int,
    causal: bool,
    window: int | None,
    lengths: tuple[int, int],
    softcap: float | None,
) -> None:
    given = make_inputs(heads, lengths)
    met = Met(Part(), (0, lengths[1]), causal=causal, window=window)
    output, lse = attend_in_band(*given, met, scale=SCALE, softcap=softcap, most_scores=most_scores)
    expected, nats = oracle(*given, causal=causal, window=window, softcap=softcap)
    assert_right(output, expected)
    assert_right(lse, nats)
