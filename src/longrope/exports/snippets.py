"""The RoPE settings of a checkpoint as text for other projects: to be put over the base model, without new weights.

Tests run the text for transformers and TRL; the others say what was tried, with the version.
"""

import json
from collections.abc import Mapping
from typing import Any

ENTRIES = ("rope_parameters", "max_position_embeddings", "original_max_position_embeddings", "head_dim")
TRIED = {
    "vLLM": "not run so; the rotary class of vLLM 0.33.0 applies such settings, vLLM 0.32.0 the exported folder",
    "SGLang": "not run; the rotary class of SGLang 0.5.23 makes our angles of such settings",
    "axolotl": "not run; axolotl 0.19.0 reads such settings into the model's config",
}


def format_snippets(config: Mapping[str, Any], base_model: str) -> str:
    """The text for every project.

    Args:
        config: the content of the config.json of an exported folder.
        base_model: what the weights are loaded from, by name or path.
    """
    entries = json.dumps({name: config[name] for name in ENTRIES if name in config})
    window = config["max_position_embeddings"]
    parts = {
        "transformers 5, and TRL, whose trainers take this model": _transformers(entries, base_model),
        f"vLLM ({TRIED['vLLM']})": f"vllm serve {base_model} --max-model-len {window} --hf-overrides '{entries}'",
        f"SGLang ({TRIED['SGLang']})": (
            f"python -m sglang.launch_server --model-path {base_model} --context-length {window} "
            f"--json-model-override-args '{entries}'"
        ),
        f"axolotl ({TRIED['axolotl']})": f"sequence_len: {window}\noverrides_of_model_config: {entries}",
        "llama.cpp takes no lists on its command line": "longrope export RUN --to gguf",
        "LLaMA-Factory and Unsloth take no lists (by their source): give them the exported folder": "RUN/hf",
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
