"""A model whose weights are incomplete, unexpected or not finite is refused by their names, never run."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longrope.errors import ModelError
from longrope.models import check_moves_logits, load_model

Weights = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


def change(folder: Path, source: Path, edit: Callable[[Weights], Weights], **config: object) -> Path:
    """A copy of a model with other weights, and other values in its config."""
    shutil.copytree(source, folder)
    weights = edit(load_file(folder / "model.safetensors"))
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, **config}))
    return folder


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if name not in names}


def holding(**added: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{name.replace("__", "."): weight for name, weight in added.items()}}


def spoiled(name: str, number: float) -> Callable[[Weights], Weights]:
    """One number of one weight is another."""

    def edit(weights: Weights) -> Weights:
        weights[name].view(-1)[-1] = number
        return weights

    return edit


REFUSED: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "one weight": (without(DOWN), rf"1 \({DOWN}\) missing"),
    "an untied head": (without("lm_head.weight"), r"1 \(lm_head\.weight\) missing"),
    "a norm": (without("model.norm.weight"), r"1 \(model\.norm\.weight\) missing"),
    "all but one": (
        lambda weights: {"lm_head.weight": weights["lm_head.weight"]},
        r"20 \(model\.embed_tokens\.weight, model\.layers\.0\.input_layernorm\.weight, .*, \.\.\.\) missing",
    ),
    "another prefix": (
        lambda weights: {f"base.{name}": weight for name, weight in weights.items()},
        r"21 \(lm_head.* missing; 21 \(base\.lm_head\.weight, .* unexpected",
    ),
    "another shape": (
        holding(model__norm__weight=torch.ones(5)),
        r"1 \(model\.norm\.weight \[5\] for \[32\]\) of another shape",
    ),
    "a bias without a place": (
        holding(model__layers__0__self_attn__q_proj__bias=torch.ones(32)),
        r"1 \(model\.layers\.0\.self_attn\.q_proj\.bias\) unexpected",
    ),
    "a layer too many": (holding(model__layers__7__mlp__down_proj__weight=torch.ones(2)), "layers.7.*unexpected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(case: str, pico_folder: Path, tmp_path: Path) -> None:
    edit, message = REFUSED[case]
    with pytest.raises(ModelError, match=message) as caught:
        load_model(change(tmp_path / "damaged", pico_folder, edit), device="cpu")
    assert str(tmp_path / "damaged") in caught.value.found


def test_a_layer_that_only_the_config_has_is_missing(pico_folder: Path, tmp_path: Path) -> None:
    folder = change(tmp_path / "deep", pico_folder, lambda weights: weights, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 \(model\.layers\.2\..* missing"):
        load_model(folder, device="cpu")


def test_a_tied_head_and_old_rotary_buffers_are_no_fault(pico_folder: Path, tmp_path: Path) -> None:
    """Checkpoints of older transformers hold the frequencies of every layer; a tied head stands in none."""
    old = {f"model__layers__{layer}__self_attn__rotary_emb__inv_freq": torch.ones(4) for layer in range(2)}
    load_model(change(tmp_path / "old", pico_folder, holding(**old)), device="cpu")
    tied = change(tmp_path / "tied", pico_folder, without("lm_head.weight"), tie_word_embeddings=True)
    network = load_model(tied, device="cpu").network
    assert network.lm_head.weight is network.model.embed_tokens.weight


def test_buffers_that_transformers_declares_ignorable_are_no_fault(tmp_path: Path) -> None:
    """Pythia's files hold the causal mask of every layer."""
    source = pico.save_pico(tmp_path / "neox", "gpt_neox")
    old = {"gpt_neox__layers__0__attention__bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)}
    load_model(change(tmp_path / "old", source, holding(**old)), device="cpu")


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_whole_checkpoints_of_every_family_load(family: str, tmp_path: Path) -> None:
    load_model(pico.save_pico(tmp_path / family, family), device="cpu")


# GGUF files


def claiming(path: Path, tensors: int) -> Path:
    """Write another number of tensors into the header of a GGUF file."""
    content = bytearray(path.read_bytes())
    content[8:16] = struct.pack("<Q", tensors)
    path.write_bytes(content)
    return path


def test_a_gguf_file_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    network = pico.make_network("llama")
    network.config.num_hidden_layers = 3
    with pytest.raises(ModelError, match=r"9 \(model\.layers\.2\..* missing"):
        load_model(pico.save_gguf(tmp_path / "pico.gguf", network), device="cpu")


def test_a_gguf_file_with_a_layer_too_many_is_refused(tmp_path: Path) -> None:
    """transformers drops it in silence."""
    network = pico.make_network("llama")
    network.config.num_hidden_layers = 1
    with pytest.raises(ModelError, match=r"9 \(blk\.1\.attn_k\.weight, .* unexpected"):
        load_model(pico.save_gguf(tmp_path / "pico.gguf", network), device="cpu")


def test_a_gguf_file_whose_header_states_one_tensor_is_refused(tmp_path: Path) -> None:
    path = claiming(pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama")), 1)
    with pytest.raises(ModelError, match=r"\d+ \(model\..* missing"):
        load_model(path, device="cpu")


def test_a_gguf_file_with_other_names_is_refused(tmp_path: Path) -> None:
    path = pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama"))
    path.write_bytes(path.read_bytes().replace(b"ffn_down.weight", b"ffn_town.weight"))
    with pytest.raises(ModelError, match=rf"2 \(model\.layers\.0\.mlp\.down_proj\.weight, {DOWN}\) missing"):
        load_model(path, device="cpu")


def test_a_gguf_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    """Such as the norm of queries, which a Llama has not: transformers drops it in silence."""
    extra = {"blk.0.attn_q_norm": np.ones(8, np.float32)}
    path = pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama"), lambda _: None, **extra)
    with pytest.raises(ModelError, match=r"1 \(blk\.0\.attn_q_norm\.weight\) unexpected"):
        load_model(path, device="cpu")


def test_a_gguf_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    network = pico.make_network("llama")
    network.model.norm.weight = torch.nn.Parameter(torch.ones(16))
    with pytest.raises(ModelError, match=r"1 \(model\.norm\.weight \[16\] for \[32\]\) of another shape"):
        load_model(pico.save_gguf(tmp_path / "pico.gguf", network), device="cpu")


def test_a_gguf_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"pico\.gguf"):
        load_model(path, device="cpu")


# Finite numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [DOWN, "model.embed_tokens.weight"])
def test_one_weight_that_is_no_number_is_named(name: str, number: float, pico_folder: Path, tmp_path: Path) -> None:
    """The last row of the embedding is of a token that no short probe would read."""
    folder = change(tmp_path / "spoiled", pico_folder, spoiled(name, number))
    with pytest.raises(ModelError, match=rf"are not finite: 1 \({name}\)"):
        load_model(folder, device="cpu")


def test_logits_that_are_not_finite_are_refused(pico_folder: Path, tmp_path: Path) -> None:
    """Finite weights whose products overflow in the number format that was asked for."""

    def edit(weights: Weights) -> Weights:
        return {**weights, "lm_head.weight": 30_000 * weights["lm_head.weight"].sign()}

    folder = change(tmp_path / "large", pico_folder, edit)
    load_model(folder, device="cpu", dtype="float32")
    with pytest.raises(ModelError, match=r"logits of .* are not finite in torch\.float16"):
        load_model(folder, device="cpu", dtype="float16")


def test_a_first_pass_that_fails_is_an_error_of_ours() -> None:
    model = pico.make_model("llama")

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory\nand many more lines")

    model.network.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"first pass of 'pico-llama' fails: RuntimeError: out of memory\."):
        check_moves_logits(model)
