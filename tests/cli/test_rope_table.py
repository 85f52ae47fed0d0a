"""Models with several rotary tables on the command line: inspected, searched, measured and exported by one of them."""

import json
from pathlib import Path
from typing import Any

import pico
import pytest
from commands import Command

from longrope.rope import load_factors

GEMMA3: dict[str, Any] = {
    "head_dim": 16,
    "sliding_window": 32,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    },
}

LOCAL = ("--rope-table", "sliding_attention")


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    return pico.save_pico(tmp_path / "gemma", "gemma3_text", **GEMMA3)


def test_inspect_names_every_table_and_describes_the_chosen_one(command: Command, gemma: Path) -> None:
    """That of the layers that see the whole window, or the one that is named; a name that is none is refused."""
    whole, local = (json.loads(command("inspect", gemma, *named, "--json").out) for named in ((), LOCAL))
    assert (whole["theta"], local["theta"]) == (1e6, 1e4)
    assert [table.split(" ")[0] for table in whole["tables"]] == ["sliding_attention", "full_attention"]
    refused = command("inspect", gemma, "--rope-table", "global")
    assert refused.code != 0
    assert "sliding_attention" in refused.err
    assert "full_attention" in refused.err


@pytest.mark.usefixtures("unopened")
def test_gemma_is_extended_by_its_global_table(command: Command, gemma: Path, text_folders: tuple[Path, Path]) -> None:
    """Searched, measured, exported: the checkpoint states factors of the global layers alone."""
    steps = ("--set", "search.gradient.steps=2", "--set", "search.gradient.validate_every=1")
    done = command(
        *("extend", gemma, "--to", "256", "--data", text_folders[0], "--measure-data", text_folders[1]),
        *("--lengths", "64,256", "--metrics", "perplexity", "--set", "measure.windows=2", "--device", "cpu"),
        *(*steps, "--set", "search.validation_windows=1", "--set", "export.drop_start_tokens=true", "--out", "run"),
    )
    assert done.code == 0, done.err
    stated = json.loads(Path("run/hf/config.json").read_text())["rope_parameters"]
    factors = load_factors("run/factors.json").factor_sets[0]
    assert stated["sliding_attention"] == {"rope_type": "default", "rope_theta": 1e4}
    assert (stated["full_attention"]["rope_type"], stated["full_attention"]["rope_theta"]) == ("longrope", 1e6)
    assert stated["full_attention"]["long_factor"] == list(factors.lambdas)
