"""The parts that benchmarks/gpu.py runs: what the table names exists, how parts are run, and all of them on a CPU."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch._inductor import config as inductor

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def load(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/ as a module, which finds its neighbours."""
    patch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("gpu", monkeypatch)


@pytest.fixture
def runner(gpu: ModuleType, tmp_path: Path) -> Any:
    """A runner with two GPUs that are not there, for three minutes."""
    gpu.prepare(tmp_path, {}, tmp_path)
    return gpu.Runner(tmp_path, {}, ["0", "1"], time.monotonic() + 180)


def outcomes(runner: Any) -> dict[str, str]:
    """How the parts that were begun have ended."""
    lines = [json.loads(path.read_text()) for path in runner.out.glob("*.json")]
    return {line["part"]: line["outcome"] for line in lines}


def test_what_the_table_names_is_there(gpu: ModuleType) -> None:
    parts = gpu.read_parts("")
    for i, part in enumerate(parts):
        assert part.after in {"", *(earlier.name for earlier in parts[:i])}
        for path in re.findall(r"(?:benchmarks|recipes|tests)/[\w./-]+", part.run):
            assert (ROOT / path).exists(), path
        for option in ("smollm2", "gemma3"):
            assert (f"${option.upper()}" not in part.run) or option in part.needs, part.name
        assert part.resumes == ("runs/" in part.run or "bash recipes" in part.run), part.name
    script = (ROOT / "recipes" / "gemma3-2048k.sh").read_text()
    names = " ".join(part.run.partition("2048k.sh ")[2] for part in parts if "gemma3-2048k.sh" in part.run).split()
    assert len(names) > 10
    assert all(f"\n{name}() {{" in script for name in names)


def test_unknown_parts_are_refused(gpu: ModuleType) -> None:
    assert [part.name for part in gpu.read_parts("pass,memory")] == ["pass", "memory"]
    with pytest.raises(SystemExit, match="unknown parts: speed; known: tests, memory"):
        gpu.read_parts("memory,speed")


def test_a_part_that_is_done_is_left_out_and_a_failed_one_begins_anew(gpu: ModuleType, runner: Any) -> None:
    """The lines of its earlier try are kept."""
    good = gpu.Part("good", 1, "echo $COUNT of $GPUS, $CUDA_VISIBLE_DEVICES; echo good >> $RECORD", gpus=2)
    bad = gpu.Part("bad", 1, "echo bad >> $RECORD; exit 3")
    assert runner.run([good, bad]) == {}
    assert outcomes(runner) == {"good": "ok", "bad": "failed"}
    assert runner.record("bad")["code"] == 3
    assert runner.run([good, replace(bad, run="echo better >> $RECORD")]) == {}
    assert outcomes(runner) == {"good": "ok", "bad": "ok"}
    assert [row["outcome"] for row in runner.record("bad")["tries"]] == ["failed", "ok"]
    assert (runner.out / "good.log").read_text() == "2 of 0,1, 0,1\n"
    assert (runner.out / "bad.1.jsonl").read_text() == "bad\n"
    assert (runner.out / "bad.jsonl").read_text() == "better\n"


def test_what_runs_at_the_end_of_the_time_is_asked_to_end_and_waited_for(gpu: ModuleType, runner: Any) -> None:
    """Its children, too, such as a training that writes a checkpoint while the shell above it is gone."""
    child = "trap 'sleep 1; echo checkpoint; exit 0' TERM; echo begun; while true; do sleep 0.1; done"
    part = gpu.Part("long", 5, f'bash -c "{child}" & wait')
    runner.end, runner.least = time.monotonic() + 1, 0.0
    runner.run([part])
    assert outcomes(runner) == {"long": "out of time"}
    printed = (runner.out / "long.log").read_text()
    assert printed.startswith("begun\n")
    assert printed.endswith("checkpoint\n")


def test_why_a_part_is_not_begun_is_said(
    gpu: ModuleType, runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacks_another.py").write_text("import no_module_of_this_name\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    parts = [
        gpu.Part("many", 1, "exit", gpus=4),
        gpu.Part("texts", 1, "exit", needs=("evidence",)),
        gpu.Part("module", 1, "exit", needs=("no_module_of_this_name",)),
        gpu.Part("broken", 1, "exit", needs=("lacks_another",)),
        gpu.Part("long", 9, "echo > $RECORD"),
        gpu.Part("first", 1, "exit 1"),
        gpu.Part("second", 1, "exit", after="first"),
    ]
    assert runner.run(parts) == {
        "many": "needs 4 GPUs, 2 are there",
        "texts": "needs evidence",
        "module": "needs no_module_of_this_name",
        "broken": "needs lacks_another",
        "long": "3.0 minutes were left",
        "second": "needs first, which is not done",
    }


def test_parts_share_the_gpus_and_one_runs_on_the_cpu_beside_them(gpu: ModuleType, runner: Any) -> None:
    """A part that waits for two GPUs keeps later ones from taking one; what is after a part waits for it."""
    note = 'echo "$NAME begins" >> $RECORDS/order; sleep 0.6; echo "$NAME ends" >> $RECORDS/order'
    rows: dict[str, dict[str, Any]] = {
        "a": {},
        "both": {"gpus": 2},
        "b": {},
        "c": {"after": "b"},
        "cpu": {"gpus": 0},
        "later": {"gpus": 0},
    }
    parts = [gpu.Part(name, 1, f"NAME={name}; {note}", **row) for name, row in rows.items()]
    assert runner.run(parts) == {}
    order = (runner.out / "order").read_text().splitlines()
    place = {line: i for i, line in enumerate(order)}
    assert {"a begins", "cpu begins"} == set(order[:2])
    assert place["a ends"] < place["both begins"] < place["both ends"] < place["b begins"]
    assert place["b ends"] < place["c begins"]
    assert place["cpu ends"] < place["later begins"]
    assert outcomes(runner) == dict.fromkeys(rows, "ok")


def test_sizes_are_listed_and_records_packed(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "a.npy").write_bytes(bytes(3 * 2**20))
    assert gpu.main(["--list", "--texts", f"{tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert f"3.0 MiB  evidence ({tmp_path}/evidence)" in printed
    assert "not here: smollm2, gemma3, gemma3-2048k, smollm2-2048k" in printed
    assert re.search(r"measures +1-2 +35 +resumes +smollm2, evidence, arms", printed)
    out = tmp_path / "out"
    gpu.prepare(out, {}, tmp_path)
    (out / "runs" / "scores.jsonl").write_text("{}\n")
    (out / "runs" / "weights").write_bytes(bytes(gpu.PACKED + 1))
    gpu.pack(out, out / "records.tar.gz")
    with tarfile.open(out / "records.tar.gz") as archive:
        assert archive.getnames() == ["runs/scores.jsonl"]
    assert "1 larger files are left out" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(str(inductor.cpp.cxx[1])), reason="no C++ compiler is here")
def test_layers_that_torch_leaves_uncompiled_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own limit, past eight layers; with the limit of the benchmark none is."""
    import pico
    import torch
    from torch import _dynamo

    ways = load("pass_ways", monkeypatch)
    model = pico.make_model("llama", num_hidden_layers=10)
    layers = model.network.base_model.layers
    forward = type(layers[0]).forward

    def named(layer: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A layer that reads what differs from layer to layer, so that each needs a variant of its own."""
        found: torch.Tensor = forward(layer, hidden, *args, **kwargs)
        return found * (1.0 if layer.name else 2.0)

    for i, layer in enumerate(layers):
        layer.name = f"{i}"
    ids = torch.randint(1, pico.BASE["vocab_size"], (1, 48), generator=torch.Generator().manual_seed(5))
    loss = ways.pass_chunked(model, ids)
    monkeypatch.setattr(type(layers[0]), "forward", named)
    _dynamo.reset()
    with pytest.raises(RuntimeError, match="left 2 of 10 layers uncompiled"):
        ways.pass_fast(model, ids, most_variants=8)
    assert ways.FOUND["fast"] == {"graphs": 8, "graph_breaks": 0, "uncompiled_layers": 2}
    _dynamo.reset()
    ways.FOUND.clear()
    assert ways.pass_fast(model, ids) == pytest.approx(loss, rel=1e-5)
    assert ways.FOUND["fast"] == {"graphs": 10, "graph_breaks": 0, "uncompiled_layers": 0}
    _dynamo.reset()


@pytest.mark.slow
def test_parts_run_on_tiny_models(tmp_path: Path) -> None:
    """By the command that a GPU machine is given, and a second time nothing is left to be done.

    Some of each kind; with ``LONGROPE_FULL=1`` all, which take a quarter of an hour of two cores.
    """
    chosen = (
        []
        if os.environ.get("LONGROPE_FULL")
        else ["--parts", "tests,memory,pass-8m,gemma3-train,gemma3-far,gemma3-answers"]
    )
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu.py"),
        "--pico",
        "--out",
        str(tmp_path / "out"),
        "--minutes",
        "60",
        *chosen,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    logs = {path.stem: path.read_text()[-1500:] for path in (tmp_path / "out").glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr[-3000:], logs)
    assert "not run" not in done.stdout
    assert "begins" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ways_of(tmp_path / "out" / "pass-8m.jsonl") == ["ours"]
    if not chosen:
        assert {*ways_of(tmp_path / "out" / "pass.jsonl")} >= {"ours", "compiled", "plain", "chunked", "fast"}


def ways_of(record: Path) -> list[str]:
    """What its lines measured."""
    return [json.loads(line)["way"] for line in record.read_text().splitlines()]
