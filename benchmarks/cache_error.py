"""What keeping keys and values in 8 bits costs: losses of the same tokens, decoded one by one with either cache.

Run: python benchmarks/cache_error.py nano stdlib OUT.jsonl --factors results/demo --tokens 2048

Each window is read up to its last tokens; these are then fed one at a time, so every one is predicted from keys and
values that come out of the cache. One line for each cache: mean loss in nats, how it differs from the full cache on
the same tokens (with a standard error over windows), how often the likeliest token is another, and bytes.
"""

import argparse
import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from longrope.data import fingerprint, load_texts
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import load_factors

CACHES = {"full": {}, "8-bit": {"eight_bit": True}}


@dataclass
class Decoded:
    """What one cache gave: losses in nats and likeliest tokens, [W, scored] both, and its bytes for a window."""

    losses: np.ndarray
    likeliest: np.ndarray
    num_bytes: int


def main() -> None:
    """Decode the windows with each cache; one JSON line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--factors", type=Path)
    parser.add_argument("--tokens", type=parse_tokens, default=2048)
    parser.add_argument("--scored", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    model = load_model(asked.model, dtype=asked.dtype)
    file = asked.factors / "factors.json" if asked.factors and asked.factors.is_dir() else asked.factors
    factor_set = load_factors(file).choose(asked.tokens) if file else None
    windows = load_texts([asked.texts], model.tokenizer).measure.windows(asked.tokens, asked.windows)
    with rescaled(model, factor_set):
        found = {name: decode(model, windows, asked.scored, **settings) for name, settings in CACHES.items()}
        uncached = np.concatenate([token_losses(model, row[None], slice(-asked.scored, None)) for row in windows])
    same = {
        "model": model.name,
        "texts": asked.texts,
        "texts_fingerprint": fingerprint(windows),
        "factors_fingerprint": factor_set.fingerprint if factor_set else "",
        "tokens": asked.tokens,
        "windows": len(windows),
        "scored_tokens": int(uncached.size),
        "loss_without_cache_nats": float(uncached.mean(dtype=np.float64)),
        "dtype": str(model.network.dtype),
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("a") as out:
        for name, decoded in found.items():
            line = {"cache": name, **compare(decoded, found["full"]), **same}
            print(json.dumps(line, indent=1))
            out.write(json.dumps(line) + "\n")


def decode(model: LanguageModel, windows: np.ndarray, scored: int, **settings: bool) -> Decoded:
    """Read each window but its last tokens, then feed these one by one."""
    losses, likeliest, num_bytes = [], [], 0
    for window in windows:
        cache = KeyValueCache(model, len(window), **settings)
        first = len(window) - scored
        logits = [prefill(model, window[None, :first], cache)]
        logits += [prefill(model, window[None, at : at + 1], cache) for at in range(first, len(window) - 1)]
        whole, targets = torch.cat(logits), torch.from_numpy(window[first:]).long().to(model.device)
        losses.append(functional.cross_entropy(whole.double(), targets, reduction="none").cpu().numpy())
        likeliest.append(whole.argmax(-1).cpu().numpy())
        num_bytes = cache.num_bytes
    return Decoded(np.stack(losses), np.stack(likeliest), num_bytes)


def compare(decoded: Decoded, full: Decoded) -> dict[str, float]:
    """The numbers of one cache, beside the full one on the same tokens."""
    differences = decoded.losses - full.losses
    by_window = differences.mean(1)
    return {
        "loss_nats": float(decoded.losses.mean()),
        "difference_nats": float(differences.mean()),
        "difference_standard_error_nats": float(by_window.std(ddof=1) / math.sqrt(len(by_window))),
        "largest_difference_nats": float(np.abs(differences).max()),
        "other_likeliest_token": float((decoded.likeliest != full.likeliest).mean()),
        "cache_bytes": decoded.num_bytes,
    }


if __name__ == "__main__":
    main()
