"""A stand-in for an OpenAI-compatible server, in a thread of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Answer = Callable[[str, Json], Json]  # of a path below /v1 and what was posted; raises Refusal


class Refusal(Exception):  # noqa: N818
    """An answer with another status."""

    def __init__(self, status: int, message: str = "refused") -> None:  # noqa: D107
        super().__init__(message)
        self.status = status


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serve answers inside a ``with`` block; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, posted: Json) -> None:
            status, content = 200, {}
            try:
                content = answer(self.path.removeprefix("/v1/"), posted)
            except Refusal as error:
                status, content = error.status, {"error": str(error)}
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
