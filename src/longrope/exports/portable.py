"""What a checkpoint's folder needs for clients beside the transformers that wrote it.

It is written after ``save_pretrained``, which writes one spelling: RoPE as readers before ``rope_parameters`` find it,
a tokenizer class that every version knows, a tokenizer and settings of generation that do not stop at the former
window.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from longrope.rope.hf_legacy import older_entries

GENERATION = "generation_config.json"
NEWEST_CLASS, KNOWN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
OF_THE_LOADING = ("backend", "is_local", "local_files_only")  # which transformers 5 writes into a tokenizer's config


def make_portable(folder: Path, trained_window: int, target_window: int, dtype: str) -> None:
    """Complete a folder that transformers has written.

    Args:
        folder: with config.json, and tokenizer_config.json where there is one.
        trained_window: of the model before, in tokens.
        target_window: of its factors.
        dtype: of its weights, by torch's name.
    """
    _rewrite(folder / "config.json", partial(_completed, dtype=dtype))
    if (folder / "tokenizer_config.json").exists():
        _rewrite(folder / "tokenizer_config.json", lambda stated: portable_tokenizer(stated, target_window))
    if (folder / GENERATION).exists():
        _rewrite(folder / GENERATION, partial(_generating, former=trained_window, target_window=target_window))
    _share_mode(folder)


def portable_tokenizer(stated: dict[str, Any], target_window: int) -> dict[str, Any]:
    """The content of a tokenizer_config.json that transformers 4 reads, too, for a window of so many tokens."""
    changed = {name: value for name, value in stated.items() if name not in OF_THE_LOADING}
    if changed.get("tokenizer_class") == NEWEST_CLASS:
        changed["tokenizer_class"] = KNOWN_CLASS
    if isinstance(changed.get("extra_special_tokens"), list):  # transformers 4 has a dict under this name
        changed["additional_special_tokens"] = changed.pop("extra_special_tokens")
    if "model_max_length" in changed:
        changed["model_max_length"] = max(changed["model_max_length"], target_window)
    return changed


def _generating(stated: dict[str, Any], former: int, target_window: int) -> dict[str, Any]:
    """The content of a generation_config.json whose bound on all tokens is the window, where it was the former one."""
    return {**stated, "max_length": target_window} if stated.get("max_length") == former else stated


def _completed(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The content of a config.json with the older entries, and the number format in both spellings."""
    parts = {name: {**part, "dtype": dtype} for name, part in config.items() if name == "text_config"}
    return {**config, **parts, **older_entries(config), "dtype": dtype, "torch_dtype": dtype}


def _rewrite(path: Path, change: Any) -> None:
    content = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _share_mode(folder: Path) -> None:
    """Give the weights the mode that config.json was created with: safetensors makes files for their owner alone."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode & 0o777)
