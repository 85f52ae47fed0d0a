"""llama.cpp's own answers, by its server in a process of its own; a test that asks is skipped without xllamacpp."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FORCED = 79  # a token that is a whole character, so that the server writes it out with its probabilities
PROCESS = """
import json, os, sys, xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.verbosity = asked["path"], asked["context"], 1, -1
params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
try:
    server = xllamacpp.Server(params)
except RuntimeError as error:
    print(json.dumps({"refused": str(error)}))
else:
    if "text" in asked:
        import urllib.request
        body = json.dumps({"content": asked["text"], "add_special": True}).encode()
        kind = {"Content-Type": "application/json"}
        page = urllib.request.Request(server.listening_address + "/tokenize", body, kind)
        print(urllib.request.urlopen(page).read().decode())
        sys.stdout.flush()
        os._exit(0)
    wanted = {"max_tokens": 1, "temperature": 0, "logprobs": asked["size"], "cache_prompt": False}
    wanted["logit_bias"] = [[asked["forced"], 1000]]  # after the probabilities are taken
    print(json.dumps([server.handle_completions({"prompt": prompt, **wanted}) for prompt in asked["prompts"]]))
sys.stdout.flush()
os._exit(0)
"""


def ask(path: Path, prompts: Iterable[Any], context: int, size: int = 320) -> NDArray[np.float64]:
    """Log-probabilities [prompts, size] of the token after each prompt, caches in float32.

    Args:
        path: a GGUF file.
        prompts: token ids of each.
        context: tokens of the context, a multiple of 256.
        size: of the vocabulary.
    """
    asked: dict[str, Any] = {"path": str(path), "context": context, "size": size, "forced": FORCED}
    said = _run({**asked, "prompts": [list(map(int, prompt)) for prompt in prompts]})
    assert isinstance(said, list), said
    found = np.full((len(said), size), np.nan)
    for row, answer in zip(found, said, strict=True):
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            row[entry["id"]] = entry["logprob"]
    return found


def refuses(path: Path) -> bool:
    """Whether llama.cpp does not load a file."""
    said = _run({"path": str(path), "context": 256, "size": 1, "forced": FORCED, "prompts": []})
    return isinstance(said, dict)


def tokenize(path: Path, text: str) -> list[int]:
    """Token ids of a text, with what opens every text."""
    tokens: list[int] = _run({"path": str(path), "context": 256, "text": text})["tokens"]
    return tokens


def _run(asked: dict[str, Any]) -> Any:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    given, command = json.dumps(asked), [sys.executable, "-c", PROCESS]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout.splitlines()[-1])
