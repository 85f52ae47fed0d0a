"""The two layouts of a checkpoint: what each costs on short texts, and two lists in plain transformers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from longrope.exports import ExportReport, describe_short, dump_report, export_hf
from longrope.exports.short_cost import ShortCost
from longrope.models import LanguageModel
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

LAMBDAS = (1.0, 1.5, 3.0, 4.0)


def export(model: LanguageModel, folder: Path, factor_sets: str, windows: np.ndarray | None = None) -> ExportReport:
    factors = RescaleFactors(LAMBDAS, 256, model.spec.fingerprint, attention_factor=1.2)
    return export_hf(
        model,
        factors,
        folder,
        settings=ExportRecipe(factor_sets=factor_sets),
        short_windows=windows,
        reopen=sweep.reopen_here,
    )


# What short texts cost


@pytest.mark.parametrize("factor_sets", ["single", "two"])
def test_perplexities_are_those_of_networks_set_by_hand(factor_sets: str, tmp_path: Path) -> None:
    """The attention factor acts on the short list, too: two lists are not the original model."""
    windows = np.random.default_rng(4).integers(1, 320, (3, 60)).astype(np.int32)
    report = export(pico.make_model("llama"), tmp_path, factor_sets, windows)
    expected = []
    for divisors, attention in (((1.0,) * 4, 1.0), (LAMBDAS, 1.2), ((1.0,) * 4, 1.2)):
        network, tokens = pico.make_network("llama"), torch.from_numpy(windows).long()
        network.model.rotary_emb.inv_freq.copy_(torch.tensor([1e4 ** (-i / 4) / x for i, x in enumerate(divisors)]))
        network.model.rotary_emb.attention_scaling = attention
        with torch.inference_mode():
            logits = network(tokens, use_cache=False).logits[:, :-1]
        expected.append(math.exp(functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()))
    assert len({round(value, 2) for value in expected}) == 3
    content = json.loads(dump_report(report))
    found = [content[f"perplexity_{name}"] for name in ("original", "single", "two")]
    assert found == pytest.approx(expected, rel=1e-4)
    assert content["short_tokens"] == 60


def test_a_single_list_that_costs_more_than_two_percent_names_the_other_layout() -> None:
    """With the command; up to 2 %, or where two lists are no better, nothing is advised."""
    line = describe_short(ShortCost(256, 10.05, 11.70, 10.20), "single")
    assert line == (
        "at 256 tokens, a single list of factors: perplexity 10.05 -> 11.70 (+16.4%), more than 2%; "
        "with two lists 10.20: longrope export RUN --factor-sets two"
    )
    assert "export" not in describe_short(ShortCost(256, 10.0, 10.19, 10.1), "single")
    assert "export" not in describe_short(ShortCost(256, 10.0, 10.5, 10.5), "single")
    assert "export" not in describe_short(ShortCost(256, 10.0, 10.5, None), "single")


def test_two_lists_whose_attention_factor_costs_more_name_the_single_one() -> None:
    """As where a single list was tuned."""
    line = describe_short(ShortCost(256, 10.0, 10.1, 10.5), "two")
    assert line.startswith("at 256 tokens, two lists: perplexity 10.00 -> 10.50 (+5.0%), more than 2%")
    assert line.endswith("with a single list of factors 10.10: longrope export RUN --factor-sets single")


def test_without_texts_nothing_is_measured(tmp_path: Path) -> None:
    """As with an export of a model without a run."""
    content = json.loads(dump_report(export(pico.make_model("llama"), tmp_path, "single")))
    assert not {"short_cost", "short_tokens", "perplexity_single"} & content.keys()


# Two lists in plain transformers


def generate(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model.generate(tokens, max_new_tokens=60, min_new_tokens=60, do_sample=False, pad_token_id=0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_the_card_says_of_growing_past_the_switch(family: str, tmp_path: Path) -> None:
    """Its code, run: every token generated from 40 to 100 is that of one pass over all; without it most differ."""
    layers: dict[str, Any] = {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 32,
        "head_dim": 8,
    }
    model = pico.make_model(family, **(layers if family == "gemma3_text" else {}))
    export(model, tmp_path, "two")
    card = (tmp_path / "README.md").read_text()
    assert card.index("## First: choose the window") < card.index("## How to load it")
    code = card.split("## First: choose the window")[1].split("```python\n")[1].split("```")[0]
    given: dict[str, Any] = {}
    exec(code.replace('"this-folder"', repr(str(tmp_path))), given)  # noqa: S102  # what a reader would run
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(1, 320, (1, 40), generator=torch.Generator().manual_seed(3))
    differing = []
    for network in (given["model"].eval(), plain):
        made = generate(network, tokens)
        with torch.inference_mode():
            fresh = plain(made, use_cache=False).logits.argmax(-1)  # two lists, and all of it above the switch
        differing.append(int((made[0, 40:] != fresh[0, 39:-1]).sum()))
    assert differing[0] == 0
    assert differing[1] > 10 or family == "gemma3_text"  # whose random weights repeat one token
    stated = given["config"].rope_parameters
    own = stated["full_attention"] if family == "gemma3_text" else stated
    assert own["short_factor"] == own["long_factor"] == list(LAMBDAS)
