"""Every reader as a target of fuzzing.py, by name."""

import gzip
import json
import struct
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pico
import torch
from fuzzing import Target, dump
from handmade import EXPORT, FACTORS, SCORES
from hostile_inputs import SCORE, TRIAL

from longrope.data import load_texts
from longrope.data.sketches import dump_sketch, parse_sketch, sketch_documents
from longrope.engine.saved_document import open_document, save_document
from longrope.evaluation.prompts.documents import load_questions
from longrope.exports.comparison import dump_report
from longrope.models import load_model, read_spec
from longrope.models.adapters import find_adapter
from longrope.models.gguf_file import read_gguf
from longrope.models.loading import load_config
from longrope.recipe import Recipe, dump_recipe, load_recipe
from longrope.report import write_report
from longrope.rope import RescaleFactors, RopeSpec, dump_factors, load_factors
from longrope.rope.given import read_given
from longrope.runs.provenance import describe_rope
from longrope.runs.records import SampleSummary, Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.settings import build
from longrope.tuning.progress import Checkpoint
from longrope.verification import truth

SPEC = RopeSpec(8, 8, 1e4, 64)
COST = {"method": "longrope-gradient", "trials": 3, "seconds": 1.5, "seconds_to_common": None, "stage": ""}
SCAN = {"edges": ["low"], "passes": 3, "budget": 4, "theta": 1e4, "exponent": 1.5, "attention_factor": 1.1}
STEP = asdict(TrainStep(0, 2.5, 64, 64, 1e-3, 1.0, 0.5))
SUMMARY = {
    "metric": "perplexity",
    "context_tokens": 64,
    "method": "pi",
    "model": "m",
    "factors_fingerprint": "0" * 16,
    "texts_fingerprint": "1" * 16,
    "seed": 0,
    "resampled": "blocks",
    "documents_fingerprint": "2" * 16,
    "sums": [1.5, 2.5],
    "counts": [64, 63],
    "answers": "",
}
STAGE = {"stage": "search 128", "inputs": {"model": "m"}, "factors": "0" * 16, "weights": "", "seconds": 1.5}


def _page(name: str, whole: Any, folder: Path) -> Target:
    """A file of a run that its page shows."""
    run = RunDir(folder / "run")
    run.append(*SCORES)
    run.write_factors(FACTORS)
    run.write_text(run.path / "recipe.toml", dump_recipe(Recipe("model", 256, ("texts",))))
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Target(path, whole, lambda _: write_report(run))


def _factors(folder: Path) -> Target:
    own = RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, SPEC.fingerprint, searched=(1, 2**63))
    return Target(folder / "factors.json", json.loads(dump_factors(own)), lambda path: load_factors(path).fingerprint)


def _given(folder: Path) -> Target:
    given: dict[str, Any] = {
        "rope_scaling": {"type": "longrope", "long_factor": [1, 2, 3, 4], "short_factor": [1, 1, 1, 1]}
    }
    given |= {"max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    return Target(folder / "config.json", given, lambda path: read_given([path], SPEC, 256))


def _recipe(folder: Path) -> Target:
    return Target(folder / "recipe.toml", dump_recipe(Recipe("model", 256, ("texts",))).encode(), load_recipe)


def _settings(folder: Path) -> Target:
    """A recipe of values that TOML can hold."""
    content = tomllib.loads(dump_recipe(Recipe("model", 256, ("texts",))))

    def read(path: Path) -> None:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            build(Recipe, found)

    return Target(folder / "recipe.json", content, read, bytes_share=0)


def _sketch(folder: Path) -> Target:
    sketch = json.loads(dump_sketch(sketch_documents([["some text of a document, " * 20]])))
    return Target(
        folder / "sketch.json", sketch, lambda path: parse_sketch(path.read_bytes().decode(errors="replace"), "here")
    )


def _questions(folder: Path) -> Target:
    asked = {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "c"}]}]}]}]}
    return Target(folder / "questions.json", asked, load_questions)


def _gguf(folder: Path) -> Target:
    whole = pico.save_gguf(folder / "whole.gguf", pico.make_network()).read_bytes()
    return Target(folder / "model.gguf", whole, read_gguf)


def _config(folder: Path) -> Target:
    model = pico.save_pico(folder / "model")
    whole = json.loads((model / "config.json").read_text())
    return Target(model / "config.json", whole, lambda path: read_spec(load_config(path.parent)))


def _model(name: str, folder: Path) -> Target:
    """A file of a model's folder that is loaded."""
    model = pico.save_pico(folder / "model")
    return Target(model / name, json.loads((model / name).read_bytes()), lambda path: load_model(path.parent))


def _weights(folder: Path) -> Target:
    model = pico.save_pico(folder / "model")
    return _safetensors(model / "model.safetensors", lambda path: load_model(path.parent))


def _adapter(folder: Path) -> Target:
    whole = {"base_model_name_or_path": "model", "peft_type": "LORA", "r": 8}
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return Target(folder / "adapter_config.json", whole, lambda path: find_adapter(path.parent))


def _safetensors(path: Path, read: Callable[[Path], object]) -> Target:
    """A safetensors file that is there: the header is changed as values, and all of it as bytes."""
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")

    def pack(header: Any) -> bytes:
        text = dump(header).rstrip()
        return struct.pack("<Q", len(text)) + text + content[size:]

    return Target(path, json.loads(content[8:size]), read, pack)


def _checkpoint(folder: Path) -> Target:
    checkpoint = Checkpoint(folder / "tuning.safetensors", {"weights": "0", "seed": "5"})
    checkpoint.save(3, {"weight a": torch.ones(4, 2), "step a": torch.tensor(3.0)})
    return _safetensors(folder / "tuning.safetensors", lambda _: checkpoint.read())


def _samples(folder: Path) -> Target:
    run = RunDir(folder)
    run.write_samples("a", {"losses": np.arange(8.0), "key": np.array("k")})
    return Target(run.samples("a"), run.samples("a").read_bytes(), lambda _: run.read_samples("a"))


class _Cache:
    """What stands for a cache that is saved."""

    def state(self) -> dict[str, torch.Tensor]:
        return {"keys": torch.ones(2, 3)}


def _document(folder: Path) -> Target:
    cache: Any = _Cache()
    save_document(folder / "document", "a text", [1, 2, 3], cache, {"model": "m", "numbers": "float32"})
    return _safetensors(folder / "document", open_document)


def _record(folder: Path) -> Target:
    """What a checkpoint is to apply, as it stands beside it."""
    whole = {"format": truth.FORMAT, "stated": asdict(SPEC), "original": asdict(SPEC), "switch_tokens": 64}
    return Target(folder / "record.json", whole, truth._read_record)


def _text(name: str, whole: Any, folder: Path) -> Target:
    tokenizer = pico.make_tokenizer()
    return Target(folder / name, whole, lambda path: load_texts([path], tokenizer))


def _tokens(folder: Path) -> Target:
    np.save(folder / "whole.npy", np.arange(200))
    return _text("a.npy", (folder / "whole.npy").read_bytes(), folder)


TEXT = b"A text of some words. " * 20
PAGES: dict[str, Any] = {
    "scores.jsonl": SCORE,
    "trials.jsonl": TRIAL,
    "train.jsonl": STEP,
    "rope.json": describe_rope(SPEC, 256),
    "costs.json": [COST, COST],
    "export.json": json.loads(dump_report(EXPORT)),
    "provenance.json": [{"command": "longrope", "choices": ["a", "b"], "began": "now"}],
    "scan.json": SCAN,
    "factors.json": json.loads(dump_factors(FACTORS)),
    "recipe.toml": dump_recipe(Recipe("model", 256, ("texts",))).encode(),
    "stages/1-search-128-0/stage.json": STAGE,
}
TARGETS: dict[str, Callable[[Path], Target]] = {
    **{f"page: {Path(name).name}": partial(_page, name, whole) for name, whole in PAGES.items()},
    "scores": lambda folder: Target(folder / "scores.jsonl", SCORE, lambda path: read_records(path, Score)),
    "trials": lambda folder: Target(folder / "trials.jsonl", TRIAL, lambda path: read_records(path, Trial)),
    "steps": lambda folder: Target(folder / "train.jsonl", STEP, lambda path: read_records(path, TrainStep)),
    "summaries of samples": lambda folder: Target(
        folder / "sample-summaries.jsonl", SUMMARY, lambda path: read_records(path, SampleSummary)
    ),
    "factors": _factors,
    "factors from elsewhere": _given,
    "recipe": _recipe,
    "settings": _settings,
    "sketch": _sketch,
    "questions": _questions,
    "GGUF": _gguf,
    "config": _config,
    "tokenizer": partial(_model, "tokenizer.json"),
    "tokenizer's config": partial(_model, "tokenizer_config.json"),
    "weights": _weights,
    "adapter's config": _adapter,
    "checkpoint of a training": _checkpoint,
    "samples": _samples,
    "saved document": _document,
    "record beside a checkpoint": _record,
    "text": partial(_text, "a.txt", TEXT),
    "rows": partial(_text, "a.jsonl", {"text": TEXT.decode(), "id": 5}),
    "packed text": partial(_text, "a.txt.gz", gzip.compress(TEXT, mtime=0)),
    "tokens": _tokens,
}
