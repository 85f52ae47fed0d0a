"""Open a folder in vLLM and write its log-probabilities (see ``scripts``).

vLLM chooses the list of factors by its ``max_model_len``, once, so the window here holds the longest prompt.
"""

import json
import sys
from typing import Any

MEMORY = 0.5  # of the device, on a CPU, too; the process that asks holds the model there as well


def main(request_path: str, answer_path: str) -> None:
    """Answer a request: a new token after each of the last positions of each prompt."""
    from vllm import LLM, SamplingParams, __version__

    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123  # as short as a script for one client is
        request = json.load(file)
    versions = {"vllm": __version__}
    _write(answer_path, versions, [])  # for a refusal
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
    answers = [rows[first : first + positions] for first in range(0, len(rows), positions)]
    _write(answer_path, versions, answers)


def _write(path: str, versions: dict[str, str], answers: list[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"versions": versions, "answers": answers}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
