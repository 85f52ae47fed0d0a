"""recipes/far_pass.py: one pass gives what the metrics give on the same tokens, and reads beyond a factors' window."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from recipe_scripts import load_script

from longrope.data import TokenText
from longrope.evaluation import measure
from longrope.models import load_model
from longrope.recipe import MeasureRecipe
from longrope.rope import baseline_factors, dump_factors

TOKENS = 160  # of the text; the pico model's window is 64


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("far_pass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a text in two arrays of which the first is longer than is read."""
    path = tmp_path_factory.mktemp("far")
    pico.make_network(num_hidden_layers=1).save_pretrained(path / "model")
    pico.make_tokenizer().save_pretrained(path / "model")
    ids = np.random.default_rng(0).integers(1, 300, TOKENS + 40).astype(np.uint32)
    np.save(path / "a.npy", ids[:150])
    np.save(path / "b.npy", ids[150:])
    return path


def lines(script: Any, folder: Path, tokens: int, *options: str) -> list[dict[str, Any]]:
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    paths = [str(folder / name) for name in ("model", "out.jsonl", "a.npy", "b.npy")]
    script.main([*paths, "--tokens", str(tokens), "--device", "cpu", *options])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_it_gives_what_far_context_gives(script: Any, folder: Path) -> None:
    (line,) = lines(script, folder, TOKENS, "--method", "yarn")
    model = load_model(folder / "model", device="cpu")
    ending = np.concatenate([np.load(folder / "a.npy"), np.load(folder / "b.npy")])[-TOKENS:].astype(np.int32)
    text = TokenText(ending, "measure")
    settings = MeasureRecipe(lengths=(64, TOKENS), windows=1, metrics=("far-context",), tail_tokens=0)
    factors = baseline_factors(model.spec, "yarn", TOKENS)
    scores = {(s.metric, s.context_tokens): s.value for s in measure(model, factors, text, settings=settings)}
    assert line["last_tokens"] == 63
    assert line["whole"]["last"] == pytest.approx(scores["last-tokens-63", TOKENS], rel=1e-5)
    original = measure(model, None, text, settings=MeasureRecipe(**{**vars(settings), "original_tokens": 64}))
    (near,) = (score.value for score in original if score.metric == "last-tokens-63")
    assert line["near"]["last"] == pytest.approx(near, rel=1e-5)
    assert line["whole"]["seconds"] > 0


def test_the_long_factors_of_a_run_are_taken_beyond_their_window(script: Any, folder: Path) -> None:
    """They stay as they are, so a longer window's factors of the same formula give another perplexity."""
    spec = load_model(folder / "model", device="cpu").spec
    (folder / "factors.json").write_text(dump_factors(baseline_factors(spec, "yarn", 96)))
    (given,) = lines(script, folder, TOKENS, "--factors", str(folder))
    (made,) = lines(script, folder, TOKENS, "--method", "yarn")
    assert (given["factors_window"], made["factors_window"]) == (96, TOKENS)
    assert given["whole"]["last"] != made["whole"]["last"]
    assert given["near"]["last"] == made["near"]["last"]


def test_positions_are_parted_by_powers_of_two(script: Any) -> None:
    losses = torch.arange(5000.0)[None] / 1000
    found = script.perplexities(losses, 100)
    assert list(found["by_position"]) == ["1024", "2048", "4096", "5000"]
    assert found["by_position"]["2048"] == pytest.approx(float(np.exp(np.arange(1024, 2048).mean() / 1000)))
    assert found["last"] == found["last_4096"] == pytest.approx(float(np.exp(np.arange(4900, 5000).mean() / 1000)))


def test_too_few_tokens_are_refused(script: Any, folder: Path) -> None:
    with pytest.raises(SystemExit, match="200 tokens are there, 300 are needed"):
        lines(script, folder, 300)
