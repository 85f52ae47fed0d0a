"""Factors from elsewhere: lists and configs as files, by hand at d = 8, L = 1024, and against a model's own config."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longrope.errors import FactorsError
from longrope.rope import GivenFactors, NativeScaling, RescaleFactors, RopeSpec, dump_factors, read_given
from longrope.rope.hf_config import read_geometry

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=1e4, trained_window=1024)
LISTS = {"short_factor": [1.0, 1.0, 1.5, 2.0], "long_factor": [1.0, 2.0, 5.0, 4.5]}
PHI = {
    "model_type": "phi3",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "original_max_position_embeddings": 1024,
    "rope_theta": 1e4,
    "rope_scaling": {"type": "longrope", **LISTS},
}
SU = math.sqrt(1 + math.log(8) / math.log(1024))


def read(folder: Path, content: Any, spec: RopeSpec = SPEC, name: str = "x.json", target: int = 4096) -> GivenFactors:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_given([path], spec, target)[0]


def test_a_bare_list_is_for_every_length_with_an_attention_factor_that_is_said_to_be_assumed(tmp_path: Path) -> None:
    given = read(tmp_path, [1, 2.5, 2.0, 4])
    (only,) = given.table.factor_sets
    assert (only.lambdas, only.target_window, only.relaxed, only.method) == ((1, 2.5, 2, 4), 4096, True, "x.json")
    assert only.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(1024)))
    assert str(given) == (
        "x.json: factors for windows of 4,096 tokens, attention factor 1.0954, which the file does not state: "
        "sqrt(1 + ln s / ln L) at s = 4, L = 1,024"
    )
    only.check_spec(SPEC)


def test_lists_by_name_with_an_attention_factor(tmp_path: Path) -> None:
    given = read(tmp_path, {"short": [1, 1, 1, 1], "long": [1, 2, 3, 4], "attention_factor": 1.25})
    short, long = given.table.factor_sets
    assert (short.target_window, short.attention_factor, long.attention_factor) == (1024, 1.25, 1.25)
    assert not long.relaxed
    assert "1.2500, of the file" in str(given)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", [{"type": "su"}, {"rope_type": "longrope"}])
def test_a_config_means_what_it_means_in_its_own_model(tmp_path: Path, key: str, kind: dict[str, str]) -> None:
    """The oracle is the reader of models' own configs: the same frequencies and attention factor, for both lists."""
    config = {name: value for name, value in PHI.items() if name != "rope_scaling"} | {key: {**kind, **LISTS}}
    own = read_geometry({**config, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LISTS}})
    assert own.native
    short, long = read(tmp_path, config, target=8192).table.factor_sets
    assert (long.lambdas, short.lambdas) == (own.native.lambdas, own.native.short)
    assert (short.target_window, long.target_window) == (own.native.switch_tokens, 8192)
    assert long.attention_factor == short.attention_factor == pytest.approx(own.native.attention_factor)
    assert long.attention_factor == pytest.approx(SU)


def test_an_attention_factor_that_is_not_stated_is_that_of_one_window(tmp_path: Path) -> None:
    """s and L of one window: the file's, not the model's, where it states one."""
    given = read(tmp_path, {"long": [1, 2, 3, 4], "original_max_position_embeddings": 512})
    assert given.table.factor_sets[-1].attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(512)))
    assert "at s = 8, L = 512" in str(given)


def test_two_mscales_belong_to_their_lists(tmp_path: Path) -> None:
    scaling = {"type": "longrope", **LISTS, "short_mscale": 1.1, "long_mscale": 1.2}
    short, long = read(tmp_path, {**PHI, "rope_scaling": scaling}).table.factor_sets
    assert (short.attention_factor, long.attention_factor) == (1.1, 1.2)


def test_lists_divide_plain_frequencies_also_in_a_model_that_carries_a_scaling(tmp_path: Path) -> None:
    scaled = replace(SPEC, native=NativeScaling("linear", (2.0,) * 4, 1.5))
    given = read(tmp_path, {"long": [1, 2, 3, 4], "attention_factor": 1.2}, scaled)
    (only,) = given.table.factor_sets
    assert only.lambdas == (0.5, 1.0, 1.5, 2.0)
    assert only.attention_factor == pytest.approx(0.8)
    assert list(scaled.frequencies / only.array) == pytest.approx(list(SPEC.plain_frequencies / [1, 2, 3, 4]))


def test_a_file_of_ours_stays_what_it_is(tmp_path: Path) -> None:
    own = RescaleFactors((1.0, 2.0, 3.0, 4.0), 4096, SPEC.fingerprint, attention_factor=1.1, searched=(7, 8))
    given = read(tmp_path, dump_factors(own))
    assert given.table.factor_sets == (own,)
    with pytest.raises(FactorsError, match="hold 4 lambdas for the rotary geometry"):
        read(tmp_path, dump_factors(own), replace(SPEC, theta=5e4))


def test_names_come_from_files_and_from_folders_where_files_have_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b [red]"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(PHI))
    assert [x.name for x in read_given([tmp_path / "a"], SPEC, 4096)] == ["config.json"]
    both = read_given([tmp_path / "a", tmp_path / "b [red]" / "config.json"], SPEC, 4096)
    assert [x.name for x in both] == ["a/config.json", "b--red-/config.json"]
    with pytest.raises(FactorsError, match=r"a/config.json twice.*Give each file once"):
        read_given([tmp_path / "a", tmp_path / "a"], SPEC, 4096)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], r"holds 3 factors \(long\)\. The model has 4 rotary pairs: one .* Give a file .* with --factors"),
        ({**PHI, "rope_scaling": {"type": "longrope", "long_factor": [1] * 48}}, r"48 factors \(long_factor\)"),
        ([1, 2, 0, 4], r"holds long\[2\] = 0\. A finite number above 0 is needed\. Correct the file"),
        ([1, 2, -3, 4], r"long\[2\] = -3"),
        ("[1, 2, NaN, 4]", r"long\[2\] = nan"),
        ("[1, 2, Infinity, 4]", r"long\[2\] = inf"),
        (f"[1, 2, {10**400}, 4]", r"long\[2\] = a whole number of 1329 bits"),
        ([1, 2, "3", 4], r"long\[2\] = '3'"),
        ([1, 2, True, 4], r"long\[2\] = True"),
        ({"long": [1, 2, 3, 4], "short": [1, 1, None, 1]}, r"short\[2\] = None"),
        ({"long": [1, 2, 3, 4], "attention_factor": 0}, r"attention_factor = 0"),
        ({"long": "1 2 3 4"}, r"long is no list.*Needed is a JSON list"),
        ({"short": [1, 1, 1, 1]}, r"no list of long factors"),
        ({**PHI, "rope_scaling": {"type": "yarn", "factor": 4}}, r"of the type 'yarn'"),
        ({**PHI, "rope_theta": 5e5}, r"for the base 500,000\. The model has the base 10,000"),
        ({**PHI, "rope_theta": None, "rotary_emb_base": 5e5}, r"for the base 500,000\."),
        ({**PHI, "original_max_position_embeddings": 4096}, r"up to 4,096 tokens, and the target is 4,096"),
        ("3", r"\(a int\)"),
        ("{", r"JSONDecodeError"),
    ],
)
def test_what_cannot_be_factors_is_refused_by_its_place(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(FactorsError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FactorsError, match=r"none\.json cannot be read"):
        read_given([tmp_path / "none.json"], SPEC, 4096)
