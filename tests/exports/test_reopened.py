"""Exported checkpoints against numbers written by hand and networks whose own rotary modules are set by hand.

Plain transformers reopens them, in the first tests in a process of its own, which takes seconds, and otherwise here.
"""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
import transformers
from exporting import LAMBDAS, TOKENS, TWO, get_logits, make_factors, read_config, save_by
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrope.data import Tokens
from longrope.errors import ExportError, FactorsError
from longrope.exports import dump_report, export_hf, hf
from longrope.models import LanguageModel, load_model, rescaled, save_model
from longrope.recipe import ExportRecipe


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the standard deviation."""
    return ((ours - theirs).abs().max() / theirs.std()).item()


def make_by_hand(network: Any, inv_freq: list[float], attention: float) -> Any:
    """The same network with its own rotary module set to these frequencies and this factor."""
    rotary = network.base_model.rotary_emb
    rotary.inv_freq.copy_(torch.tensor(inv_freq))
    rotary.attention_scaling = attention
    return network


# In a process of its own


@pytest.mark.slow
def test_two_factor_sets_in_a_fresh_process(pico_folder: Path, tmp_path: Path) -> None:
    """Native keys with the right numbers, all ones below the switch, the model in memory as it was."""
    model = load_model(pico_folder, device="cpu")
    config, rotary = model.network.config.to_dict(), model.network.model.rotary_emb
    before = get_logits(model.network, TOKENS)
    report = export_hf(model, make_factors(model), tmp_path / "deep" / "out", settings=TWO)
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert (report.factor_sets, report.target_window, report.switch_tokens) == ("two", 256, 64)
    assert (report.start_tokens_dropped, report.loss_change_nats) == (0, 0.0)
    assert report.transformers == transformers.__version__
    assert json.loads(dump_report(report))["difference_long"] == report.difference_long

    written = read_config(tmp_path / "deep" / "out")
    assert written["max_position_embeddings"] == 256
    assert written["rope_parameters"] == {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        **dict.fromkeys(("attention_factor", "short_mscale", "long_mscale"), 1.2),
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 1.5, 3.0, 4.0],
        "original_max_position_embeddings": 64,
    }
    assert "attention factor 1.2000" in (tmp_path / "deep" / "out" / "README.md").read_text()

    assert model.network.config.to_dict() == config
    assert model.network.model.rotary_emb is rotary
    assert torch.equal(get_logits(model.network, TOKENS), before)

    native = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "out").eval()
    plain = [1e4 ** (-i / 4) for i in range(4)]
    for length, divisors in ((64, [1, 1, 1, 1]), (65, LAMBDAS[4])):
        by_hand = make_by_hand(pico.make_network("llama"), [f / x for f, x in zip(plain, divisors, strict=True)], 1.2)
        tokens = TOKENS[:, :length]
        assert gap(get_logits(native, tokens), get_logits(by_hand, tokens)) < 1e-4, length


def test_partial_rotary_in_a_single_list(tmp_path: Path) -> None:
    """GPT-NeoX with a quarter of its head rotated carries native longrope; one list serves every length."""
    model = pico.make_model("gpt_neox")
    report = export_hf(model, make_factors(model), tmp_path, reopen=sweep.reopen_here)
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert report.factor_sets == "single"
    rope = read_config(tmp_path)["rope_parameters"]
    assert rope["partial_rotary_factor"] == 0.25
    assert rope["short_factor"] == rope["long_factor"] == [1.5, 4.0]


@pytest.mark.slow
def test_checkpoint_that_does_not_reopen_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fresh process could not open is told with its own words, and not as a success."""
    native = save_model

    def save_without_weights(model: LanguageModel, folder: Path, *_: Any) -> None:
        native(model, folder)
        (folder / "model.safetensors").unlink()

    save_by(monkeypatch, save_without_weights)
    model = pico.make_model("llama")
    with pytest.raises(ExportError, match="cannot reopen") as caught:
        export_hf(model, make_factors(model), tmp_path)
    assert "model.safetensors" in caught.value.found


def test_a_process_that_dies_without_a_word_is_an_error(tmp_path: Path) -> None:
    """As it does where memory runs out."""
    dying = partial(hf.reopen_alone, script="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    model = pico.make_model("llama")
    with pytest.raises(ExportError, match=r"cannot reopen .* \(exit code -9\)"):
        export_hf(model, make_factors(model), tmp_path, reopen=dying)


# Reopened here


@pytest.mark.parametrize(
    ("family", "factor_sets"),
    [
        *((family, "two") for family in pico.FAMILIES),
        *((family, "single") for family in ("llama", "stablelm", "cohere")),
    ],
)
def test_families_carry_native_longrope(family: str, factor_sets: str, tmp_path: Path) -> None:
    """Each family reopens with our logits, by the report and by an independent look on both sides of the switch."""
    model = pico.make_model(family)
    factors = make_factors(model)
    report = export_hf(
        model, factors, tmp_path, settings=ExportRecipe(factor_sets=factor_sets), reopen=sweep.reopen_here
    )
    assert max(report.difference_short, report.difference_long) < 1e-4
    native = load_model(tmp_path, device="cpu")
    assert native.spec.native is not None
    assert native.spec.native.lambdas == LAMBDAS[model.spec.num_pairs]
    assert (native.spec.trained_window, native.spec.theta) == (256, model.spec.theta)
    short = factors if factor_sets == "single" else replace(factors, lambdas=(1.0,) * model.spec.num_pairs)
    for length, factor_set in ((64, short), (65, factors), (150, factors)):
        with rescaled(model, factor_set):
            ours = get_logits(model.network, TOKENS[:, :length])
        assert gap(get_logits(native.network, TOKENS[:, :length]), ours) < 1e-4, length
    text = "The river turns the mill 7."
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == model.tokenizer(text)["input_ids"]


def test_phi3_keeps_its_own_key_in_step(tmp_path: Path) -> None:
    """Phi-3's top-level original window overrides the one beside the lists, so both are written, and restored."""
    model = pico.make_model("phi3")
    before = model.network.config.original_max_position_embeddings
    export_hf(model, make_factors(model), tmp_path, settings=TWO, reopen=sweep.reopen_here)
    written = read_config(tmp_path)
    assert written["original_max_position_embeddings"] == 64
    assert written["rope_parameters"]["original_max_position_embeddings"] == 64
    assert model.network.config.original_max_position_embeddings == before != 64


def test_mixture_of_experts_is_exported(tmp_path: Path) -> None:
    """Mixtral's config states no head_dim, which transformers' check of longrope lists needs."""
    model = pico.make_model("mixtral")
    assert max(export_hf(model, make_factors(model), tmp_path, reopen=sweep.reopen_here).difference_long, 0) < 1e-4


def test_phimoe_is_exported_in_a_single_factor_set(tmp_path: Path) -> None:
    """Its config demands an attention factor for each list; transformers never takes its long one, which is noticed."""
    model = pico.make_model("phimoe")
    before = get_logits(model.network, TOKENS)
    assert export_hf(model, make_factors(model), tmp_path, reopen=sweep.reopen_here).difference_long < 1e-4
    with pytest.raises(ExportError, match="phimoe"):
        export_hf(model, make_factors(model), tmp_path, settings=TWO, reopen=sweep.reopen_here)
    assert model.network.config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert torch.equal(get_logits(model.network, TOKENS), before)


def test_config_that_cannot_say_it_is_an_export_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config class that refuses the keys: told as an error of the export, and nothing is left behind."""
    model = pico.make_model("llama")

    def refuse(*_: Any) -> None:
        raise StrictDataclassClassValidationError("validate_rope", ValueError("no lists here"))

    save_by(monkeypatch, refuse)
    with pytest.raises(ExportError, match="'llama' cannot state these factors"):
        export_hf(model, make_factors(model), tmp_path)
    assert model.network.config.rope_parameters == {"rope_type": "default", "rope_theta": 1e4}
    assert model.network.config.max_position_embeddings == 64


@pytest.mark.parametrize("factor_sets", ["single", "two"])
def test_model_that_carries_yarn_exports_the_product(factor_sets: str, tmp_path: Path) -> None:
    """Lists and attention factor are products; below the switch of two factor sets the model's own YaRN remains."""
    # 64 f / 2 pi turns of the pairs f = 1e4 ** (-i / 4): 10.2, 1.02, 0.10, 0.010. The ramp runs from pair 0 (32 turns)
    # to pair 2 (1 turn lies at 1.01, rounded up), so pair 1 is half-way between 1 and 1/4: 1 / 0.625 = 1.6.
    yarn, attention = [1.0, 1.6, 4.0, 4.0], 0.1 * math.log(4) + 1
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    model = pico.make_model("llama", rope=rope)
    report = export_hf(
        model,
        make_factors(model, target_window=512),
        tmp_path,
        settings=ExportRecipe(factor_sets=factor_sets),
        reopen=sweep.reopen_here,
    )
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert report.switch_tokens == 256
    written = read_config(tmp_path)["rope_parameters"]
    product = [a * b for a, b in zip(yarn, LAMBDAS[4], strict=True)]
    assert written["long_factor"] == pytest.approx(product)
    assert written["short_factor"] == pytest.approx(product if factor_sets == "single" else yarn)
    assert written["attention_factor"] == pytest.approx(1.2 * attention)
    assert (written["factor"], written["original_max_position_embeddings"]) == (2.0, 256)
    inv_freq = [1e4 ** (-i / 4) / x for i, x in enumerate(product)]
    by_hand = make_by_hand(pico.make_network("llama"), inv_freq, 1.2 * attention)
    tokens = torch.cat((TOKENS, TOKENS), dim=1)[:, :260]
    native = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert gap(get_logits(native, tokens), get_logits(by_hand, tokens)) < 1e-4


def test_bfloat16_model_keeps_its_format(tmp_path: Path) -> None:
    """The weights are written as they are, and compared in float32, where rounding hides nothing."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    report = export_hf(model, make_factors(model), tmp_path, reopen=sweep.reopen_here)
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert read_config(tmp_path)["dtype"] == "bfloat16"
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    native = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(native.state_dict()[name], weight), name


def test_factors_for_another_geometry_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    model, other = pico.make_model("llama"), pico.make_model("mistral")
    with pytest.raises(FactorsError, match="geometry"):
        export_hf(model, make_factors(other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Start tokens


class ByHand(torch.nn.Module):
    """A rotary module that turns the tokens before ``start`` by the plain angle and the others by the divided one."""

    def __init__(self, start: int) -> None:
        """Leave the first ``start`` tokens alone."""
        super().__init__()
        self.start = start

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        divisors = torch.where(position_ids[0, :, None] < self.start, torch.ones(4), torch.tensor(LAMBDAS[4]))
        angles = position_ids[0, :, None] * 1e4 ** (-torch.arange(4) / 4) / divisors
        angles = torch.cat((angles, angles), dim=-1)[None]
        return 1.2 * angles.cos(), 1.2 * angles.sin()


@pytest.fixture(scope="module")
def windows() -> Tokens:
    return np.random.default_rng(2).integers(1, 320, (3, 100)).astype(np.int32)


@pytest.mark.parametrize("allowed", [False, True], ids=["not-asked", "no-windows"])
def test_start_tokens_are_refused(allowed: bool, tmp_path: Path, windows: Tokens) -> None:
    """Native longrope cannot say them, so they are dropped only when asked, and with windows to measure the loss on."""
    model = pico.make_model("llama")
    settings = ExportRecipe(drop_start_tokens=allowed)
    with pytest.raises(ExportError, match="first 16 tokens") as caught:
        export_hf(
            model,
            make_factors(model, start_tokens=16),
            tmp_path / "out",
            settings=settings,
            windows=None if allowed else windows,
        )
    assert "--drop-start-tokens" in caught.value.remedy
    assert "runtime" in caught.value.needed
    assert not (tmp_path / "out").exists()


def test_dropped_start_tokens_are_measured(tmp_path: Path, windows: Tokens) -> None:
    """The change in loss is that of rotary modules made by hand, and the checkpoint holds the factors without them."""
    model = pico.make_model("llama")
    report = export_hf(
        model,
        make_factors(model, start_tokens=16),
        tmp_path,
        settings=ExportRecipe(drop_start_tokens=True),
        windows=windows,
        reopen=sweep.reopen_here,
    )
    losses, tokens = {}, torch.from_numpy(windows).long()
    for start in (16, 0):
        network = pico.make_network("llama")
        network.model.rotary_emb = ByHand(start)
        logits = get_logits(network, tokens)[:, :-1].double()
        losses[start] = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert abs(losses[0] - losses[16]) > 1e-3, "the start tokens must matter"
    assert report.start_tokens_dropped == 16
    assert report.loss_change_nats == pytest.approx(losses[0] - losses[16], abs=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert f"16 start tokens of the search were dropped: {losses[0] - losses[16]:+.4f} nats" in card
    native = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert gap(get_logits(native, tokens), get_logits(network, tokens)) < 1e-4
