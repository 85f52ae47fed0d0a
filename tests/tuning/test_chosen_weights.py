"""Training some weights alone: against plain autograd and a loop by hand, and what is left of it opens as the model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from long_passes import mean_loss_with_graph, set_room, set_tile
from rotary_oracles import get_logits
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from trainings import weights_of

from longrope.data import TextSketch, TokenText, dump_sketch
from longrope.engine.memory import layers_that_keep_attention
from longrope.errors import ModelError, RecipeError
from longrope.models import LanguageModel, load_config, load_model
from longrope.recipe import TuneRecipe
from longrope.rope import baseline_factors
from longrope.runs.run_dir import RunDir
from longrope.tuning import check_training, fine_tune
from longrope.tuning.adapters import adapted, chosen_weights

TEXT = TokenText(np.asarray(pico.make_tokenizer()(pico.make_text(1500))["input_ids"], np.int32), "tune")
TOKENS = torch.arange(40)[None] * 7 % 300
SETTINGS = TuneRecipe(
    window_tokens=48, steps=4, batch_windows=2, learning_rate=1e-2, warmup_steps=0, parameters=("global-attention",)
)
GEMMA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a pico Gemma-3 whose second and fourth layers see the whole window."""
    pico.make_network("gemma3_text", **GEMMA).save_pretrained(tmp_path / "base")
    pico.make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def is_chosen(name: str) -> bool:
    return ".self_attn." in name and (".layers.1." in name or ".layers.3." in name)


def test_global_attention_is_that_of_the_layers_that_see_the_whole_window(folder: Path) -> None:
    network = load_model(folder, device="cpu").network
    chosen = chosen_weights(network, ("global-attention",))
    assert set(chosen) == {name for name, _ in network.named_parameters() if is_chosen(name)}
    assert len(chosen) == 2 * 6  # four matrices, and the norms of queries and keys
    both = chosen_weights(network, ("*.layers.3.self_attn.*", "*.norm.weight"))
    assert {name.split(".")[2] for name in both} == {"3", "weight"}
    assert list(chosen_weights(network, ())) == [name for name, _ in network.named_parameters()]
    llama = pico.make_network("llama")
    assert len(chosen_weights(llama, ("global-attention",))) == 2 * 4  # every layer sees the whole window


def test_a_pattern_that_chooses_nothing_is_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"'\*\.mlps\.\*' chooses no weight"):
        check_training(load_model(folder, device="cpu"), TEXT, replace(SETTINGS, parameters=("*.mlps.*",)))


@pytest.mark.parametrize("tile", [16, 65536])
@pytest.mark.parametrize("room", [2**32, 30_000, 0])
def test_gradients_are_those_of_plain_autograd(
    folder: Path, tile: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiles below the first trained layer, and all outputs of attention kept, those of global layers, or none."""
    set_tile(monkeypatch, tile, rows=len(TOKENS))
    set_room(monkeypatch, room)
    model = load_model(folder, device="cpu")
    kept = layers_that_keep_attention(model, TOKENS.numel())
    assert kept == {2**32: {0, 1, 2, 3}, 30_000: {1, 3}, 0: set()}[room]
    weights = chosen_weights(model.network, ("global-attention",))
    for weight in weights.values():
        weight.requires_grad_(True)
    logits = model.network(TOKENS, use_cache=False).logits[0, :-1]
    expected = torch.autograd.grad(functional.cross_entropy(logits, TOKENS[0, 1:]), list(weights.values()))
    runs: list[int] = []
    for number, layer in enumerate(model.network.model.layers):
        layer.self_attn.register_forward_pre_hook(lambda *_, at=number: runs.append(at))
    mean_loss_with_graph(model, TOKENS).backward()
    for (name, weight), wanted in zip(weights.items(), expected, strict=True):
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max().item(), msg=name)
    assert all(x.grad is None for name, x in model.network.named_parameters() if name not in weights)
    below = -(-TOKENS.numel() // min(tile, TOKENS.numel()))
    assert runs == [*[0] * below, 1, 2, 3, 3, 2, 1], "the layer below the first trained one runs forwards alone"


def test_no_more_than_the_chosen_weights_is_trained_and_kept(folder: Path, tmp_path: Path) -> None:
    model, run = load_model(folder, device="cpu"), RunDir(tmp_path / "run")
    before = weights_of(model)
    fine_tune(model, baseline_factors(model.spec, "yarn", 128).factor_sets[0], TEXT, settings=SETTINGS, run=run)
    after = weights_of(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(filter(is_chosen, before))
    kept = load_file(run.tuning)
    assert set(kept) == {f"weight/{name}" for name in before if is_chosen(name)}
    saved = load_file(run.adapters / "trained_weights.safetensors")
    assert all(torch.equal(saved[name], after[name]) for name in saved)
    assert set(saved) == set(filter(is_chosen, before))


def test_what_is_left_opens_as_the_trained_model(folder: Path, tmp_path: Path) -> None:
    """In all number formats; two trainings one after the other leave what both have trained."""
    model = fine_tune(load_model(folder, device="cpu"), None, TEXT, settings=SETTINGS)
    factors = baseline_factors(model.spec, "yarn", 128).factor_sets[0]
    run = RunDir(tmp_path / "run")
    tuned = fine_tune(model, factors, TEXT, settings=SETTINGS, run=run, seed=1)
    opened = load_model(run.adapters, device="cpu")
    assert all(torch.equal(own, weights_of(tuned)[name]) for name, own in weights_of(opened).items())
    assert dump_sketch(opened.tuned_on) == dump_sketch(tuned.tuned_on) != dump_sketch(TextSketch())
    assert load_config(run.adapters).model_type == "gemma3_text"
    half = load_model(run.adapters, device="cpu", dtype="bfloat16")
    assert torch.equal(tuned_query(half), tuned_query(tuned).bfloat16())
    load_model(run.adapters, device="cpu", dtype="float16")


def tuned_query(model: LanguageModel) -> Tensor:
    return model.network.model.layers[1].self_attn.q_proj.weight.detach()  # type: ignore[no-any-return]


def other_weights(kept: Path, base: Path) -> None:
    model = pico.make_network("gemma3_text", **GEMMA)
    model.model.layers[0].mlp.up_proj.weight.data[3] += 1
    model.save_pretrained(base)


def another_shape(kept: Path, base: Path) -> None:
    pico.make_network("gemma3_text", **{**GEMMA, "head_dim": 8}).save_pretrained(base)


def no_base(kept: Path, base: Path) -> None:
    (kept / "trained_weights.json").write_text("{}")


def no_weights(kept: Path, base: Path) -> None:
    (kept / "trained_weights.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_weights, "its other weights are not those of the training"),
        (another_shape, "has no place in it"),
        (no_base, "no base_model_name_or_path"),
        (no_weights, r"no trained_weights\.safetensors"),
    ],
)
def test_another_base_is_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], message: str
) -> None:
    model, kept = load_model(folder, device="cpu"), tmp_path / "kept"
    with adapted(model.network, SETTINGS, 0, kept, str(folder)):
        pass
    assert json.loads((kept / "trained_weights.json").read_text())["base_model_name_or_path"] == str(folder)
    load_model(kept, device="cpu")
    spoil(kept, folder)
    with pytest.raises(ModelError, match=message):
        load_model(kept, device="cpu")


def test_an_interrupted_training_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint_every=1)
    whole, first, second = (load_model(folder, device="cpu") for _ in range(3))
    fine_tune(whole, None, TEXT, settings=settings)

    def stop(record: Any) -> None:
        if record.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(first, None, TEXT, settings=settings, run=RunDir(tmp_path / "run"), on_step=stop)
    kept = load_file(RunDir(tmp_path / "run").tuning)
    chosen = sum(weight.numel() for weight in chosen_weights(first.network, settings.parameters).values())
    counts = sum(tensor.numel() for tensor in kept.values() if tensor.ndim == 0)
    assert sum(tensor.nbytes for tensor in kept.values()) == 3 * 4 * chosen + 4 * counts, "weights and two moments"
    fine_tune(second, None, TEXT, settings=settings, run=RunDir(tmp_path / "run"))
    assert all(torch.equal(own, weights_of(whole)[name]) for name, own in weights_of(second).items())


def test_adapters_in_chosen_matrices_alone(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, device="cpu")
    before = weights_of(model)
    fine_tune(model, None, TEXT, settings=replace(SETTINGS, lora_rank=2), run=RunDir(tmp_path / "run"))
    changed = {name for name, own in weights_of(model).items() if not torch.equal(own, before[name])}
    assert changed == {name for name in before if is_chosen(name) and "proj" in name}
    opened = load_model(tmp_path / "run/adapter", device="cpu")
    torch.testing.assert_close(get_logits(opened.network), get_logits(model.network), rtol=1e-4, atol=1e-5)
