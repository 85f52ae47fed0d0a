"""What a model card says of other runtimes, and that transformers 4 does refuse what the card says it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pico
import pytest
import sweep

from longrope.exports import ExportReport, Origin, export_hf
from longrope.exports.card import LLAMA_CPP_VERSION, OLDER_VERSION, format_card
from longrope.exports.mlx import VERSION as MLX_VERSION
from longrope.models import LanguageModel
from longrope.rope import RescaleFactors, su_attention_factor
from longrope.verification.checking import verify
from longrope.verification.clients import CLIENTS
from longrope.verification.truth import write_record

ROOT = Path(__file__).parents[1]
REPORT = ExportReport("single", 256, 64, 1e-6, 2e-6, 1e-7, 0, 0.0, "5.24.0")
DERIVED = su_attention_factor(4, 64)
REFUSED = {("olmo2", 1.2): True, ("olmo2", DERIVED): True, ("phi3", 1.2): True, ("phi3", DERIVED): False}
REFUSED |= {("llama", 1.2): False}


def make_factors(model: LanguageModel, attention: float = 1.2) -> RescaleFactors:
    lambdas = (2.0,) * model.spec.num_pairs
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=attention)


def card(family: str, attention: float = 1.2, sets: str = "single") -> str:
    model = pico.make_model(family)
    return format_card(model, make_factors(model, attention), replace(REPORT, factor_sets=sets), Origin("pico"), [])


@pytest.mark.parametrize(("family", "attention"), REFUSED)
def test_the_card_says_what_transformers_4_refuses(family: str, attention: float) -> None:
    said = f"transformers {OLDER_VERSION} refuses this checkpoint" in card(family, attention)
    assert said == REFUSED[family, attention]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention"), [("olmo2", 1.2), ("phi3", 1.2), ("phi3", DERIVED)])
def test_transformers_4_refuses_it(family: str, attention: float, tmp_path: Path) -> None:
    """The version that the card names, in an environment of its own."""
    model = pico.make_model(family)
    export_hf(model, make_factors(model, attention), tmp_path, reopen=sweep.reopen_here)
    write_record(tmp_path, model.spec, 64)
    [done] = verify(tmp_path, ["transformers-4.57"], device="cpu")
    assert CLIENTS["transformers-4.57"].requirements == (f"transformers=={OLDER_VERSION}",)
    assert done.verdict == ("refused" if REFUSED[family, attention] else "applied")
    assert done.verdict == "applied" or "`rope_scaling` must be a dictionary with" in done.message


@pytest.mark.parametrize("sets", ["single", "two"])
def test_how_runtimes_choose_is_said_of_two_lists_alone(sets: str) -> None:
    text = card("llama", sets=sets)
    assert text.count("It uses the long factors for every request if") == (2 if sets == "two" else 0)
    assert ("longrope export RUN --to gguf --factor-sets two\n" in text) == (sets == "two")


@pytest.mark.parametrize(
    ("family", "attention", "sets", "line"),
    [
        ("llama", 1.2, "two", "mlx_lm.generate --model this-folder --trust-remote-code"),
        ("llama", DERIVED, "two", ""),
        ("llama", 1.2, "single", ""),  # the export states such a window in the config itself
        ("phi3", 1.2, "single", "mlx_lm.generate --model this-folder --trust-remote-code"),
        ("llama", 0.9, "single", "mlx-lm derives attention factors of 1 or more, and this one is 0.9."),
        ("gemma2", 1.2, "two", "not known to apply LongRoPE factors to the model type gemma2."),
    ],
)
def test_what_is_said_of_mlx(family: str, attention: float, sets: str, line: str) -> None:
    text = card(family, attention, sets)
    assert ("mlx" in text) == bool(line)
    assert line in text
    assert ("refuses" in text) == bool(line)


def test_the_version_of_mlx_is_that_of_the_record() -> None:
    """Which says that it refused two lists, and applied them where it was given the code of their folder."""
    lines = (ROOT / "results" / "verify" / "verify.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["client"].startswith("mlx-lm")]
    assert {(row["checkpoint"], row["client"]): row["verdict"] for row in rows} == {
        ("single", "mlx-lm"): "applied",
        ("two", "mlx-lm"): "refused",
        ("two", "mlx-lm-remote-code"): "applied",
    }
    assert {f"mlx-lm {row['versions']['mlx-lm']}" for row in rows} == {MLX_VERSION}


def test_the_version_of_llama_cpp_is_that_of_the_record() -> None:
    """Which says that it applied files of both layouts."""
    lines = (ROOT / "results" / "verify" / "verify.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["client"] == "llama.cpp"]
    assert [row["verdict"] for row in rows] == ["applied"] * 2
    assert {f"xllamacpp {row['versions']['xllamacpp']}" for row in rows} == {LLAMA_CPP_VERSION}
