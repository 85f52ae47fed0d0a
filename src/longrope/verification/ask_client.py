"""A script that opens a checkpoint with a client's own library and writes its log-probabilities.

It knows that library and the standard library alone, and runs in a process, and where needed an environment, of its
own: ``python ask_client.py CLIENT REQUEST ANSWER``, the last two JSON files.

The request: ``path`` of the checkpoint; ``prompts``, lists of token ids; ``positions``, the number of last positions of
each prompt that are asked for; ``top``, how many of the likeliest tokens; ``device`` and ``dtype``;
``remote_code``, whether code of the checkpoint's folder may run.
The answer: ``versions``, names with versions; ``answers``, for each prompt and each of these positions a list of pairs
[token id, log-probability of it after all tokens up to that position]. Without answers, it is written before the
checkpoint is opened, too.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

BLOCK = 256  # llama.cpp rounds the size of its context up to a multiple of it
MEMORY = 0.5  # of the device that vLLM takes, on a CPU, too; the process that asks holds the model there as well
LLAMA_CPP = "llama.cpp"

Request = dict[str, Any]
Answers = list[list[list[tuple[int, float]]]]
Report = Callable[[dict[str, str]], None]  # takes the versions before the checkpoint is opened


def ask_transformers(request: Request, report: Report) -> Answers:
    """Ask transformers, of any version: a whole pass for each prompt, without a cache."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report({"transformers": transformers.__version__, "torch": torch.__version__})
    folder, name = request["path"], None
    if Path(folder).is_file():
        folder, name = os.path.split(folder)
    own_code: dict[str, Any] = {"gguf_file": name, "trust_remote_code": False}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, request["dtype"]), **own_code)
    AutoTokenizer.from_pretrained(folder, **own_code)  # some versions do not know its class
    network = loaded.to(request["device"]).eval()
    answers = []
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt], device=request["device"])
        with torch.inference_mode():
            logits = network(ids, use_cache=False, logits_to_keep=request["positions"]).logits[0]
        best = logits.float().log_softmax(-1).topk(request["top"])
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers.append([list(zip(tokens, values, strict=True)) for tokens, values in rows])
    return answers


def ask_llama_cpp(request: Request, report: Report) -> Answers:
    """Ask llama.cpp, by ``xllamacpp``, for the last positions of each prompt one by one.

    It chooses the list of factors by the size of its context, so each prompt gets the smallest that holds it.
    """
    import xllamacpp

    report({"xllamacpp": version("xllamacpp")})
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
            answer = server.handle_completions(asked)
            if "choices" not in answer:
                raise RuntimeError(answer.get("error", {}).get("message", f"an answer without choices: {answer}"))
            [choice] = answer["choices"]
            best = choice["logprobs"]["content"][0]["top_logprobs"]
            rows.append([(entry["id"], entry["logprob"]) for entry in best])
        answers.append(rows)
    return answers


def ask_mlx(request: Request, report: Report) -> Answers:
    """Ask mlx-lm, on the CPU: a whole pass for each prompt, in the number format of the request."""
    import mlx.core as mx
    from mlx_lm import load

    mx.set_default_device(mx.cpu)
    report({"mlx-lm": version("mlx-lm"), "mlx": version("mlx")})
    trusted = {"trust_remote_code": True} if request["remote_code"] else {}  # unknown to older versions
    network = load(request["path"], **trusted)[0]
    network.set_dtype(getattr(mx, request["dtype"]))
    answers = []
    for prompt in request["prompts"]:
        logits = network(mx.array([prompt]))[0, -request["positions"] :].astype(mx.float32)
        values = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        best = mx.argsort(-values, axis=-1)[:, : request["top"]]
        rows = zip(best.tolist(), mx.take_along_axis(values, best, axis=-1).tolist(), strict=True)
        answers.append([list(zip(tokens, row, strict=True)) for tokens, row in rows])
    return answers


def ask_vllm(request: Request, report: Report) -> Answers:
    """Ask vLLM for a new token after each of the last positions of each prompt.

    It chooses the list of factors by its ``max_model_len``, once, so the window here holds the longest prompt.
    """
    from vllm import LLM, SamplingParams, __version__

    report({"vllm": __version__})
    prompts, positions = request["prompts"], request["positions"]
    engine = LLM(
        model=request["path"],
        dtype=request["dtype"],
        max_model_len=max(map(len, prompts)) + 1,
        max_logprobs=request["top"],
        gpu_memory_utilization=MEMORY,
        enforce_eager=True,
    )
    settings = SamplingParams(max_tokens=1, temperature=0, logprobs=request["top"])
    ends = [range(len(prompt) - positions + 1, len(prompt) + 1) for prompt in prompts]
    asked = [{"prompt_token_ids": prompt[:end]} for prompt, of in zip(prompts, ends, strict=True) for end in of]
    best = [output.outputs[0].logprobs[0] for output in engine.generate(asked, settings)]
    rows = [[(token, entry.logprob) for token, entry in row.items()] for row in best]
    return [rows[first : first + positions] for first in range(0, len(rows), positions)]


INTERFACES: dict[str, Callable[[Request, Report], Answers]] = {
    "transformers": ask_transformers,
    LLAMA_CPP: ask_llama_cpp,
    "mlx-lm": ask_mlx,
    "vllm": ask_vllm,
}


def main(interface: str, request_path: str, answer_path: str) -> None:
    """Answer a request by the interface of a client."""
    versions: dict[str, str] = {}

    def write(answers: Answers) -> None:
        Path(answer_path).write_text(json.dumps({"versions": versions, "answers": answers}), encoding="utf-8")

    def report(known: dict[str, str]) -> None:
        versions.update(known)
        write([])  # for a refusal

    write(INTERFACES[interface](json.loads(Path(request_path).read_text(encoding="utf-8")), report))


if __name__ == "__main__":
    main(*sys.argv[1:])
    if sys.argv[1] == LLAMA_CPP:
        os._exit(0)  # its threads would keep the process
