"""``longrope verify``: its table, its JSON, and its exit codes."""

import json
import re
from pathlib import Path

import pico
import pytest
from commands import Command
from serving import Stand, serving

from longrope.verification import checking


@pytest.fixture(scope="module")
def yarn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama with YaRN, as a checkpoint of somebody else."""
    scaling = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 64}
    folder = tmp_path_factory.mktemp("yarn")
    return pico.save_pico(folder, rope=scaling, max_position_embeddings=256)


@pytest.mark.parametrize(("scaled", "verdict", "code"), [(True, "applied", 0), (False, "original", 1)])
def test_the_exit_code_is_the_verdict(scaled: bool, verdict: str, code: int, yarn: Path, command: Command) -> None:
    with serving(Stand(yarn, scaled=scaled, newer=True)) as address:
        result = command("verify", yarn, "--with", address, "--json")
    assert result.code == code
    [done] = json.loads(result.out)
    assert (done["verdict"], done["client"], done["truth"]) == (verdict, address, "its own config")
    assert [finding["tokens"] for finding in done["findings"]] == [32, 64, 128]


@pytest.mark.parametrize("verdict", ["other scaling", "unclear", "refused"])
def test_any_verdict_but_applied_ends_with_1(
    verdict: str, yarn: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [checking.Verification(str(yarn), "a", "applied"), checking.Verification(str(yarn), "b", verdict)]
    monkeypatch.setattr(checking, "verify", lambda *_, **__: done)
    assert command("verify", yarn).code == 1
    shown = " ".join(command("verify", "--help").out.split())
    assert "0 every client applied it, 1 at least one client has another verdict, 2 bad input" in shown


def test_the_table_has_a_row_for_each_checkpoint_and_client(yarn: Path, command: Command) -> None:
    with serving(Stand(yarn)) as address, serving(Stand(yarn, window=50)) as small:
        result = command("verify", yarn, "--with", address, "--with", small, "--lengths", "48,80")
    assert result.code == 1, "one of them refuses the longer prompt"
    rows = [line for line in result.out.splitlines() if "http://" in line and line.startswith("│")]
    assert [row.split("│")[3].strip() for row in rows] == ["applied", "refused"]
    assert "maximum context length is 50 tokens" in result.out


def test_a_dry_run_asks_nobody(yarn: Path, command: Command) -> None:
    """Nothing listens at the address; every checkpoint has its line."""
    result = command("verify", yarn, yarn, "--with", "http://localhost:9/v1", "--dry-run")
    assert result.code == 0, result.err
    assert len(re.findall(r"check in http://localhost:9/v1: about \d+ s,", result.err)) == 2
    assert result.out == ""
