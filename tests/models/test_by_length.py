"""A model's own scaling as sets of factors, chosen once by the planned length of a sequence."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from own_scalings import factors_near_ones
from rotary_oracles import ROUNDING, gap
from torch import Tensor
from transformers import AutoModelForCausalLM

from longrope.engine.decoding import prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.errors import ModelError
from longrope.models import LanguageModel, at_length, load_model, read_spec, rescaled
from longrope.rope import baseline_factors, unscaled

SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 5.0, 8.0]
LISTS = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, {}),
    "yarn": ("llama", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, {}),
    "llama3": ("llama", {**LLAMA3, "original_max_position_embeddings": 64}, {"max_position_embeddings": 256}),
    "longrope": ("llama", LISTS, {"max_position_embeddings": 256}),
    "su": ("phi3", LISTS, {"max_position_embeddings": 256, "original_max_position_embeddings": 64}),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 6.0}, {}),
}
BY_LENGTH = {"longrope", "su", "dynamic"}
LENGTHS = (48, 64, 65, 160)  # below, at and above the switch
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str) -> LanguageModel:
    family, rope, changes = KINDS[kind]
    return pico.make_model(family, rope=rope or None, **changes)


def ids(tokens: int) -> Tensor:
    return (torch.arange(tokens) * 37 % 320)[None]


@every_kind
def test_ones_and_their_neighbours_are_near(kind: str) -> None:
    """Factors of 1 + 1e-9 are those of 1 at every length, for windows below, at and above the switch."""
    model = make(kind)
    for window, tokens in itertools.product((*LENGTHS, 256), LENGTHS):
        if tokens <= window:
            logits = []
            for excess in (0, 1e-9):
                with rescaled(model, factors_near_ones(model, window, excess)), torch.inference_mode():
                    logits.append(model.network(ids(tokens), use_cache=False).logits)
            assert gap(logits[1], logits[0]) < ROUNDING * 2, (window, tokens)


@pytest.mark.parametrize("kind", sorted(BY_LENGTH))
@pytest.mark.parametrize("planned", LENGTHS)
def test_a_cache_holds_one_set(kind: str, planned: int) -> None:
    """Prefill and decoding across the switch, with a cache for the planned length, are one pass of that length."""
    model = make(kind)
    text = ids(planned)[0].numpy()
    with at_length(model, planned), torch.inference_mode():
        whole = model.network(ids(planned), use_cache=False).logits[0]
    for factors in (None, factors_near_ones(model, planned, 0), factors_near_ones(model, planned, 1e-9)):
        cache = KeyValueCache(model, planned)
        with rescaled(model, factors):
            found = [read_prompt(model, text[:40], cache)]
            found += [prefill(model, text[None, at : at + 1], cache)[0] for at in range(40, planned)]
        assert gap(torch.stack(found), whole[39:]) < 5 * ROUNDING


@every_kind
def test_nothing_is_exchanged_where_one_set_serves_all_lengths(kind: str) -> None:
    """Only modules that choose by the positions at hand give way; the very same ones are back at the end."""
    model = make(kind)
    native = model.network.model.rotary_emb
    with at_length(model, 100):
        assert (model.network.model.rotary_emb is not native) == (kind in BY_LENGTH)
        inside = model.network.model.rotary_emb
        with at_length(model, 200):
            assert model.network.model.rotary_emb is inside, "the planned length is decided once"
    assert model.network.model.rotary_emb is native


def test_factors_are_relative_to_the_set_of_their_window() -> None:
    """Beyond the switch they multiply the long list, up to it the short one, and dynamic NTK at exactly the window."""
    frequencies = 1e4 ** -(np.arange(4) / 4)
    model = make("longrope")
    for window, own in ((64, SHORT), (65, LONG), (512, LONG)):
        np.testing.assert_allclose(model.spec.frequencies_at(window), frequencies / own, rtol=1e-12)
        with rescaled(model, factors_near_ones(model, window, 1)) as module:
            assert module is not None
            cos = module(torch.zeros(1, dtype=torch.float64), torch.tensor([[7]]))[0][0, 0, :4]
        scale = math.sqrt(1 + math.log(4) / math.log(64))
        np.testing.assert_allclose(cos.detach().numpy(), scale * np.cos(7 * frequencies / own / 2), rtol=1e-12)
    spec = make("dynamic").spec
    for window in (32, 64, 100, 256):
        ratio = 6 * max(window, 64) / 64 - 5
        grown = (1e4 * ratio ** (8 / 6)) ** -(np.arange(4) / 4)  # the formula of transformers, with d = 8
        np.testing.assert_allclose(spec.frequencies_at(window), grown, rtol=1e-12)


def test_baselines_of_a_growing_model_turn_as_those_of_a_plain_one() -> None:
    """PI, YaRN and the like mean angles relative to the trained window, whatever the model itself does beyond it."""
    plain, growing = make("plain").spec, make("dynamic").spec
    for method in ("pi", "ntk", "yarn", "critical", "dynamic-ntk"):
        one, other = (baseline_factors(spec, method, 256, [128]) for spec in (plain, growing))
        for ours, theirs in zip(one.factor_sets, other.factor_sets, strict=True):
            window = ours.target_window
            angles = [spec.frequencies_at(window) / f.lambdas for spec, f in ((plain, ours), (growing, theirs))]
            np.testing.assert_allclose(angles[1], angles[0], rtol=1e-12)


def test_fingerprints_of_files_that_exist_stay() -> None:
    """Short lists do not enter them; dynamic NTK does, since factors of such models now mean something else."""
    one, other = (
        make("longrope").spec,
        pico.make_model("llama", rope={**LISTS, "short_factor": [1.0] * 4}, max_position_embeddings=256).spec,
    )
    assert one.fingerprint == other.fingerprint == FINGERPRINT
    assert make("dynamic").spec.fingerprint != make("plain").spec.fingerprint


FINGERPRINT = "b407749aa80b5323"  # as of the first files


@pytest.mark.parametrize("at_the_top", [False, True], ids=["beside the lists", "at the top"])
def test_su_is_longrope(tmp_path: Path, at_the_top: bool) -> None:
    """The type of the first Phi-3 checkpoints reads as its successor and gives its logits."""
    folder = pico.save_pico(tmp_path, "phi3", rope=LISTS, **KINDS["su"][2])
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    config = json.loads((folder / "config.json").read_text())
    stated = config.pop("rope_parameters")
    config["rope_theta"] = stated["rope_theta"]
    config["rope_scaling"] = {"type": "su", "short_factor": SHORT, "long_factor": LONG}
    if not at_the_top:
        config["rope_scaling"]["original_max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, device="cpu")
    assert model.spec.native is not None
    assert (model.spec.native.rope_type, list(model.spec.native.lambdas)) == ("longrope", LONG)
    for tokens in (48, 100):
        with rescaled(model, unscaled(model.spec, tokens)), torch.inference_mode():
            ours = model.network(ids(tokens), use_cache=False).logits
            assert gap(ours, network(ids(tokens), use_cache=False).logits) < ROUNDING


def test_a_module_that_never_takes_its_long_list_is_refused() -> None:
    """PhiMoE in transformers states long factors and turns by the short ones at every length."""
    lists = {**LISTS, "short_mscale": 1.2, "long_mscale": 1.2}
    config = pico.make_config("phimoe", rope=lists, max_position_embeddings=256, num_local_experts=2)
    with pytest.raises(ModelError, match=r"'phimoe' .* more than 64 tokens by its short factors, although") as caught:
        read_spec(config)
    assert "another version of transformers" in caught.value.remedy
