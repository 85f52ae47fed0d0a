"""Low-rank adapters against a loop by hand over W + alpha / r B A, and peft's own reading of what is left of them."""

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from trainings import CrashError

from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.models import LanguageModel, rescaled
from longrope.recipe import TuneRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune
from longrope.tuning.adapters import adapted
from longrope.tuning.batches import Batches

TOKENIZER = pico.make_tokenizer()
TEXT = TokenText(np.asarray(TOKENIZER(pico.make_text(1500))["input_ids"], np.int32), "tune")
QUICK = TuneRecipe(
    window_tokens=48, steps=5, batch_windows=4, learning_rate=1e-2, warmup_steps=0, checkpoint_every=2, lora_rank=3
)
TOKENS = torch.arange(40)[None] % 300
MATRICES = {
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
}
NORMS = {"norm", "input_layernorm", "post_attention_layernorm"}
ALSO: list[tuple[str, ...]] = [(), ("norms",), ("embeddings",), ("norms", "embeddings")]


def make_factors(model: LanguageModel) -> RescaleFactors:
    return replace(baseline_factors(model.spec, "yarn", 256).factor_sets[0], attention_factor=1.2, start_tokens=3)


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.network.state_dict().items()}


def logits_of(network: Any) -> Tensor:
    with torch.no_grad():
        return network(TOKENS, use_cache=False).logits  # type: ignore[no-any-return]


def train(model: LanguageModel, settings: TuneRecipe = QUICK, **rest: Any) -> list[TrainStep]:
    """The steps of a training with factors, of those that are done here."""
    steps: list[TrainStep] = []
    given: dict[str, Any] = {"settings": settings, "seed": 5, "on_step": steps.append, **rest}
    fine_tune(model, make_factors(model), TEXT, **given)
    return steps


def kind_of(name: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``mlp.up_proj``; the name of the module alone elsewhere."""
    *_, parent, module, _ = ("", "", *name.split("."))
    return f"{parent}.{module}" if f"{parent}.{module}" in MATRICES else module


# Against a loop by hand


def train_by_hand(model: LanguageModel, settings: TuneRecipe, alpha: float) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of plain AdamW over A, B and what else is asked for, on whole logits; and the weights at the end."""
    network, start = model.network, dict(model.network.named_parameters())
    with adapted(pico.make_model(tie_word_embeddings=network.config.tie_word_embeddings).network, settings, 5) as made:
        given = {name: weight.detach().clone() for name, weight in made.items()}
    first = {name: given[f"{name.removesuffix('.weight')}.lora_A.default.weight"] for name in matrices_of(start)}
    parts = {name: (a.clone(), torch.zeros(start[name].shape[0], settings.lora_rank)) for name, a in first.items()}
    whole = {name: w.detach().clone() for name, w in start.items() if is_whole(name, settings)}
    factors = [x.requires_grad_(True) for pair in parts.values() for x in pair]
    others = {name: weight.requires_grad_(True) for name, weight in whole.items()}
    decayed = [*factors, *(weight for name, weight in others.items() if name == "lm_head.weight")]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}]
    groups.append({"params": [weight for name, weight in others.items() if name != "lm_head.weight"]})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    batches, losses = Batches.cut(TEXT, 48, 4, seed=5), []

    def merged() -> dict[str, Tensor]:
        return whole | {name: start[name] + alpha / settings.lora_rank * b @ a for name, (a, b) in parts.items()}

    with rescaled(model, make_factors(model)):
        for step in range(settings.steps):
            tokens = torch.from_numpy(batches.at(step)).long()
            logits = functional_call(network, merged(), (tokens,), {"use_cache": False}).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*factors, *others.values()], settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / settings.steps)
            optimizer.step()
            losses.append(loss.item())
    return losses, {name: weight.detach() for name, weight in (start | merged()).items()}


def matrices_of(names: Any) -> list[str]:
    return [name for name in names if kind_of(name) in MATRICES]


def is_whole(name: str, settings: TuneRecipe) -> bool:
    """Whether a weight is trained beside the adapters."""
    embedding = kind_of(name) in ("embed_tokens", "lm_head")
    return (kind_of(name) in NORMS and "norms" in settings.lora_also) or (
        embedding and "embeddings" in settings.lora_also
    )


@pytest.mark.parametrize(
    ("change", "alpha", "tied"),
    [
        ({}, 6.0, False),  # twice the rank
        ({"lora_alpha": 1, "clip_norm": 0.2, "windows_at_once": 3}, 1.0, False),
        ({"lora_also": ("norms",), "weight_decay": 0.3, "recompute": False}, 6.0, False),
        ({"lora_also": ("norms", "embeddings"), "weight_decay": 0.3}, 6.0, False),
        ({"lora_also": ("embeddings",), "weight_decay": 0.3}, 6.0, True),
    ],
)
def test_adapters_are_those_of_a_loop_by_hand(change: dict[str, Any], alpha: float, tied: bool) -> None:
    """Losses, and the merged weights, with factors; decayed are matrices that are no embeddings."""
    settings = replace(QUICK, **change)
    ours, hand = (pico.make_model(tie_word_embeddings=tied) for _ in range(2))
    steps = train(ours, settings)
    losses, expected = train_by_hand(hand, settings, alpha)
    assert [record.loss_nats for record in steps] == pytest.approx(losses, rel=1e-5)
    assert losses[0] - losses[-1] > 0.05
    for name, weight in ours.network.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-4, msg=name)


# What is trained, and what stays


@pytest.mark.parametrize("also", ALSO)
def test_only_adapters_and_what_is_asked_for_beside_them_are_trained(also: tuple[str, ...], tmp_path: Path) -> None:
    """By the names in the checkpoint, and by the weights that changed."""
    settings, model, run = replace(QUICK, lora_also=also), pico.make_model("qwen2"), RunDir(tmp_path)
    before = weights_of(model)
    train(model, settings, run=run)
    adapters = {
        f"weight/model.layers.{layer}.{matrix}.lora_{part}.default.weight"
        for layer in range(2)
        for matrix in MATRICES
        for part in "AB"
    }
    whole = {f"weight/{name}" for name in before if is_whole(name, settings)}
    assert load_file(run.tuning).keys() == adapters | whole
    after = weights_of(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if f"weight/{name}" in whole or name in matrices_with_weight(before)}


def matrices_with_weight(names: Any) -> set[str]:
    """The matrices of the layers, without their biases, which no adapter touches."""
    return {name for name in matrices_of(names) if name.endswith(".weight")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [2, 99])
@pytest.mark.parametrize("also", [ALSO[0], ALSO[-1]])
def test_nothing_of_the_adapters_is_left_in_the_network(
    also: tuple[str, ...], stop: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """After the training and after a failure: its modules, names and number formats, frozen weights to the bit."""
    settings, model = replace(QUICK, lora_also=also), pico.make_model(dtype=dtype, num_hidden_layers=1)
    before, modules = weights_of(model), [type(module) for module in model.network.modules()]

    def crash(record: TrainStep) -> None:
        if record.step == stop:
            raise CrashError

    try:
        train(model, settings, on_step=crash)
    except CrashError:
        assert stop == 2
    after = weights_of(model)
    assert list(after) == list(before)
    assert {weight.dtype for weight in after.values()} == {dtype}
    assert [type(module) for module in model.network.modules()] == modules
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert not any("default" in name or "lora" in name for name, _ in model.network.named_modules())
    for name in before:
        if not is_whole(name, settings) and kind_of(name) not in MATRICES:
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_merged_weights_give_the_logits_of_the_adapted_network(family: str) -> None:
    model = pico.make_model(family)
    plain = logits_of(model.network)
    with adapted(model.network, QUICK, seed=0) as weights:
        torch.testing.assert_close(logits_of(model.network), plain, rtol=0, atol=0)  # B begins at 0
        for name, weight in weights.items():
            if ".lora_B." in name:
                weight.data.normal_(0, 0.1)
        apart = logits_of(model.network)
    torch.testing.assert_close(logits_of(model.network), apart, rtol=1e-4, atol=1e-4)
    assert (apart - plain).abs().max() > 0.1


def test_the_seed_alone_decides_the_first_weights() -> None:
    """And the generator of everything else stands where it stood."""
    name, made = "model.layers.0.mlp.up_proj.lora_A.default.weight", []
    for other, seed in enumerate((1, 1, 2)):
        network = pico.make_model().network
        torch.manual_seed(other)
        state = torch.random.get_rng_state()
        with adapted(network, QUICK, seed) as weights:
            made.append(weights[name].detach().clone())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# Resuming


@pytest.mark.parametrize("error", [CrashError, KeyboardInterrupt])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_adapters_are_the_same_to_the_bit(
    dtype: torch.dtype, error: type[BaseException], tmp_path: Path
) -> None:
    """After a crash from the last checkpoint on, after an interrupt from the very step."""
    settings = replace(QUICK, lora_also=("norms",))
    whole, run = pico.make_model(dtype=dtype, num_hidden_layers=1), RunDir(tmp_path)
    expected = train(whole, settings)

    def stop(record: TrainStep) -> None:
        if record.step == 2:
            raise error

    with pytest.raises(error):
        train(pico.make_model(dtype=dtype, num_hidden_layers=1), settings, run=run, on_step=stop)
    assert not run.adapters.exists()
    model = pico.make_model(dtype=dtype, num_hidden_layers=1)
    assert [record.step for record in train(model, settings, run=run)] == ([2, 3, 4] if error is CrashError else [3, 4])
    after = weights_of(whole)
    assert all(torch.equal(weight, after[name]) for name, weight in weights_of(model).items())
    losses = [(record.loss_nats, record.gradient_norm) for record in read_records(run.train, TrainStep)]
    assert losses == [(record.loss_nats, record.gradient_norm) for record in expected]
    again = pico.make_model(dtype=dtype, num_hidden_layers=1)
    assert train(again, settings, run=run) == []
    assert all(torch.equal(weight, after[name]) for name, weight in weights_of(again).items())


# The folder of the adapters


@pytest.mark.parametrize(
    ("tied", "also"), [*((False, also) for also in ALSO), *((True, also) for also in ALSO if "embeddings" in also)]
)
def test_peft_opens_the_adapters_on_the_base_model(tied: bool, also: tuple[str, ...], tmp_path: Path) -> None:
    """With what was trained beside them, the logits are those of the merged model."""
    model, run = pico.make_model(tie_word_embeddings=tied, num_hidden_layers=1), RunDir(tmp_path)
    train(model, replace(QUICK, lora_also=also), run=run)
    base = pico.make_network(tie_word_embeddings=tied, num_hidden_layers=1)
    plain = logits_of(base)
    opened = PeftModel.from_pretrained(base, str(run.adapters))
    torch.testing.assert_close(logits_of(opened), logits_of(model.network), rtol=1e-4, atol=1e-4)
    assert (logits_of(opened) - plain).abs().max() > 0.1
    config = json.loads((run.adapters / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 6, "LORA")


# Refusals


def test_without_peft_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = pico.make_model()
    before = weights_of(model)
    with pytest.raises(RecipeError, match="peft is not installed") as caught:
        train(model)
    assert "tune.lora_rank = 3" in caught.value.found
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (extra,) = (name for name in project["optional-dependencies"] if f"longrope[{name}]" in caught.value.remedy)
    assert any(needed.startswith("peft") for needed in project["optional-dependencies"][extra])
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lora_rank": -1}, "tune.lora_rank = -1"),
        ({"lora_alpha": -2}, "tune.lora_alpha = -2"),
        ({"lora_also": ("norms", "biases")}, "tune.lora_also[1] = 'biases'"),
    ],
)
def test_adapters_that_cannot_be_are_refused_by_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TuneRecipe(**change)
    assert named in caught.value.found


@pytest.mark.parametrize("change", [{"lora_alpha": 16}, {"lora_also": ("norms",)}])
def test_settings_of_adapters_without_adapters_are_refused(change: dict[str, Any]) -> None:
    """All weights would be trained, and nobody would notice."""
    with pytest.raises(RecipeError, match=rf"tune\.{next(iter(change))} .*with tune\.lora_rank = 0"):
        TuneRecipe(**change)
