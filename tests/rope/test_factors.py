"""Rescale factors: what is refused and in which words, exact JSON round trips, sets by window."""

import json
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.errors import FactorsError
from longrope.rope import (
    FactorTable,
    NativeScaling,
    RescaleFactors,
    RopeSpec,
    as_table,
    dump_factors,
    load_factors,
)
from longrope.rope.factors import FORMAT

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=1e4, trained_window=1024)
FACTORS = RescaleFactors((1.0, 1.5, 1.5, 4.0), 4096, SPEC.fingerprint, 4, 1.1, "longrope-evolution", False, (7, 2**63))


def factor_set(window: int, spec_fingerprint: str = "geometry") -> RescaleFactors:
    """A one-pair factor set for this window."""
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
        replace(SPEC, native=NativeScaling("linear", (2.0,) * 4, 1.0)),
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


def test_factors_that_the_model_carries_itself_are_to_be_left_out() -> None:
    """As of an exported folder and its run's factors; another scaling is another geometry."""
    exported = replace(SPEC, native=NativeScaling("longrope", FACTORS.lambdas, 1.0))
    with pytest.raises(FactorsError, match=r"carries these 4 lambdas itself.*Leave the factors out"):
        FACTORS.check_spec(exported)
    short = replace(FACTORS, lambdas=(1.0,) * 4, target_window=SPEC.trained_window)
    with pytest.raises(FactorsError, match="carries these 4 lambdas itself"):
        FactorTable((short, FACTORS)).check_spec(exported)
    other = NativeScaling("longrope", tuple(2 * x for x in FACTORS.lambdas), 1.0)
    with pytest.raises(FactorsError, match="rotary geometry"):
        FACTORS.check_spec(replace(SPEC, native=other))
    replace(FACTORS, spec_fingerprint=exported.fingerprint).check_spec(exported)


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
    messages: dict[str, Any] = {"method": "yarn", "chosen_by": "longrope-gradient", "relaxed": True, "searched": ()}
    assert replace(FACTORS, **messages).fingerprint == FACTORS.fingerprint


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
def test_a_sequence_takes_the_smallest_factor_set_that_holds_it(tokens: int, window: int) -> None:
    assert FactorTable((factor_set(9000), factor_set(1024), factor_set(4096))).choose(tokens).target_window == window


def test_a_sequence_longer_than_every_factor_set_is_refused() -> None:
    with pytest.raises(FactorsError) as caught:
        FactorTable((factor_set(9000), factor_set(1024))).choose(9001)
    assert "9001" in caught.value.found
    assert "9000" in caught.value.needed


@pytest.mark.parametrize(
    "factor_sets", [(), (factor_set(1024), factor_set(1024)), (factor_set(1024, "one"), factor_set(4096, "two"))]
)
def test_a_table_without_factor_sets_or_with_two_of_a_window_is_refused(
    factor_sets: tuple[RescaleFactors, ...],
) -> None:
    with pytest.raises(FactorsError, match="factor table"):
        FactorTable(factor_sets)


def test_the_path_of_a_file_is_no_table() -> None:
    path: Any = "factors.json"
    with pytest.raises(FactorsError, match=r"A str was given.*longrope\.load_factors"):
        as_table(path)


def test_table_fingerprint_is_the_factor_sets_own_or_depends_on_all() -> None:
    one, two, three = factor_set(1024), factor_set(4096), factor_set(9000)
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


def test_one_factor_set_is_written_as_a_table_with_its_format(tmp_path: Path) -> None:
    content = json.loads(dump_factors(FACTORS))
    assert content["format"] == FORMAT
    assert [t["lambdas"] for t in content["tiers"]] == [[1.0, 1.5, 1.5, 4.0]]
    (tmp_path / "factors.json").write_text(dump_factors(FACTORS))
    assert load_factors(str(tmp_path / "factors.json")) == FactorTable((FACTORS,))


def test_a_file_without_who_chose_the_factors_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it: the method stays, and nobody is said to have chosen them."""
    (tmp_path / "factors.json").write_text(edited(chosen_by=None))
    assert "chosen_by" not in (tmp_path / "factors.json").read_text()
    assert load_factors(tmp_path / "factors.json").factor_sets == (replace(FACTORS, chosen_by=""),)


def edited(**changes: Any) -> str:
    """The JSON of FACTORS with fields of its factor set changed; None removes one."""
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
        (json.dumps({"format": FORMAT}), "no list of factor sets"),
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


def test_a_file_names_the_rotary_table_where_one_was_named(tmp_path: Path) -> None:
    """In format 2; without a name the file is that of format 1, to the byte. Another table is refused by both names."""
    plain = RescaleFactors((1.0, 2.0), 128, "geometry")
    named = replace(plain, table="sliding_attention")
    assert json.loads(dump_factors(plain))["format"] == "longrope-factors/1"
    assert "table" not in dump_factors(plain)
    path = tmp_path / "factors.json"
    path.write_text(dump_factors(named))
    assert json.loads(path.read_text())["format"] == "longrope-factors/2"
    assert load_factors(path).factor_sets == (named,)
    assert named.fingerprint != plain.fingerprint
    plain.check_table("full_attention")
    named.check_table("sliding_attention")
    with pytest.raises(FactorsError, match=r"'sliding_attention'[\s\S]*'full_attention'"):
        named.check_table("full_attention")
