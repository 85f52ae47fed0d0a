"""What tests of trainings share."""

import pico
import pytest
import torch
from torch import Tensor
from trainings import train, weights_of

from longrope.runs.records import TrainStep


@pytest.fixture(scope="module")
def whole() -> dict[torch.dtype, tuple[dict[str, Tensor], list[TrainStep]]]:
    """Weights and steps of trainings without a break."""
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = pico.make_model(dtype=dtype)
        steps = train(model)
        made[dtype] = weights_of(model), steps
    return made
