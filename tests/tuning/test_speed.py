"""What the record of a step says of its speed: operations counted by hand, and by torch over the products of a pass."""

from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from torch.utils.flop_counter import FlopCounterMode

from longrope.data import TokenText
from longrope.engine.passes import weighted_loss_with_graph
from longrope.models import LanguageModel
from longrope.recipe import TuneRecipe
from longrope.runs.records import TrainStep
from longrope.tuning import fine_tune, training
from longrope.tuning.adapters import adapted, trained_weights
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder
from longrope.tuning.speed import PEAK_FLOPS, attention_flops, flops_per_token, is_dense

# A pico Llama: 2 layers, hidden size 32, 4 heads and 2 key/value heads of 8, MLPs of 48, 320 entries.
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48 + 2 * 32  # queries, keys and values, output, MLP, norms
TABLE = 320 * 32
TEXT = TokenText(
    np.arange(5000, dtype=np.int32) % 300, "tune", documents=np.asarray([0, 30, 31, 70, *range(500, 5000, 37)])
)
QUICK = TuneRecipe(window_tokens=160, steps=1, batch_windows=5, warmup_steps=0)


def seen(model: LanguageModel, settings: TuneRecipe = QUICK) -> TrainStep:
    """The record of one step."""
    steps: list[TrainStep] = []
    fine_tune(model, None, TEXT, settings=settings, on_step=steps.append)
    return steps[0]


@pytest.mark.parametrize("tied", [False, True])
def test_a_weight_that_is_trained_takes_six_operations_for_each_token(tied: bool) -> None:
    """An embedding counts where it is the head, too; elsewhere it is only looked up."""
    model = pico.make_model(tie_word_embeddings=tied)
    every = trained_weights(model.network)
    assert sum(weight.numel() for weight in every.values()) == 2 * LAYER + 32 + TABLE * (1 if tied else 2)
    assert flops_per_token(model, every) == 6 * (2 * LAYER + 32 + TABLE)


def test_a_frozen_weight_takes_four() -> None:
    """It has no gradient of its own, but its input has one."""
    model = pico.make_model()
    adapters = 2 * 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))  # two layers of rank 3
    with adapted(model.network, replace(QUICK, lora_rank=3), seed=0) as weights:
        assert sum(weight.numel() for weight in weights.values()) == adapters
        assert flops_per_token(model, weights) == 4 * (2 * LAYER + 32 + TABLE) + 6 * adapters


def test_attention_takes_two_products_forward_and_four_back_over_half_of_the_square() -> None:
    pairs = 5 * 6 // 2 + 100 * 101 // 2  # of a token and one that it sees, in sequences of 5 and 100
    assert attention_flops(pico.make_model(), [5, 100]) == 3 * 2 * pairs * 4 * 8 * 2 * 2  # ... heads, width, 2 products


@pytest.mark.parametrize("frozen", [False, True])
def test_operations_are_those_that_torch_counts(frozen: bool) -> None:
    """In a whole pass with gradients: torch counts no attention on a CPU, and no norms, which are a hundredth."""
    model, tokens = pico.make_model(), np.arange(512)[None] % 300
    every = trained_weights(model.network)
    trained = {name: weight for name, weight in every.items() if not frozen or "embed_tokens" in name}
    for weight in trained.values():
        weight.requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        weighted_loss_with_graph(model, tokens, np.ones((1, 511)) / 511, recompute=False).backward()
    assert counter.get_total_flops() == pytest.approx(flops_per_token(model, trained) * 512, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        (QUICK, 5 * 160),
        (replace(QUICK, short_share=0.4), 3 * 160 + 2 * 2 * 64),
        (replace(QUICK, isolate_documents=True), 5 * 160),
    ],
)
def test_tokens_a_second_are_those_that_went_through_the_model(settings: TuneRecipe, tokens: int) -> None:
    record = seen(pico.make_model(), settings)
    assert record.tokens_per_second * record.seconds == pytest.approx(tokens)
    assert (record.peak_share, record.memory_gib) == (0, 0), "on a CPU"


def test_sequences_are_as_long_as_what_is_read() -> None:
    """By the lengths that stand in the readings themselves."""
    for change in (
        {},
        {"short_share": 0.4},
        {"isolate_documents": True},
        {"isolate_documents": True, "short_share": 0.4},
    ):
        reader = SampleBuilder(Batches.cut(TEXT, 160, 5, seed=0), replace(QUICK, **change), 64)
        found: list[int] = []
        for reading in reader.read(range(7)):
            for row in range(len(reading.tokens)):
                starts = (0,) if reading.documents is None else reading.documents[row]
                found += [b - a for a, b in zip(starts, (*starts[1:], reading.tokens.shape[1]), strict=True)]
        assert sorted(reader.lengths(range(7))) == sorted(found)


def test_the_share_of_the_peak_is_that_of_the_gpu() -> None:
    """By hand, for a step of one second on a GPU of that name, and on one that is not known."""
    model = pico.make_model()
    batches = Batches.cut(TEXT, 160, 5, seed=0)
    made = training.Training(model, trained_weights(model.network), batches, QUICK)
    flops = 6 * (2 * LAYER + 32 + TABLE) * 800 + 5 * 3 * 2 * (160 * 161 // 2) * 4 * 8 * 2 * 2
    for name, peak in {"NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA A100-SXM4-80GB": 312e12}.items():
        assert made._speed(range(5), 1.0, (name, 3 * 2**29)) == pytest.approx((800, flops / peak, 1.5))
        assert made._speed(range(5), 2.0, (name, 3 * 2**29)) == pytest.approx((400, flops / peak / 2, 1.5))
    assert made._speed(range(5), 1.0, ("Abacus", 3 * 2**29)) == (800, 0, 1.5)
    assert "Abacus" not in PEAK_FLOPS


@pytest.mark.parametrize(
    ("family", "changes", "dense"),
    [
        ("llama", {}, True),
        ("gpt_neox", {}, True),
        ("qwen2", {}, True),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 32}, False),
        ("gemma2", {}, False),
        ("mixtral", {"num_local_experts": 4}, False),
    ],
)
def test_operations_are_counted_for_dense_models_with_full_attention_alone(
    family: str, changes: dict[str, Any], dense: bool
) -> None:
    assert is_dense(pico.make_config(family, **changes)) == dense
