"""TRL from PyPI trains the bundled model with printed settings and as an exported folder: its first loss is ours."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest
import sweep
import torch
import worker_trl

import longrope
from longrope.engine.passes import token_losses
from longrope.exports import export_hf
from longrope.exports.snippets import format_snippets
from longrope.models import ASSETS, rescaled
from longrope.verification.clients import FOLDER, Client
from longrope.verification.environments import cache_folder, clean_environment, find_python

ROOT = Path(__file__).parents[1]
VERSION = "1.16.0"
TRL = Client("trl", (FOLDER,), module="trl", requirements=(f"trl=={VERSION}",), alone=True)
TOKENS = 1024  # four times the original window
LOAD = "from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained({!r})"


def test_docs_name_the_version() -> None:
    assert f"TRL {VERSION}" in (ROOT / "docs" / "serving.md").read_text()


@pytest.mark.slow
def test_the_first_loss_in_trl_is_ours(tmp_path: Path) -> None:
    """Of a text four times as long as the original window; without the settings it is far away."""
    model, nano = longrope.load_model("nano", device="cpu", dtype="float32"), str(ASSETS / "nano")
    factors = longrope.load_factors(ROOT / "results" / "demo" / "factors.json").factor_sets[-1]
    text = Path(argparse.__file__).read_text(encoding="utf-8")
    tokens = torch.tensor([model.tokenizer(text)["input_ids"][:TOKENS]])
    with rescaled(model, factors):
        ours = token_losses(model, tokens).mean().item()
    original = token_losses(model, tokens).mean().item()
    export_hf(model, factors, tmp_path / "hf", reopen=sweep.reopen_here)
    snippets = format_snippets(json.loads((tmp_path / "hf" / "config.json").read_text()), nano)
    models = {
        "settings": snippets.split("\n# ")[0],
        "folder": LOAD.format(str(tmp_path / "hf")),
        "original": LOAD.format(nano),
    }
    asked, answered = tmp_path / "request.json", tmp_path / "answer.json"
    asked.write_text(json.dumps({"models": models, "tokens": tokens[0].tolist(), "out": str(tmp_path / "out")}))
    command = list(map(str, (find_python(TRL, cache_folder()), worker_trl.__file__, asked, answered)))
    subprocess.run(command, check=True, env=clean_environment() | {"HF_HUB_OFFLINE": "1"}, timeout=240)
    answer = json.loads(answered.read_text())
    assert answer["versions"]["trl"] == VERSION
    assert answer["losses"] == pytest.approx({"settings": ours, "folder": ours, "original": original}, abs=2e-4)
    assert original > ours + 0.5
