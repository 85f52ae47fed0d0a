"""The whole progressive walk on the embedded model, to 64 times its window: it takes minutes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longrope.factors import load_factors
from longrope.pipeline import extend
from longrope.recipe import load_recipe
from longrope.records import TrainStep, read_records
from longrope.rundir import RunDir

RECIPE = Path(__file__).parent.parent / "recipes" / "nano-16k.toml"


@pytest.fixture
def every_core() -> Iterator[None]:
    """All cores, where other tests left one thread to torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("every_core")
@pytest.mark.timeout(2400)
def test_the_nano_model_walks_to_64_times_its_window(tmp_path: Path) -> None:
    """At 16,384 tokens it reads no worse than the original reads 256, and at 256 within a hundredth of the original."""
    run = RunDir(tmp_path / "run")
    scores = extend(load_recipe(RECIPE), run)
    values = {(score.metric, score.method, score.context_tokens): score for score in scores}
    start, end = values["perplexity", "none", 256], values["perplexity", "longrope-tuned", 16384]
    assert end.value <= start.value
    assert values["perplexity", "none", 16384].value > 10 * start.value  # where the original is lost
    retained = values["ratio-to-none", "longrope-tuned", 256]
    assert retained.value < 1.01
    assert [tier.target_window for tier in load_factors(run.factors()).tiers] == [256, 16384]
    for steps, folder in ((16, "2-tune-2k"), (20, "5-tune-4k")):
        (train,) = run.stages.glob(f"{folder}-*/train.jsonl")
        losses = [step.loss_nats for step in read_records(train, TrainStep)]
        assert len(losses) == steps
        assert sum(losses[-4:]) < sum(losses[:4])
