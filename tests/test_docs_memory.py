"""Estimates of memory against the peaks on a GPU on record: passes, gradients of factors and trainings, by length."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.engine.held_states import EVERY_STATE, Holding
from longrope.engine.kernels import HOPPER
from longrope.engine.memory import estimate_memory, estimate_training_memory
from longrope.models import LanguageModel, read_tables

ROOT = Path(__file__).parents[1]
LORA = ("h200-llama", "h200-llama-offload")  # of benchmarks/train_step.py
LINES = [json.loads(line) for line in (ROOT / "results/benchmarks/memory-h200.jsonl").read_text().splitlines()]
KEPT = {(work, tokens) for work in ("gradient", "training") for tokens in (8192, 32768)}  # all activations were kept


class OnGpu(LanguageModel):
    """A network that holds no numbers, as if it were on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Of the shape of SmolLM2-135M."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **sizes, **heads, max_position_embeddings=1024)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return OnGpu(network, None, read_tables(config), "shape")


def test_three_lengths_of_each_kind_were_measured() -> None:
    works = ("pass", "gradient", "training", "training, recomputed")
    assert sorted((line["work"], line["tokens"]) for line in LINES) == sorted(
        (work, tokens) for work in works for tokens in (8192, 32768, 131072)
    )


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['work']} {line['tokens']}")
def test_estimates_are_within_a_fifth_of_the_peaks_on_a_gpu(
    line: dict[str, float], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, work = int(line["tokens"]), str(line["work"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (138 * 2**30, 140 * 2**30))
    if work == "pass":
        estimated = estimate_memory(model, tokens, kernel=HOPPER, tile=2**16)
    else:
        recompute = (work, tokens) not in KEPT
        estimated = estimate_training_memory(model, tokens, adapters=work == "gradient", recompute=recompute)
    assert estimated / 2**30 == pytest.approx(line["peak_gib"], rel=0.2)


@pytest.mark.parametrize("record", LORA)
def test_estimates_of_long_steps_by_adapters_are_near_the_peaks(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shape of Llama-3-8B, whose MLPs work on tiles: all layers, and four with every second state offloaded."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (138 * 2**30, 140 * 2**30))
    lines = map(json.loads, (ROOT / f"results/benchmarks/{record}.jsonl").read_text().splitlines())
    (line,) = (line for line in lines if "lora" in str(line.get("way")))
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": line["layers"]}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    config = AutoConfig.for_model("llama", **sizes, **heads, max_position_embeddings=8192)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    offloads = "offload" in line["way"]
    estimated = estimate_training_memory(
        OnGpu(network, None, read_tables(config), "shape"),
        line["tokens"],
        adapters=True,
        recompute=True,
        holding=Holding(every=2, offload=True) if offloads else EVERY_STATE,
    )
    assert offloads == (line["way"] == "ours-lora-offload-every2")
    assert estimated / 2**30 == pytest.approx(line["peak_gib"], rel=0.05)
