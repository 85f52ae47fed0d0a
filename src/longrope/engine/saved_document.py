"""A document that a model has read, in a file: its text, its tokens, and their keys and values.

Another question about it then reads nothing but itself. Keys are of the factors, the weights and the number format that
made them, so all of these are written down and compared. The file is a safetensors file with a checksum.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrope.engine.kv_cache import KeyValueCache, describe_others
from longrope.errors import CacheError, converting_errors, describe_error
from longrope.models import LanguageModel
from longrope.models.weights import name_weights
from longrope.runs.files import unfinished_file, writing

FORMAT = "longrope-document/1"
KEPT = "layers."  # before the names of keys and values
NEEDED = "A saved document serves the model, the factors and the settings that it was read with."


@dataclass(frozen=True)
class SavedDocument:
    """What a file says of itself, without its keys and values.

    Attributes:
        path: the file.
        text: the document.
        tokens: [n] of the document and the question that it was read with.
        made_with: model, factors and settings, each by its name.
        checksums: CRC-32 of every tensor.
    """

    path: Path
    text: str
    tokens: NDArray[np.int32]
    made_with: Mapping[str, str]
    checksums: Mapping[str, int]

    def restore(self, cache: KeyValueCache, model: LanguageModel, tokens: Sequence[int], now: Mapping[str, str]) -> int:
        """Put keys and values of the tokens that a prompt shares with this document into an empty cache.

        Args:
            cache: with space for the document.
            model: that is to go on.
            tokens: of the whole prompt.
            now: what the cache is made with, by ``describe_making``.

        Returns:
            How many tokens of the prompt are in the cache: all but one at most, for the last one gives the logits.

        Raises:
            CacheError: the document was read with something else, or the file is damaged.
        """
        pairs = {
            key: (now.get(key, "nothing"), self.made_with.get(key, "nothing")) for key in {**now, **self.made_with}
        }
        if changed := "; ".join(f"{key} {new} (was {old})" for key, (new, old) in pairs.items() if new != old):
            raise CacheError(
                f"{self.path} was read with something else: {changed}.", NEEDED, "Give another file with --cache."
            )
        count = min(len(self.tokens), len(tokens) - 1)
        differs = np.flatnonzero(self.tokens[:count] != np.asarray(tokens[:count]))
        shared = int(differs[0]) if len(differs) else count
        state = _read_tensors(self.path, self.checksums, ("document", "tokens"), apart=True)
        if shared:
            with converting_errors(CacheError, *_damage(self.path)):
                kept = {name.removeprefix(KEPT): x for name, x in state}
                if any(x.ndim != 4 or x.shape[2] != len(self.tokens) for x in kept.values()):
                    raise _damaged(self.path, "it holds keys of other tokens")
            cache.restore({name: x[:, :, :shared] for name, x in kept.items()}, model.device)
        return shared


def describe_making(model: LanguageModel, factors: str, cache: KeyValueCache) -> dict[str, str]:
    """What decides keys and values of given tokens, each by a name that users read.

    Args:
        model: run with the factors.
        factors: their fingerprint, empty without.
        cache: that keeps them; its capacity is the planned length, by which a model may choose its own frequencies.

    Raises:
        CacheError: a model with recurrent states, which are not kept token by token.
    """
    if cache.native:
        raise CacheError(
            f"The model type {model.network.config.model_type!r} has {describe_others(model.network)}.",
            "Only keys and values are saved.",
            "Leave --cache out.",
        )
    by_length = [table.geometry for table in model.tables if table.geometry.by_length]
    own = [spec.frequencies_at(cache.capacity).tolist() for spec in by_length] if not factors else []
    return {
        "model": name_weights(model),
        "config": _hash_config(model.network.config),
        "factors": factors or "none",
        "frequencies": hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16] if own else "of the factors",
        "numbers": f"{str(model.network.dtype).removeprefix('torch.')}{', 8-bit cache' if cache.eight_bit else ''}",
    }


def _hash_config(config: Any) -> str:
    """Of what a config says beside names, versions, number formats and tokens."""
    passed_over = ("architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "quantization_config")
    acting = {
        key: value
        for key, value in config.to_dict().items()
        if not (key.startswith("_") or key in passed_over or key.endswith("_token_id"))
    }
    return hashlib.sha256(json.dumps(acting, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_document(
    path: Path, text: str, tokens: Sequence[int], cache: KeyValueCache, made_with: Mapping[str, str]
) -> None:
    """Write what a cache holds after a prompt was read; the file appears whole, or not at all.

    Raises:
        CacheError: the operating system does not let it be written.
    """
    tensors = {"document": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}
    tensors["tokens"] = torch.tensor(list(tokens), dtype=torch.int32)
    tensors |= {f"{KEPT}{name}": x.cpu().contiguous() for name, x in cache.state().items()}
    checksums = json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()})
    metadata = {"format": FORMAT, "made_with": json.dumps(dict(made_with)), "checksums": checksums}
    with writing(path, CacheError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_file(path, CacheError) as unfinished:
        save_file(tensors, unfinished, metadata)


def open_document(path: Path) -> SavedDocument:
    """Read what a file says of itself (raises CacheError for a file that is damaged or none of these)."""
    if path.exists() and not path.is_file():  # a pipe might never end
        raise _damaged(path, "it is no regular file")
    with converting_errors(CacheError, *_damage(path)):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise _damaged(path, "it is no saved document")
        made_with, checksums = (dict(json.loads(metadata[name])) for name in ("made_with", "checksums"))
        read = dict(_read_tensors(path, checksums, ("document", "tokens")))
        text, tokens = read["document"].numpy().tobytes().decode(), read["tokens"].numpy()
        if tokens.dtype != np.int32 or tokens.ndim != 1:
            raise _damaged(path, "its tokens are no list of token ids")
    return SavedDocument(path, text, tokens, made_with, checksums)


def _read_tensors(
    path: Path, checksums: Mapping[str, int], names: Sequence[str], *, apart: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names, or all others, compared with their checksums."""
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                if (name in names) == apart:
                    continue
                tensor = file.get_tensor(name)
                if _checksum(tensor) != checksums.get(name):
                    raise _damaged(path, f"{name} has another checksum")
                yield name, tensor
    except (OSError, SafetensorError) as error:
        raise _damaged(path, describe_error(error)) from error


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data) if tensor.numel() else 0


def _damaged(path: Path, reason: str) -> CacheError:
    found, needed, remedy = _damage(path)
    return CacheError(f"{found}: {reason}.", needed, remedy)


def _damage(path: Path) -> tuple[str, str, str]:
    return (
        f"{path} cannot be used as a saved document",
        "A whole file that --cache wrote is needed.",
        "Remove it, and give the document again, or give another path with --cache.",
    )
