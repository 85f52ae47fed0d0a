"""The state of a training and its step: float32 weights, AdamW over them, gradients of one batch after another.

In several processes each row of them takes its share of a batch's windows, and those of a row share every window.
Gradients are means over all processes, so each process scales its part of the loss by their number.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longrope import distributed
from longrope.data import fingerprint
from longrope.engine.gradients import at_once
from longrope.engine.held_states import Holding
from longrope.engine.memory import windows_together
from longrope.engine.passes import weighted_loss_with_graph
from longrope.engine.shrinking import retry_in_less_memory, share_limits
from longrope.errors import LongRopeError, RecipeError
from longrope.models import LanguageModel, rescaled
from longrope.recipe import TuneRecipe
from longrope.rope import unscaled
from longrope.runs.records import TrainStep
from longrope.tuning.adapters import Weights, trained_weights
from longrope.tuning.batches import Batches
from longrope.tuning.samples import SampleBuilder, TrainingSample
from longrope.tuning.speed import PEAK_FLOPS, attention_flops, flops_per_token, is_dense

BETAS = (0.9, 0.95)
CLIP_EPSILON = 1e-6  # as torch's own clipping has it


def choose_precision(device: torch.device) -> torch.dtype:
    """The number format of the passes over float32 weights."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def scheduled_rate(settings: TuneRecipe, step: int) -> float:
    """The learning rate of a step: up to the highest at the end of the warm-up, then down to 0 after the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    shares = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
    return settings.learning_rate * shares[settings.schedule]


@contextmanager
def in_float32(model: LanguageModel, weights: Weights) -> Iterator[None]:
    """Make weights float32 with gradients in this block; then they have their own number format and no gradients.

    Where passes are in float32, all others of the network become float32, too, without gradients.
    """
    by_name = trained_weights(model.network) if choose_precision(model.device) is torch.float32 else weights
    formats = {name: weight.dtype for name, weight in by_name.items()}
    for name, weight in by_name.items():
        weight.data, weight.grad = weight.data.float(), None
        weight.requires_grad_(name in weights)
    try:
        yield
    finally:
        for name, weight in by_name.items():
            weight.requires_grad_(False)
            weight.data, weight.grad = weight.data.to(formats[name]), None


class Training:
    """A training between two steps.

    Attributes:
        settings: of the training.
        weights: what is trained, by name; of each layer this process's part where several share them.
        done: steps that are done.
        settled: whether weights and moments are those after ``done`` steps; false while they change.
    """

    def __init__(self, model: LanguageModel, weights: Weights, batches: Batches, settings: TuneRecipe) -> None:
        """Stand before the first step; the model is run in its current state at each step."""
        check_batch(settings)
        share_limits(model)
        self.settings, self.weights, self.done, self.settled = settings, weights, 0, True
        self._model, self._batches = model, batches
        together = replace(settings, windows_at_once=choose_windows_at_once(model, settings, batches.window_tokens))
        self._reader = SampleBuilder(batches, together, model.spec.trained_window, model.tokenizer)
        self._tokens_seen = 0
        self._optimizer = _make_optimizer(model, weights, settings.weight_decay)
        self._flops_per_token = flops_per_token(model, weights)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What to go on from: ``weight/NAME`` and AdamW's ``exp_avg/NAME``, ``exp_avg_sq/NAME`` and ``step/NAME``."""
        moments = {
            f"{key}/{name}": value
            for name, weight in self.weights.items()
            for key, value in self._optimizer.state.get(weight, {}).items()
        }
        return {**{f"weight/{name}": weight for name, weight in self.weights.items()}, **moments}

    def restore(self, done: int, tensors: Mapping[str, Tensor | None]) -> None:
        """Stand after so many steps, with the weights and moments of the first process's ``tensors``."""
        self.done = done
        self._tokens_seen = self._reader.num_scored(range(done * self.settings.batch_windows))
        for path, tensor in tensors.items():
            key, _, name = path.partition("/")
            weight = self.weights[name]
            if key == "weight":
                weight.data.copy_(distributed.scatter(tensor, weight.data))
            else:
                like = torch.zeros((), device=weight.device) if key == "step" else weight.data
                self._optimizer.state[weight][key] = distributed.scatter(tensor, like).clone()

    def step(self) -> TrainStep:
        """Take one step (raises LongRopeError before a weight is changed if its loss or gradient is not finite)."""
        began = time.perf_counter()
        rows, rate = self._batches.rows(self.done), scheduled_rate(self.settings, self.done)
        scored = self._reader.num_scored(rows)
        together = self.settings.windows_at_once * self.settings.window_tokens
        loss = retry_in_less_memory(self._model, together, partial(self._backward, rows, scored))
        loss = distributed.total(loss)
        self._join_gradients()
        norm = _clip(self.weights, self.settings.clip_norm)
        loss_nats, gradient_norm = torch.stack((loss, norm)).tolist()  # the one wait for a GPU
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            raise LongRopeError(
                f"The loss of training step {self.done} is {loss_nats}, the norm of its gradient {gradient_norm}.",
                "Both must be finite.",
                "Train with a lower tune.learning_rate in another directory, or look at the model: its loss may be "
                "that without training.",
            )
        read = fingerprint(self._batches.at(self.done))
        self._update(rate)
        self._tokens_seen += scored
        seconds = time.perf_counter() - began
        per_second, share, memory = self._speed(rows, seconds, _use_of_gpu(self._model.device))
        return TrainStep(
            step=self.done - 1,
            loss_nats=loss_nats,
            num_tokens=scored,
            tokens_seen=self._tokens_seen,
            learning_rate=rate,
            gradient_norm=gradient_norm,
            seconds=seconds,
            tokens_per_second=per_second,
            peak_share=share,
            memory_gib=memory,
            texts_fingerprint=read,
        )

    def _speed(self, rows: Sequence[int], seconds: float, gpu: tuple[str, int]) -> tuple[float, float, float]:
        """Tokens a second, the share of the GPUs' peak, and GiB of memory at the peak, for a step on these rows.

        ``gpu`` is a GPU's name and the bytes that the process had at its peak.
        """
        lengths, (name, bytes_used) = self._reader.lengths(rows), gpu
        peak = PEAK_FLOPS.get(name, 0.0) * distributed.ranks() * is_dense(self._model.network.config)
        flops = self._flops_per_token * sum(lengths) + attention_flops(self._model, lengths)
        return sum(lengths) / seconds, flops / seconds / peak if peak else 0.0, bytes_used / 2**30

    def _backward(self, rows: Sequence[int], scored: int) -> Tensor:
        """Add up this process's part of the gradients of a batch's loss; return its part of the loss."""
        self._optimizer.zero_grad()  # of what ran out of memory
        part = torch.zeros((), device=self._model.device)
        for reading in self._reader.read(rows[distributed.row() :: distributed.workers()]):
            shares = reading.scored / max(1, scored)  # documents of one token each have nothing to score
            if reading.answers is not None:
                shares = shares + self._reader.answer_weights(reading, rows)
            for cut in self._cuts(reading):
                part += self._add_gradients(reading.cut(cut), shares[cut])
        return part

    def _cuts(self, reading: TrainingSample) -> Iterator[slice]:
        """Which of its windows go through the model together; processes that divide the layers make as many passes.

        Short windows in the place of a long one have no more tokens than it, so they need not be divided, and their
        number differs from process to process.
        """
        if reading.own_rope and distributed.workers() > 1:
            return iter([slice(None)])
        return at_once(self._model, len(reading.tokens))

    def _add_gradients(self, reading: TrainingSample, shares: NDArray[np.float64]) -> Tensor:
        """Add up the gradients of the loss of some windows, with weights [B, N - 1] of their tokens; the loss."""
        device = self._model.device
        half = choose_precision(device) is torch.bfloat16
        plain = unscaled(self._model.spec, reading.tokens.shape[1])
        with rescaled(self._model, plain if reading.own_rope else None):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = weighted_loss_with_graph(
                    self._model,
                    reading.tokens,
                    shares,
                    recompute=self.settings.recompute,
                    holding=holding_of(self.settings),
                    documents=reading.documents,
                    positions=reading.positions,
                )
            (loss * distributed.ranks()).backward()
        return loss.detach()

    def _join_gradients(self) -> None:
        """Give every process the mean of gradients of weights that each has whole; FSDP has done so with others."""
        for weight in self.weights.values():
            if distributed.ranks() > 1 and not distributed.is_dtensor(weight):
                own = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = distributed.total(own) / distributed.ranks()

    def _update(self, rate: float) -> None:
        self.settled = False
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        self.settled = True


def holding_of(settings: TuneRecipe) -> Holding:
    """How a training holds the hidden states before recomputed layers."""
    return Holding(settings.recompute_layers, offload=settings.offload)


def choose_windows_at_once(model: LanguageModel, settings: TuneRecipe, tokens: int) -> int:
    """How many windows of so many tokens go through the model together: what the settings say, or more short ones.

    All processes choose alike. Those that divide a batch of long and short windows, and must make as many passes, take
    what the settings say.
    """
    workers = distributed.workers()
    if workers > 1 and settings.short_share:
        return settings.windows_at_once
    how: dict[str, Any] = {
        "adapters": settings.trains_few,
        "recompute": settings.recompute,
        "holding": holding_of(settings),
    }
    fitting = partial(windows_together, model, tokens, settings.batch_windows // workers, **how)
    return max(settings.windows_at_once, distributed.on_main(fitting))


def check_batch(settings: TuneRecipe) -> None:
    """Raise RecipeError unless all rows of processes make the same passes, for they meet in every layer."""
    rows = distributed.workers()
    if settings.batch_windows % rows:
        raise RecipeError(
            f"tune.batch_windows = {settings.batch_windows}, and {rows} rows of processes are to divide them.",
            "Each row must take the same number of windows.",
            f"Give a multiple of {rows}, or let more processes share a window (--context-ranks).",
        )
    if rows > 1 and settings.short_share and settings.windows_at_once > 1:
        raise RecipeError(
            f"tune.short_share = {settings.short_share:g} with tune.windows_at_once = {settings.windows_at_once} in "
            f"{rows} rows of processes.",
            "Long and short windows go through the model apart, and each row must make as many passes.",
            "Give tune.windows_at_once = 1.",
        )


def _use_of_gpu(device: torch.device) -> tuple[str, int]:
    """The name of the GPU and the bytes of it that torch had at its peak; on a CPU nothing."""
    on_gpu = device.type == "cuda"
    return (torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)) if on_gpu else ("", 0)


def _clip(weights: Weights, most: float) -> Tensor:
    """Scale all gradients so that their norm over all weights is ``most`` or less; return the norm before that."""
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    if not any(map(distributed.is_dtensor, gradients)):
        return nn.utils.clip_grad_norm_(weights.values(), most)
    divided = _square([g for g in gradients if distributed.is_dtensor(g)])
    norm = (distributed.total(divided) + _square([g for g in gradients if not distributed.is_dtensor(g)])).sqrt()
    scale = (most / (norm + CLIP_EPSILON)).clamp(max=1.0)
    for gradient in gradients:
        distributed.local_tensor(gradient).mul_(scale)
    return norm


def _square(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all entries that this process holds."""
    norms = [torch.linalg.vector_norm(distributed.local_tensor(gradient)) for gradient in gradients]
    return torch.stack(norms).square().sum() if norms else torch.zeros(())


def _make_optimizer(model: LanguageModel, weights: Weights, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices, but no embeddings; weights that are divided are in groups of their own."""
    embeddings = {id(module.weight) for module in model.network.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for weight in weights.values():
        matrix = weight.ndim > 1 and id(weight) not in embeddings
        groups.setdefault((not matrix, distributed.is_dtensor(weight)), []).append(weight)
    given = [{"params": groups[key], "weight_decay": 0.0 if key[0] else decay} for key in sorted(groups)]
    return torch.optim.AdamW(given, betas=BETAS, fused=model.device.type == "cuda")
