"""Factors files of the versions that read dynamic NTK as plain RoPE: refused, with the reason and a way out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import gap

from longrope.errors import FactorsError
from longrope.models import load_model, rescaled
from longrope.rope import load_factors

FINGERPRINT = "48888711c0a337f1"  # of the pico Llama, as those versions wrote it
LAMBDAS = [1.0, 1.5, 2.0, 4.0]


def test_an_earlier_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    """What the remedy says is true: as plain RoPE, the factors turn as those versions did with the very same file."""
    folder = pico.save_pico(tmp_path / "model", rope={"rope_type": "dynamic", "factor": 6.0})
    file = tmp_path / "factors.json"
    entry = {"lambdas": LAMBDAS, "target_window": 256, "spec_fingerprint": FINGERPRINT}
    file.write_text(json.dumps({"format": "longrope-factors/1", "tiers": [entry]}))
    factors = load_factors(file)
    with pytest.raises(FactorsError) as refused:
        factors.check_spec(load_model(folder, device="cpu").spec)
    message = str(refused.value)
    for part in ("plain RoPE", "dynamic NTK (factor 6)", "earlier versions", "`longrope search`", "'default'"):
        assert part in message
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, device="cpu")
    with rescaled(model, factors.choose(200)) as module:
        assert module is not None
        cos = module(torch.zeros(1, dtype=torch.float64), torch.tensor([[7, 90]]))[0][0, :, :4]
    angles = np.outer([7, 90], 1e4 ** -(np.arange(4) / 4) / LAMBDAS)
    assert gap(cos.detach(), torch.from_numpy(np.cos(angles))) < 1e-12


def test_other_geometries_are_refused_as_before(tmp_path: Path) -> None:
    """A plain model of another base is no earlier reading of this one."""
    spec = pico.make_model(rope={"rope_type": "dynamic", "factor": 6.0}).spec
    other = replace(spec, theta=2e4, native=None)
    entry = {"lambdas": LAMBDAS, "target_window": 256, "spec_fingerprint": other.fingerprint}
    file = tmp_path / "factors.json"
    file.write_text(json.dumps({"format": "longrope-factors/1", "tiers": [entry]}))
    with pytest.raises(FactorsError, match=r"geometry [0-9a-f]{16} \(theta"):
        load_factors(file).check_spec(spec)
