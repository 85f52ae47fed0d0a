"""GGUF files load as the models that they were made from, with every scaling that they state."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from documents import ROOT
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray
from rotary_oracles import (
    ROUNDING,
    gap,
    get_inv_freq,
    get_logits,
    get_rotary,
)

from longrope.data import opening_tokens
from longrope.errors import ModelError
from longrope.models import (
    load_config,
    load_model,
    read_spec,
    save_model,
)
from longrope.models.gguf_file import read_gguf
from longrope.models.gguf_loading import load_gguf_tokenizer
from longrope.rope import RopeSpec


def test_gguf_file_loads_as_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    """Logits, tokenizer and geometry are the source's; saved as safetensors it reopens with the same logits."""
    source = pico.make_network("llama", rope={"rope_theta": 5e4})
    model = load_model(pico.save_gguf(tmp_path / "pico.gguf", source), device="cpu")
    assert gap(get_logits(model.network), get_logits(source)) < 1e-6
    assert model.spec == RopeSpec(head_dim=8, rotary_dim=8, theta=5e4, trained_window=64)
    text = pico.make_text(60, seed=3)
    assert model.tokenizer(text)["input_ids"] == pico.make_tokenizer()(text)["input_ids"]
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved", device="cpu")
    assert list((tmp_path / "saved").glob("*.safetensors"))
    assert torch.equal(get_logits(again.network), get_logits(model.network))
    assert again.spec == model.spec


@pytest.mark.parametrize("opens", [True, False, None])
def test_texts_are_opened_as_a_gguf_file_states(opens: bool | None, tmp_path: Path) -> None:
    def describe(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(1)
        if opens is not None:
            writer.add_add_bos_token(opens)

    model = load_model(pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama"), describe), device="cpu")
    assert opening_tokens(model.tokenizer) == ([model.tokenizer.bos_token_id] if opens else [])
    save_model(model, tmp_path / "saved")
    assert opening_tokens(load_model(tmp_path / "saved", device="cpu").tokenizer) == opening_tokens(model.tokenizer)


def test_a_tokenizer_that_opens_texts_otherwise_is_refused(tmp_path: Path) -> None:
    """A file that states a BOS token and names none."""
    network = pico.make_network("llama")
    path = pico.save_gguf(tmp_path / "pico.gguf", network, lambda writer: writer.add_add_bos_token(True))
    with pytest.raises(ModelError, match=r"add_bos_token = True.* begins a text with no such token"):
        load_model(path, device="cpu")


def test_a_version_of_transformers_that_makes_other_tokenizers_is_refused(tmp_path: Path) -> None:
    """By the bound that the package is installed with, which an environment of other origin may not hold."""
    (bound,) = re.findall(r'"transformers>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    file = read_gguf(pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama")))
    config = load_config(file.path)
    assert load_gguf_tokenizer(file, config, f"{bound}.0").vocab_size == 320
    with pytest.raises(ModelError, match=rf"transformers 5\.17\.0 is installed\. .*: {bound} or later is needed"):
        load_gguf_tokenizer(file, config, "5.17.0")


def describe_linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def describe_yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)


def describe_yarn_betas(writer: GGUFWriter) -> None:
    describe_yarn(writer)
    writer.add_rope_scaling_yarn_beta_fast(0.375)
    writer.add_rope_scaling_yarn_beta_slow(0.0078125)


def describe_none(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)


DIVISORS = np.array([1.0, 1.5, 4.0, 8.0], dtype=np.float32)
YARN_32 = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
GGUF_SCALINGS: dict[str, tuple[Any, dict[str, NDArray[np.float32]], dict[str, Any] | None]] = {
    "none": (describe_none, {}, None),
    "linear": (describe_linear, {}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": (describe_yarn, {}, YARN_32),
    "yarn-betas": (describe_yarn_betas, {}, {**YARN_32, "beta_fast": 0.375, "beta_slow": 0.0078125}),
    "rope_freqs": (
        lambda _: None,
        {"rope_freqs": DIVISORS},
        {
            "rope_type": "longrope",
            "short_factor": DIVISORS.tolist(),
            "long_factor": DIVISORS.tolist(),
            "attention_factor": 1.0,
        },
    ),
}


@pytest.mark.parametrize("name", GGUF_SCALINGS)
def test_scaling_of_a_gguf_file_is_read_as_what_it_is(name: str, tmp_path: Path) -> None:
    """What transformers drops is kept: the loaded model gives the logits of the config that the file stands for."""
    describe, tensors, rope = GGUF_SCALINGS[name]
    plain = pico.make_network("llama", max_position_embeddings=128)
    path = pico.save_gguf(tmp_path / "pico.gguf", plain, describe, **tensors)
    model = load_model(path, device="cpu")
    meant = pico.make_model("llama", max_position_embeddings=128, rope=rope)
    assert gap(get_logits(model.network), get_logits(meant.network)) < ROUNDING
    np.testing.assert_allclose(model.spec.frequencies, get_inv_freq(meant), rtol=1e-6)
    assert model.spec.attention_factor == pytest.approx(get_rotary(meant.network).attention_scaling)
    assert model.spec.trained_window == 128
    if rope:
        assert gap(get_logits(model.network), get_logits(plain)) > 0.05, "the scaling must matter"
    else:
        assert model.spec.native is None


def test_unknown_scaling_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    """A scaling that we cannot read is named, not dropped."""
    network = pico.make_network("llama")
    path = pico.save_gguf(
        tmp_path / "pico.gguf", network, lambda writer: writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    )
    with pytest.raises(ModelError, match="longrope"):
        load_model(path, device="cpu")


def test_factor_lists_of_a_gguf_file_are_not_dropped(tmp_path: Path) -> None:
    """llama.cpp writes long and short factors as tensors, without a scaling type: they are read or refused."""
    short, long = np.array([1, 1, 1, 1.5], np.float32), np.array([1, 2, 4, 8], np.float32)

    def describe(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_attn_factors(1.2)
        writer.add_rope_scaling_orig_ctx_len(32)

    path = pico.save_gguf(
        tmp_path / "pico.gguf", pico.make_network("llama"), describe, rope_factors_long=long, rope_factors_short=short
    )
    try:
        spec = read_spec(load_config(path))
    except ModelError as error:
        assert "rope_factors" in str(error) or "longrope" in str(error)  # noqa: PT017
        return
    assert spec.native is not None, "the file's factors were dropped"
    assert list(spec.native.lambdas) == long.tolist()
    assert spec.attention_factor == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("architecture", "theta", "rotary_dim"),
    [("llama", 7e4, 8), ("qwen2", 7e4, 8), ("starcoder2", 7e4, 8), ("stablelm", 1e4, 4), ("phi3", 1e4, 6)],
)
def test_geometry_of_a_gguf_file_is_never_defaulted(
    architecture: str, theta: float, rotary_dim: int, tmp_path: Path
) -> None:
    """What a file states is read or refused; transformers drops the base of some, and the rotated share of others."""
    writer = GGUFWriter(tmp_path / "pico.gguf", architecture)
    pico.describe_shape(writer, pico.make_config("llama"))
    writer.add_rope_dimension_count(rotary_dim)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(33_000)  # room for the padding token that Phi3Config presumes
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    pico.close_gguf(writer)
    try:
        spec = read_spec(load_config(tmp_path / "pico.gguf"))
    except ModelError as error:
        assert "rope" in str(error)  # noqa: PT017
        return
    assert (spec.theta, spec.rotary_dim) == (theta, rotary_dim)
