"""What works with a model is tried before work begins; inspect says the same of a small random model of the config."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pico
import pytest
import torch

from longrope import pipeline
from longrope.engine.context import ATTENTION
from longrope.engine.indexers import INDEXERS
from longrope.errors import LongRopeError, ModelError
from longrope.models import LanguageModel, make_shallow, read_tables
from longrope.pipeline.capabilities import check_capable, describe, list_steps, probe
from longrope.pipeline.inspection import describe_scaling, inspect
from longrope.recipe import Recipe
from longrope.rope import RescaleFactors
from longrope.runs.run_dir import RunDir

HF = "export --to hf"
STEPS = ["rescale", "measure", "search and tune", "generate", HF, "export --to gguf"]


def faults(model: LanguageModel) -> dict[str, str]:
    return {each.step: each.error.found for each in probe(model) if each.error}


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_every_step_works_with_plain_families(family: str) -> None:
    found = faults(pico.make_model(family))
    assert set(found) == (set() if family in ("llama", "mistral", "phi3") else {"export --to gguf"})
    assert list(list_steps()) == STEPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_tried_leaves_a_model_as_it_was(dtype: torch.dtype) -> None:
    """Its numbers, its random state and its mode."""
    model = pico.make_model("llama", dtype=dtype)
    before, random = {k: v.clone() for k, v in model.network.state_dict().items()}, torch.get_rng_state()
    config = model.network.config.to_dict()
    assert faults(model) == {}
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.network.config.to_dict() == config
    assert not model.network.training


def test_passes_of_ours_that_give_other_losses_are_refused() -> None:
    """Where our attention stands in for the library's, its output is larger by a fifth: three steps use it."""
    model = pico.make_model("llama")
    config = model.network.config

    def larger(_module: Any, _given: Any, out: torch.Tensor) -> torch.Tensor:
        return out * 1.2 if config._attn_implementation == ATTENTION else out

    for layer in model.network.model.layers:
        layer.self_attn.o_proj.register_forward_hook(larger)
    found = faults(model)
    assert set(found) == {"measure", "search and tune", "generate"}
    assert all("off by" in reason and "'llama'" in reason for reason in found.values())


def test_factors_without_a_slope_are_refused() -> None:
    """Keys of zero: attention is uniform, whatever the angles are."""
    model = pico.make_model("llama")
    for layer in model.network.model.layers:
        layer.self_attn.k_proj.weight.data.zero_()
    found = faults(model)
    assert "no slope" in found["search and tune"]
    assert "does not reach" in found["rescale"]
    assert "measure" not in found


def shallow(family: str) -> LanguageModel:
    return make_shallow(families.make_config(family))


@pytest.mark.parametrize(
    ("family", "step", "reason"),
    [
        ("deepseek_v32", "measure", "fails in a long pass"),
        ("deepseek_v32", "generate", "fails in a long pass"),
        ("gptj", HF, "states no RoPE parameters"),
    ],
)
def test_what_does_not_work_is_said_with_its_reason(
    family: str, step: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(INDEXERS, "deepseek_v32")
    model = shallow(family)
    assert reason in faults(model)[step]
    first, *others = describe(probe(model))
    assert step not in first.split(": ")[1].split(", ")
    assert any(line.startswith(f"{step}: ") and reason in line for line in others)
    with pytest.raises(LongRopeError, match=reason):
        check_capable(model, step)
    check_capable(model, "rescale")


@pytest.mark.parametrize("lost", ["factors", "its window"])
def test_a_config_that_does_not_keep_what_is_stated_is_refused(lost: str) -> None:
    """Its class takes it, and writes something else; Zamba2's sets the window again."""
    from longrope.exports.hf import check_stated

    model = pico.make_model("llama")
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 256, model.spec.fingerprint)
    check_stated(model, factors)
    config = model.network.config
    kind = type(config)

    class Forgetful(kind):  # type: ignore[misc, valid-type]
        def save_pretrained(self, folder: str, **_: Any) -> None:
            own = (
                pico.make_config("llama")
                if lost == "factors"
                else kind(**{**self.to_dict(), "max_position_embeddings": 128})
            )
            own.save_pretrained(folder)

    config.__class__ = Forgetful
    with pytest.raises(LongRopeError, match=f"does not keep {lost}"):
        check_stated(model, factors)


def test_a_search_that_cannot_work_ends_before_it_begins(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSeek-V3.2 asks for a mask without the help that its indexer has: no text is scored, nothing is written."""
    monkeypatch.delitem(INDEXERS, "deepseek_v32")
    families.build_network("deepseek_v32").save_pretrained(tmp_path / "model")
    pico.make_tokenizer().save_pretrained(tmp_path / "model")
    full = replace(recipe, model=str(tmp_path / "model"))
    for command in (pipeline.extend, pipeline.compare, pipeline.search):
        with pytest.raises(ModelError, match="fails in a long pass"):
            command(full, RunDir(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*"))


def test_a_shallow_model_has_every_kind_of_layer() -> None:
    """Twelve layers, of which the sixth is the first of its kind; a large vocabulary and MLP."""
    config = pico.make_config(
        "gemma3_text", num_hidden_layers=12, vocab_size=50_000, intermediate_size=4096, head_dim=8
    )
    model = make_shallow(config)
    assert len(model.network.model.layers) == 6
    assert model.network.config.layer_types == config.layer_types[:6]
    assert sum(weight.numel() for weight in model.network.parameters()) < 200_000
    assert {table.name: table.geometry for table in model.tables} == {
        table.name: table.geometry for table in read_tables(config)
    }
    assert config.num_hidden_layers == 12


def test_a_model_too_wide_for_a_question_is_not_built(tmp_path: Path) -> None:
    sizes = {**pico.BASE, "hidden_size": 32_768, "num_attention_heads": 256, "num_key_value_heads": 256}
    folder = pico.write_config(tmp_path / "wide", **sizes, model_type="llama")
    (line,) = inspect(str(folder))["steps"]
    assert line.startswith("not tried: Even with few layers the model has 8,")


def test_inspect_says_what_works(pico_folder: Path) -> None:
    assert inspect(str(pico_folder))["steps"] == [f"works: {', '.join(STEPS)}"]


def test_inspect_judges_exports_by_the_target(tmp_path: Path) -> None:
    """A sliding window of five times the trained one: a GGUF file needs layers that see all of the target."""
    window = pico.make_config("mistral").max_position_embeddings
    folder = pico.save_pico(tmp_path / "model", "mistral", sliding_window=5 * window)
    assert inspect(str(folder), 4 * window)["steps"] == [f"works: {', '.join(STEPS)}"]
    said = f"export --to gguf: The model's attention slides over {5 * window} tokens."
    assert inspect(str(folder), 8 * window)["steps"] == [f"works: {', '.join(STEPS[:-1])}", said]


PHI = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], "original_max_position_embeddings": 64}
SCALINGS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "plain": (None, "none: plain RoPE at every length"),
    "linear": ({"rope_type": "linear", "factor": 4.0}, "linear: the same divisors at every length"),
    "dynamic": (
        {"rope_type": "dynamic", "factor": 6.0},
        "dynamic: plain up to 512 tokens, beyond them by the length of the sequence",
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
        "yarn: the same divisors at every length, with 1.208 times cos and sin",
    ),
    "longrope": (
        {"rope_type": "longrope", **PHI, "attention_factor": 1.25},
        "longrope: short factors up to 64 tokens, long ones beyond them, with 1.25 times cos and sin",
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_scaling_that_a_model_carries_is_named(kind: str) -> None:
    rope, wanted = SCALINGS[kind]
    spec = pico.make_model("llama", max_position_embeddings=512, rope=rope).spec
    assert describe_scaling(spec) == wanted
