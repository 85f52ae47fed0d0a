"""Make the token arrays of recipes/gemma3-2048k.toml and recipes/smollm2-2048k.toml, of documents of one kind each.

Run: python recipes/million_texts.py MODEL UNPACKED OUT      (recipes/gemma3-2048k.sh unpacks the packages)

OUT/measure/KIND gets one window of prose, of manuals and of source code, OUT/search one array of each, OUT/train two
shorter ones of each. An array is joined from documents of its kind in the order in which they are listed, until it is
full; what was joined is printed and stands in OUT/joined.json. The prose to measure on is one work in seven volumes,
whose text is OUT/document.txt, and no document is in two of the three sets. Arrays travel better than text to a machine
without a network; none of them may be passed on.
"""

import json
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longrope.data import encode
from longrope.models import load_model

sys.path.insert(0, str(Path(__file__).parent))
import evidence_texts
import long_texts

WINDOW = 2**21  # tokens of an array to measure or to search on; one to train on has half as many
MOST_CHARACTERS = 16  # of a token, on average
SHORTEST = long_texts.SHORTEST  # characters of a document
PROSE = "measure/prose/joined"
ARRAYS = {  # array -> what the names of its documents begin with; two arrays never share a document
    PROSE: ("measure/prose-treasury",),
    "measure/manual/joined": ("measure/manual-lilypond", "measure/manual-ada", "measure/manual-maxima"),
    "measure/code/joined": (
        "measure/code-sbcl-src-compiler",
        "measure/code-sbcl-src-code",
        "measure/code-sbcl-src-pcl",
    ),
    "search/prose": ("search/prose",),
    "search/manual": ("search/manual-racket",),
    "search/code": ("search/code-sympy",),
    "train/prose-1": ("prose-henry", "prose-foldoc"),
    "train/prose-2": ("prose-gcide",),
    "train/manual-1": ("manual-office", "manual-pascal"),
    "train/manual-2": ("manual-erlang",),
    "train/code-1": ("code-java-util", "code-java-io"),
    "train/code-2": ("code-go-cmd",),
}
Documents = Iterable[tuple[str, str]]


def long_documents(unpacked: Path) -> Documents:
    """The documents of recipes/long_texts.py, to search and to measure on."""
    return chain.from_iterable(make(unpacked) for make in (long_texts.commentary, long_texts.manuals, long_texts.code))


def array_of(name: str) -> str:
    """The array that a document goes into; empty if into none."""
    return next((array for array, begins in ARRAYS.items() if name.startswith(begins)), "")


def gathered(documents: Documents, shortest: int) -> dict[str, list[tuple[str, str]]]:
    """The documents of each array that are long enough, those of its first beginning first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, text in documents:
        if (array := array_of(name)) and len(text) >= shortest:
            found.setdefault(array, []).append((name, text))
    for array, own in found.items():
        begins = ARRAYS[array]
        own.sort(key=lambda document: next(i for i, begin in enumerate(begins) if document[0].startswith(begin)))
    return found


def joined(
    documents: Documents, tokenize: Callable[[str], list[int]], total: int
) -> tuple[NDArray[np.uint32], dict[str, int]]:
    """So many tokens of documents one after the other, and how many of each; the last one is cut."""
    parts, taken = [], {}
    for name, text in documents:
        left = total - sum(taken.values())
        if not left:
            break
        tokens = np.asarray(tokenize(text[: left * MOST_CHARACTERS]), np.uint32)[:left]
        parts.append(tokens)
        taken[name] = len(tokens)
    assert sum(taken.values()) == total, f"{total:,} tokens are needed: {taken}"
    return np.concatenate(parts), taken


def main(model: str, unpacked: Path, out: Path, window: int = WINDOW, shortest: int = SHORTEST) -> None:
    """Write the arrays of all three sets."""
    tokenizer = load_model(model, device="cpu").tokenizer
    named: dict[str, dict[str, int]] = {}
    for make in (long_documents, evidence_texts.training):
        for array, documents in gathered(make(unpacked), shortest).items():
            total = window // 2 if array.startswith("train") else window
            tokens, named[array] = joined(documents, lambda text: encode(tokenizer, text), total)
            path = out / f"{array}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, tokens)
            if array == PROSE:
                (out / "document.txt").write_text("\n".join(text for _, text in documents), encoding="utf-8")
            print(f"{array}: {total:,} tokens, joined: {named[array]}", flush=True)
    assert set(named) == set(ARRAYS), f"no document for {sorted(set(ARRAYS) - set(named))}"
    (out / "joined.json").write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
