"""Stand-ins for OpenAI-compatible servers, in threads of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Json = dict[str, Any]
Answer = Callable[[str, Json], Json]  # of a path below /v1 and what was posted; raises Refusal


class Refusal(Exception):  # noqa: N818
    """An answer with another status."""

    def __init__(self, status: int, message: str = "refused") -> None:  # noqa: D107
        super().__init__(message)
        self.status = status


@contextmanager
def serving(answer: Answer, headers: list[dict[str, str]] | None = None) -> Iterator[str]:
    """Serve answers inside a ``with`` block; yields the address, and adds the headers of each request to a list."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, posted: Json) -> None:
            status, content = 200, {}
            if headers is not None:
                headers.append(dict(self.headers))
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


class Stand:
    """A server of a checkpoint in transformers: with its scaling, or without.

    ``texts`` refuses token ids, ``most`` more log-probabilities, ``newer`` answers in the form with token ids, and
    ``window`` refuses longer prompts.
    """

    def __init__(  # noqa: D107
        self, folder: Path, *, scaled: bool = True, texts: bool = False, most: int = 20, **given: Any
    ) -> None:
        self.network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if not scaled:
            rotary = self.network.base_model.rotary_emb
            theta = self.network.config.rope_parameters["rope_theta"]
            self.network.config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
            self.network.base_model.rotary_emb = type(rotary)(self.network.config)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.texts, self.most, self.newer = texts, most, given.get("newer", False)
        self.window = given.get("window", 10**6)
        self.asked: list[Json] = []

    def __call__(self, path: str, posted: Json) -> Json:
        if path == "models":
            return {"data": [{"id": "the-model"}]}
        if path != "completions":
            raise Refusal(404)
        self.asked.append(posted)
        prompt = posted["prompt"]
        if isinstance(prompt, list) and self.texts:
            raise Refusal(400, "prompt must be a string")
        if posted["logprobs"] > self.most:
            raise Refusal(400, f"logprobs must be at most {self.most}")
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if len(ids) > self.window:
            raise Refusal(400, f"maximum context length is {self.window} tokens")
        with torch.inference_mode():
            best = self.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(posted["logprobs"])
        pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        if self.newer:
            top = [{"id": i, "token": self.tokenizer.decode([i]), "logprob": value} for i, value in pairs]
            return {"choices": [{"text": "", "logprobs": {"content": [{"top_logprobs": top}]}}]}
        written = {self.tokenizer.decode([i]): value for i, value in pairs}
        return {"choices": [{"text": "", "logprobs": {"top_logprobs": [written]}}]}
