"""Faults planted in GGUF files are found, and named, by what llama.cpp makes of them."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from gguf import GGUFReader, GGUFWriter

from longrope.checksums import record_path
from longrope.exports import export_gguf
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors
from longrope.verification.checking import Verification, verify
from longrope.verification.truth import write_record

pytestmark = pytest.mark.slow
SWITCH, WINDOW = 256, 1024  # the first is the smallest context that llama.cpp makes
LAMBDAS = (1.0, 1.5, 2.5, 4.0)
LISTS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each layout with its record; read them only."""
    model = pico.make_model("llama", rope_theta=5e5, max_position_embeddings=SWITCH)
    factors = RescaleFactors(LAMBDAS, WINDOW, model.spec.fingerprint, attention_factor=1.25)
    files = {sets: tmp_path_factory.mktemp("verified") / f"{sets}.gguf" for sets in ("single", "two")}
    for sets, path in files.items():
        export_gguf(model, factors, path, settings=ExportRecipe(factor_sets=sets))
        write_record(path, model.spec, SWITCH)
    return files


@dataclass(frozen=True)
class Fault:
    """What is changed in a file, and what is to be said of it above the switch."""

    verdict: str
    what: str
    without: Collection[str] = ()  # parts of the names of keys and tensors
    keys: dict[str, Any] = field(default_factory=dict)
    lists: Callable[[Any], Any] = np.asarray


FAULTS = {
    "theta lost": Fault("other scaling", "theta 10000 in the place of 500000", without=["rope.freq_base"]),
    "lists reversed": Fault("other scaling", "its factors in reverse order", lists=np.flip),
    "lists permuted": Fault("other scaling", "", lists=lambda row: np.asarray(row)[[1, 0, 3, 2]]),
    "scaling dropped": Fault("original", "original", without=["rope.scaling", *LISTS]),
    "attention factor dropped": Fault(
        "other scaling", "without its attention factor", without=["rope.scaling.attn_factor"]
    ),
}
NEVER_SWITCHED = Fault(
    "other scaling", "short factors at 512 tokens", keys={"llama.rope.scaling.original_context_length": WINDOW}
)


def plant(fault: Fault, source: Path, path: Path) -> Path:
    """Write a file again with a fault, beside a copy of its record."""
    reader, writer = GGUFReader(source), GGUFWriter(path, "llama")
    for name, entry in reader.fields.items():
        own = name.startswith("GGUF.") or name == "general.architecture"
        if not own and not any(part in name for part in fault.without):
            inner = entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, fault.keys.get(name, entry.contents()), entry.types[0], sub_type=inner)
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if tensor.name.startswith(LISTS):
            data = np.ascontiguousarray(fault.lists(data))
        if not any(part in tensor.name for part in fault.without):
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    pico.close_gguf(writer)
    shutil.copy(record_path(source), record_path(path))
    return path


def check(path: Path) -> Verification:
    [done] = verify(path, ["llama.cpp"], device="cpu")
    return done


@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_right_file_is_applied(layout: str, exported: dict[str, Path], tmp_path: Path) -> None:
    """Written again without a fault, too."""
    done = check(plant(Fault("", ""), exported[layout], tmp_path / "x.gguf"))
    assert done.verdict == "applied"
    assert [finding.tokens for finding in done.findings] == [128, 256, 512]
    assert max(finding.difference_nats for finding in done.findings) < 0.03


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_fault_is_found(layout: str, name: str, exported: dict[str, Path], tmp_path: Path) -> None:
    fault = FAULTS[name]
    done = check(plant(fault, exported[layout], tmp_path / "x.gguf"))
    assert done.verdict == fault.verdict
    assert (done.findings[-1].verdict, done.findings[-1].as_) == (fault.verdict, fault.what)


def test_a_short_list_beyond_the_switch_is_found(exported: dict[str, Path], tmp_path: Path) -> None:
    done = check(plant(NEVER_SWITCHED, exported["two"], tmp_path / "x.gguf"))
    assert [finding.verdict for finding in done.findings] == ["applied", "applied", "other scaling"]
    assert done.findings[-1].as_ == NEVER_SWITCHED.what
