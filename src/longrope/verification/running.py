"""Ask a client in a process of its own."""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrope.runs.files import writing
from longrope.verification.clients import Client
from longrope.verification.environments import clean_environment

SCRIPT = Path(__file__).with_name("ask_client.py")
LONGEST_SECONDS = 3600
LONGEST_MESSAGE = 300  # characters
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")  # begins the last line of a traceback
LOGGED = re.compile(r"^\(\S+ pid=\d+\) [A-Z]+ [^\]]*\] ?")  # begins what a process of vLLM wrote
POINTER = "root cause"  # in an error that only points to another one

Row = list[tuple[int, float]]  # token ids with their log-probabilities


class RefusedError(Exception):
    """A client did not open a checkpoint or did not answer; its message says why.

    Attributes:
        versions: of the client's libraries, as far as they could be imported.
    """

    def __init__(self, message: str, versions: Mapping[str, str] | None = None) -> None:
        """Keep the versions."""
        super().__init__(message)
        self.versions = versions or {}


@dataclass(frozen=True)
class Request:
    """What a client is asked (see ``ask_client``)."""

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
    asked = {**vars(request), "path": str(request.path.resolve()), "remote_code": client.remote_code}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("request.json", "answer.json")]
        with writing(files[0]):
            files[0].write_text(json.dumps(asked), encoding="utf-8")
        command = [str(python), "-P", str(SCRIPT), client.interface, *map(str, files)]
        variables = {**clean_environment(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=variables, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise RefusedError(f"no answer within {seconds:g} s") from None
        answer = json.loads(files[1].read_text(encoding="utf-8")) if files[1].exists() else {}
        if done.returncode or not answer.get("answers"):
            said = _last_words(done).replace(asked["path"], str(request.path))
            raise RefusedError(said[:LONGEST_MESSAGE], answer.get("versions"))
    return Answers(answer["answers"], answer["versions"])


def _last_words(done: "subprocess.CompletedProcess[str]") -> str:
    """The exception in a client's own words, or how its process ended."""
    written = (LOGGED.sub("", line) for line in (done.stderr + done.stdout).splitlines())
    lines = [line.strip() for line in written if line.strip()]
    if lines:
        raised = [i for i, line in enumerate(lines) if RAISED.match(line)] or [len(lines) - 1]
        first = next((i for i in reversed(raised) if POINTER not in lines[i]), raised[-1])
        more = lines[first + 1 : first + 2] if lines[first].endswith((":", ",")) else []
        return " ".join([lines[first], *more])
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"{done.returncode}"
    return f"its process ended with {ended} and said nothing"
