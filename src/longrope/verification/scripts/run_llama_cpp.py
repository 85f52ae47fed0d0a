"""Open a GGUF file in llama.cpp (by ``xllamacpp``) and write its log-probabilities (see ``scripts``).

llama.cpp chooses the list of factors by the size of its context, so each prompt gets the smallest that holds it.
"""

import json
import os
import sys
from importlib.metadata import version
from typing import Any

BLOCK = 256  # llama.cpp rounds the size of its context up to a multiple of it


def main(request_path: str, answer_path: str) -> None:
    """Answer a request: a context for each prompt, in which its last positions are asked for one by one."""
    import xllamacpp

    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123  # as short as a script for one client is
        request = json.load(file)
    versions = {"xllamacpp": version("xllamacpp")}
    _write(answer_path, versions, [])  # for a refusal
    answers = []
    for prompt in request["prompts"]:
        settings = xllamacpp.CommonParams()
        settings.model.path = request["path"]
        settings.n_ctx = -(-(len(prompt) + 1) // BLOCK) * BLOCK
        settings.n_parallel, settings.warmup, settings.verbosity = 1, False, -1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if request["device"] == "cpu":
            settings.n_gpu_layers = 0
        server = xllamacpp.Server(settings)
        rows = []
        for end in range(len(prompt) - request["positions"] + 1, len(prompt) + 1):
            asked = {"prompt": prompt[:end], "max_tokens": 1, "temperature": 0, "logprobs": request["top"]}
            [choice] = server.handle_completions(asked)["choices"]
            best = choice["logprobs"]["content"][0]["top_logprobs"]
            rows.append([(entry["id"], entry["logprob"]) for entry in best])
        answers.append(rows)
    _write(answer_path, versions, answers)


def _write(path: str, versions: dict[str, str], answers: list[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"versions": versions, "answers": answers}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # its threads would keep the process
