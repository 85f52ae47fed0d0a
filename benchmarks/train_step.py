"""How fast is a training step at length, and how much memory does it take? Ours beside transformers' Trainer and TRL.

Run: python benchmarks/train_step.py MODEL OUT.jsonl --tokens 64k --steps 5 --ways ours,trainer,trl,trl-fa4

MODEL is anything that `longrope` loads, or a shape of `shapes.py` with random weights. A step reads --windows windows
of random token ids; steps of several kinds are asked for as --tokens 64k,8k --windows 1,8 --ways ours,trl/ours. All
ways train float32 weights with passes in bfloat16 on a GPU, AdamW, and activations recomputed layer by layer. The first
step is left out; the line gives the median of the others. Under torchrun, for ours alone, the processes share each
window and divide the weights. One of

* ours: longrope.tuning.fine_tune
* trainer: transformers' Trainer with gradient checkpointing, and its other defaults
* trl: TRL's SFTTrainer with its defaults, a loss in chunks among them

and after it, each with a hyphen before it:

* lora: adapters of rank 16 in all matrices of a frozen bfloat16 model
* fa4: FlashAttention 4 for transformers and TRL, in the place of torch's attention; ours chooses by itself
* selective: TRL's own checkpointing that keeps the output of attention
* batched, alone: all windows of a step go through the model together, or one after the other; ours takes as many as fit
  without these, the others all
* kept: activations are kept instead of recomputed
* offload: activations in the CPU's memory
* compiled: layers by torch.compile; ours alone
* every2, every4 …: hidden states of every n-th layer alone are kept; ours alone
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from shapes import open_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from longrope import distributed
from longrope.data import TokenText
from longrope.engine.held_states import Holding
from longrope.engine.memory import estimate_training_memory, heads_of
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel
from longrope.recipe import TuneRecipe
from longrope.tuning import fine_tune, training

RANK = 16


def main() -> None:
    """Measure the ways and append a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", default="64k")
    parser.add_argument("--windows", default="1")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--ways", default="ours,trainer")
    asked = parser.parse_args()
    kinds = zip(asked.tokens.split(","), asked.windows.split(","), asked.ways.split("/"), strict=True)
    with distributed.launched(context_ranks=int(os.environ.get("WORLD_SIZE", "1"))):
        for tokens, windows, ways in kinds:
            asked.tokens, asked.windows = tokens, int(windows)
            for way in ways.split(","):
                line = measure(way, asked)
                if distributed.is_main():
                    print(line, flush=True)
                    with asked.out.open("a") as out:
                        out.write(json.dumps(line) + "\n")


def measure(way: str, asked: argparse.Namespace) -> dict:
    """The line of one way."""
    name, *options = way.split("-")
    tokens, cuda = parse_tokens(asked.tokens), torch.cuda.is_available()
    model = open_model(asked.model, "bfloat16" if cuda and "lora" in options else "float32", asked.layers)
    size, vocabulary = tokens * asked.windows * asked.steps, model.network.config.vocab_size
    text = np.random.default_rng(0).integers(vocabulary, size=size).astype(np.int32)
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    found: dict = {}
    try:
        WAYS[name](model, text, asked, options, seconds)
    except Exception as error:  # noqa: BLE001  # whatever ends one way, the others are measured
        found = {"fate": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
    if len(seconds) > 0:
        found |= {"seconds": statistics.median(seconds[1:] or seconds), "all_seconds": seconds}
    return {
        "model": asked.model,
        "way": way,
        "tokens": tokens,
        "windows": asked.windows,
        "steps": asked.steps,
        "processes": distributed.ranks(),
        **found,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "estimate_gib": estimate(model, tokens * asked.windows, options) / 2**30,
        "layers": model.network.config.num_hidden_layers,
        "heads": heads_of(model).queries,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def every_of(options: list[str]) -> int:
    """Of how many layers one hidden state is kept."""
    return next((int(option.removeprefix("every")) for option in options if option.startswith("every")), 1)


def estimate(model: LanguageModel, tokens: int, options: list[str]) -> int:
    """Bytes at the peak of a step of ours on so many tokens at once."""
    how = {"adapters": "lora" in options, "recompute": "kept" not in options}
    return estimate_training_memory(
        model, tokens, holding=Holding(every_of(options), offload="offload" in options), **how
    )


def train_ours(
    model: LanguageModel, text: np.ndarray, asked: argparse.Namespace, options: list[str], seconds: list[float]
) -> None:
    """Seconds of each step of ours."""
    wanted = {
        "windows_at_once": asked.windows if "batched" in options else 1,
        "lora_rank": RANK * ("lora" in options),
        "recompute": "kept" not in options,
        "offload": "offload" in options,
        "recompute_layers": every_of(options),
    }
    settings = TuneRecipe(
        window_tokens=parse_tokens(asked.tokens),
        steps=asked.steps,
        batch_windows=asked.windows,
        learning_rate=1e-5,
        warmup_steps=0,
        **wanted,
    )
    text, model = TokenText(text, "tune"), replace(model, compiled="compiled" in options)
    alone = patch.object(training, "windows_together", lambda *_, **__: 1) if "alone" in options else nullcontext()
    with alone:
        fine_tune(model, None, text, settings=settings, on_step=lambda step: seconds.append(step.seconds))


class Clock(TrainerCallback):
    """Seconds of each step, with the work of the device in them."""

    def __init__(self, seconds: list[float]) -> None:
        """Begin with no step."""
        self.seconds, self.began = seconds, 0.0

    def on_step_begin(self, *_args, **_kwargs) -> None:
        """Start the clock."""
        _wait()
        self.began = time.perf_counter()

    def on_step_end(self, *_args, **_kwargs) -> None:
        """Stop it."""
        _wait()
        self.seconds.append(time.perf_counter() - self.began)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_trainer(
    model: LanguageModel, text: np.ndarray, asked: argparse.Namespace, options: list[str], seconds: list[float]
) -> None:
    """Seconds of each step of transformers' Trainer."""
    _prepare(model, options)
    network = model.network
    if "lora" in options:
        from peft import get_peft_model

        network = get_peft_model(network, _lora())
        network.enable_input_require_grads()
    windows = [{"input_ids": row, "labels": row} for row in _rows(text, asked)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            **_arguments(folder, asked),
            gradient_checkpointing="kept" not in options,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=torch.cuda.is_available(),
        )
        Trainer(model=network, args=arguments, train_dataset=windows, callbacks=[Clock(seconds)]).train()


def train_trl(
    model: LanguageModel, text: np.ndarray, asked: argparse.Namespace, options: list[str], seconds: list[float]
) -> None:
    """Seconds of each step of TRL's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    _prepare(model, options)
    windows = Dataset.from_dict({"input_ids": _rows(text, asked).numpy()}).with_format("torch")
    with tempfile.TemporaryDirectory() as folder:
        settings = _arguments(folder, asked) | ({} if torch.cuda.is_available() else {"bf16": False})
        if "selective" in options:
            settings |= {"gradient_checkpointing_kwargs": {"use_reentrant": False, "selective": True}}
        if "kept" in options:
            settings |= {"gradient_checkpointing": False}
        arguments = SFTConfig(
            **settings,
            max_length=None,
            activation_offloading="offload" in options,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        SFTTrainer(
            model=model.network,
            args=arguments,
            train_dataset=windows,
            processing_class=model.tokenizer,
            peft_config=_lora() if "lora" in options else None,
            callbacks=[Clock(seconds)],
        ).train()


def _prepare(model: LanguageModel, options: list[str]) -> None:
    """Training mode, and the attention that is asked for."""
    if "fa4" in options:
        model.network.set_attn_implementation("flash_attention_4")
    model.network.requires_grad_("lora" not in options).train()


def _rows(text: np.ndarray, asked: argparse.Namespace) -> torch.Tensor:
    return torch.from_numpy(text).long().view(-1, parse_tokens(asked.tokens))


def _arguments(folder: str, asked: argparse.Namespace) -> dict:
    """What both trainers are given."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": asked.windows,
        "max_steps": asked.steps,
        "learning_rate": 1e-5,
        "use_cpu": not torch.cuda.is_available(),
        "optim": "adamw_torch_fused",
        "logging_steps": asked.steps + 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _lora() -> object:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")


WAYS = {"ours": train_ours, "trainer": train_trainer, "trl": train_trl}


if __name__ == "__main__":
    main()
