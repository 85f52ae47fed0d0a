"""Open a folder in mlx-lm, on the CPU, and write its log-probabilities (see ``scripts``).

It calculates in the number format of the request, whatever that of the stored weights.
"""

import json
import sys
from importlib.metadata import version
from typing import Any


def main(request_path: str, answer_path: str) -> None:
    """Answer a request: a whole pass for each prompt, without a cache."""
    import mlx.core as mx
    from mlx_lm import load

    mx.set_default_device(mx.cpu)
    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123  # as short as a script for one client is
        request = json.load(file)
    versions = {"mlx-lm": version("mlx-lm"), "mlx": version("mlx")}
    _write(answer_path, versions, [])  # for a refusal
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
    _write(answer_path, versions, answers)


def _write(path: str, versions: dict[str, str], answers: list[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"versions": versions, "answers": answers}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
