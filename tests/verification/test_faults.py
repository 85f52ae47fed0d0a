"""Faults planted in the config of an exported checkpoint are found, and named, by what transformers makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verifying import run_here

from longrope.checksums import RECORD
from longrope.errors import ExportError
from longrope.verification.checking import Verification, verify

LAMBDAS = (1.0, 1.5, 2.5, 4.0)  # of the fixtures
Config = dict[str, Any]


def check(folder: Path, **given: Any) -> Verification:
    [done] = verify(folder, ["transformers"], run=run_here, device="cpu", **given)
    return done


def change(folder: Path, fault: Callable[[Config], None]) -> None:
    """Plant a fault in both spellings of the RoPE."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    fault(config)
    path.write_text(json.dumps(config))


def scalings(config: Config) -> list[Config]:
    return [config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name)]


def lose_theta(config: Config) -> None:
    config.pop("rope_theta", None)
    config["rope_parameters"].pop("rope_theta")


def reverse_lists(config: Config) -> None:
    for scaling in scalings(config):
        scaling["long_factor"] = scaling["long_factor"][::-1]
        scaling["short_factor"] = scaling["short_factor"][::-1]


def never_switch(config: Config) -> None:
    for scaling in (config, *scalings(config)):
        scaling["original_max_position_embeddings"] = 256


def drop_scaling(config: Config) -> None:
    theta = config["rope_parameters"]["rope_theta"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    config.pop("rope_scaling", None)


def drop_attention_factor(config: Config) -> None:
    for scaling in scalings(config):
        scaling.update(dict.fromkeys(("attention_factor", "short_mscale", "long_mscale"), 1.0))


def drop_scaling_and_theta(config: Config) -> None:
    drop_scaling(config)
    config["rope_parameters"]["rope_theta"] = config["rope_theta"] = 10_000.0


FAULTS = {
    "reverse_lists": (reverse_lists, "other scaling", "its factors in reverse order"),
    "drop_scaling": (drop_scaling, "original", "original"),
    "drop_attention_factor": (drop_attention_factor, "other scaling", "without its attention factor"),
    "drop_scaling_and_theta": (drop_scaling_and_theta, "original", "no scaling, theta 10000"),
}


@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_right_checkpoint_is_applied(layout: str, exported: dict[str, Path]) -> None:
    done = check(exported[layout])
    assert done.verdict == "applied"
    assert done.truth.endswith(RECORD)
    assert [finding.tokens for finding in done.findings] == [32, 64, 128]
    assert [finding.as_ for finding in done.findings] == (
        ["scaling"] * 3 if layout == "single" else ["short factors", "short factors", "long factors"]
    )
    assert max(finding.difference_nats for finding in done.findings) < 1e-4


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_fault_is_found_above_the_switch(layout: str, name: str, copied: Callable[[str], Path]) -> None:
    fault, verdict, what = FAULTS[name]
    folder = copied(layout)
    change(folder, fault)
    done = check(folder)
    assert done.verdict == verdict
    assert (done.findings[-1].verdict, done.findings[-1].as_) == (verdict, what)
    assert done.findings[-1].difference_nats > 0.02


@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_lost_theta_is_found(layout: str, copied: Callable[[str], Path]) -> None:
    """transformers takes 10,000 where none is stated."""
    folder = copied(layout)
    change(folder, lose_theta)
    done = check(folder)
    assert done.verdict == "other scaling"
    assert done.findings[-1].as_ == "theta 10000 in the place of 500000"


def test_a_short_list_beyond_the_switch_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("two")
    change(folder, never_switch)
    done = check(folder)
    assert done.verdict == "other scaling"
    assert [finding.verdict for finding in done.findings] == ["applied", "applied", "other scaling"]
    assert done.findings[-1].as_ == "short factors at 128 tokens"


def test_a_runtime_that_chooses_by_its_window_may_read_less_with_the_long_list(copied: Callable[[str], Path]) -> None:
    """As vLLM and llama.cpp do; of transformers, which chooses by the length of a sequence, it is a fault."""
    folder = copied("two")

    def always_long(config: Config) -> None:
        for scaling in scalings(config):
            scaling["short_factor"] = scaling["long_factor"]

    change(folder, always_long)
    verdicts = [finding.verdict for finding in check(folder).findings]
    assert verdicts == ["other scaling", "other scaling", "applied"]
    assert check(folder).findings[0].as_ == "long factors at 32 tokens"


def test_without_a_record_the_config_is_the_truth(copied: Callable[[str], Path], exported: dict[str, Path]) -> None:
    """So a fault is that of the checkpoint, not of the client; another checkpoint can be named as the truth."""
    folder = copied("single")
    (folder / RECORD).unlink()
    change(folder, reverse_lists)
    assert check(folder).verdict == "applied"
    assert check(folder).truth == "its own config"
    assert check(folder, reference=exported["single"]).verdict == "other scaling"
    assert check(folder, reference=exported["single"] / RECORD).verdict == "other scaling"


def test_a_checkpoint_without_scaling_is_refused(copied: Callable[[str], Path], exported: dict[str, Path]) -> None:
    folder = copied("single")
    (folder / RECORD).unlink()
    change(folder, drop_scaling)
    with pytest.raises(ExportError, match="states no RoPE scaling") as caught:
        check(folder)
    assert "--reference" in caught.value.remedy
    assert check(folder, reference=exported["single"]).verdict == "original"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "longrope-rope/9"}', '{"format": "longrope-rope/1"}'])
def test_a_broken_record_is_named(content: str, copied: Callable[[str], Path]) -> None:
    folder = copied("single")
    (folder / RECORD).write_text(content)
    with pytest.raises(ExportError, match=r"longrope\.json cannot be read"):
        check(folder)


def test_a_record_of_another_model_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("single")
    record = json.loads((folder / RECORD).read_text())
    for name in ("stated", "original"):
        record[name] |= {"head_dim": 16, "rotary_dim": 16, "native": None}
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ExportError, match="rotates 16 of 16"):
        check(folder)


def test_the_record_states_what_was_exported(exported: dict[str, Path]) -> None:
    record = json.loads((exported["two"] / RECORD).read_text())
    assert tuple(record["stated"]["native"]["lambdas"]) == LAMBDAS
    assert record["stated"]["native"]["short"] == [1.0, 1.0, 1.0, 1.0]
    assert record["stated"]["native"]["attention_factor"] == 1.25
    assert record["stated"]["theta"] == record["original"]["theta"] == 5e5
    assert (record["original"]["native"], record["switch_tokens"]) == (None, 64)
