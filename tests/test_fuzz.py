"""A structure-aware fuzz of every reader: whatever it is given, it reads it or raises an error of ours.

The seed is fixed. ``LONGROPE_FUZZ_SECONDS`` fuzzes each reader for so long in the place of a number of inputs.
"""

import copy
import json
import os
import random
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import tomli_w
from handmade import EXPORT, FACTORS, SCORES
from hostile_inputs import SCORE, TRIAL

from longrope.data import load_texts
from longrope.data.sketches import dump_sketch, parse_sketch, sketch_documents
from longrope.errors import LongRopeError
from longrope.evaluation.prompts.documents import load_questions
from longrope.exports.comparison import dump_report
from longrope.models import read_spec
from longrope.models.gguf_file import read_gguf
from longrope.models.loading import load_config
from longrope.recipe import Recipe, dump_recipe, load_recipe
from longrope.report import write_report
from longrope.rope import RescaleFactors, RopeSpec, dump_factors, load_factors
from longrope.rope.given import read_given
from longrope.runs.provenance import describe_rope
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.settings import build

SEED, INPUTS = 20_241, 60
SPEC = RopeSpec(8, 8, 1e4, 64)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "\0", "\x1b[31m", "[/red]", "<script>", "../..", "9" * 5000, "\ud800", "\u202e"),
    *([], [[]], {}, [1, "x"], {"a": {}}, [0.5] * 5, "nan"),
)
Reader = Callable[[Path], object]


def changed(content: Any, rng: random.Random) -> Any:
    """JSON content with one to three values changed, removed, doubled or nested, anywhere in it."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(content))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.6:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.75:
            del parent[key]
        elif kind < 0.9 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[key] = {"a": [parent[key]]} if rng.random() < 0.5 else [parent[key]]
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some of them changed, removed or repeated."""
    edited = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(edited) or 1)
        kind = rng.random()
        if kind < 0.6 and edited:
            edited[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind < 0.8:
            del edited[place : place + rng.choice((1, 8, 100))]
        else:
            edited[place:place] = edited[place : place + rng.choice((1, 8, 100))]
    return bytes(edited)


def fuzz(path: Path, whole: Any, read: Reader, *, bytes_share: float = 0.2) -> None:
    """Give a reader the unharmed file, then changed ones: a share of JSON as bytes, and bytes always."""
    seconds = float(os.environ.get("LONGROPE_FUZZ_SECONDS", "0"))
    rng = random.Random(SEED)  # noqa: S311  # nothing is kept secret by it
    plain = whole if isinstance(whole, bytes) else json.dumps(whole).encode() + b"\n"
    path.write_bytes(plain)
    read(path)
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds if seconds else number < INPUTS:
        number += 1
        as_bytes = isinstance(whole, bytes) or rng.random() < bytes_share
        content = flipped(plain, rng) if as_bytes else _dumped(changed(whole, rng))
        path.write_bytes(content)
        try:
            read(path)
        except LongRopeError:
            pass
        except Exception as error:
            raise AssertionError(f"input {number}: {content[:2000]!r}") from error


def _dumped(content: Any) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass") + b"\n"


def read_page(path: Path) -> None:
    write_report(RunDir(path.parent))


@pytest.mark.parametrize(
    "name", ["scores.jsonl", "rope.json", "costs.json", "export.json", "provenance.json", "scan.json"]
)
def test_pages_of_runs(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append(*SCORES)
    run.write_factors(FACTORS)
    cost: dict[str, Any] = {
        "method": "longrope-gradient",
        "trials": 3,
        "seconds": 1.5,
        "seconds_to_common": None,
        "stage": "",
    }
    scan: dict[str, Any] = {
        "edges": ["low"],
        "passes": 3,
        "budget": 4,
        "theta": 1e4,
        "exponent": 1.5,
        "attention_factor": 1.1,
    }
    files: dict[str, Any] = {
        "scores.jsonl": SCORE,
        "rope.json": describe_rope(SPEC, 256),
        "costs.json": [cost, cost],
        "export.json": json.loads(dump_report(EXPORT)),
        "provenance.json": [{"command": "longrope", "choices": ["a", "b"], "began": "now"}],
        "scan.json": scan,
    }
    fuzz(tmp_path / name, files[name], read_page)


def test_records(tmp_path: Path) -> None:
    fuzz(tmp_path / "scores.jsonl", SCORE, lambda path: read_records(path, Score))
    fuzz(tmp_path / "trials.jsonl", TRIAL, lambda path: read_records(path, Trial))


def test_factors(tmp_path: Path) -> None:
    own = json.loads(dump_factors(RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, SPEC.fingerprint, searched=(1, 2**63))))
    fuzz(tmp_path / "factors.json", own, lambda path: load_factors(path).fingerprint)
    given: dict[str, Any] = {
        "rope_scaling": {"type": "longrope", "long_factor": [1, 2, 3, 4], "short_factor": [1, 1, 1, 1]}
    }
    given |= {"max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    fuzz(tmp_path / "config.json", given, lambda path: read_given([path], SPEC, 256))


def test_recipes(tmp_path: Path) -> None:
    whole = dump_recipe(Recipe("model", 256, ("texts",)))
    fuzz(tmp_path / "recipe.toml", whole.encode(), load_recipe)
    content = tomllib.loads(whole)
    fuzz(tmp_path / "recipe.json", content, lambda path: _build(json.loads(path.read_bytes())), bytes_share=0)
    assert load_recipe(_written(tmp_path / "again.toml", tomli_w.dumps(content))) == Recipe("model", 256, ("texts",))


def _build(content: Any) -> None:
    """A recipe of values that TOML can hold."""
    if isinstance(content, dict):
        build(Recipe, content)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_sketches_and_questions(tmp_path: Path) -> None:
    sketch = json.loads(dump_sketch(sketch_documents([["some text of a document, " * 20]])))
    fuzz(
        tmp_path / "sketch.json", sketch, lambda path: parse_sketch(path.read_bytes().decode(errors="replace"), "here")
    )
    asked = {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "c"}]}]}]}]}
    fuzz(tmp_path / "questions.json", asked, load_questions)


def test_gguf_headers(tmp_path: Path) -> None:
    whole = pico.save_gguf(tmp_path / "whole.gguf", pico.make_network()).read_bytes()
    fuzz(tmp_path / "model.gguf", whole[:4096], _ignore_short)


def _ignore_short(path: Path) -> None:
    """Read the beginning of a file, which is refused for that if for nothing else."""
    with suppress(LongRopeError):
        read_gguf(path)


def test_configs(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "model")
    whole = json.loads((folder / "config.json").read_text())
    fuzz(folder / "config.json", whole, lambda path: read_spec(load_config(path.parent)))


def test_texts_and_tokens(tmp_path: Path) -> None:
    tokenizer = pico.make_tokenizer()
    fuzz(tmp_path / "a.txt", b"A text of some words. " * 20, lambda path: load_texts([path], tokenizer))
    np.save(tmp_path / "whole.npy", np.arange(200))
    fuzz(tmp_path / "a.npy", (tmp_path / "whole.npy").read_bytes(), lambda path: load_texts([path], tokenizer))
