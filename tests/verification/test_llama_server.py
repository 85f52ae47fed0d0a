"""llama.cpp's own server over HTTP, asked by its address: log-probabilities, and passkeys where it gave none."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import longrope
from longrope.exports import export_gguf
from longrope.models import LanguageModel
from longrope.rope import RescaleFactors
from longrope.verification.checking import verify
from longrope.verification.server import ask_passkeys
from longrope.verification.truth import read_truth, write_record
from longrope.verification.turnings import ORIGINAL, usual_faults

pytestmark = pytest.mark.slow
FACTORS = Path(__file__).parents[2] / "results" / "demo" / "factors.json"
WINDOW = 2048
PROCESS = f"""
import os, sys, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = sys.argv[1], {WINDOW}, 1, -1
settings.warmup = False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
sys.stdin.read()  # until the test closes it
os._exit(0)
"""


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """Serve a file inside a ``with`` block; yields the address."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    command = [sys.executable, "-c", PROCESS, str(path)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http")) + "/v1"
        process.stdin.close()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return longrope.load_model("nano", device="cpu")


@pytest.fixture(scope="module")
def files(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With the demo's factors, and the same window without any; both have the record of the first."""
    folder = tmp_path_factory.mktemp("served")
    right = longrope.load_factors(FACTORS).factor_sets[-1]
    ones = RescaleFactors((1.0,) * bundled.spec.num_pairs, WINDOW, bundled.spec.fingerprint, attention_factor=1.0)
    paths = folder / "right.gguf", folder / "plain.gguf"
    for path, factors in zip(paths, (right, ones), strict=True):
        export_gguf(bundled, factors, path)
    write_record(paths[0], bundled.spec, 256)
    return paths


def test_log_probabilities_and_passkeys_of_a_right_file(files: tuple[Path, Path], bundled: LanguageModel) -> None:
    right, _ = files
    truth = read_truth(right, longrope.load_model(right, device="cpu"))
    with serving(right) as address:
        [done] = verify(right, [address], device="cpu")
        verdict, counts = ask_passkeys(address, bundled, truth, usual_faults(truth, WINDOW)[ORIGINAL])
    assert done.verdict == "applied", done
    assert max(finding.difference_nats for finding in done.findings) < 0.1
    assert (verdict, "within 1,024" in counts) == ("applied", True), counts


def test_a_file_without_the_factors_is_found(files: tuple[Path, Path], bundled: LanguageModel) -> None:
    """The server itself refuses nothing: the file states the longer window."""
    right, plain = files
    truth = read_truth(right, longrope.load_model(right, device="cpu"))
    with serving(plain) as address:
        [done] = verify(right, [address], device="cpu")
        verdict, counts = ask_passkeys(address, bundled, truth, usual_faults(truth, WINDOW)[ORIGINAL])
    assert done.verdict == "original", done
    assert verdict == "original", counts
