"""Rescaled RoPE by pico models of many families, against networks and angles made by hand."""

from dataclasses import replace

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import (
    GEOMETRIES,
    ROUNDING,
    TOKENS,
    both_dtypes,
    every_family,
    form_angles,
    gap,
    get_logits,
    get_rotary,
    make_by_hand,
    make_factors,
)

from longrope.errors import FactorsError, ModelError
from longrope.models import (
    LanguageModel,
    rescaled,
)
from longrope.rope import RescaleFactors, RopeSpec, unscaled


@every_family
@both_dtypes
def test_identity_is_bit_identical(family: str, dtype: torch.dtype) -> None:
    """All lambda = 1 changes no bit of the logits; start tokens of all-ones change nothing either."""
    model = pico.make_model(family, dtype=dtype)
    before = get_logits(model.network)
    for start in (0, 8):
        with rescaled(model, make_factors(model.spec, 1, 1, start_tokens=start)) as module:
            assert get_rotary(model.network) is module
            assert torch.equal(get_logits(model.network), before)


@every_family
def test_the_own_rope_comes_back_inside_other_factors(family: str) -> None:
    """To the bit, for the length of a block, and the other factors are in force again after it."""
    model = pico.make_model(family)
    before = get_logits(model.network)
    with rescaled(model, make_factors(model.spec, attention_factor=1.2, start_tokens=3)):
        changed = get_logits(model.network)
        with rescaled(model, unscaled(model.spec)):
            assert torch.equal(get_logits(model.network), before)
        assert torch.equal(get_logits(model.network), changed)
    assert not torch.equal(changed, before)


@every_family
def test_identity_by_our_own_angles(family: str) -> None:
    """Learnable all-ones go through our own cos and sin, and give the network's logits to rounding."""
    model = pico.make_model(family)
    with rescaled(model, make_factors(model.spec, 1, 1), learnable=True):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(model.network)) < ROUNDING


def test_factors_equal_a_module_made_by_hand(loaded: tuple[str, LanguageModel]) -> None:
    """In every family rescaled logits are those of the network's own module with divided frequencies."""
    family, model = loaded
    factors = make_factors(model.spec, attention_factor=1.2)
    head_dim, width, theta, _, _ = GEOMETRIES[family]
    frequencies = np.array([theta ** (-2 * i / width) / stretch for i, stretch in enumerate(factors.lambdas)])
    before = get_logits(model.network)
    with rescaled(model, factors):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(make_by_hand(family, frequencies, 1.2))) < ROUNDING
    assert gap(ours, before) > 0.1, "the factors must move the logits"
    assert head_dim >= width


@every_family
def test_factors_in_bfloat16(family: str) -> None:
    """Rescaled bfloat16 logits are those of float32 to bfloat16's rounding, nearer than the change itself."""
    model, single = pico.make_model(family, dtype=torch.bfloat16), pico.make_model(family)
    single.network.load_state_dict({name: value.float() for name, value in model.network.state_dict().items()})
    factors = make_factors(model.spec, attention_factor=1.2)
    with rescaled(model, factors), rescaled(single, factors):
        ours, reference = get_logits(model.network), get_logits(single.network)
    typical = (ours.float() - reference).abs().mean()
    assert typical < 0.05 * reference.std()
    assert typical < 0.5 * (get_logits(single.network) - reference).abs().mean()


@every_family
def test_attention_factor_alone(family: str) -> None:
    """All-ones with an attention factor are no identity: cos and sin are multiplied by it."""
    model = pico.make_model(family)
    with rescaled(model, make_factors(model.spec, 1, 1, attention_factor=1.5)):
        ours = get_logits(model.network)
    before = get_logits(model.network)
    get_rotary(model.network).attention_scaling = 1.5
    assert gap(ours, get_logits(model.network)) < ROUNDING
    assert gap(ours, before) > 0.05


def test_without_factors_the_model_stays(llama: LanguageModel) -> None:
    """None means the model as it is."""
    native = get_rotary(llama.network)
    with rescaled(llama, None) as module:
        assert module is None
        assert get_rotary(llama.network) is native


@every_family
def test_the_very_same_module_is_back_after_the_block(family: str) -> None:
    """Module and logits are the same after the block, after an exception inside it, and after nested blocks."""
    model = pico.make_model(family)
    native, before = get_rotary(model.network), get_logits(model.network)
    names = [name for name, _ in model.network.named_modules()]
    with rescaled(model, make_factors(model.spec)) as outer:
        changed = get_logits(model.network)
        with rescaled(model, make_factors(model.spec, 2, 8)):
            assert not torch.equal(get_logits(model.network), changed)
        assert get_rotary(model.network) is outer
        assert torch.equal(get_logits(model.network), changed)
    assert get_rotary(model.network) is native
    assert torch.equal(get_logits(model.network), before)
    with pytest.raises(RuntimeError, match="inside"), rescaled(model, make_factors(model.spec)):
        raise RuntimeError("inside")
    assert get_rotary(model.network) is native
    assert torch.equal(get_logits(model.network), before)
    assert [name for name, _ in model.network.named_modules()] == names
    assert not torch.equal(changed, before)


def test_inner_block_replaces_the_outer_one(llama: LanguageModel) -> None:
    """Factors are relative to the model's own frequencies, so the inner block holds alone: also when it is all-ones."""
    inner, before = make_factors(llama.spec, 2, 8), get_logits(llama.network)
    with rescaled(llama, inner):
        alone = get_logits(llama.network)
    with rescaled(llama, make_factors(llama.spec)):
        with rescaled(llama, inner):
            assert torch.equal(get_logits(llama.network), alone)
        with rescaled(llama, make_factors(llama.spec, 1, 1)):
            assert torch.equal(get_logits(llama.network), before)


@pytest.mark.parametrize(
    "other",
    [
        RopeSpec(8, 8, 2e4, 64),  # another theta
        RopeSpec(8, 8, 1e4, 128),  # another window
        RopeSpec(16, 16, 1e4, 64),  # another number of pairs
        RopeSpec(8, 8, 1e4, 64, "interleaved"),
    ],
    ids=["theta", "window", "pairs", "pairing"],
)
def test_factors_for_another_geometry_are_refused(llama: LanguageModel, other: RopeSpec) -> None:
    """Factors of another model are refused before anything is changed."""
    native = get_rotary(llama.network)
    with pytest.raises(FactorsError, match="geometry"), rescaled(llama, make_factors(other)):
        pass
    assert get_rotary(llama.network) is native


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "cohere"])
@pytest.mark.parametrize("start", [0, 1, 16])
def test_angles_below_and_above_the_start_tokens(family: str, start: int) -> None:
    """cos and sin are the definition's, entry by entry: plain before n-hat, divided by lambda from it on."""
    model = pico.make_model(family, dtype=torch.float64)
    factors = make_factors(model.spec, start_tokens=start, attention_factor=1.3)
    positions = np.array([0, 1, start, max(0, start - 1), start + 1, 15, 16, 17, 63, 64, 1000])
    angles = form_angles(GEOMETRIES[family], positions, factors.lambdas, start)
    with rescaled(model, factors) as module:
        assert module is not None
        cos, sin = module(torch.zeros(1, dtype=torch.float64), torch.from_numpy(positions)[None])
    np.testing.assert_allclose(cos[0].detach().numpy(), (1.3 * np.cos(angles)).astype(float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sin[0].detach().numpy(), (1.3 * np.sin(angles)).astype(float), rtol=0, atol=1e-12)


def test_start_tokens_reach_the_logits(llama: LanguageModel) -> None:
    """A sequence within the start tokens sees the original RoPE; tokens after them see another one."""
    before = get_logits(llama.network)
    with rescaled(llama, make_factors(llama.spec, start_tokens=48)):
        assert gap(get_logits(llama.network), before) < ROUNDING
    with rescaled(llama, make_factors(llama.spec, start_tokens=20)):
        ours = get_logits(llama.network)
    assert gap(ours[:, :20], before[:, :20]) < ROUNDING
    assert gap(ours[:, 20:], before[:, 20:]) > 0.1


def test_cache_gives_the_same_logits_as_the_whole_pass(llama: LanguageModel) -> None:
    """With a cache the keys keep their angles: token by token equals the whole sequence, across n-hat."""
    with rescaled(llama, make_factors(llama.spec, start_tokens=10, attention_factor=1.1)), torch.inference_mode():
        whole = llama.network(TOKENS, use_cache=False).logits
        first = llama.network(TOKENS[:, :6], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for at in range(6, 14):
            step = llama.network(TOKENS[:, at : at + 1], past_key_values=cache, use_cache=True)
            pieces.append(step.logits)
    assert gap(torch.cat(pieces, dim=1), whole[:, :14]) < ROUNDING


@pytest.mark.parametrize("family", ["llama", "cohere"])
@pytest.mark.parametrize("stretch", [1.1, 30.0])
def test_angles_at_two_million_tokens(family: str, stretch: float) -> None:
    """Near position 2 ** 21 our float32 cos and sin are right to float32's rounding; the stock module's are not."""
    model = pico.make_model(family)
    lambdas = (stretch,) * model.spec.num_pairs
    factors = RescaleFactors(lambdas, 2**21, model.spec.fingerprint)
    positions = np.arange(2**21 - 64, 2**21)
    angles = form_angles(GEOMETRIES[family], positions, lambdas)
    ids = torch.from_numpy(positions)[None]
    with rescaled(model, factors, learnable=True) as module, torch.no_grad():
        assert module is not None
        ours = module(torch.zeros(1), ids)
    by_hand = make_by_hand(family, np.array([model.spec.theta ** (-i / 4) / lambdas[i] for i in range(4)]))
    stock = get_rotary(by_hand)(torch.zeros(1), ids)
    for values, stock_values, exact in zip(ours, stock, (np.cos(angles), np.sin(angles)), strict=True):
        assert values.dtype == torch.float32
        assert np.abs(values[0].numpy() - exact.astype(float)).max() < 1e-6
        assert np.abs(stock_values[0].numpy() - exact.astype(float)).max() > 1e-3


def test_angles_survive_a_network_cast_to_bfloat16() -> None:
    """`network.to(bfloat16)` rounds the network's own frequencies (bug 6 of PEERS.md), never ours."""
    model = pico.make_model("llama")
    model.network.to(torch.bfloat16)
    assert get_rotary(model.network).inv_freq.dtype == torch.bfloat16
    factors = make_factors(model.spec)
    positions = np.arange(100_000, 100_064)
    exact = np.cos(form_angles(GEOMETRIES["llama"], positions, factors.lambdas)).astype(float)
    with rescaled(model, factors) as module, torch.no_grad():
        assert module is not None
        cos, _ = module(torch.zeros(1, dtype=torch.bfloat16), torch.from_numpy(positions)[None])
    assert cos.dtype == torch.bfloat16
    assert torch.equal(cos[0], torch.from_numpy(exact).to(torch.bfloat16))


def test_factors_are_no_part_of_the_network(llama: LanguageModel) -> None:
    """It is trained, cast, saved and wrapped without them; those that are learnable are parameters."""
    names, factors = set(llama.network.state_dict()), make_factors(llama.spec, attention_factor=1.2)
    with rescaled(llama, factors) as module:
        assert module is not None
        assert set(llama.network.state_dict()) == names
        assert {name for name, _ in llama.network.named_parameters()} <= names
    with rescaled(llama, factors, learnable=True):
        added = {name.rpartition(".")[2] for name in {name for name, _ in llama.network.named_parameters()} - names}
        assert added == {"lambdas", "attention_factor"}


def test_a_cast_inside_the_block_leaves_the_factors() -> None:
    """As transformers' Trainer casts for an evaluation in bfloat16."""
    factors = RescaleFactors((1.0, 8 / 3, 13 / 3, 6.0), 256, pico.make_model("llama").spec.fingerprint)
    logits = []
    for early in (True, False):
        model = pico.make_model("llama")
        if early:
            model.network.to(torch.bfloat16)
        with rescaled(model, factors) as module:
            assert module is not None
            model.network.to(torch.bfloat16)
            assert module.lambdas.tolist() == list(factors.lambdas)
            logits.append(get_logits(model.network))
    assert torch.equal(*logits)


def test_blocks_that_end_in_another_order_are_refused_and_leave_the_model_as_it_was() -> None:
    """Two generators that are read alternately, or two threads: the first one's passes had the second one's factors."""
    model = pico.make_model("llama")
    before, native = get_logits(model.network), get_rotary(model.network)
    blocks = [rescaled(model, make_factors(model.spec, 1, most)) for most in (3, 4, 5)]
    for block in blocks:
        block.__enter__()
    for block in blocks[:2]:
        with pytest.raises(ModelError, match="ended while one that began later goes on"):
            block.__exit__(None, None, None)
    blocks[2].__exit__(None, None, None)
    assert get_rotary(model.network) is native
    assert torch.equal(get_logits(model.network), before)


def test_a_network_without_the_module_is_refused() -> None:
    """Such as one that was wrapped."""
    model = pico.make_model("llama")
    wrapped = replace(model, network=torch.nn.Sequential(model.network))
    with (
        pytest.raises(ModelError, match=r"no rotary module at model\.rotary_emb"),
        rescaled(wrapped, make_factors(model.spec)),
    ):
        pass
