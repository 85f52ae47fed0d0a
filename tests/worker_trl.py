"""Train models in TRL for one step each, in an environment that has it: ``python worker_trl.py REQUEST ANSWER``.

The request: ``models``, for each name code that makes ``model``; ``tokens``, ids of one text; ``out``, an empty folder.
The answer: ``versions``; ``losses``, for each name that of the first step, in nats per token.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main(request_path: str, answer_path: str) -> None:
    """Answer a request; weights are in float32."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    request = json.loads(Path(request_path).read_text())
    tokens, losses = request["tokens"], {}
    for name, code in request["models"].items():
        made: dict[str, Any] = {}
        exec(code, made)  # noqa: S102  # what a reader would run
        settings = SFTConfig(
            output_dir=request["out"],
            max_length=len(tokens),
            max_steps=1,
            per_device_train_batch_size=1,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            dataloader_pin_memory=False,
        )
        data = Dataset.from_list([{"input_ids": tokens}])
        trainer = SFTTrainer(made["model"].float(), settings, train_dataset=data)
        trainer.train()
        losses[name] = trainer.state.log_history[0]["loss"]
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    Path(answer_path).write_text(json.dumps({"versions": versions, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
