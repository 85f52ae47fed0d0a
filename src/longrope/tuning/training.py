"""The state of a training and its step: float32 weights, AdamW over them, gradients of one batch after another."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longrope.errors import LongRopeError
from longrope.factors import unscaled
from longrope.forward import weighted_loss_with_graph
from longrope.models import LanguageModel, RescaledRotary, rescaled
from longrope.recipe import TuneRecipe
from longrope.records import TrainStep
from longrope.tuning.batches import Batches
from longrope.tuning.readings import Reader

Weights = dict[str, nn.Parameter]
BETAS = (0.9, 0.95)


def choose_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the number format of the passes over float32 weights, and the reason for it."""
    if device.type == "cuda":
        return torch.bfloat16, "float32 weights are trained by passes in bfloat16 (a GPU)"
    return torch.float32, "float32 weights are trained by passes in float32 (no GPU)"


def scheduled_rate(settings: TuneRecipe, step: int) -> float:
    """The learning rate of a step: up to the highest at the end of the warm-up, then down to 0 after the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    shares = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
    return settings.learning_rate * shares[settings.schedule]


def trained_weights(network: Any) -> Weights:
    """All parameters of a network by name, a shared one once; rescale factors that are installed are none of them."""
    rotary = [p for m in network.modules() if isinstance(m, RescaledRotary) for p in m.parameters()]
    installed = {id(parameter) for parameter in rotary}
    return {name: weight for name, weight in network.named_parameters() if id(weight) not in installed}


@contextmanager
def in_float32(weights: Weights) -> Iterator[None]:
    """Make weights float32 with gradients in this block; then they have their own number format and no gradients."""
    formats = [weight.dtype for weight in weights.values()]
    for weight in weights.values():
        weight.data, weight.grad = weight.data.float(), None
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, number_format in zip(weights.values(), formats, strict=True):
            weight.requires_grad_(False)
            weight.data, weight.grad = weight.data.to(number_format), None


class Training:
    """A training between two steps.

    Attributes:
        settings: of the training.
        done: steps that are done.
        settled: whether weights and moments are those after ``done`` steps; false while they change.
    """

    def __init__(self, model: LanguageModel, weights: Weights, batches: Batches, settings: TuneRecipe) -> None:
        """Stand before the first step; the model is run as it is at the moment of each step."""
        self.settings, self.done, self.settled = settings, 0, True
        self._model, self._weights, self._batches = model, weights, batches
        self._reader, self._tokens_seen = Reader(batches, settings, model.spec.trained_window), 0
        self._optimizer = _make_optimizer(model, weights, settings.weight_decay)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What to go on from: ``weight/NAME`` and AdamW's ``exp_avg/NAME``, ``exp_avg_sq/NAME`` and ``step/NAME``."""
        moments = {
            f"{key}/{name}": value
            for name, weight in self._weights.items()
            for key, value in self._optimizer.state.get(weight, {}).items()
        }
        return {**{f"weight/{name}": weight for name, weight in self._weights.items()}, **moments}

    def restore(self, done: int, tensors: dict[str, Tensor]) -> None:
        """Stand after so many steps, with the weights and moments that there are in ``tensors``."""
        self.done = done
        self._tokens_seen = self._reader.num_scored(range(done * self.settings.batch_windows))
        for path, tensor in tensors.items():
            key, _, name = path.partition("/")
            weight = self._weights[name]
            if key == "weight":
                weight.data.copy_(tensor)
            else:
                self._optimizer.state[weight][key] = tensor.to(weight.device, copy=True)

    def step(self) -> TrainStep:
        """Take one step (raises LongRopeError before a weight is changed if its loss or gradient is not finite)."""
        began = time.perf_counter()
        rows, rate = self._batches.rows(self.done), scheduled_rate(self.settings, self.done)
        scored = self._reader.num_scored(rows)
        loss = self._backward(rows, scored)
        norm = nn.utils.clip_grad_norm_(self._weights.values(), self.settings.clip_norm)
        loss_nats, gradient_norm = torch.stack((loss, norm)).tolist()  # the one wait for a GPU
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            raise LongRopeError(
                f"The loss of training step {self.done} is {loss_nats}, the norm of its gradient {gradient_norm}.",
                "Both must be finite.",
                "Train with a lower tune.learning_rate in another directory, or look at the model: its loss may be "
                "that without training.",
            )
        self._update(rate)
        self._tokens_seen += scored
        seconds = time.perf_counter() - began
        return TrainStep(self.done - 1, loss_nats, scored, self._tokens_seen, rate, gradient_norm, seconds)

    def _backward(self, rows: Sequence[int], scored: int) -> Tensor:
        """Add up the gradients of the mean loss over all scored tokens of these windows; return this loss."""
        device = self._model.device
        precision, _ = choose_precision(device)
        total = torch.zeros((), device=device)
        for reading in self._reader.read(rows):
            with rescaled(self._model, unscaled(self._model.spec) if reading.own_rope else None):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16):
                    loss = weighted_loss_with_graph(
                        self._model,
                        reading.tokens,
                        reading.scored / max(1, scored),  # documents of one token each have nothing to score
                        recompute=self.settings.recompute,
                        documents=reading.documents,
                        positions=reading.positions,
                    )
                loss.backward()
            total += loss.detach()
        return total

    def _update(self, rate: float) -> None:
        self.settled = False
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        self.settled = True


def _make_optimizer(model: LanguageModel, weights: Weights, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices, but no embeddings."""
    embeddings = {id(module.weight) for module in model.network.modules() if isinstance(module, nn.Embedding)}
    matrices = [weight for weight in weights.values() if weight.ndim > 1 and id(weight) not in embeddings]
    known = {id(weight) for weight in matrices}
    others = [weight for weight in weights.values() if id(weight) not in known]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, fused=model.device.type == "cuda")
