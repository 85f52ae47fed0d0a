"""Outputs and their gradients as cuDNN's backward pass needs them: with strides that follow from the query's."""

import torch

from longrope.engine.backward import laid_out_as


def test_numbers_stay_and_strides_are_those_that_the_query_gives() -> None:
    heads_first = torch.randn(2, 3, 5, 4)
    tokens_first = torch.randn(2, 5, 3, 4).transpose(1, 2)
    part = torch.randn(2, 9, 3, 4).transpose(1, 2)[:, :, 2:7]  # a part of the queries, as in shared windows
    for query, expected in ((heads_first, heads_first), (tokens_first, tokens_first), (part, tokens_first)):
        for x in (heads_first, tokens_first, part):
            found = laid_out_as(query, x)
            assert torch.equal(found, x)
            assert found.stride() == expected.stride()


def test_numbers_that_lie_so_are_not_copied() -> None:
    query = torch.randn(2, 5, 3, 4).transpose(1, 2)
    output = torch.randn(2, 5, 3, 4).transpose(1, 2)
    assert laid_out_as(query, output) is output
