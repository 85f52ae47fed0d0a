"""Fine-tuning against a loop of plain AdamW by hand, written out here on whole logits."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from trainings import QUICK, TEXT, TOKENIZER, CrashError, assert_same, make_factors, stop_after, train, weights_of

from longrope.engine.passes import token_losses
from longrope.models import LanguageModel, RescaledRotary, rescaled
from longrope.recipe import TuneRecipe
from longrope.rope import RescaleFactors
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune
from longrope.tuning.adapters import trained_weights
from longrope.tuning.batches import Batches
from longrope.tuning.training import choose_precision, scheduled_rate

# Against a loop by hand


def train_by_hand(
    model: LanguageModel, factors: RescaleFactors | None, rates: list[float], clip: float
) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of plain AdamW on whole batches and whole logits."""
    batches, network = Batches.cut(TEXT, 48, 4, seed=5), model.network
    weights = list(network.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
    losses, norms = [], []
    with rescaled(model, factors):
        for step, rate in enumerate(rates):
            tokens = torch.from_numpy(batches.at(step)).long()
            logits = network(tokens, use_cache=False).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            norm = math.sqrt(sum(float(w.grad.double().square().sum()) for w in weights if w.grad is not None))
            for weight in weights:
                assert weight.grad is not None
                weight.grad *= min(1.0, clip / norm)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            losses.append(loss.item())
            norms.append(norm)
    return losses, norms


@pytest.mark.parametrize(
    ("family", "at_once", "recompute", "clip"),
    [
        ("llama", 4, True, math.inf),
        ("llama", 4, False, math.inf),
        ("llama", 1, True, 0.3),
        ("llama", 2, False, 0.3),
        ("qwen2", 3, True, 0.3),  # three windows and then one
    ],
)
def test_weights_are_those_of_a_loop_by_hand(family: str, at_once: int, recompute: bool, clip: float) -> None:
    """Losses, norms and weights of six steps, with factors, however the batch is cut and whatever is recomputed."""
    ours, hand = pico.make_model(family), pico.make_model(family)
    settings = replace(QUICK, steps=6, windows_at_once=at_once, recompute=recompute, clip_norm=clip)
    steps: list[TrainStep] = []
    fine_tune(ours, make_factors(ours), TEXT, settings=settings, seed=5, on_step=steps.append)
    rates = [1e-3 / 3, 2e-3 / 3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3]
    losses, norms = train_by_hand(hand, make_factors(hand), rates, clip)
    assert [record.step for record in steps] == list(range(6))
    assert [record.learning_rate for record in steps] == pytest.approx(rates)
    assert [record.loss_nats for record in steps] == pytest.approx(losses, rel=1e-5)
    assert [record.gradient_norm for record in steps] == pytest.approx(norms, rel=1e-4)
    assert min(norms) > 0.3, "clipping must have something to do"
    expected = weights_of(hand)
    for name, weight in weights_of(ours).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("clip", [0.01, 0.1, math.inf])
def test_gradients_are_clipped_before_adam_sees_them(tmp_path: Path, clip: float) -> None:
    """After one step the first moment is 0.1 times the gradient that Adam got, and its norm tells how large that was.

    The step alone would not: Adam divides the size out.
    """
    settings = replace(QUICK, clip_norm=clip, checkpoint_every=1, steps=3)
    with pytest.raises(CrashError):
        fine_tune(
            pico.make_model(), None, TEXT, settings=settings, run=RunDir(tmp_path), on_step=stop_after(0, CrashError)
        )
    [whole] = read_records(tmp_path / "train.jsonl", TrainStep)
    saved = load_file(tmp_path / "tuning.safetensors")
    moments = torch.cat([moment.flatten() for name, moment in saved.items() if name.startswith("exp_avg/")])
    assert whole.gradient_norm > 0.1
    assert moments.norm().item() == pytest.approx(0.1 * min(clip, whole.gradient_norm), rel=1e-4)


def test_first_loss_is_that_of_the_model_with_the_factors() -> None:
    model = pico.make_model()
    factors, steps = make_factors(model), list[TrainStep]()
    batch = Batches.cut(TEXT, 256, 2, seed=0).at(0)
    with rescaled(model, factors):
        expected = token_losses(model, batch).mean().item()
    assert abs(expected - token_losses(model, batch).mean().item()) > 1e-2
    settings = replace(QUICK, window_tokens=0, batch_windows=2, windows_at_once=1)
    fine_tune(model, factors, TEXT, settings=settings, on_step=steps.append)
    assert steps[0].loss_nats == pytest.approx(expected, rel=1e-5)


def test_factors_are_gone_after_the_training_and_after_a_failure() -> None:
    for stop in (-1, 2):
        model = pico.make_model()
        rotary = model.network.model.rotary_emb
        seen: list[bool] = []

        def look(record: TrainStep, model: LanguageModel = model, stop: int = stop, seen: list[bool] = seen) -> None:
            seen.append(isinstance(model.network.model.rotary_emb, RescaledRotary))
            stop_after(stop, CrashError)(record)

        try:
            fine_tune(model, make_factors(model), TEXT, settings=QUICK, on_step=look)
        except CrashError:
            assert len(seen) == 3
        assert all(seen)
        assert model.network.model.rotary_emb is rotary


def test_installed_factors_are_no_weights() -> None:
    """Without factors of its own a training takes the model as it is, and leaves factors that are installed alone."""
    model = pico.make_model()
    factors = make_factors(model)
    with rescaled(model, factors, learnable=True) as rotary:
        assert rotary is not None
        assert "model.rotary_emb.lambdas" in dict(model.network.named_parameters())
        assert "model.rotary_emb.lambdas" not in trained_weights(model.network)
        train(model)
        assert rotary.lambdas.tolist() == list(factors.lambdas)


def test_loss_falls() -> None:
    """Trained from nothing, a pico model learns the toy grammar."""
    settings = replace(QUICK, steps=60, learning_rate=1e-2, schedule="cosine", recompute=False)
    model = pico.make_model()
    steps = train(model, settings)
    held_out = np.asarray(TOKENIZER(pico.make_text(600, seed=9))["input_ids"], np.int32)[:960].reshape(20, 48)
    assert steps[0].loss_nats > 4.5
    assert steps[-1].loss_nats < 2.5
    assert token_losses(model, held_out).mean() < 2.7
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.network.parameters())


def test_every_step_is_reported_with_its_tokens() -> None:
    steps = train()
    assert [(record.num_tokens, record.tokens_seen) for record in steps] == [(188, 188 * n) for n in range(1, 9)]


def test_network_comes_back_as_load_model_leaves_it() -> None:
    """The network that was given, in eval mode and without gradients, even if it came otherwise."""
    model = pico.make_model()
    model.network.train().requires_grad_(True)
    assert fine_tune(model, None, TEXT, settings=QUICK).network is model.network
    assert not any(module.training for module in model.network.modules())
    assert not any(weight.requires_grad for weight in model.network.parameters())


def test_gradients_from_before_are_forgotten(whole: Any) -> None:
    model = pico.make_model()
    for weight in model.network.requires_grad_(True).parameters():
        weight.grad = torch.ones_like(weight)
    train(model)
    assert_same(weights_of(model), whole[torch.float32][0])


@pytest.mark.parametrize("recompute", [True, False])
def test_layers_run_again_only_where_they_are_recomputed(recompute: bool) -> None:
    model, runs = pico.make_model(), []
    norm = model.network.model.layers[1].input_layernorm
    norm.register_forward_pre_hook(lambda *_: runs.append(1))
    train(model, replace(QUICK, recompute=recompute))
    assert len(runs) == 8 * (1 + recompute)


def test_dropout_is_off() -> None:
    plain, dropping = pico.make_model(), pico.make_model(attention_dropout=0.5)
    dropping.network.train()
    train(plain)
    train(dropping)
    assert_same(weights_of(dropping), weights_of(plain))


# Rates


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("linear", 0.5, 1 / 80), ("cosine", 0.5, 0.5 * (1 - math.cos(math.pi / 80))), ("constant", 1, 1)],
)
def test_schedule(schedule: str, middle: float, last: float) -> None:
    """The rate rises evenly, is highest when the warm-up ends, and would be 0 one step after the last."""
    settings = TuneRecipe(steps=100, warmup_steps=20, schedule=schedule, learning_rate=0.5)
    at = {step: scheduled_rate(settings, step) / 0.5 for step in (0, 1, 19, 20, 60, 99, 100)}
    wanted = {0: 1 / 21, 1: 2 / 21, 19: 20 / 21, 20: 1, 60: middle, 99: last, 100: float(schedule == "constant")}
    assert at == pytest.approx(wanted, abs=1e-12)


def test_schedule_without_warm_up_begins_at_the_highest_rate() -> None:
    assert scheduled_rate(TuneRecipe(steps=4, warmup_steps=0), 0) == 2e-5


# Weight decay and shared weights


@pytest.mark.parametrize("tied", [False, True])
def test_only_matrices_decay(tied: bool) -> None:
    """In one step a decayed weight loses learning rate x decay of itself; norms, biases and embeddings lose nothing."""
    models = [pico.make_model("qwen2", tie_word_embeddings=tied) for _ in range(3)]
    before, plain, decayed = models
    settings = replace(QUICK, steps=1, warmup_steps=0, schedule="constant")
    train(plain, settings)
    train(decayed, replace(settings, weight_decay=0.25))
    start, other = weights_of(before), weights_of(plain)
    kept = set()
    for name, weight in weights_of(decayed).items():
        if torch.equal(weight, other[name]):
            kept.add(name.split(".")[-2] + "." + name.split(".")[-1])
        else:
            torch.testing.assert_close(other[name] - weight, 1e-3 * 0.25 * start[name], rtol=1e-2, atol=1e-7)
    norms = {"norm.weight", "input_layernorm.weight", "post_attention_layernorm.weight"}
    assert kept == {*norms, "embed_tokens.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias"}
    assert ("lm_head.weight" in start) != tied


def test_shared_weights_stay_shared() -> None:
    model = pico.make_model(dtype=torch.bfloat16, tie_word_embeddings=True)
    train(model)
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


# Number formats


def test_bfloat16_weights_are_trained_in_float32(tmp_path: Path) -> None:
    """Steps too small for bfloat16 add up, and afterwards weights and buffers have the formats that they had."""
    model = pico.make_model(dtype=torch.bfloat16)
    buffers = {name: buffer.clone() for name, buffer in model.network.named_buffers()}
    before = weights_of(model)
    formats: list[set[torch.dtype]] = []

    def look(_: TrainStep) -> None:
        formats.append({weight.dtype for weight in model.network.parameters()})

    settings = replace(QUICK, steps=40, learning_rate=1e-4)
    fine_tune(model, None, TEXT, settings=settings, run=RunDir(tmp_path), on_step=look)
    assert formats == [{torch.float32}] * 40
    norm = "model.norm.weight"  # it begins at 1, where bfloat16 below is 0.0039 away
    assert (before[norm].float() - weights_of(model)[norm].float()).abs().max() > 1e-3
    assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16}
    assert_same(dict(model.network.named_buffers()), buffers)
    assert {tensor.dtype for tensor in load_file(tmp_path / "tuning.safetensors").values()} == {torch.bfloat16}


def test_formats_come_back_after_a_failure() -> None:
    model = pico.make_model(dtype=torch.bfloat16)
    with pytest.raises(CrashError):
        fine_tune(model, None, TEXT, settings=QUICK, on_step=stop_after(1, CrashError))
    assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in model.network.parameters())


def test_passes_are_in_bfloat16_on_a_gpu_alone() -> None:
    assert choose_precision(torch.device("cpu")) == torch.float32
    assert choose_precision(torch.device("cuda")) == torch.bfloat16
