"""The end of a search: its loss on held-out windows beside those of the formulas that it looked at."""

import pytest

from longrope.pipeline.search_end import describe_losses
from longrope.runs.records import Trial


def trial(origin: str, loss: float, kind: str = "validation", method: str = "longrope-gradient") -> Trial:
    return Trial(
        method=method,
        model="m",
        texts_fingerprint="0" * 16,
        step=0,
        kind=kind,
        origin=origin,
        lambdas=(1.0,),
        start_tokens=0,
        attention_factor=1.0,
        loss_nats=loss,
        num_tokens=1,
        token_passes=1,
        seconds=0.0,
    )


TRIALS = [
    trial("yarn", 2.5),
    trial("pi", 3.0),
    trial("gradient", 2.4),
    trial("gradient", 2.25),
    trial("gradient", 1.0, kind="search"),
    trial("gradient", 1.0, method="longrope-evolution"),
]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("longrope-gradient", "2.2500 nats a token at the lowest; YaRN 2.5000; PI 3.0000"),
        ("longrope-evolution", "1.0000 nats a token at the lowest"),
    ],
)
def test_the_lowest_loss_stands_beside_those_of_formulas(method: str, text: str) -> None:
    """It need not be that of the factors found, which are chosen by tails and needles as well."""
    assert describe_losses(TRIALS, method) == f"loss on held-out windows: {text}"


def test_without_such_trials_nothing_is_said() -> None:
    assert describe_losses(TRIALS[4:5], "longrope-gradient") == ""
