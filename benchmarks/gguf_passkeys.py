"""Passkeys at ten depths, asked of GGUF files in llama.cpp on a CPU.

Run: python benchmarks/gguf_passkeys.py data/SmolLM2-135M-Instruct.Q4_1.gguf OUT.jsonl FILE.gguf... --tokens 12k

Needs: pip install xllamacpp, llama.cpp's server as a Python module. The prompts are those of ``longrope measure``, made
with the tokenizer of the first file; each token of an answer is the likeliest one. The needle that stands last is asked
for first, so that the server, which keeps the text that two prompts share, reads half of what ten prompts have.
"""

import argparse
import json
import os
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from longrope.evaluation.prompts.passkeys import build_passkeys
from longrope.lengths import parse_tokens
from longrope.models import load_model

DEPTHS, SEED = 10, 0
MARGIN = 256  # llama.cpp rounds its context up to a multiple of this


def main() -> None:
    """Ask every file for every passkey; one JSON line for each answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokens", type=parse_tokens, default=12 * 1024)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    tokenizer = load_model(asked.model, device="cpu").tokenizer
    tasks = sorted(build_passkeys(tokenizer, asked.tokens, DEPTHS, SEED), key=lambda task: -task.depth)
    for file in asked.files:
        process = get_context("spawn").Process(target=ask, args=(file, asked, tasks, tokenizer))
        process.start()
        process.join()


def ask(file: Path, asked: argparse.Namespace, tasks: list[Any], tokenizer: Any) -> None:
    """Ask one file, in a process of its own, which is ended as soon as the answers are written."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), asked.tokens + MARGIN, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
    server = xllamacpp.Server(params)
    for task in tasks:
        prompt, key = task.tokens[: -task.answer_tokens], tokenizer.decode(task.tokens[-task.answer_tokens :])
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


if __name__ == "__main__":
    main()
