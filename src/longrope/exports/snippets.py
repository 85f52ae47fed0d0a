"""The RoPE settings of a checkpoint as text for other projects: to be put over the base model, without new weights.

Tests run the text for transformers and TRL; the others say what was tried, with the version (more in docs/serving.md).
"""

import json
from collections.abc import Mapping
from typing import Any

from longrope.errors import ExportError
from longrope.models import has_text_config

ENTRIES = ("rope_parameters", "max_position_embeddings", "original_max_position_embeddings", "head_dim")
TRIED = {
    "vLLM": "vLLM 0.32.0 applied such settings on a CPU",
    "SGLang": "not run; the rotary class of SGLang 0.5.23 gives our angles for such settings",
    "axolotl": "not run; axolotl 0.19.0 reads such settings into the model's config",
    "LLaMA-Factory": "LLaMA-Factory 0.9.5 trained this way on a CPU",
    "Unsloth": "Unsloth 2026.10.9 trained this way on a CPU",
}


def check_base(source: str) -> None:
    """Raise ExportError for a base that no settings can be put over: they go into a config.json of text alone."""
    if not has_text_config(source):
        raise ExportError(
            f"{source} is a GGUF file, an adapter, or a model of text and images.",
            "The settings go into the config.json of a whole model of text.",
            "Use the exported folder, which has them.",
        )


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
        "LLaMA-Factory takes no lists: give it the exported folder, and no rope_scaling, which would take their place "
        f"({TRIED['LLaMA-Factory']})": f"model_name_or_path: RUN/hf\ncutoff_len: {window}",
        "Unsloth takes no lists: give it the exported folder, with one list, for its code for GPUs takes the short one "
        f"of two ({TRIED['Unsloth']})": _unsloth(window),
    }
    return "\n".join(f"# {title}\n{text}\n" for title, text in parts.items())


def _unsloth(window: int) -> str:
    return (
        "from unsloth import FastLanguageModel\n"
        f'model, tokenizer = FastLanguageModel.from_pretrained("RUN/hf", max_seq_length={window})'
    )


def _transformers(entries: str, base_model: str) -> str:
    return (
        "import json\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        f"config = AutoConfig.from_pretrained({base_model!r})\n"
        f"for name, value in json.loads({entries!r}).items():\n"
        "    setattr(config, name, value)\n"
        f"model = AutoModelForCausalLM.from_pretrained({base_model!r}, config=config)"
    )
