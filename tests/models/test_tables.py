"""The rotary tables of models with several: where they are, which layers use them, which one factors act on."""

from typing import Any

import families
import numpy as np
import pico
import pytest
import torch
from rotary_oracles import ROUNDING, gap, get_logits

from longrope.errors import ModelError
from longrope.models import LanguageModel, load_model, read_tables, rescaled
from longrope.models.tables import choose_table, describe_choice, modules_of, slides_over, sliding_layers
from longrope.rope import RescaleFactors

TYPES = ["sliding_attention", "full_attention"]
GEMMA3: dict[str, Any] = {"head_dim": 16, "sliding_window": 32, "query_pre_attn_scalar": 16, "layer_types": TYPES}
MLA = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16}
MLA = {**MLA, "num_key_value_heads": 4}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32}
QWEN = {"head_dim": 32, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}

# family: (changes, the chosen table: path, name of its kind, layers, rotated width, columns, parts, theta)
FAMILIES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "gemma3_text": (GEMMA3, ("model.rotary_emb", "full_attention", (1,), 16, 16, "cos_sin", 1e6)),
    "olmo3": (
        {"sliding_window": 32, "layer_types": TYPES},
        ("model.rotary_emb", "full_attention", (1,), 8, 8, "cos_sin", 5e5),
    ),
    "modernbert-decoder": (
        {"local_attention": 32, "layer_types": TYPES, "global_attn_every_n_layers": 2},
        ("model.rotary_emb", "full_attention", (1,), 8, 8, "cos_sin", 16e4),
    ),
    "gpt_oss": (
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        ("model.rotary_emb", None, (0, 1), 16, 8, "cos_sin", 1e4),
    ),
    "llama4_text": (
        {
            "head_dim": 8,
            "intermediate_size_mlp": 32,
            "num_local_experts": 2,
            "moe_layers": [],
            "no_rope_layers": [1, 0],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        ("model.rotary_emb", None, (0,), 8, 4, "complex", 1e4),
    ),
    "deepseek_v3": (
        {"head_dim": 8, **MLA, **EXPERTS, "n_shared_experts": 1},
        ("model.rotary_emb", None, (0, 1), 8, 8, "cos_sin", 1e4),
    ),
    "deepseek_v2": (
        {**MLA, **EXPERTS, "n_shared_experts": 1},
        ("model.rotary_emb", None, (0, 1), 8, 4, "complex", 1e4),
    ),
    "minicpm3": (MLA, ("model.rotary_emb", None, (0, 1), 8, 8, "cos_sin", 1e4)),
    "granite_swa": ({}, ("model.rotary_embs.0", None, (0, 1), 8, 8, "cos_sin", 1e4)),
    "moshi": ({"ffn_dim": 64}, ("model.layers.*.self_attn.rotary_emb", None, (0, 1), 8, 8, "cos_sin", 1e4)),
    "qwen3_5_text": (
        {**QWEN, "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"]},
        ("model.rotary_emb", None, (1,), 8, 8, "cos_sin", 1e4),
    ),
}
every_kind = pytest.mark.parametrize("family", FAMILIES)
TOKENS = torch.randint(1, 320, (1, 24), generator=torch.Generator().manual_seed(3))


def make(family: str) -> LanguageModel:
    return pico.make_model(family, **FAMILIES[family][0])


def ramp(model: LanguageModel, first: float, last: float, attention: float = 1.0) -> RescaleFactors:
    lambdas = tuple(np.linspace(first, last, model.spec.num_pairs).tolist())
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=attention)


@every_kind
def test_table_of_the_whole_window_is_chosen(family: str) -> None:
    """Its module, its layers, its width and base are those written by hand."""
    table = make(family).table
    path, layer_type, layers, width, columns, parts, theta = FAMILIES[family][1]
    assert (table.path, table.layer_type, table.layers) == (path, layer_type, layers)
    assert (table.geometry.rotary_dim, table.geometry.theta) == (width, theta)
    assert table.layout is not None
    assert (len(table.layout.columns), table.layout.parts) == (columns, parts)


@every_kind
def test_ones_are_bit_identical_and_their_neighbours_near(family: str) -> None:
    """1 hands over to the native module; 1 + 1e-9 goes through our own columns, and far factors move the logits."""
    model = make(family)
    before = get_logits(model.network, TOKENS)
    with rescaled(model, ramp(model, 1, 1)):
        assert torch.equal(get_logits(model.network, TOKENS), before)
    with rescaled(model, ramp(model, 1, 1 + 1e-9)):
        assert gap(get_logits(model.network, TOKENS), before) < 5 * ROUNDING
    with rescaled(model, ramp(model, 2, 8, 1.1)):
        assert gap(get_logits(model.network, TOKENS), before) > 1e-3
    assert torch.equal(get_logits(model.network, TOKENS), before)


@every_kind
def test_factors_equal_divided_frequencies_of_the_native_module(family: str) -> None:
    """Rescaled logits are those of the native modules whose own frequencies are divided by hand."""
    model, by_hand = make(family), make(family)
    factors = ramp(model, 1.5, 4)
    name = "inv_freq" if model.table.layer_type is None else f"{model.table.layer_type}_inv_freq"
    for _, _, module in modules_of(by_hand.network, by_hand.table):
        getattr(module, name).div_(torch.tensor(factors.lambdas, dtype=torch.float32))
    with rescaled(model, factors):
        assert gap(get_logits(model.network, TOKENS), get_logits(by_hand.network, TOKENS)) < 5 * ROUNDING


@every_kind
def test_modules_are_back_after_the_block(family: str) -> None:
    """The very same objects, however many there are."""
    model = make(family)
    before = [id(module) for _, _, module in modules_of(model.network, model.table)]
    with rescaled(model, ramp(model, 2, 3)) as installed:
        assert {id(module) for _, _, module in modules_of(model.network, model.table)} == {id(installed)}
    assert [id(module) for _, _, module in modules_of(model.network, model.table)] == before


def test_sliding_layers_keep_their_own_table() -> None:
    """Gemma-3: with factors the module gives other angles for the global layers and the same for sliding ones."""
    model = pico.make_model("gemma3_text", **GEMMA3)
    assert [(table.name, table.slides, table.layers) for table in model.tables] == [
        ("sliding_attention", True, (0,)),
        ("full_attention", False, (1,)),
    ]
    given, native = (torch.zeros(1, 24, 32), torch.arange(24)[None]), model.network.model.rotary_emb
    with rescaled(model, ramp(model, 2, 8)) as module:
        assert module is not None
        assert torch.equal(module(*given, "sliding_attention")[0], native(*given, "sliding_attention")[0])
        assert not torch.equal(module(*given, "full_attention")[0], native(*given, "full_attention")[0])


def test_a_named_table_is_the_one_that_factors_act_on() -> None:
    """`rope_table` takes the sliding layers' table; an unknown name is refused with the list."""
    whole = pico.make_model("gemma3_text", **GEMMA3)
    local = LanguageModel(whole.network, whole.tokenizer, whole.tables, "local", rope_table="sliding_attention")
    assert (local.spec.theta, whole.spec.theta) == (1e4, 1e6)
    with pytest.raises(ModelError, match=r"'global'[\s\S]*sliding_attention[\s\S]*full_attention"):
        choose_table(whole.tables, "global")


def test_two_tables_of_the_whole_window_must_be_named() -> None:
    """Two different global tables are refused with both names, and each can be taken by its own."""
    one, two = pico.make_model("gemma3_text", **GEMMA3).tables
    tables = (one.__class__("a.rotary", (0,), one.geometry), two.__class__("b.rotary", (1,), two.geometry))
    with pytest.raises(ModelError, match=r"2 rotary tables[\s\S]*a\.rotary[\s\S]*b\.rotary"):
        choose_table(tables)
    assert choose_table(tables, "b.rotary").geometry.theta == 1e6


def test_three_rows_of_positions_that_differ_are_refused() -> None:
    """Factors describe text, whose positions are the same in time, height and width."""
    model = make("qwen3_5_text")
    rows = torch.arange(8).expand(3, 1, -1).clone()
    with rescaled(model, ramp(model, 2, 3)) as module:
        assert module is not None
        assert torch.equal(module(torch.zeros(1), rows)[0], module(torch.zeros(1), rows[0])[0])
        rows[1] += 1
        with pytest.raises(ModelError, match="time, height and width"):
            module(torch.zeros(1), rows)


GEMMA4_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}


def test_pairs_that_never_turn_stay_still() -> None:
    """LFM-3's proportional embedding: a quarter of the pairs turns, with exponents of the whole head."""
    network = families.build_network("lfm3", rope_parameters=GEMMA4_ROPE)
    model = LanguageModel(network, pico.make_tokenizer(), read_tables(network.config), "lfm3")
    spec, width = model.spec, model.spec.head_dim
    assert (spec.num_pairs, model.table.name) == (width // 8, "full_attention")
    np.testing.assert_allclose(spec.frequencies, 1e6 ** -(2 * np.arange(width // 8) / width), rtol=1e-12)
    factors = ramp(model, 2, 3, 1.5)
    with rescaled(model, factors) as module:
        assert module is not None
        given = (torch.zeros(1, dtype=torch.float64), torch.tensor([[9]]), "full_attention")
        cos, sin = (part[0, 0].detach().numpy() for part in module(*given))
    angles = np.zeros(width // 2)
    angles[: spec.num_pairs] = 9 * spec.frequencies / factors.lambdas
    np.testing.assert_allclose(cos, 1.5 * np.cos([*angles, *angles]), atol=1e-6)
    np.testing.assert_allclose(sin, 1.5 * np.sin([*angles, *angles]), atol=1e-6)


def test_gptj_reads_beyond_its_own_table_of_angles() -> None:
    """Its module holds angles of its window; ones are bit-identical there, and go on beyond it by the same formula."""
    model = pico.make_model("gptj", rotary_dim=4)
    assert (model.spec.rotary_dim, model.spec.theta, model.table.layout.parts if model.table.layout else "") == (
        4,
        1e4,
        "sin_cos",
    )
    before = get_logits(model.network, TOKENS)
    with rescaled(model, ramp(model, 1, 1)) as module:
        assert torch.equal(get_logits(model.network, TOKENS), before)
        assert module is not None
        sin, cos = (part[0, 0].numpy() for part in module(torch.zeros(1), torch.tensor([[100]])))
    np.testing.assert_allclose(sin, np.sin([100, 1]), atol=1e-6)
    np.testing.assert_allclose(cos, np.cos([100, 1]), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("ministral", {"head_dim": None}, "cannot be built by transformers.*config from which transformers builds"),
        ("recurrent_gemma", {}, "states no max_position_embeddings"),
    ],
)
def test_refusals_say_what_is_wrong(family: str, changes: dict[str, Any], reason: str) -> None:
    """Not that something else is missing, and never by a bare error of Python."""
    config = families.make_default(family)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ModelError, match=reason):
        read_tables(config)


def test_a_model_whose_layers_all_slide_is_named_as_one(tmp_path: Any) -> None:
    """Mistral's first release: factors do not widen what a layer sees."""
    folder = pico.save_pico(tmp_path, "mistral", sliding_window=32)
    choices = "; ".join(load_model(folder, device="cpu").choices)
    assert "every layer with RoPE sees a sliding window alone" in choices
    whole = pico.save_pico(tmp_path / "whole", "mistral", sliding_window=None)
    assert "sliding" not in "; ".join(load_model(whole, device="cpu").choices)


@pytest.mark.parametrize(("window", "sliding"), [(64, {0, 1}), (128, {0, 1}), (129, set()), (262144, set())])
def test_a_sliding_window_that_holds_the_trained_one_hides_nothing(window: int, sliding: set[int]) -> None:
    """Phi-3-mini-128k and Phi-4-mini state 262,144 for all layers: they see all of 131,072 tokens, and it is said."""
    config = pico.make_network("phi3", max_position_embeddings=128, sliding_window=window).config
    assert sliding_layers(config) == sliding
    (table,) = read_tables(config)
    said = describe_choice((table,), table, slides_over(config))
    assert bool(said) == (slides_over(config) > 0)
    assert ("attention slides over 262,144 tokens, which factors do not widen" in said) == (window == 262144)


def test_a_layer_without_rotation_whose_attention_is_viewed_is_none_of_the_tables() -> None:
    """AFMoE views the output of attention in another shape, which has to lie in one piece."""
    config = families.build_network("afmoe").config
    (table,) = read_tables(config)
    assert table.slides
    assert set(table.layers) == sliding_layers(config)
