"""Ask a client in this process, without the seconds that another one takes to start."""

import json
import tempfile
from pathlib import Path

from longrope.verification import ask_client
from longrope.verification.clients import Client
from longrope.verification.running import Answers, Request


def run_here(client: Client, python: Path, request: Request) -> Answers:
    """As ``run_script``, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps({**vars(request), "path": str(request.path), "remote_code": client.remote_code}))
        ask_client.main(client.interface, str(asked), str(answered))
        answer = json.loads(answered.read_text())
    return Answers(answer["answers"], answer["versions"])
