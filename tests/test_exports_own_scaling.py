"""Exports of models that carry a scaling of their own: plain transformers gives our logits on both sides of a switch.

Sequences run with the positions 0, 1, 2 ..., so that transformers chooses its list by their length, as users have it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from rotary_oracles import gap
from torch import Tensor
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import export_gguf, hf
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors, baseline_factors, unscaled

SINGLE, TWO = ExportRecipe(factor_sets="single"), ExportRecipe(factor_sets="two")
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.0, 4.0]
LISTS = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64}
OWN = math.sqrt(1 + math.log(2) / math.log(64))  # attention factor of 128 tokens by a model of 64
TEMPERED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "llama_4_scaling_beta": 0.1}
PRODUCT = [1.0, 3.0, 9.0, 16.0]


export_hf = partial(hf.export_hf, reopen=sweep.reopen_here)  # without the seconds that a fresh process takes


@pytest.fixture(params=["llama", "phi3"])
def listed(request: pytest.FixtureRequest) -> LanguageModel:
    """A model with longrope lists of its own; Phi-3 states the switch at the top of its config."""
    top: dict[str, Any] = {"original_max_position_embeddings": 64} if request.param == "phi3" else {}
    return pico.make_model(request.param, rope=LISTS, max_position_embeddings=128, **top)


def make_factors(model: LanguageModel, attention_factor: float = 1.0, **fields: Any) -> RescaleFactors:
    factors = RescaleFactors((1.0, 1.5, 3.0, 4.0), 256, model.spec.fingerprint, attention_factor=attention_factor)
    return replace(factors, **fields)


def logits(network: Any, tokens: int) -> Tensor:
    with torch.inference_mode():
        return network((torch.arange(tokens) * 37 % 320)[None], use_cache=False).logits  # type: ignore[no-any-return]


def compare(folder: Path, model: LanguageModel, sets: dict[int, RescaleFactors]) -> None:
    """What plain transformers makes of a folder for each number of tokens, with what we make by a factor set."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    for tokens, factors in sets.items():
        with rescaled(model, factors):
            assert gap(logits(network, tokens), logits(model.network, tokens)) < 1e-3, tokens


def parameters(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["rope_parameters"]  # type: ignore[no-any-return]


def test_two_sets_keep_the_models_own_short_list_and_switch(listed: LanguageModel, tmp_path: Path) -> None:
    factors, before = make_factors(listed), logits(listed.network, 48)
    report = export_hf(listed, factors, tmp_path, settings=TWO)
    assert (report.factor_sets, report.switch_tokens, report.target_window) == ("two", 64, 256)
    stated = parameters(tmp_path)
    assert (stated["short_factor"], stated["long_factor"]) == (SHORT, PRODUCT)
    assert stated["original_max_position_embeddings"] == 64
    assert stated["attention_factor"] == pytest.approx(OWN)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), 48), before)
    own = unscaled(listed.spec, 64)
    compare(tmp_path, listed, {48: own, 64: own, 65: factors, 200: factors})


def test_a_single_set_serves_every_length(listed: LanguageModel, tmp_path: Path) -> None:
    """With its own attention factor; the card says that the short list of the base model is gone."""
    factors = make_factors(listed, attention_factor=1.2)
    report = export_hf(listed, factors, tmp_path, settings=SINGLE)
    assert (report.factor_sets, report.switch_tokens) == ("single", 128)
    stated = parameters(tmp_path)
    assert (stated["short_factor"], stated["long_factor"]) == (PRODUCT, PRODUCT)
    assert stated["attention_factor"] == pytest.approx(1.2 * OWN)
    compare(tmp_path, listed, {48: factors, 64: factors, 65: factors, 200: factors})
    assert "a short list of its own for up to 64 tokens" in (tmp_path / "README.md").read_text()


def test_two_attention_factors_are_refused(listed: LanguageModel, tmp_path: Path) -> None:
    """Runtimes have one for both lists: the error states what each of them would need."""
    with pytest.raises(ExportError, match=rf"{OWN:.6g}, and the long factors have {1.2 * OWN:.6g}") as caught:
        export_hf(listed, make_factors(listed, attention_factor=1.2), tmp_path / "x", settings=TWO)
    assert "single" in caught.value.remedy
    assert not (tmp_path / "x").exists()


def test_factors_for_the_short_list_are_refused(listed: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Up to 64 tokens"):
        export_hf(listed, make_factors(listed, target_window=64), tmp_path / "x", settings=TWO)


@pytest.mark.parametrize("settings", [SINGLE, TWO], ids=["single", "two"])
def test_dynamic_scaling_becomes_lists(settings: ExportRecipe, tmp_path: Path) -> None:
    """Factors of YaRN state YaRN's divisors, whatever dynamic NTK would do there; up to the switch it is plain."""
    model = pico.make_model(rope={"rope_type": "dynamic", "factor": 4.0})
    factors = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    export_hf(model, factors, tmp_path, settings=settings)
    yarn = baseline_factors(pico.make_model().spec, "yarn", 256).factor_sets[0]
    stated = parameters(tmp_path)
    np.testing.assert_allclose(stated["long_factor"], yarn.lambdas, rtol=1e-9)
    assert stated["attention_factor"] == pytest.approx(yarn.attention_factor)
    short = factors if settings == SINGLE else unscaled(model.spec, 64)
    short = replace(short, attention_factor=factors.attention_factor)
    compare(tmp_path, model, {48: short, 64: short, 65: factors, 200: factors})


def test_queries_that_grow_with_the_position_keep_their_temperature(tmp_path: Path) -> None:
    """Ministral-3 counts it from the window before the scaling, which is where an export states its switch."""
    model = pico.make_model("ministral3", rope=TEMPERED, max_position_embeddings=256, head_dim=8)
    factors = replace(make_factors(model), target_window=512)
    export_hf(model, factors, tmp_path, settings=SINGLE)
    stated = parameters(tmp_path)
    assert (stated["llama_4_scaling_beta"], stated["original_max_position_embeddings"]) == (0.1, 64)
    compare(tmp_path, model, dict.fromkeys((48, 200, 300), factors))
    with pytest.raises(ExportError, match="llama_4_scaling_beta"):
        export_hf(model, factors, tmp_path / "two", settings=TWO)


def test_gguf_files_keep_the_models_own_short_list(tmp_path: Path) -> None:
    model = pico.make_model(rope=LISTS, max_position_embeddings=128)
    factors = make_factors(model)
    report = export_gguf(model, factors, tmp_path / "x.gguf", settings=TWO)
    assert (report.factor_sets, report.switch_tokens) == ("two", 64)
    native = load_model(tmp_path / "x.gguf", device="cpu", dtype="float32").spec.native
    assert native is not None
    assert native.switch_tokens == 64
    expected: list[tuple[Sequence[float] | None, list[float]]] = [(native.short, SHORT), (native.lambdas, PRODUCT)]
    for found, wanted in expected:
        assert found == pytest.approx(wanted)
