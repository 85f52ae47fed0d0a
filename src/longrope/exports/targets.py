"""Where a checkpoint may be written: not over what it is made from, and not into the folder of another model."""

from pathlib import Path

from longrope.checksums import RECORD
from longrope.errors import ExportError
from longrope.exports.mlx import FILE as MLX_CODE
from longrope.models import adapters, trained_weights, tuned_on

OF_A_CHECKPOINT = (  # what a client opens in a folder, where an earlier export may have more of it than a new one
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", tuned_on.FILE),
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("generation_config.json", "chat_template.jinja", "additional_chat_templates", MLX_CODE, RECORD),
)
OVER_A_BASE = (adapters.CONFIG, trained_weights.CONFIG)  # what names the model that it is put over


def check_not_source(path: Path, source: str) -> None:
    """Raise ExportError where a path is the model that is exported, or the base of its adapter or trained weights."""
    own = adapters.find_adapter(source) or trained_weights.find_trained_weights(source)
    for place in (source, *([own.base] if own else [])):
        if path.exists() and Path(place).exists() and path.samefile(place):
            what = "the model that is exported" if place == source else f"the base of {source}"
            raise ExportError(f"{path} is {what}.", "It is not changed.", "Give another path with --out.")


def check_folder(folder: Path) -> None:
    """Raise ExportError where a folder holds a model that is no earlier export, or an adapter."""
    config = folder / "config.json"
    foreign = config.is_file() and b'"longrope"' not in config.read_bytes()
    others = [config.name] if foreign else [name for name in OVER_A_BASE if (folder / name).exists()]
    if others:
        raise ExportError(
            f"{folder} holds {others[0]} of another model.",
            "A new folder is needed, or one of an earlier export, which is replaced.",
            "Give another path with --out.",
        )


def remove_earlier(folder: Path, new: Path) -> None:
    """Remove what an earlier export has left in a folder and the new one, in another folder, lacks.

    transformers opens one file of weights before several, for example, and a chat template wherever one is.
    """
    for path in (path for pattern in OF_A_CHECKPOINT for path in folder.glob(pattern)):
        if (new / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            for file in path.glob("*.jinja"):
                file.unlink()
        else:
            path.unlink()
