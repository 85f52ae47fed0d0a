"""Open a checkpoint in transformers, of any version, and write its log-probabilities (see ``scripts``)."""

import json
import os
import sys
from typing import Any


def main(request_path: str, answer_path: str) -> None:
    """Answer a request: a whole pass for each prompt, without a cache."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123  # as short as a script for one client is
        request = json.load(file)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    _write(answer_path, versions, [])  # for a refusal
    folder, name = request["path"], None
    if os.path.isfile(folder):  # noqa: PTH113
        folder, name = os.path.split(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=getattr(torch, request["dtype"]), trust_remote_code=False
    )
    AutoTokenizer.from_pretrained(
        folder, gguf_file=name, trust_remote_code=False
    )  # some versions do not know its class
    network = loaded.to(request["device"]).eval()
    answers = []
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt], device=request["device"])
        with torch.inference_mode():
            logits = network(ids, use_cache=False, logits_to_keep=request["positions"]).logits[0]
        best = logits.float().log_softmax(-1).topk(request["top"])
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers.append([list(zip(tokens, values, strict=True)) for tokens, values in rows])
    _write(answer_path, versions, answers)


def _write(path: str, versions: dict[str, str], answers: list[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"versions": versions, "answers": answers}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
