"""Exported GGUF files opened again: by longrope, transformers and llama.cpp, whole and spoiled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from gguf import GGUFReader
from gguf_exports import LAMBDAS, TWO, WINDOW, make_factors, make_named, read_file, state, tensor_of, with_padding
from llama_cpp import ask, tokenize
from torch import Tensor
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import export_gguf
from longrope.exports.gguf import verify_file
from longrope.exports.lists import native_lists
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import ExportRecipe

TOKENS = torch.randint(1, 320, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(5))


TEXT = "Hello  world 12345, it's 3.14!\n\n\tdef f(x):\n    return x**2   # naïve «quote» 你好 🦙🦙   \n 7 88  999 "


def get_logits(network: Any, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(tokens, use_cache=False).logits.float()  # type: ignore[no-any-return]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the standard deviation."""
    return ((ours - theirs).abs().max() / theirs.std()).item()


# Opened again


@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("changes", [{}, {"head_dim": 16}, {"tie_word_embeddings": True}], ids=["", "wide", "tied"])
def test_the_reopened_file_gives_our_logits(changes: dict[str, Any], factor_sets: str, tmp_path: Path) -> None:
    """By the report and by an independent look on both sides of the switch."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, **changes)
    lambdas = np.linspace(1, 4, model.spec.num_pairs)
    factors = replace(make_factors(pico.make_model("llama")), lambdas=tuple(lambdas.tolist()))
    factors = replace(factors, spec_fingerprint=model.spec.fingerprint)
    report = export_gguf(model, factors, tmp_path / "deep" / "x.gguf", settings=ExportRecipe(factor_sets=factor_sets))
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert (report.factor_sets, report.target_window, report.switch_tokens) == (factor_sets, 4 * WINDOW, WINDOW)
    again = load_model(tmp_path / "deep" / "x.gguf", device="cpu")
    assert again.spec.trained_window == 4 * WINDOW
    plain = torch.tensor([1e4 ** (-i / len(lambdas)) for i in range(len(lambdas))])
    for length in (WINDOW, WINDOW + 1):
        divisors = torch.ones(len(lambdas)) if length == WINDOW and factor_sets == "two" else torch.tensor(lambdas)
        by_hand = pico.make_network("llama", max_position_embeddings=WINDOW, **changes)
        by_hand.model.rotary_emb.inv_freq.copy_(plain / divisors)
        by_hand.model.rotary_emb.attention_scaling = 1.2
        assert gap(get_logits(again.network, TOKENS[:, :length]), get_logits(by_hand, TOKENS[:, :length])) < 1e-4


def test_plain_transformers_opens_the_weights(model: LanguageModel, tmp_path: Path) -> None:
    """It drops the lists of every GGUF file, so what it opens is the model as it was."""
    export_gguf(model, make_factors(model), tmp_path / "x.gguf")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf")
    assert gap(get_logits(plain, TOKENS), get_logits(model.network, TOKENS)) < 1e-4


def test_mistral_without_a_sliding_window_is_written(tmp_path: Path) -> None:
    model = pico.make_model("mistral")
    assert max(export_gguf(model, make_factors(model), tmp_path / "x.gguf").difference_long, 0) < 1e-4


def test_a_scaling_that_the_model_carries_is_part_of_the_lists(tmp_path: Path) -> None:
    """Linear scaling by 2: below the switch of two factor sets it remains, above it the product stands."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, rope={"rope_type": "linear", "factor": 2.0})
    export_gguf(model, make_factors(model), tmp_path / "x.gguf", settings=TWO)
    written, tensors = read_file(tmp_path / "x.gguf")
    assert tensors["rope_factors_short.weight"].tolist() == [2.0] * 4
    assert tensors["rope_factors_long.weight"].tolist() == [2.0 * x for x in LAMBDAS]
    assert "llama.rope.scaling.factor" not in written, "llama.cpp would divide the positions by it"


def test_start_tokens_are_dropped_only_when_asked(model: LanguageModel, tmp_path: Path) -> None:
    factors = make_factors(model, start_tokens=16)
    with pytest.raises(ExportError, match="first 16 tokens"):
        export_gguf(model, factors, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
    windows = TOKENS.numpy().astype(np.int32)[:, :100]
    settings = ExportRecipe(drop_start_tokens=True)
    report = export_gguf(model, factors, tmp_path / "x.gguf", settings=settings, windows=windows)
    assert report.start_tokens_dropped == 16
    assert report.loss_change_nats != 0


def lose_slowest(reader: GGUFReader) -> None:
    tensor_of(reader, "rope_factors_long")[-1] = 1.0


def swap_lists(reader: GGUFReader) -> None:
    short, long = tensor_of(reader, "rope_factors_short"), tensor_of(reader, "rope_factors_long")
    short[:], long[:] = long.copy(), short.copy()


def order_rows_as_transformers(reader: GGUFReader) -> None:
    """The entries of each head of the keys: 2i and 2i + 1 back to i and i + d/2."""
    rows = tensor_of(reader, "blk.0.attn_k")
    rows[:] = rows.reshape(2, 4, 2, 32).swapaxes(1, 2).reshape(rows.shape)


SPOILED = {
    "attention": state("llama.rope.scaling.attn_factor", 1.0),
    "theta": state("llama.rope.freq_base", 1.1e4),
    "switch": state("llama.rope.scaling.original_context_length", 8 * WINDOW),
    "slowest": lose_slowest,
    "lists": swap_lists,
    "rows": order_rows_as_transformers,
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_says_something_else_is_noticed(name: str, model: LanguageModel, tmp_path: Path) -> None:
    factors, path = make_factors(model), tmp_path / "x.gguf"
    export_gguf(model, factors, path, settings=TWO)
    lists = native_lists(model, factors, TWO, None)
    verify_file(model, lists, path)
    reader = GGUFReader(path, "r+")
    SPOILED[name](reader)
    reader.data.flush()
    del reader
    with pytest.raises(ExportError, match="other logits than ours"):
        verify_file(model, lists, path)


# llama.cpp itself


@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_llama_cpp_gives_our_logits(family: str, factor_sets: str, tmp_path: Path) -> None:
    """On both sides of the switch, which it makes by the size of its context."""
    model = with_padding(pico.make_model(family, max_position_embeddings=WINDOW))
    factors = make_factors(model)
    export_gguf(model, factors, tmp_path / "x.gguf", settings=ExportRecipe(factor_sets=factor_sets))
    for length in (WINDOW, 2 * WINDOW):
        short = length == WINDOW and factor_sets == "two"
        with rescaled(model, replace(factors, lambdas=(1.0,) * 4) if short else factors):
            ours = get_logits(model.network, TOKENS[:, : length - 1])[0, -1].log_softmax(-1).numpy()
        theirs = ask(tmp_path / "x.gguf", [TOKENS[0, : length - 1].tolist()], length)
        plain = get_logits(model.network, TOKENS[:, : length - 1])[0, -1].log_softmax(-1).numpy()
        assert np.abs(theirs - ours).max() < 0.01
        assert np.abs(theirs - plain).max() > 0.1


@pytest.mark.parametrize("name", make_named())
def test_llama_cpp_cuts_texts_alike(name: str, model: LanguageModel, tmp_path: Path) -> None:
    named = replace(model, tokenizer=make_named()[name])
    export_gguf(named, make_factors(model), tmp_path / "x.gguf")
    assert tokenize(tmp_path / "x.gguf", TEXT) == named.tokenizer(TEXT)["input_ids"]
