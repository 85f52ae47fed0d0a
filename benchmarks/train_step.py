"""How fast is a training step at length, and how much memory does it take? Ours beside transformers' own Trainer.

Run: python benchmarks/train_step.py MODEL OUT.jsonl --tokens 64k --steps 6

Both train all weights: float32 weights, passes in bfloat16 on a GPU, AdamW, one window a step, activations recomputed
layer by layer, the same windows. The first step is left out; the line gives the median of the others. Random token ids.
"""

import argparse
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from longrope.data import TokenText
from longrope.engine.memory import heads_of
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, load_model
from longrope.recipe import TuneRecipe
from longrope.tuning import fine_tune


def main() -> None:
    """Measure both ways and append a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", default="64k")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--ways", default="ours,trainer")
    asked = parser.parse_args()
    tokens = parse_tokens(asked.tokens)
    for way in asked.ways.split(","):
        line = measure(way, asked.model, tokens, asked.steps)
        print(line, flush=True)
        with asked.out.open("a") as out:
            out.write(json.dumps(line) + "\n")


def measure(way: str, name: str, tokens: int, steps: int) -> dict:
    """The line of one way."""
    model = load_model(name, dtype="float32")
    cuda = model.device.type == "cuda"
    text = np.random.default_rng(0).integers(model.network.config.vocab_size, size=tokens * steps).astype(np.int32)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = {"ours": train_ours, "trainer": train_trainer}[way](model, text, tokens, steps)
        found = {"seconds": statistics.median(seconds[1:]), "all_seconds": seconds}
    except torch.OutOfMemoryError as error:
        found = {"fate": str(error).split(". ")[0]}
    return {
        "model": name,
        "way": way,
        "tokens": tokens,
        "steps": steps,
        **found,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "heads": heads_of(model).queries,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def train_ours(model: LanguageModel, text: np.ndarray, tokens: int, steps: int) -> list[float]:
    """Seconds of each step of ours."""
    settings = TuneRecipe(window_tokens=tokens, steps=steps, batch_windows=1, learning_rate=1e-5, warmup_steps=0)
    seconds: list[float] = []
    fine_tune(
        model, None, TokenText(text, "tune"), settings=settings, on_step=lambda step: seconds.append(step.seconds)
    )
    return seconds


class Clock(TrainerCallback):
    """Seconds of each step, with the work of the device in them."""

    def __init__(self) -> None:
        """Begin with no step."""
        self.seconds, self.began = [], 0.0

    def on_step_begin(self, *_args, **_kwargs) -> None:
        """Start the clock."""
        _wait()
        self.began = time.perf_counter()

    def on_step_end(self, *_args, **_kwargs) -> None:
        """Stop it."""
        _wait()
        self.seconds.append(time.perf_counter() - self.began)


def train_trainer(model: LanguageModel, text: np.ndarray, tokens: int, steps: int) -> list[float]:
    """Seconds of each step of transformers' Trainer."""
    model.network.requires_grad_(True).train()
    windows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(text).long().view(-1, tokens)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=steps,
            learning_rate=1e-5,
            bf16=model.device.type == "cuda",
            use_cpu=model.device.type == "cpu",
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            optim="adamw_torch_fused",
            logging_steps=steps + 1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(model=model.network, args=arguments, train_dataset=windows, callbacks=[clock]).train()
    return clock.seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
