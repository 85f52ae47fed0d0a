"""Run a client's script in a process of its own."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longrope.runs.files import writing
from longrope.verification.clients import Client
from longrope.verification.environments import clean_environment

SCRIPTS = Path(__file__).parent / "scripts"
LONGEST_SECONDS = 3600
LONGEST_MESSAGE = 300  # characters
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")  # begins the last line of a traceback

Row = list[tuple[int, float]]  # token ids with their log-probabilities


class RefusedError(Exception):
    """A client did not open a checkpoint or did not answer; its message says why."""


@dataclass(frozen=True)
class Request:
    """What a client is asked (see ``verification.scripts``)."""

    path: Path
    prompts: Sequence[Sequence[int]]
    positions: int
    top: int
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Answers:
    """What a client answered: for each prompt a row for each of its last positions, and the versions it ran in."""

    rows: list[list[Row]]
    versions: dict[str, str]


def run_script(client: Client, python: Path, request: Request, seconds: float = LONGEST_SECONDS) -> Answers:
    """Ask a client for its log-probabilities (raises RefusedError with its own message)."""
    asked = {**vars(request), "path": str(request.path.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("request.json", "answer.json")]
        with writing(files[0]):
            files[0].write_text(json.dumps(asked), encoding="utf-8")
        command = [str(python), "-P", str(SCRIPTS / f"{client.script}.py"), *map(str, files)]
        variables = {**clean_environment(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=variables, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise RefusedError(f"no answer within {seconds:g} s") from None
        if done.returncode or not files[1].exists():
            raise RefusedError(_last_words(done))
        answer = json.loads(files[1].read_text(encoding="utf-8"))
    return Answers(answer["answers"], answer["versions"])


def _last_words(done: "subprocess.CompletedProcess[str]") -> str:
    """The exception in a client's own words, or how its process ended."""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    if lines:
        first = next((i for i in reversed(range(len(lines))) if RAISED.match(lines[i])), len(lines) - 1)
        more = lines[first + 1 : first + 2] if lines[first].endswith((":", ",")) else []
        return " ".join([lines[first], *more])[:LONGEST_MESSAGE]
    ended = f"signal {-done.returncode}" if done.returncode < 0 and os.name == "posix" else f"{done.returncode}"
    return f"its process ended with {ended} and said nothing"
