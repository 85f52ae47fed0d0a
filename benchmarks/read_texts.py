"""A gigabyte of text, read, tokenized, split and compared: the memory at its peak, and the time.

Run: python benchmarks/read_texts.py OUT.jsonl FORM [--bytes 1e9] [--texts FOLDER]

FORM is jsonl (a document of 20 lines in each row) or txt (one document). The text is made of the lines of FOLDER's
files (by default Python's standard library), shuffled anew until there are so many bytes, in a temporary file. It is
read with the bundled model's tokenizer; then a window of 32,768 tokens to measure on is looked up in all of the text to
search on, as every run does before it begins. A line of OUT has bytes, documents, tokens, seconds by the clock and of
all cores, and the peak of the process's memory after each of both. Linux: other systems have other units of memory.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from transformers import AutoTokenizer

import longrope
from longrope.data import all_runs, hash_windows, sketch_common
from longrope.data.sources import NoTextError, decode, list_files, read_content, stdlib_modules
from longrope.data.texts_report import TextsReport

LINES_OF_A_ROW, WINDOW = 20, 32_768


def lines_of(folder: Path | None) -> list[str]:
    """The different lines of all texts of a folder."""
    lines = dict[str, None]()
    for path in list_files(folder, TextsReport()) if folder else stdlib_modules():
        try:
            lines |= dict.fromkeys(decode(read_content(path)).splitlines())
        except NoTextError:
            continue
    return list(lines)


def shuffled(lines: list[str], size: int) -> Iterator[str]:
    """Pieces of twenty lines, in new orders until they have ``size`` bytes."""
    order, made = random.Random(0), 0  # noqa: S311  # no secret
    while made < size:
        order.shuffle(lines)
        for first in range(0, len(lines), LINES_OF_A_ROW):
            piece = "\n".join(lines[first : first + LINES_OF_A_ROW]) + "\n"
            made += len(piece.encode())
            yield piece
            if made >= size:
                return


def peak_gib() -> float:
    """The most memory that this process has had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main(arguments: list[str] | None = None) -> None:
    """Make the text, read it, and append a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("form", choices=("jsonl", "txt"))
    parser.add_argument("--bytes", type=float, default=1e9)
    parser.add_argument("--texts", type=Path)
    given = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(str(files("longrope") / "assets" / "nano"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"text.{given.form}"
        with path.open("w") as file:
            for piece in shuffled(lines_of(given.texts), int(given.bytes)):
                file.write(json.dumps({"text": piece}) + "\n" if given.form == "jsonl" else piece)
        before = peak_gib()
        began, work = time.perf_counter(), time.process_time()
        texts = longrope.load_texts([path], tokenizer)
        row = {
            "form": given.form,
            "cores": os.cpu_count(),
            "bytes": texts.report.bytes_read,
            "documents": sum(texts.report.documents.values()),
            "tokens": sum(texts.report.tokens.values()),
            "seconds": round(time.perf_counter() - began, 1),
            "core_seconds": round(time.process_time() - work, 1),
            "peak_gib_before": before,
            "peak_gib": peak_gib(),
        }
        began, work = time.perf_counter(), time.process_time()
        numbers = texts.measure.numbered().windows(WINDOW, 1)
        runs = all_runs(hash_windows(texts.measure, texts.measure.windows(WINDOW, 1), numbers, tokenizer))
        sketch_common(runs, texts.search, tokenizer)
        row |= {
            "compared_seconds": round(time.perf_counter() - began, 1),
            "compared_core_seconds": round(time.process_time() - work, 1),
            "compared_peak_gib": peak_gib(),
        }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
