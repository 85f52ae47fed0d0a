"""Ask about one sentence that stands at several depths of a document of a million tokens and more, by ``generate``.

Run: python recipes/ask_document.py MODEL DOCUMENT OUT [--factors RUN] [--tokens 1100000] [--depths 0.1,0.5,0.9]
                                    [--eight-bit-cache] [--offload-cache]

MODEL is a checkpoint (RUN/hf), or what a training keeps (RUN/stages/.../adapter), which needs the factors of its run,
DOCUMENT a text file (recipes/million_texts.py leaves OUT/document.txt). The document is cut to so many tokens and read
anew for each depth, with another sentence there. A line of OUT has the answer, whether it begins with what stands in
the document, the seconds of reading and answering, the bytes of the cache and the GPU's memory at its peak.
"""

import argparse
import json
from pathlib import Path

import torch

from longrope import generate, load_factors, load_model
from longrope.cli.options import factors_file
from longrope.data import encode
from longrope.generation import GenerationSettings

FACTS = (  # what stands in the document, what is asked, and the answer
    (
        "The lighthouse of Selkmouth is looked after by {}.",
        "The lighthouse of Selkmouth is looked after by",
        "Greta Lind",
    ),
    (
        "Up the tower of Ravenhurst the number of steps is {}.",
        "Up the tower of Ravenhurst the number of steps is",
        "4817",
    ),
    ("The boat race at Thornwick was won by {}.", "The boat race at Thornwick was won by", "Hugo Barlow"),
    ("The bridge at Ulverdale fell in the year {}.", "The bridge at Ulverdale fell in the year", "1739"),
    ("The hall of Caldstead was painted by {}.", "The hall of Caldstead was painted by", "Ingrid Mason"),
)


def planted(text: str, depth: float, sentence: str) -> str:
    """A text with a sentence as a paragraph of its own at the end of the line that stands at a depth."""
    end = text.find("\n", int(depth * len(text)))
    at = len(text) if end < 0 else end
    return f"{text[:at]}\n\n{sentence}\n\n{text[at:]}"


def cut(tokenizer: object, text: str, tokens: int) -> str:
    """The beginning of a text, of about so many tokens."""
    share = tokens / len(encode(tokenizer, text))
    return text[: int(min(1.0, share) * len(text))]


def main(arguments: list[str] | None = None) -> None:
    """Ask at each depth, and append a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "document", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--factors", type=lambda given: factors_file(Path(given)))
    parser.add_argument("--tokens", type=int, default=1_100_000)
    parser.add_argument("--depths", default="0.1,0.5,0.9")
    parser.add_argument("--eight-bit-cache", action="store_true")
    parser.add_argument("--offload-cache", action="store_true")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    model = load_model(str(given.model), device=given.device)
    factors = load_factors(given.factors) if given.factors else None
    text = cut(model.tokenizer, given.document.read_text(encoding="utf-8"), given.tokens)
    settings = GenerationSettings(max_new_tokens=12, eight_bit=given.eight_bit_cache, offload=given.offload_cache)
    for number, depth in enumerate(map(float, given.depths.split(","))):
        sentence, question, answer = FACTS[number % len(FACTS)]
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        done = generate(model, factors, planted(text, depth, sentence.format(answer)), question, settings=settings)
        peak = torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else 0
        line = {
            "depth": depth,
            "question": question,
            "answer": done.text,
            "expected": answer,
            "found": done.text.strip().startswith(answer),
            "prompt_tokens": done.prompt_tokens,
            "prefill_seconds": done.prefill_seconds,
            "decode_seconds": done.decode_seconds,
            "new_tokens": done.new_tokens,
            "cache_bytes": done.cache_bytes,
            "peak_bytes": peak,
            "eight_bit": given.eight_bit_cache,
            "offload": given.offload_cache,
            "factors_fingerprint": done.factors_fingerprint,
        }
        print(json.dumps(line), flush=True)
        with given.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
