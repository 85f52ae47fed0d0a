"""A model's own scaling in two processes: one launch, in which they share windows, and then work apart.

The oracle is one pass of transformers' own network over the whole window (see ``own_scalings``).
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_scalings import EXCESSES, KINDS, LENGTHS, last_logits_by_hand, pass_by_hand
from rotary_oracles import ROUNDING, gap

pytestmark = pytest.mark.slow
WORKER = Path(__file__).parents[1] / "worker_own_scaling.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """What each process found: of the windows that they shared, and of those that it had whole."""
    file = tmp_path_factory.mktemp("own") / "found"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER, file]
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [pickle.loads(Path(f"{file}.{rank}").read_bytes()) for rank in range(2)]  # noqa: S301


@pytest.mark.parametrize("kind", KINDS)
def test_shared_windows_are_read_with_the_set_of_the_whole(
    kind: str, results: list[tuple[dict[Any, Any], dict[Any, Any]]]
) -> None:
    """Losses and gradients with factors of 1 and 1 + 1e-9 are those of the original at every length."""
    for tokens in LENGTHS:
        losses, gradient = pass_by_hand(kind, tokens)
        for together, _ in results:
            for excess in EXCESSES:
                found = together[kind, tokens, excess]
                torch.testing.assert_close(found["losses"], losses, atol=2e-4, rtol=1e-4)
                assert gap(found["gradient"], gradient) < 1e-3, (tokens, excess)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_work_apart_read_with_the_set_of_their_own_windows(
    kind: str, results: list[tuple[dict[Any, Any], dict[Any, Any]]]
) -> None:
    """Prompts read into a cache, each process in an order of its own."""
    for planned in LENGTHS:
        whole = last_logits_by_hand(kind, planned)
        for _, apart in results:
            for excess in EXCESSES:
                assert gap(apart[kind, planned, excess], whole) < 5 * ROUNDING, (planned, excess)
