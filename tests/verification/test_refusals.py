"""What is said of a client that refuses: its reason, not an error that points to it, with the versions and our path."""

import sys
from pathlib import Path

import pytest

from longrope.verification.clients import CLIENTS, Client
from longrope.verification.running import RefusedError, Request, run_script

VLLM = (
    "(VllmWorker-0 pid=11) ERROR 11-28 19:18:09 [executor.py:953] ValueError: no memory for {path}\n"
    "(EngineCore pid=10) ERROR 11-28 19:18:14 [core.py:1510] Exception: See stack trace for root cause.\n"
    "RuntimeError: Engine core initialization failed. See root cause above.\n"
)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """In the place of a Python: it writes versions without answers, the words above, and fails."""
    code = (
        f"import json, sys; asked = json.load(open(sys.argv[5])); sys.stderr.write({VLLM!r}.format(path=asked['path']))"
    )
    code += "; json.dump({'versions': {'vllm': '1'}, 'answers': []}, open(sys.argv[6], 'w')); sys.exit(1)"
    (tmp_path / "code.py").write_text(code)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/code.py x "$@"\n')
    program.chmod(0o755)
    return program


def test_the_root_cause_is_named(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(python.parent)
    with pytest.raises(RefusedError, match=r"^ValueError: no memory for model$") as caught:
        run_script(CLIENTS["vllm"], python, Request(Path("model"), [[1]], 1, 1))
    assert caught.value.versions == {"vllm": "1"}


def test_clients_that_are_alike_share_an_environment() -> None:
    """Code of a folder is run by no client that is not named for it."""
    trusting = [client for client in CLIENTS.values() if client.remote_code]
    assert [client.name for client in trusting] == ["mlx-lm-remote-code"]
    assert [_without_name(client) for client in trusting] == [_without_name(CLIENTS["mlx-lm"])]


def _without_name(client: Client) -> tuple[object, ...]:
    return client.interface, client.module, client.requirements, client.same_as or client.name
