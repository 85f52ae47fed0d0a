"""Sliding windows and soft caps, block by block, against the brute-force softmax."""

from typing import Any

import pytest
import torch
from attention_oracle import SCALE, assert_right, attend_holding, every_head, every_length, make_inputs, oracle
from torch.nn import functional
from torch.overrides import TorchFunctionMode

every_block = pytest.mark.parametrize(
    "most_scores", [1, 2 * 4 * 3, 2 * 4 * 37 * 5, 2**26], ids=["one", "few", "five whole", "all"]
)


@every_length
@pytest.mark.parametrize("window", [None, 1, 2, 7, 36, 37, 100])
@pytest.mark.parametrize("softcap", [None, 0.5])
@every_block
def test_attend_in_blocks(
    lengths: tuple[int, int], window: int | None, softcap: float | None, most_scores: int
) -> None:
    """Windows shorter and longer than a block and than the keys, whatever a block holds."""
    given = make_inputs((4, 2), lengths)
    output = attend_holding(most_scores, *given, scale=SCALE, window=window, softcap=softcap)
    assert output.shape == given[0].shape
    assert_right(output, oracle(*given, window=window, softcap=softcap)[0])


def test_caps_and_windows_matter() -> None:
    """So that their absence would be noticed."""
    given = make_inputs((4, 2), (37, 37))
    plain = oracle(*given)[0]
    assert (oracle(*given, window=7)[0] - plain).abs().max() > 0.1
    assert (oracle(*given, window=7)[0] - oracle(*given, window=8)[0]).abs().max() > 0.1
    assert (oracle(*given, softcap=0.5)[0] - plain).abs().max() > 0.1


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_blocks_in_bfloat16(softcap: float | None) -> None:
    given = make_inputs((4, 2), (37, 37), dtype=torch.bfloat16)
    output = attend_holding(300, *given, scale=SCALE, window=9, softcap=softcap)
    assert output.dtype == torch.bfloat16
    assert_right(output, oracle(*given, window=9, softcap=softcap)[0])


@every_head
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("lengths", [(37, 37), (5, 37)])
@every_block
def test_gradients_of_blocks(
    heads: tuple[int, int], lengths: tuple[int, int], softcap: float | None, most_scores: int
) -> None:
    given = [x.requires_grad_() for x in make_inputs(heads, lengths)]
    output = attend_holding(most_scores, *given, scale=SCALE, window=9, softcap=softcap)
    expected = oracle(*given, window=9, softcap=softcap)[0]
    found = torch.autograd.grad(output.sum(), given)
    for ours, plain in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        assert_right(ours, plain.double())


class Sizes(TorchFunctionMode):
    """Notes the queries and the keys of every attention of torch's."""

    def __init__(self) -> None:
        """None so far."""
        super().__init__()
        self.scores, self.keys = list[int](), list[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch asks for it."""
        if func is functional.scaled_dot_product_attention:
            query, key = args[:2]
            self.scores.append(query.shape[:3].numel() * key.shape[2])
            self.keys.append(key.shape[2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("window", [None, 6])
def test_blocks_hold_no_more_scores_than_asked(window: int | None) -> None:
    """A block of queries reads the keys of its window alone, and at most twice the scores that may be held."""
    with Sizes() as sizes:
        attend_holding(2 * 4 * 100, *make_inputs((4, 2), (90, 90)), scale=SCALE, window=window)
    assert len(sizes.scores) > 5
    assert max(sizes.scores) < 2 * 2 * 4 * 100
    if window:
        assert max(sizes.keys) < 2 * window
