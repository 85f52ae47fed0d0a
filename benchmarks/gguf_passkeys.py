"""Passkeys at ten depths, asked of GGUF files in llama.cpp on a CPU.

Run: python benchmarks/gguf_passkeys.py data/SmolLM2-135M-Instruct.Q4_1.gguf OUT.jsonl FILE.gguf... --tokens 12k

Needs: pip install xllamacpp, llama.cpp's server as a Python module. The prompts are those of ``longrope measure``, made
with the tokenizer of the first file; each token of an answer is the likeliest one. The needle that stands last is asked
for first, so that the server, which keeps the text that two prompts share, reads half of what ten prompts have.
What stands in OUT.jsonl is not asked again. With --state DIRECTORY a run that was interrupted reads on where it was:
what is read is kept there, every 1,024 tokens (300 MB for 12k tokens of SmolLM2).
"""

import argparse
import json
import os
from http.client import HTTPConnection
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from longrope.evaluation.prompts.passkeys import build_passkeys
from longrope.lengths import parse_tokens
from longrope.models import load_model

DEPTHS, SEED = 10, 0
MARGIN = 256  # llama.cpp rounds its context up to a multiple of this
STEP = 1024  # tokens between two states that are kept


def main() -> None:
    """Ask every file for every passkey; one JSON line for each answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokens", type=parse_tokens, default=12 * 1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--state", type=Path)
    asked = parser.parse_args()
    tokenizer = load_model(asked.model, device="cpu").tokenizer
    tasks = sorted(build_passkeys(tokenizer, asked.tokens, DEPTHS, SEED), key=lambda task: -task.depth)
    for file in asked.files:
        left = [task for task in tasks if (file.name, asked.tokens, task.depth) not in _answered(asked.out)]
        if left:
            process = get_context("spawn").Process(target=ask, args=(file, asked, left, tokenizer))
            process.start()
            process.join()


def _answered(out: Path) -> set[tuple[str, int, float]]:
    """File, length and depth of each line that is there already."""
    lines = map(json.loads, out.read_text(encoding="utf-8").splitlines() if out.exists() else ())
    return {(line["file"], line["context_tokens"], line["depth"]) for line in lines}


def ask(file: Path, asked: argparse.Namespace, tasks: list[Any], tokenizer: Any) -> None:
    """Ask one file, in a process of its own, which is ended as soon as the answers are written."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), asked.tokens + MARGIN, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
    if asked.state:
        asked.state.mkdir(parents=True, exist_ok=True)
        params.slot_save_path = f"{asked.state}/"
    server = xllamacpp.Server(params)
    for task in tasks:
        prompt, key = task.tokens[: -task.answer_tokens], tokenizer.decode(task.tokens[-task.answer_tokens :])
        if asked.state:
            read_in_steps(server, prompt.tolist(), asked.state / f"{file.stem}-{asked.tokens}.slot")
        given = {"prompt": prompt.tolist(), "max_tokens": task.answer_tokens, "temperature": 0, "cache_prompt": True}
        said = server.handle_completions(given)
        answer = said["choices"][0]["text"] if "choices" in said else said["error"]["message"]
        record = {
            "file": file.name,
            "context_tokens": asked.tokens,
            "depth": task.depth,
            "key": key.strip(),
            "answer": answer,
            "right": answer.strip() == key.strip(),
            "seed": SEED,
            "xllamacpp": version("xllamacpp"),
        }
        with asked.out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
    os._exit(0)  # the server's threads do not end by themselves


def read_in_steps(server: Any, prompt: list[int], state: Path) -> None:
    """Let a server read a prompt, from where it differs from what it read before, and keep what it has read."""
    listed = state.with_suffix(".json")
    before = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    if before:
        call_slot(server, "restore", state.name)
    shared = next(
        (i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), min(map(len, (before, prompt)))
    )
    for end in range(shared + STEP, len(prompt), STEP):
        server.handle_completions({"prompt": prompt[:end], "max_tokens": 1, "temperature": 0, "cache_prompt": True})
        listed.unlink(missing_ok=True)
        call_slot(server, "save", state.name)
        listed.write_text(json.dumps(prompt[:end]), encoding="utf-8")


def call_slot(server: Any, action: str, name: str) -> None:
    """Save what a server has read to a file of its directory, or restore it."""
    connection = HTTPConnection(urlsplit(server.listening_address).netloc)
    body, headers = json.dumps({"filename": name}), {"Content-Type": "application/json"}
    connection.request("POST", f"/slots/0?action={action}", body, headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(f"{action} of {name}: {answer.read().decode()}")


if __name__ == "__main__":
    main()
