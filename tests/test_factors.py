"""Rescale factors: what is refused and in which words, exact JSON round trips, tiers, closed forms, tuned models."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope.errors import FactorsError
from longrope.factors import (
    FORMAT,
    FactorTable,
    RescaleFactors,
    as_table,
    carried_on,
    closed_form,
    compose,
    dump_factors,
    load_factors,
    relative_to,
    tuned_spec,
)
from longrope.models import RescaledRotary
from longrope.rope import Carried, RopeSpec

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=1e4, trained_window=1024)
FACTORS = RescaleFactors((1.0, 1.5, 1.5, 4.0), 4096, SPEC.fingerprint, 4, 1.1, "longrope-evolution", False, (7, 2**63))


def tier(window: int, spec_fingerprint: str = "geometry") -> RescaleFactors:
    """A one-pair tier for this window."""
    return RescaleFactors((2.0,), window, spec_fingerprint)


# What is refused


@pytest.mark.parametrize(
    ("lambdas", "named"),
    [
        ((1, 2, math.nan, 3), "lambdas[2] = nan"),
        ((1, math.inf, 3, 3), "lambdas[1] = inf"),
        ((1, 2, 3, -math.inf), "lambdas[3] = -inf"),
        ((0.99, 2, 3, 4), "lambdas[0] = 0.99 (below 1)"),
        ((1, 1, 0.5, 4), "lambdas[2] = 0.5"),
        ((1, 0, 3, 4), "lambdas[1] = 0.0"),
        ((1, 3, 2, 4), "lambdas[2] = 2.0 after 3.0 (decreasing)"),
        ((), "0 factors"),
    ],
)
def test_bad_lambdas_are_refused_by_index(lambdas: tuple[float, ...], named: str) -> None:
    with pytest.raises(FactorsError) as caught:
        RescaleFactors(lambdas, 4096, "geometry")
    assert named in caught.value.found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_window", 0),
        ("target_window", math.nan),
        ("start_tokens", -1),
        ("start_tokens", math.nan),
        ("attention_factor", 0.0),
        ("attention_factor", -1.0),
        ("attention_factor", math.nan),
        ("attention_factor", math.inf),
    ],
)
def test_other_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(FactorsError) as caught:
        replace(FACTORS, **{field: value})
    assert field in caught.value.found
    assert str(value) in caught.value.found


def test_relaxed_allows_decreasing_and_below_one_and_nothing_worse() -> None:
    assert replace(FACTORS, lambdas=(3, 0.5, 1, 0.01), relaxed=True).lambdas == (3.0, 0.5, 1.0, 0.01)
    for worse in (math.nan, math.inf, 0.0, -1.0):
        with pytest.raises(FactorsError, match=r"lambdas\[1\]"):
            replace(FACTORS, lambdas=(3, worse, 1, 2), relaxed=True)


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, theta=1e5),
        replace(SPEC, trained_window=2048),
        replace(SPEC, pairing="interleaved"),
        replace(SPEC, head_dim=16),
        replace(SPEC, rotary_dim=6),
        replace(SPEC, carried=Carried("linear", (2.0,) * 4, 1.0)),
    ],
)
def test_another_geometry_is_refused_with_both_named(spec: RopeSpec) -> None:
    FACTORS.check_spec(SPEC)
    as_table(FACTORS).check_spec(SPEC)
    for factors in (FACTORS, as_table(FACTORS)):
        with pytest.raises(FactorsError) as caught:
            factors.check_spec(spec)
        assert f"4 lambdas for the rotary geometry {SPEC.fingerprint}" in caught.value.found
        assert f"{spec.num_pairs} pairs and the geometry {spec.fingerprint}" in caught.value.needed


def test_wrong_length_is_refused_even_under_the_right_fingerprint() -> None:
    with pytest.raises(FactorsError, match="3 lambdas"):
        replace(FACTORS, lambdas=(1, 2, 3)).check_spec(SPEC)


# What they are


def test_identity_is_ones_without_attention_factor() -> None:
    ones = RescaleFactors((1, 1), 10, "geometry", start_tokens=8)
    assert ones.is_identity
    assert not replace(ones, lambdas=(1, 1.01)).is_identity
    assert not replace(ones, attention_factor=1.01).is_identity


def test_array_is_float64() -> None:
    array = RescaleFactors((1, 2), 10, "geometry").array
    assert array.dtype == "float64"
    assert array.tolist() == [1, 2]


def test_fingerprint_names_what_acts_and_not_how_it_was_found() -> None:
    acting: list[dict[str, Any]] = [
        {"lambdas": (1, 1.5, 1.51, 4)},
        {"start_tokens": 8},
        {"attention_factor": 1.2},
        {"target_window": 8192},
        {"spec_fingerprint": "other"},
    ]
    names = {FACTORS.fingerprint, *(replace(FACTORS, **change).fingerprint for change in acting)}
    assert len(names) == 1 + len(acting)
    told: dict[str, Any] = {"method": "yarn", "chosen_by": "longrope-gradient", "relaxed": True, "searched": ()}
    assert replace(FACTORS, **told).fingerprint == FACTORS.fingerprint


def test_equal_factors_have_equal_fingerprints() -> None:
    """A file may say 1 or 1.0."""
    whole, real = replace(FACTORS, attention_factor=1), replace(FACTORS, attention_factor=1.0)
    assert whole == real
    assert whole.fingerprint == real.fingerprint


# Tiers


@pytest.mark.parametrize(
    ("tokens", "window"),
    [(1, 1024), (1023, 1024), (1024, 1024), (1025, 4096), (4096, 4096), (4097, 9000), (9000, 9000)],
)
def test_a_sequence_takes_the_smallest_tier_that_holds_it(tokens: int, window: int) -> None:
    assert FactorTable((tier(9000), tier(1024), tier(4096))).choose(tokens).target_window == window


def test_a_sequence_longer_than_every_tier_is_refused() -> None:
    with pytest.raises(FactorsError) as caught:
        FactorTable((tier(9000), tier(1024))).choose(9001)
    assert "9001" in caught.value.found
    assert "9000" in caught.value.needed


@pytest.mark.parametrize("tiers", [(), (tier(1024), tier(1024)), (tier(1024, "one"), tier(4096, "two"))])
def test_a_table_without_tiers_or_with_rivals_is_refused(tiers: tuple[RescaleFactors, ...]) -> None:
    with pytest.raises(FactorsError, match="factor table"):
        FactorTable(tiers)


def test_table_fingerprint_is_the_tiers_own_or_depends_on_all() -> None:
    one, two, three = tier(1024), tier(4096), tier(9000)
    assert as_table(one).fingerprint == one.fingerprint
    tables = [FactorTable((one, two)), FactorTable((one, three)), FactorTable((two, three))]
    assert len({table.fingerprint for table in tables}) == 3
    assert FactorTable((two, one)).fingerprint == tables[0].fingerprint
    assert as_table(tables[0]) is tables[0]


# Files

sane = st.floats(min_value=1e-300, max_value=1e300)


@given(
    lambdas=st.lists(sane, min_size=1, max_size=8),
    windows=st.lists(st.integers(1, 2**40), min_size=1, max_size=3, unique=True),
    attention_factor=sane,
    start_tokens=st.integers(0, 2**20),
    method=st.text(),
    searched=st.lists(st.integers(0, 2**64 - 1), max_size=3),
)
def test_files_keep_every_bit(
    lambdas: list[float],
    windows: list[int],
    attention_factor: float,
    start_tokens: int,
    method: str,
    searched: list[int],
) -> None:
    table = FactorTable(
        tuple(
            RescaleFactors(
                tuple(lambdas), window, "geometry", start_tokens, attention_factor, method, True, tuple(searched)
            )
            for window in windows
        )
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "factors.json"
        path.write_text(dump_factors(table))
        again = load_factors(path)
    assert again == table
    assert hash(again) == hash(table)
    assert again.fingerprint == table.fingerprint


def test_one_tier_is_written_as_a_table_with_its_format(tmp_path: Path) -> None:
    content = json.loads(dump_factors(FACTORS))
    assert content["format"] == FORMAT
    assert [t["lambdas"] for t in content["tiers"]] == [[1.0, 1.5, 1.5, 4.0]]
    (tmp_path / "factors.json").write_text(dump_factors(FACTORS))
    assert load_factors(str(tmp_path / "factors.json")) == FactorTable((FACTORS,))


def test_a_file_without_who_chose_the_factors_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it: the method stays, and nobody is said to have chosen them."""
    (tmp_path / "factors.json").write_text(edited(chosen_by=None))
    assert "chosen_by" not in (tmp_path / "factors.json").read_text()
    assert load_factors(tmp_path / "factors.json").tiers == (replace(FACTORS, chosen_by=""),)


def edited(**changes: Any) -> str:
    """The JSON of FACTORS with fields of its tier changed; None removes one."""
    content = json.loads(dump_factors(FACTORS))
    content["tiers"][0] = {k: v for k, v in {**content["tiers"][0], **changes}.items() if v is not None}
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{not json", "JSON"),
        ("", "JSON"),
        ("[]", "cannot be read"),
        ("3", "cannot be read"),
        ('{"tiers": []}', "format"),
        (json.dumps({"format": FORMAT}), "tiers"),
        (json.dumps({"format": FORMAT, "tiers": []}), "windows []"),
        (json.dumps({"format": FORMAT, "tiers": [1]}), "cannot be read"),
        (dump_factors(FACTORS).replace(FORMAT, "longrope-factors/9"), "longrope-factors/9"),
        (edited(lamdas=[1, 2]), "unknown field 'lamdas'"),
        (edited(target_window=None), "target_window"),
        (edited(lambdas=[1, math.nan, 2, 3]), "lambdas[1] = nan"),
        (edited(lambdas=[1, 2, 3, math.inf]), "lambdas[3] = inf"),
        (edited(lambdas=[2, 1, 3, 4]), "lambdas[1] = 1.0 after 2.0"),
        (edited(lambdas=["one", 2, 3, 4]), "one"),
        (edited(lambdas="1234"), "lambdas"),
        (edited(chosen_by=3), "chosen_by = 3"),
        (edited(lambdas=3), "lambdas"),
        (edited(target_window=math.nan), "target_window"),
        (edited(target_window="64k"), "target_window"),
        (edited(start_tokens=0.5), "start_tokens"),
        (edited(relaxed="no"), "relaxed"),
        (edited(attention_factor=math.nan), "attention_factor = nan"),
        (edited(attention_factor="big"), "attention_factor"),
    ],
)
def test_malformed_files_are_refused_by_name_and_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(FactorsError) as caught:
        load_factors(path)
    assert str(path) in caught.value.found
    assert named in caught.value.found.replace(str(path), "")


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.json", "binary.json"):
        with pytest.raises(FactorsError, match=name):
            load_factors(tmp_path / name)


# Closed forms, at d = 8, L = 1024, L' = 4096 (s = 4)


@pytest.mark.parametrize(
    ("method", "lambdas", "attention_factor"),
    [
        ("pi", [4, 4, 4, 4], 1),
        ("ntk", [1, 4 ** (1 / 3), 4 ** (2 / 3), 4], 1),
        ("dynamic-ntk", [1, 4 ** (1 / 3), 4 ** (2 / 3), 4], 1),
        ("yarn", [1, 4 / 3, 2, 4], 1 + 0.1 * math.log(4)),  # the ramp is worked out in test_rope.py
    ],
)
def test_closed_forms_by_hand(method: str, lambdas: list[float], attention_factor: float) -> None:
    (only,) = closed_form(SPEC, method, 4096).tiers
    assert only.lambdas == pytest.approx(lambdas)
    assert only.attention_factor == pytest.approx(attention_factor)
    assert (only.method, only.target_window, only.start_tokens, only.relaxed) == (method, 4096, 0, False)
    only.check_spec(SPEC)


@pytest.mark.parametrize("method", ["pi", "ntk", "dynamic-ntk", "yarn"])
@pytest.mark.parametrize("tokens", [1, 512, 1024])
def test_closed_forms_change_nothing_within_the_trained_window(method: str, tokens: int) -> None:
    (only,) = closed_form(SPEC, method, tokens).tiers
    assert only.is_identity
    assert only.target_window == tokens


def test_dynamic_ntk_has_a_tier_for_each_length_and_the_target() -> None:
    table = closed_form(SPEC, "dynamic-ntk", 4096, lengths=(2048, 512, 2048, 4096))
    assert [tier.target_window for tier in table.tiers] == [512, 2048, 4096]
    assert table.choose(512).is_identity
    assert table.choose(513).lambdas == pytest.approx((1, 2 ** (1 / 3), 2 ** (2 / 3), 2))
    assert table.choose(4096).lambdas[-1] == pytest.approx(4)


def test_lengths_are_for_dynamic_ntk_alone() -> None:
    assert len(closed_form(SPEC, "ntk", 4096, lengths=(512, 2048)).tiers) == 1


@pytest.mark.parametrize("method", ["none", "longrope-evolution", "PI"])
def test_a_method_without_closed_form_is_refused(method: str) -> None:
    with pytest.raises(FactorsError) as caught:
        closed_form(SPEC, method, 4096)
    assert repr(method) in caught.value.found
    assert "dynamic-ntk" in caught.value.needed


# A model that was tuned

CARRYING = replace(SPEC, carried=Carried("llama3", (1.0, 1.5, 2.0, 8.0), 1.1))
ratios = st.lists(st.floats(1, 16), min_size=4, max_size=4).map(sorted)


def tuned(spec: RopeSpec, lambdas: Sequence[float] = (1.0, 2.0, 3.0, 4.0), **changes: Any) -> RescaleFactors:
    """Factors that weights were tuned with, for four times the trained window."""
    given: dict[str, Any] = {"start_tokens": 3, "attention_factor": 1.2, **changes}
    return RescaleFactors(tuple(lambdas), 4 * spec.trained_window, spec.fingerprint, **given)


def angles_of(spec: RopeSpec, factors: RescaleFactors, positions: range) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin by the module that runs in a model, in float64."""
    rotary = RescaledRotary(None, spec, factors, learnable=True)  # so that it never asks the module of a model
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float64), torch.tensor([[*positions]]))
        return cos, sin


@pytest.mark.parametrize("spec", [SPEC, CARRYING], ids=["plain", "carrying"])
def test_a_tuned_model_has_the_frequencies_of_its_factors(spec: RopeSpec) -> None:
    """And their window as its trained one; its critical pair follows from both."""
    found = tuned_spec(spec, tuned(spec))
    own = 1e4 ** -(np.arange(4) / 4) / np.asarray(spec.carried.lambdas if spec.carried else [1.0] * 4)
    np.testing.assert_allclose(found.frequencies, own / [1, 2, 3, 4], rtol=1e-15)
    assert found.attention_factor == pytest.approx((1.1 if spec.carried else 1) * 1.2)
    assert found.trained_window == 4 * spec.trained_window
    turns = 4 * spec.trained_window * found.frequencies / (2 * math.pi)
    assert found.critical_pair == int((turns >= 1).sum())
    assert (found.theta, found.head_dim, found.pairing) == (spec.theta, spec.head_dim, spec.pairing)
    assert found.fingerprint != spec.fingerprint


@pytest.mark.parametrize("method", ["yarn", "critical"])
@given(window=st.integers(64, 8192), tuned_by=st.integers(1, 16), further=st.integers(2, 16), shape=st.floats(0.3, 1))
def test_pairs_that_never_turned_fully_in_a_tuning_are_slowed_by_the_whole_ratio(
    method: str, window: int, tuned_by: int, further: int, shape: float
) -> None:
    """By the turns that each pair makes in the window of the tuning, with its factors."""
    spec = RopeSpec(head_dim=64, rotary_dim=64, theta=1e4, trained_window=window)
    slow = tuned_by ** np.clip(np.arange(32) / (spec.critical_pair * shape), 0, 1)
    with_factors = replace(tuned(spec), lambdas=tuple(slow.tolist()), target_window=tuned_by * window)
    found = closed_form(tuned_spec(spec, with_factors), method, further * tuned_by * window).tiers[0].array
    turns = tuned_by * window * 1e4 ** -(np.arange(32) / 32) / slow / (2 * math.pi)
    np.testing.assert_allclose(found[turns < 1 - 1e-9], further, rtol=1e-9)


@pytest.mark.parametrize("spec", [SPEC, CARRYING], ids=["plain", "carrying"])
@settings(deadline=None)
@given(tuning=ratios, relative=ratios, attention=st.floats(0.5, 2))
def test_composed_factors_turn_a_model_as_relative_ones_turn_the_tuned_one(
    spec: RopeSpec, tuning: list[float], relative: list[float], attention: float
) -> None:
    """By the module that runs in a model; start tokens keep the angles that the weights were tuned with."""
    tuned_with = tuned(spec, tuning)
    geometry = tuned_spec(spec, tuned_with)
    found = RescaleFactors(tuple(relative), 10**5, geometry.fingerprint, attention_factor=attention, method="found")
    whole = compose(tuned_with, found)
    whole.check_spec(spec)
    for here, there in zip(
        angles_of(spec, whole, range(3, 5000, 7)), angles_of(geometry, found, range(3, 5000, 7)), strict=True
    ):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    plain = replace(whole, lambdas=(1.0,) * 4, start_tokens=0)
    for here, there in zip(angles_of(spec, whole, range(3)), angles_of(spec, plain, range(3)), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)
    assert (whole.target_window, whole.method, whole.start_tokens, whole.relaxed) == (10**5, "found", 3, False)
    assert all(a >= b for a, b in zip(whole.lambdas, tuned_with.lambdas, strict=True))


@given(tuning=ratios, further=ratios, flat=st.booleans())
def test_composing_undoes_what_relative_factors_are(tuning: list[float], further: list[float], flat: bool) -> None:
    """Also where all lambdas are the same, and quotients differ in their last bits."""
    further = [further[0]] * 4 if flat else further
    tuned_with = tuned(SPEC, tuning)
    total = replace(
        tuned_with, lambdas=tuple(x * y for x, y in zip(tuning, further, strict=True)), attention_factor=1.5
    )
    relative = relative_to(tuned_with, total)
    assert relative.lambdas == pytest.approx(further)
    assert relative.start_tokens == 0
    assert relative.attention_factor == pytest.approx(1.25)
    back = compose(tuned_with, relative)
    assert back.lambdas == pytest.approx(total.lambdas, rel=1e-15)
    assert back.attention_factor == pytest.approx(1.5, rel=1e-15)
    assert replace(back, lambdas=total.lambdas, attention_factor=1.5, relaxed=False) == total


def test_composed_and_extrapolated_factors_keep_where_they_come_from() -> None:
    """A second search's result names both steps and the second search, also once it is extrapolated."""
    tuned_with = tuned(SPEC, method="longrope-gradient", chosen_by="longrope-gradient")
    geometry = tuned_spec(SPEC, tuned_with)
    found = closed_form(geometry, "yarn", 8 * SPEC.trained_window).tiers[0]
    second = compose(tuned_with, replace(found, chosen_by="longrope-evolution"))
    wanted = ("longrope-gradient+yarn", "longrope-evolution")
    assert (second.method, second.chosen_by) == wanted
    further = carried_on(relative_to(tuned_with, second), geometry, 16 * SPEC.trained_window)
    for factors in (further, compose(tuned_with, further)):
        assert (factors.method, factors.chosen_by) == wanted
    assert compose(tuned_with, found).chosen_by == "longrope-gradient", "nobody chose the second step"


def test_a_model_that_was_never_tuned_is_its_own_measure() -> None:
    assert tuned_spec(SPEC, None) is SPEC
    assert compose(None, FACTORS) is FACTORS
    assert relative_to(None, FACTORS) is FACTORS


def test_the_geometry_of_a_model_tuned_with_foreign_factors_is_refused() -> None:
    with pytest.raises(FactorsError, match="rotary geometry"):
        tuned_spec(CARRYING, tuned(SPEC))


# Carried on


@pytest.mark.parametrize("spec", [SPEC, CARRYING, tuned_spec(SPEC, tuned(SPEC))], ids=["plain", "carrying", "tuned"])
@pytest.mark.parametrize("method", ["pi", "ntk", "critical"])
@given(found=st.floats(1.5, 64), wanted=st.floats(1, 512))
def test_closed_forms_are_carried_on_exactly(spec: RopeSpec, method: str, found: float, wanted: float) -> None:
    """To longer and to shorter windows, and back to the model as it is at the trained one."""
    windows = [int(ratio * spec.trained_window) for ratio in (found, wanted)]
    before, after = (closed_form(spec, method, window).tiers[0] for window in windows)
    carried = carried_on(before, spec, windows[1])
    assert carried.lambdas == pytest.approx(after.lambdas, rel=1e-9)
    assert replace(carried, lambdas=after.lambdas, attention_factor=after.attention_factor) == after


@given(found=st.floats(1.5, 64), wanted=st.floats(1, 512))
def test_yarns_attention_factor_is_carried_on_exactly(found: float, wanted: float) -> None:
    windows = [int(ratio * SPEC.trained_window) for ratio in (found, wanted)]
    before, after = (closed_form(SPEC, "yarn", window).tiers[0] for window in windows)
    assert carried_on(before, SPEC, windows[1]).attention_factor == pytest.approx(after.attention_factor, rel=1e-9)


def test_what_a_search_found_keeps_its_shape() -> None:
    """By hand: from 4 to 16 times the window every lambda is squared, and the attention factor's excess doubles."""
    carried = carried_on(FACTORS, SPEC, 16 * 1024)
    assert carried.lambdas == pytest.approx((1.0, 2.25, 2.25, 16.0))
    assert carried.attention_factor == pytest.approx(1.2)
    assert replace(carried, lambdas=FACTORS.lambdas, attention_factor=1.1, target_window=4096) == FACTORS
    assert carried_on(FACTORS, SPEC, 1024).is_identity


@pytest.mark.parametrize("window", [1, 1024])
def test_factors_of_the_trained_window_have_nothing_to_carry_on(window: int) -> None:
    with pytest.raises(FactorsError) as caught:
        carried_on(replace(FACTORS, target_window=window), SPEC, 8192)
    assert f"Factors for {window} tokens" in caught.value.found
    assert "trained on 1024" in caught.value.found
