"""Estimates of memory against peaks: what the process has resident, as Linux says, at three lengths on a CPU."""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest

from longrope.engine.gradients import factor_gradient
from longrope.engine.memory import estimate_memory, estimate_training_memory
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel
from longrope.rope import baseline_factors

LENGTHS = (512, 1024, 2048)
WORKS = ("read", "search", "train", "tiles")  # the last is a training whose MLPs work on tiles
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 4096}
TILE, FEW_TOKENS = 256, 256  # of a vocabulary whose logits take little, so that a layer's MLP shows
LIBC, MMAP_THRESHOLD = ctypes.CDLL(None), -3  # glibc: allocations from that size on have pages of their own
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> int:
    """Bytes by the system: VmRSS, those of now, or VmHWM, the most since the mark was cleared."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def peak_of(model: LanguageModel, work: Callable[[LanguageModel, int], object], tokens: int) -> int:
    """Bytes at the peak of a work, the model's weights included."""
    gc.collect()
    LIBC.malloc_trim(0)
    before = resident("VmRSS")
    REFERENCES.write_text("5")
    work(model, tokens)
    return resident("VmHWM") - before + int(sum(weight.nbytes for weight in model.network.parameters()))


def read(model: LanguageModel, tokens: int) -> None:
    token_losses(model, ids(tokens))


def search(model: LanguageModel, tokens: int) -> None:
    factors = baseline_factors(model.spec, "yarn", tokens).factor_sets[0]
    factor_gradient(model, factors, ids(tokens), np.full((1, tokens - 1), 1 / tokens))


def train(model: LanguageModel, tokens: int) -> None:
    """Gradients of all weights, whose moments stand beside them."""
    moments = [np.ones(weight.numel(), np.float32) for weight in model.network.parameters() for _ in range(2)]
    weighted_loss_with_graph(model, ids(tokens), np.full((1, tokens - 1), 1 / tokens), recompute=True).backward()
    assert moments


def ids(tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(FEW_TOKENS, size=(1, tokens))


def measure(name: str) -> list[tuple[int, int]]:
    """Estimate and peak of a work at each length; what is freed goes back to the system at once."""
    LIBC.mallopt(MMAP_THRESHOLD, 2**16)
    work = {"read": read, "search": search}.get(name, train)
    model, found = pico.make_model(**{**SHAPE, **({"vocab_size": FEW_TOKENS} if name == "tiles" else {})}), []
    model.limits.tile_tokens = TILE if name == "tiles" else 0
    model.network.requires_grad_(work is train)
    work(model, 64)  # what libraries take once
    for tokens in LENGTHS:
        estimated = (
            estimate_memory(model, tokens)
            if work is read
            else estimate_training_memory(model, tokens, adapters=work is search, recompute=work is train or None)
        )
        for weight in model.network.parameters():
            weight.grad = None
        found.append((estimated, peak_of(model, work, tokens)))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCES.exists(), reason="the peak is Linux's to say")
def test_estimates_are_within_a_fifth_of_the_peaks() -> None:
    """In a process of its own: other tests leave memory that is counted."""
    code = "import json, test_estimates as t; print(json.dumps([t.measure(w) for w in t.WORKS]))"
    folders = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": folders},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [len(of_work) for of_work in found] == [len(LENGTHS)] * len(WORKS)
    for of_work in found:
        for estimated, peak in of_work:
            assert estimated == pytest.approx(peak, rel=0.2), found


def test_activations_that_are_kept_count() -> None:
    """Where they fit into their share of the memory; beyond it, and where all are made again, one layer's do."""
    model = pico.make_model(num_hidden_layers=8)
    kept = estimate_training_memory(model, 4096, adapters=True)
    assert kept > 2 * estimate_training_memory(model, 4096, adapters=True, recompute=True)
    assert estimate_training_memory(model, 4096, adapters=True, recompute=False) == kept
    assert estimate_training_memory(model, 2**20, adapters=True) == estimate_training_memory(
        model, 2**20, adapters=True, recompute=True
    )
    limited = replace(model)
    limited.limits.tile_tokens = 1024
    assert estimate_training_memory(limited, 4096, adapters=True) < kept / 2
