"""The RoPE settings of a checkpoint as text for other projects: to be put over the base model, without new weights.

Only the text for transformers is run by a test. The others say so themselves.
"""

import json
from collections.abc import Mapping
from typing import Any

ENTRIES = ("rope_parameters", "max_position_embeddings", "original_max_position_embeddings", "head_dim")
OLDER = ("rope_scaling", "rope_theta", "rope_local_base_freq", *ENTRIES[1:])
UNTRIED = "not run with these factors"


def format_snippets(config: Mapping[str, Any], base_model: str) -> str:
    """The text for every project.

    Args:
        config: the content of the config.json of an exported folder.
        base_model: what the weights are loaded from, by name or path.
    """
    newer = json.dumps({name: config[name] for name in ENTRIES if name in config})
    older = json.dumps({name: config[name] for name in OLDER if name in config})
    window = config["max_position_embeddings"]
    parts = {
        "transformers 5, and TRL, whose trainers take this model": _transformers(newer, base_model),
        f"vLLM ({UNTRIED})": f"vllm serve {base_model} --max-model-len {window} --hf-overrides '{newer}'",
        f"SGLang ({UNTRIED})": (
            f"python -m sglang.launch_server --model-path {base_model} --context-length {window} "
            f"--json-model-override-args '{older}'"
        ),
        f"axolotl ({UNTRIED})": f"sequence_len: {window}\noverrides_of_model_config: {older}",
        "llama.cpp takes no lists on its command line": "longrope export RUN --to gguf",
        "LLaMA-Factory and Unsloth take no lists: give them the exported folder as the model": "RUN/hf",
    }
    return "\n".join(f"# {title}\n{text}\n" for title, text in parts.items())


def _transformers(entries: str, base_model: str) -> str:
    return (
        "import json\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        f"config = AutoConfig.from_pretrained({base_model!r})\n"
        f"for name, value in json.loads({entries!r}).items():\n"
        "    setattr(config, name, value)\n"
        f"model = AutoModelForCausalLM.from_pretrained({base_model!r}, config=config)"
    )
