"""What is wrong with a model's folder, said by its name before a library meets it."""

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from longrope import reading
from longrope.errors import ModelError

LFS = b"version https://git-lfs"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "spm.model",
)


def check_stated(source: str | Path, stated: dict[str, Any]) -> None:
    """Raise ModelError for a config of a model that exists as code alone, or is quantized in an unknown way.

    Args:
        source: the model, for the error.
        stated: the content of its config.json.
    """
    model_type, code = stated.get("model_type"), stated.get("auto_map")
    if code and model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"The model type {model_type!r} of {str(source)!r} exists only as code that comes with it (auto_map).",
            "Such code is never run; a type that transformers itself knows is needed.",
            "Take a version of the model that was converted for transformers, often to the type llama.",
        )
    quantized = stated.get("quantization_config") or {}
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    if quantized and method not in known:
        raise ModelError(
            f"{str(source)!r} is quantized by {method!r}.",
            f"transformers knows {', '.join(sorted(known))}.",
            "Give the model as it was before it was quantized.",
        )


def check_folder(source: str | Path) -> None:
    """Raise ModelError for a folder with pointers of Git LFS, pickled weights alone, or no tokenizer.

    Hub names are passed over: their files are not here yet.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    if pointers := [file.name for file in sorted(folder.iterdir()) if _is_pointer(file)]:
        raise ModelError(
            f"{', '.join(pointers)} of {str(source)!r} hold{'s' if len(pointers) == 1 else ''} a pointer of Git LFS "
            "in place of the content.",
            "The files themselves are needed.",
            "Fetch them with git lfs pull, or download the model again.",
        )
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{str(source)!r} holds its weights as a pickle alone ({', '.join(pickles[:3])}).",
            "safetensors weights are needed: opening a pickle runs what is in it.",
            "Take a version with safetensors, or convert it where you trust it: load it in transformers with "
            "use_safetensors=False and save it again.",
        )


def has_tokenizer(source: str | Path) -> bool:
    """Whether a folder has files of a tokenizer."""
    return any(any(Path(source).glob(pattern)) for pattern in TOKENIZERS)


def check_tokenizer(source: str | Path) -> None:
    """Raise ModelError for a folder without files of a tokenizer."""
    if Path(source).is_dir() and not has_tokenizer(source):
        raise ModelError(
            f"The tokenizer of {str(source)!r} is missing: its folder has none of {', '.join(TOKENIZERS)}.",
            "A model is searched and measured on texts, by its own tokenizer.",
            "Download the files of the tokenizer into the folder.",
        )


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file (raises ModelError for anything else)."""
    content = reading.read_json(
        path,
        lambda reason: ModelError(f"{path} cannot be read ({reason}).", "A JSON file is needed.", "Download it again."),
        bounded=False,
    )
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no table.", "Keys with values are needed.", "Download it again.")
    return content


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(LFS)) == LFS
