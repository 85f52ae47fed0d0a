"""Make the token arrays that recipes/smollm2-64k-tuned.toml reads, of texts that recipes/smollm2-64k-tuned.sh fetches.

Run: python recipes/tuned_tokens.py MODEL MANUALS KERNEL PROSE OUT

OUT/manuals gets an array for each manual and one of the first 2,097,152 tokens of the kernel's documentation; OUT/prose
one of all of the measuring text. Arrays travel better than text to a machine without a network.
"""

import sys
from itertools import chain
from pathlib import Path

import numpy as np

from longrope import load_model, load_texts
from longrope.data import encode

KERNEL_TOKENS = 2**21


def main(model: str, manuals: Path, kernel: Path, prose: Path, out: Path) -> None:
    """Write the arrays."""
    tokenizer = load_model(model, device="cpu").tokenizer
    for folder in ("manuals", "prose"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted(manuals.glob("*.txt")):
        np.save(out / "manuals" / path.stem, np.asarray(encode(tokenizer, path.read_text("utf-8")), np.uint16))
    files = (path for path in sorted(kernel.rglob("*")) if path.is_file())
    words = chain.from_iterable(encode(tokenizer, path.read_text("utf-8", "ignore")) for path in files)
    first = np.fromiter((token for token, _ in zip(words, range(KERNEL_TOKENS), strict=False)), np.uint16)
    np.save(out / "manuals" / "kernel", first)
    texts = load_texts([manuals], tokenizer, measure=[prose])
    np.save(out / "prose" / "prose", texts.measure.tokens.astype(np.uint16))


if __name__ == "__main__":
    main(sys.argv[1], *(Path(argument) for argument in sys.argv[2:]))
