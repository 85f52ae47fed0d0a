"""Estimated memory of trainings: against a measured peak, and how it grows and divides."""

from dataclasses import replace

import pico
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope import distributed
from longrope.engine.memory import estimate_training_memory
from longrope.models import LanguageModel, read_tables


def make_shape(dtype: torch.dtype = torch.bfloat16) -> LanguageModel:
    """A network of the shape of SmolLM2-135M that holds no numbers."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **shape, **heads, max_position_embeddings=8192)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return LanguageModel(network, None, read_tables(config), "shape")


def estimate(tokens: int = 65536, *, adapters: bool = False, dtype: torch.dtype = torch.bfloat16) -> float:
    """GiB at the peak of a training step."""
    return estimate_training_memory(make_shape(dtype), tokens, adapters=adapters) / 2**30


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_estimated_memory_of_a_training_is_near_the_measured_peak(dtype: torch.dtype) -> None:
    """All weights in float32, however the model was loaded: 6.59 GiB on a GPU at 32,768 tokens, 17.51 at 131,072."""
    assert estimate(65536, dtype=dtype) == pytest.approx(6.59 + (17.51 - 6.59) / 3, rel=0.1)


def test_estimated_memory_grows_with_the_window_and_adapters_take_less() -> None:
    """Less by gradients and moments, and by what float32 takes more than the model's own format."""
    grown = [estimate(tokens) for tokens in (1024, 4096, 16384, 65536, 262144)]
    assert grown == sorted(grown)
    assert len(set(grown)) == 5
    weights = sum(weight.numel() for weight in make_shape().network.parameters()) / 2**30
    assert weights * 2**30 == pytest.approx(134.5e6, rel=0.01)
    for tokens in (1024, 65536):
        assert estimate(tokens) - estimate(tokens, adapters=True) > (16 - 2) * weights
    assert grown[0] > 16 * weights
    assert estimate(adapters=True, dtype=torch.float32) - estimate(adapters=True) > 2 * weights


@pytest.mark.parametrize(("tokens", "measured"), [(262144, 13.38), (524288, 26.14)])
def test_estimated_memory_where_few_weights_are_trained(tokens: int, measured: float) -> None:
    """The attention of three layers of Gemma-3-270M, on a GPU; measured beside a fifth of short windows."""
    shape = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "vocab_size": 262144}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
    kinds = [*["sliding_attention"] * 5, "full_attention"] * 3
    config = AutoConfig.for_model("gemma3_text", **shape, **heads, layer_types=kinds, max_position_embeddings=32768)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = LanguageModel(network, None, read_tables(config), "shape")
    assert estimate_training_memory(model, tokens, adapters=True) / 2**30 == pytest.approx(measured, rel=0.2)


def test_quantized_weights_count_as_they_are() -> None:
    """By a search, which trains none of them: not as float32, in which a CPU computes."""
    model = pico.make_model(dtype=torch.bfloat16)
    quantized, plain = (
        estimate_training_memory(replace(model, quantized=name), 64, adapters=True, recompute=True)
        for name in ("8bit", "")
    )
    assert plain - quantized == (4 - 2) * sum(weight.numel() for weight in model.network.parameters())


def test_estimated_memory_is_divided_among_processes() -> None:
    """Gradients and moments are; a window is where they share it. Of adapters there is nothing to divide."""
    alone, adapters = estimate(), estimate(adapters=True)
    with distributed.entered(distributed.DistributedState(ranks=8)):
        rows = estimate()
        assert estimate(adapters=True) == adapters
    with distributed.entered(distributed.DistributedState(ranks=8, context_ranks=8)):
        shared = estimate()
        assert estimate(tokens=8 * 65536) == pytest.approx(rows, rel=1e-6)
    assert alone > rows > shared
