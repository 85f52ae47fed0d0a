"""Training of weights against a loop written by hand, and its resuming to the bit."""

import math
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from longrope.data import TokenText, fingerprint
from longrope.engine.passes import token_losses
from longrope.errors import FactorsError, LongRopeError, RecipeError, RunError, TextsError
from longrope.models import LanguageModel, RescaledRotary, rescaled
from longrope.recipe import TuneRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs import train_log
from longrope.runs.records import TrainStep, append_records, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import cut_batches, fine_tune
from longrope.tuning.adapters import trained_weights
from longrope.tuning.batches import Batches
from longrope.tuning.training import choose_precision, scheduled_rate

TOKENIZER = pico.make_tokenizer()
TEXT = TokenText(np.asarray(TOKENIZER(pico.make_text(1500))["input_ids"], np.int32), "tune")
QUICK = TuneRecipe(
    window_tokens=48,
    steps=8,
    batch_windows=4,
    windows_at_once=4,
    learning_rate=1e-3,
    warmup_steps=2,
    checkpoint_every=3,
)


class CrashError(Exception):
    """What these tests let happen between two steps."""


def make_factors(model: LanguageModel, window: int = 256) -> RescaleFactors:
    return replace(baseline_factors(model.spec, "yarn", window).factor_sets[0], attention_factor=1.2)


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.network.named_parameters()}


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, formats and bits."""
    assert given.keys() == expected.keys()
    for name, weight in expected.items():
        assert given[name].dtype == weight.dtype, name
        assert torch.equal(given[name], weight), name


def train(model: LanguageModel | None = None, settings: TuneRecipe = QUICK, **rest: Any) -> list[TrainStep]:
    """The steps of one training of a model, by default of a fresh pico Llama."""
    steps: list[TrainStep] = []
    fine_tune(model or pico.make_model(), None, TEXT, settings=settings, on_step=steps.append, **rest)
    return steps


def stop_after(step: int, error: type[BaseException]) -> Callable[[TrainStep], None]:
    def stop(record: TrainStep) -> None:
        if record.step == step:
            raise error

    return stop


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
    with rescaled(model, factors) as rotary:
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


# Resuming


@pytest.fixture(scope="module")
def whole() -> dict[torch.dtype, tuple[dict[str, Tensor], list[TrainStep]]]:
    """Weights and steps of trainings without a break."""
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = pico.make_model(dtype=dtype)
        steps = train(model)
        made[dtype] = weights_of(model), steps
    return made


def strip(steps: list[TrainStep]) -> list[TrainStep]:
    """Without wall clock."""
    return [replace(record, seconds=0.0, tokens_per_second=0.0) for record in steps]


@pytest.mark.parametrize("error", [CrashError, KeyboardInterrupt])
@pytest.mark.parametrize("stops", [(0,), (1, 2), (2,), (3, 5), (4, 6), (7,)])
def test_resumed_training_is_the_same_to_the_bit(
    tmp_path: Path, stops: tuple[int, ...], error: type[BaseException], whole: Any
) -> None:
    """However often and wherever it breaks, weights and records are those of a training without a break.

    After a crash it goes on from the last checkpoint, after an interrupt from the very step.
    """
    run, expected = RunDir(tmp_path), whole[torch.float32]
    for stop in stops:
        with pytest.raises(error):
            fine_tune(pico.make_model(), None, TEXT, settings=QUICK, run=run, on_step=stop_after(stop, error))
        assert [record.step for record in read_records(run.train, TrainStep)] == list(range(stop + 1))
    model = pico.make_model()
    made = train(model, run=run)
    at = stops[-1] + 1
    assert len(made) == 8 - (at if error is KeyboardInterrupt else 3 * (at // 3))
    assert_same(weights_of(model), expected[0])
    assert strip(read_records(run.train, TrainStep)) == strip(expected[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl", "tuning.safetensors"]


def test_resumed_training_in_bfloat16_is_the_same_to_the_bit(tmp_path: Path, whole: Any) -> None:
    """The checkpoint holds the float32 weights, which bfloat16 would have rounded."""
    for stop in (4, -1):
        model = pico.make_model(dtype=torch.bfloat16)
        try:
            fine_tune(model, None, TEXT, settings=QUICK, run=RunDir(tmp_path), on_step=stop_after(stop, CrashError))
        except CrashError:
            assert load_file(tmp_path / "tuning.safetensors")["weight/lm_head.weight"].dtype == torch.float32
    assert_same(weights_of(model), whole[torch.bfloat16][0])


def test_finished_training_is_read_and_not_repeated(tmp_path: Path, whole: Any) -> None:
    run = RunDir(tmp_path)
    assert len(train(run=run)) == 8
    saved = run.tuning.read_bytes(), run.train.read_bytes()
    assert {name.split("/")[0] for name in load_file(run.tuning)} == {"weight"}, "moments are not kept"
    model = pico.make_model()
    assert train(model, run=run) == []
    assert_same(weights_of(model), whole[torch.float32][0])
    assert (run.tuning.read_bytes(), run.train.read_bytes()) == saved


def test_interrupt_while_weights_change_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    """A checkpoint of half a step would be wrong; the steps since the last one are done again."""
    run, count, true_step = RunDir(tmp_path), 0, torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        nonlocal count
        count += 1
        true_step(self)
        if count == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(run=run)
    model = pico.make_model()
    assert [record.step for record in train(model, run=run)] == [3, 4, 5, 6, 7]
    assert_same(weights_of(model), whole[torch.float32][0])


def test_crash_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    run, count, replace_file = RunDir(tmp_path), 0, Path.replace

    def crash(source: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 2:
            raise CrashError
        return replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(CrashError):
            train(run=run)
    model = pico.make_model()
    assert train(model, run=run)[0].step == 3
    assert_same(weights_of(model), whole[torch.float32][0])


def test_checkpoint_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lines of its steps are there before it."""
    synced: list[str] = []
    true_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        true_fsync(descriptor)
        synced.append(
            next(path.name for path in tmp_path.iterdir() if path.stat().st_ino == os.fstat(descriptor).st_ino)
        )

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(train_log, "FLUSH_SECONDS", math.inf)
    train(run=RunDir(tmp_path))
    assert synced == ["train.jsonl", "tuning.safetensors.partial"] * 3


def test_lines_are_written_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every step, and not only at checkpoints."""
    now, seen = [0.0], []

    def look(_: TrainStep) -> None:
        path = tmp_path / "train.jsonl"
        seen.append(len(path.read_text().splitlines()) if path.exists() else 0)
        now[0] += 0.4

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    settings = replace(QUICK, checkpoint_every=100)
    fine_tune(pico.make_model(), None, TEXT, settings=settings, run=RunDir(tmp_path), on_step=look)
    assert seen == [0, 0, 0, 4, 4, 4, 7, 7]
    assert len(read_records(tmp_path / "train.jsonl", TrainStep)) == 8


def test_an_interrupted_flush_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the lines and a torn one are not there twice."""
    run = RunDir(tmp_path)

    def tear(path: Path, records: list[TrainStep]) -> None:
        monkeypatch.setattr(train_log, "write_lines", append_records)
        append_records(path, records[:1])
        with path.open("a") as file:
            file.write('{"step": 1, "lo')
        raise KeyboardInterrupt

    monkeypatch.setattr(train_log, "write_lines", tear)
    with pytest.raises(KeyboardInterrupt):
        train(run=run)
    assert [record.step for record in read_records(run.train, TrainStep)] == [0, 1, 2]
    assert train(run=run)[0].step == 3


# Refusals


@pytest.mark.parametrize("stop", [4, -1], ids=["begun", "finished"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": replace(QUICK, learning_rate=2e-3)}, "tune.learning_rate = 0.002 (was 0.001)"),
        ({"settings": replace(QUICK, steps=9)}, "tune.steps = 9 (was 8)"),
        ({"seed": 1}, "seed = 1 (was 0)"),
        ({"text": replace(TEXT, tokens=TEXT.tokens[:-1])}, "text = "),
        ({"text": replace(TEXT, bos=1)}, "text = "),
        ({"factors": make_factors(pico.make_model())}, "factors = "),
        ({"model": replace(pico.make_model(), name="other")}, "model = other (was pico-llama)"),
        ({"model": replace(pico.make_model("mistral", num_hidden_layers=1), name="pico-llama")}, "weights = "),
        ({"model": pico.make_model(dtype=torch.bfloat16)}, "weights = "),
    ],
)
def test_another_training_is_refused_naming_the_change(
    tmp_path: Path, stop: int, change: dict[str, Any], named: str
) -> None:
    given: dict[str, Any] = {"factors": None, "text": TEXT, "settings": QUICK, "run": RunDir(tmp_path)}
    with suppress(CrashError):
        fine_tune(pico.make_model(), **given, on_step=stop_after(stop, CrashError))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    changed = {"model": pico.make_model(), **given, **change}
    weights = weights_of(changed["model"])
    with pytest.raises(RunError) as caught:
        fine_tune(**changed)
    assert named in caught.value.found
    assert "; " not in caught.value.found
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
    assert_same(weights_of(changed["model"]), weights)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuning.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"tuning\.safetensors cannot be read"):
        train(run=RunDir(tmp_path))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_by_name(tmp_path: Path, poison: float) -> None:
    """Before a weight is changed; what came before stays on record."""
    model, run = pico.make_model(), RunDir(tmp_path)

    def spoil(record: TrainStep) -> None:
        if record.step == 3:
            model.network.lm_head.weight.data[5] = poison

    with pytest.raises(LongRopeError, match=r"training step 4 is nan") as caught:
        fine_tune(model, None, TEXT, settings=QUICK, run=run, on_step=spoil)
    assert caught.value.needed
    assert "tune.learning_rate" in caught.value.remedy
    assert model.network.model.embed_tokens.weight.isfinite().all()
    assert all(weight.grad is None for weight in model.network.parameters())
    assert [record.step for record in read_records(run.train, TrainStep)] == [0, 1, 2, 3]
    assert all(tensor.isfinite().all() for tensor in load_file(run.tuning).values())


def test_a_text_that_holds_no_window_is_refused() -> None:
    model = pico.make_model()
    with pytest.raises(TextsError, match="47 tokens"):
        fine_tune(model, None, replace(TEXT, tokens=TEXT.tokens[:47]), settings=QUICK)
    with pytest.raises(TextsError, match=f"{10**6:,} tokens"):  # the window of the factors
        fine_tune(model, make_factors(model, 10**6), TEXT)


def test_factors_of_another_geometry_are_refused() -> None:
    model = pico.make_model()
    with pytest.raises(FactorsError):
        fine_tune(model, make_factors(pico.make_model("qwen3")), TEXT, settings=QUICK)
    assert not any(weight.requires_grad for weight in model.network.parameters())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window_tokens": 1}, "tune.window_tokens = 1"),
        ({"window_tokens": -64}, "tune.window_tokens = -64"),
        ({"steps": 0}, "tune.steps = 0"),
        ({"batch_windows": 0}, "tune.batch_windows = 0"),
        ({"windows_at_once": 0}, "tune.windows_at_once = 0"),
        ({"windows_at_once": 33}, "tune.windows_at_once = 33 with tune.batch_windows = 32"),
        ({"learning_rate": 0.0}, "tune.learning_rate = 0.0"),
        ({"learning_rate": math.nan}, "tune.learning_rate = nan"),
        ({"warmup_steps": -1}, "tune.warmup_steps = -1"),
        ({"warmup_steps": 400}, "tune.warmup_steps = 400 with tune.steps = 400"),
        ({"schedule": "step"}, "tune.schedule = 'step'"),
        ({"weight_decay": -0.1}, "tune.weight_decay = -0.1"),
        ({"clip_norm": 0.0}, "tune.clip_norm = 0.0"),
        ({"checkpoint_every": 0}, "tune.checkpoint_every = 0"),
        ({"short_share": -0.1}, "tune.short_share = -0.1"),
        ({"short_share": 1.1}, "tune.short_share = 1.1"),
        ({"short_share": math.nan}, "tune.short_share = nan"),
        ({"skipped_positions": -1, "window_tokens": 64}, "tune.skipped_positions = -1"),
        ({"skipped_positions": 64, "window_tokens": 64}, "tune.skipped_positions = 64 with tune.window_tokens = 64"),
        ({"skipped_positions": 65}, "tune.skipped_positions = 65 with tune.window_tokens = 0"),
        (
            {"skipped_positions": 65, "window_tokens": 64, "isolate_documents": True},
            "tune.skipped_positions = 65 with tune.isolate_documents",
        ),
    ],
)
def test_a_setting_that_no_training_can_use_is_refused_by_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TuneRecipe(**change)
    assert named in caught.value.found


# Batches


@pytest.mark.parametrize("bos", [None, 7])
def test_an_epoch_holds_every_window_once(bos: int | None) -> None:
    """103 tokens hold 10 windows of 10, always the same ones, in an order of each epoch; 3 tokens are left out."""
    text = TokenText(np.arange(100, 203, dtype=np.int32), "tune", bos)
    batches = Batches.cut(text, 10 + (bos is not None), 2, seed=3)
    orders = []
    for epoch in range(6):
        rows = np.concatenate([batches.at(step) for step in range(5 * epoch, 5 * epoch + 5)])
        if bos is not None:
            assert (rows[:, 0] == bos).all()
            rows = rows[:, 1:]
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.arange(100, 200).reshape(10, 10))
        assert (np.diff(rows) == 1).all()
        orders.append(tuple(rows[:, 0].tolist()))
    assert len(set(orders)) == 6
    assert tuple(sorted(orders[0])) not in orders


def test_batches_are_functions_of_seed_and_step() -> None:
    """In any order of asking; another seed gives others; a batch may be larger than an epoch."""
    first = [Batches.cut(TEXT, 48, 4, seed=0).at(step) for step in range(40)]
    again = Batches.cut(TEXT, 48, 4, seed=0)
    for step in reversed(range(40)):
        assert np.array_equal(again.at(step), first[step])
    assert not np.array_equal(Batches.cut(TEXT, 48, 4, seed=1).at(0), first[0])
    assert Batches.cut(replace(TEXT, tokens=TEXT.tokens[:50]), 48, 4, seed=0).at(3).shape == (4, 48)


def test_a_training_of_an_earlier_version_is_known_again(tmp_path: Path) -> None:
    """Settings that are off are not among what it is resumed by; those that are on are, with the documents."""
    old = {"window_tokens", "steps", "batch_windows", "windows_at_once", "learning_rate", "warmup_steps", "schedule"}
    old |= {"weight_decay", "clip_norm", "checkpoint_every", "recompute"}
    run = RunDir(tmp_path)
    train(settings=replace(QUICK, steps=3), run=run)
    with safe_open(run.tuning, framework="pt") as file:
        found = dict(file.metadata())
    assert found.keys() == {"model", "weights", "factors", "text", "seed", "step", *(f"tune.{key}" for key in old)}
    assert found["text"] == f"{fingerprint(TEXT.tokens)}, opened by None"
    with pytest.raises(RunError, match=r"opened by None, documents .*prefer_documents = True \(was nothing\)"):
        train(settings=replace(QUICK, steps=3, prefer_documents=True), run=run)


def test_other_documents_make_another_training_where_they_matter(tmp_path: Path) -> None:
    settings, other = replace(QUICK, steps=3), replace(TEXT, documents=np.asarray([0, 500], np.int64))
    for prefer in (False, True):
        run = RunDir(tmp_path / str(prefer))
        asked = replace(settings, prefer_documents=prefer)
        train(settings=asked, run=run)
        with pytest.raises(RunError, match="documents") if prefer else nullcontext():
            fine_tune(pico.make_model(), None, other, settings=asked, run=run)


def test_preferred_documents_are_read_first() -> None:
    """The first step of such a training reads windows of the one document that is long enough."""
    text = replace(TEXT, documents=np.asarray([*range(0, 1200, 40), 1200, 1450], np.int64))
    settings, model, steps = replace(QUICK, steps=3, prefer_documents=True), pico.make_model(), list[TrainStep]()
    batches = cut_batches(model, None, text, settings, seed=0)
    batch = batches.at(0)
    begins = [*range(1200, 1450 - 47, 48), *range(1450, len(TEXT.tokens) - 47, 48)]
    windows = {tuple(TEXT.tokens[begin : begin + 48].tolist()) for begin in begins}
    assert {tuple(row) for row in batch.tolist()} <= windows
    expected = token_losses(model, batch).mean().item()
    fine_tune(model, None, text, settings=settings, on_step=steps.append)
    assert steps[0].loss_nats == pytest.approx(expected, rel=1e-5)


def test_window_is_the_target_of_the_factors_or_the_trained_one() -> None:
    model, settings = pico.make_model(), replace(QUICK, window_tokens=0, steps=1, warmup_steps=0)
    assert train(model, settings)[0].num_tokens == 4 * 63
    steps: list[TrainStep] = []
    fine_tune(model, make_factors(model, 200), TEXT, settings=settings, on_step=steps.append)
    assert steps[0].num_tokens == 4 * 199
