"""Passes, trainings and measurements that one process and several do alike."""

import math
import os
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pico
import torch

from longrope import distributed
from longrope.data import TokenText
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.near_exact import dca, jet_long, self_extend
from longrope.engine.passes import greedy_answers, token_losses, weighted_loss_with_graph
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Subject
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe, TuneRecipe
from longrope.rope import baseline_factors
from longrope.runs.records import Score, TrainStep
from longrope.runs.run_dir import RunDir
from longrope.search.score import WindowObjective
from longrope.tuning import fine_tune

LENGTHS = (1, 7, 12, 13)


LISTS: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 5.0, 8.0]}


LISTS = {**LISTS, "original_max_position_embeddings": 64}


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {},
    "gemma2": {},
    "mistral": {"sliding_window": 60},  # more than a process has of the window, less than the window
    "phi3": {"rope": LISTS, "max_position_embeddings": 256, "original_max_position_embeddings": 64},
    "qwen2": {"rope": {"rope_type": "dynamic", "factor": 4.0}},  # both choose by the length of the whole window
}


WINDOW = 101  # of the objective: no multiple of 2 * ranks


DOCUMENTS = ((0, 13, 14, 61), (0, 37))  # of two such windows


POSITIONS = np.stack([np.arange(WINDOW), np.concatenate([np.arange(30), np.arange(70, 70 + WINDOW - 30)])])


TUNED_ON = TokenText(
    np.asarray(pico.make_tokenizer()(pico.make_text(1500))["input_ids"], np.int32),
    "tune",
    documents=np.asarray([0, 30, 31, 500, *range(600, 2600, 37)]),
)


TRAINING = TuneRecipe(
    WINDOW, steps=4, batch_windows=6, learning_rate=1e-3, warmup_steps=1, clip_norm=0.3, checkpoint_every=2
)


SHORTER = replace(TRAINING, steps=2)


TRAININGS: dict[str, tuple[TuneRecipe, dict[str, Any]]] = {  # with what is changed in the model
    "clipped": (TRAINING, {}),
    "unclipped": (replace(SHORTER, clip_norm=math.inf, weight_decay=0.1), {"tie_word_embeddings": True}),
    "kept": (replace(SHORTER, recompute=False, windows_at_once=2), {"family": "gpt_neox", "attention_bias": False}),
    "sliding": (SHORTER, {"family": "gemma2"}),
    "fewer states": (replace(SHORTER, recompute_layers=2), {}),
    "read": (replace(SHORTER, isolate_documents=True, short_share=0.5), {}),
    "needles": (replace(SHORTER, window_tokens=1400, needle_weight=0.7), {}),
    "less memory": (replace(SHORTER, short_share=0.5), {"limits": (0, 32)}),  # which one process has found before
    "adapters": (replace(SHORTER, lora_rank=3, learning_rate=1e-2), {}),
    "unclipped adapters": (replace(SHORTER, lora_rank=3, lora_also=("norms",), clip_norm=math.inf), {}),
}


def needles_found() -> tuple[list[Score], tuple[int, int]]:
    """The scores of needles by a pico model, under factors, without what their wall clock says; the last progress."""
    model = pico.make_model()
    ids = model.tokenizer(pico.make_text(1200))["input_ids"]
    text, table = TokenText(np.asarray(ids, np.int32), "measure"), baseline_factors(model.spec, "yarn", 600)
    settings, reports = MeasureRecipe((600,), ("needle",), windows=2, needles=11), list[tuple[int, int]]()
    evaluation = Evaluation(
        text, settings, Subject(model, None, "none"), on_progress=lambda _, done, total: reports.append((done, total))
    )
    scores = evaluation.measure(name_subject(model, table))
    return [replace(score, seconds=0.0) for score in scores], reports[-1]


def whole_tensors(tokens: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor [B, G, N, D] of small integers, and weights for the loss of each rank."""
    made = torch.Generator().manual_seed(tokens)
    shape = (2, 3, tokens, 4)
    return torch.randint(-8, 8, shape, generator=made).float(), torch.randn((ranks, *shape), generator=made)


def gradient_of_objective() -> Any:
    """The loss of a window of a pico model and its gradient by the factors."""
    model = pico.make_model()
    windows = np.random.default_rng(0).integers(1, 300, (2, WINDOW)).astype(np.int32)
    objective = WindowObjective.prepare(model, windows[:1], windows[1:], 1, tail_tokens=40)
    return objective.gradient(baseline_factors(model.spec, "yarn", 128).factor_sets[0], 0)


def passes_of(family: str) -> dict[str, torch.Tensor]:
    """Losses, a slice of them, greedy answers and the gradients of all weights of a rescaled pico model."""
    model = pico.make_model(family, **FAMILIES[family])
    tokens = np.random.default_rng(1).integers(1, pico.BASE["vocab_size"], (2, WINDOW))
    factors = replace(baseline_factors(model.spec, "yarn", 2 * WINDOW).factor_sets[0], start_tokens=5)
    weights = np.random.default_rng(2).random((2, WINDOW - 1))
    weights[:, :30] = 0
    found = {"losses of the original": token_losses(model, tokens)}
    with rescaled(model, factors):
        found["losses"] = token_losses(model, tokens)
        found["last losses"] = token_losses(model, tokens, slice(-7, None))
        found["losses within documents"] = token_losses(model, tokens, documents=DOCUMENTS)
        found["losses at positions"] = token_losses(model, tokens, positions=POSITIONS)
        greedy = model.network(torch.from_numpy(tokens), use_cache=False).logits[0, -2].argmax()
        tokens[0, -1] = greedy
        found["answers"] = greedy_answers(model, tokens, 1)
        found |= near_exact_losses(model, tokens) if family == "llama" else {}
        found["after a prompt"] = read_prompt(model, tokens[0], KeyValueCache(model, WINDOW))  # whole in every process
        ways: dict[str, dict[str, Any]] = {
            "whole": {},
            "within documents": {"documents": DOCUMENTS},
            "at positions": {"positions": POSITIONS},
        }
        for recompute, (way, settings) in product((True, False), ways.items()):
            model.network.requires_grad_(True)
            loss = weighted_loss_with_graph(model, tokens, weights, recompute=recompute, **settings)
            loss.backward()
            parameters, loss = list(model.network.parameters()), loss.detach()
            if shard := distributed.shard():
                shard.sum_gradients(parameters)
                loss = shard.total(loss)
            found[f"loss, recompute {recompute}, {way}"] = loss
            gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
            found[f"gradients, recompute {recompute}, {way}"] = torch.cat(gradients)
            model.network.zero_grad(set_to_none=True)
            model.network.requires_grad_(False)
    return found


def near_exact_losses(model: LanguageModel, tokens: Any) -> dict[str, torch.Tensor]:
    """By methods that read near tokens as the original does, beyond its window."""
    found = {}
    longer = np.concatenate([tokens, tokens[:, ::-1]], axis=1)
    for method in (dca, self_extend, jet_long):
        with method(model, longer.shape[1]):
            found[method.__name__] = token_losses(model, longer)
    return found


def train(
    settings: TuneRecipe, run: RunDir | None = None, stop: int = -1, limits: tuple[int, ...] = (0,), **changes: Any
) -> dict[str, Any]:
    """Losses, gradient norms and tokens of all steps of a training of a pico model, and its weights after them."""
    model, steps = pico.make_model(**changes), list[TrainStep]()
    model.limits.tile_tokens = limits[int(os.environ.get("RANK", "0")) % len(limits)]
    factors = replace(baseline_factors(model.spec, "yarn", 2 * WINDOW).factor_sets[0], start_tokens=5)

    def on_step(record: TrainStep) -> None:
        steps.append(record)
        if record.step == stop:
            raise InterruptedError

    with suppress(InterruptedError):
        fine_tune(model, factors, TUNED_ON, settings=settings, run=run, seed=5, on_step=on_step)
    return {
        "losses": [record.loss_nats for record in steps],
        "norms": [record.gradient_norm for record in steps],
        "tokens": [record.tokens_seen for record in steps],
        "weights": {name: weight.clone() for name, weight in model.network.state_dict().items()},
    }
