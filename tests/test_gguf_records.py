"""The passkeys that a patched file answers in llama.cpp: the records, and what the docs say of them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, RESULTS, ROOT, lines

from longrope.registry import METHODS
from longrope.rope import RopeSpec, baseline_factors, load_factors

FOLDER = "smollm2-32k-gguf"
SPEC = RopeSpec(head_dim=64, rotary_dim=64, theta=1e5, trained_window=8192)  # SmolLM2's


def test_the_factors_are_those_of_the_formula() -> None:
    factors = load_factors(RESULTS / FOLDER / "factors.json")
    assert "critical" in METHODS
    assert factors == baseline_factors(SPEC, "critical", 4 * SPEC.trained_window)


def test_both_files_are_asked_for_ten_depths() -> None:
    """The same passkeys, beyond the trained window; the original file is refused."""
    answers = lines(f"{FOLDER}/answers.jsonl")
    names = sorted({line["file"] for line in answers})
    assert names == ["SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-32k.gguf"]
    original, patched = ([line for line in answers if line["file"] == name] for name in names)
    assert [(line["depth"], line["key"]) for line in original] == [(line["depth"], line["key"]) for line in patched]
    assert sorted(line["depth"] for line in patched) == pytest.approx([(i + 0.5) / 10 for i in range(10)])
    assert {line["context_tokens"] for line in answers} == {9000}
    assert all(line["right"] == (line["answer"].strip() == line["key"]) for line in answers)
    assert all("exceeds the available context size (8192 tokens)" in line["answer"] for line in original)


def test_without_factors_the_raised_window_is_asked_for_the_same_passkeys() -> None:
    """At 12,288 tokens, from the last depth on."""
    by_file = asked_at_12k()
    patched, unscaled = by_file["smollm2-32k.gguf"], by_file["smollm2-unscaled.gguf"]
    places = [[(line["depth"], line["key"]) for line in of] for of in (patched, unscaled)]
    assert places[0] == places[1]
    for of in places:
        assert [depth for depth, _ in of] == pytest.approx([0.95 - i / 10 for i in range(10)])
    assert all(line["right"] == (line["answer"].strip() == line["key"]) for line in (*patched, *unscaled))


def test_the_docs_say_what_the_records_do() -> None:
    right = sum(line["right"] for line in lines(f"{FOLDER}/answers.jsonl"))
    text = " ".join(DOCS["docs/serving.md"].split())
    assert re.findall(r"answers (\d+) of 10 passkeys", text) == [str(right)]
    by_file = asked_at_12k()
    counts = [(sum(line["right"] for line in by_file[name]), len(by_file[name])) for name in sorted(by_file)]
    assert re.findall(r"(\d+) of the (\d+) depths", text) == [(str(found), str(of)) for found, of in counts]


def test_the_recipe_makes_the_factors_of_the_record(tmp_path: Path) -> None:
    """Its lines of Python, with the bundled model in the place of SmolLM2."""
    script = (ROOT / "recipes/smollm2-32k-gguf.sh").read_text()
    (code,) = re.findall(r"<< 'END'\n(.*?)^END$", script, re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", code, "nano", tmp_path], check=True)
    critical, none = (load_factors(tmp_path / f"{name}.json").factor_sets[0] for name in ("factors", "none"))
    assert (critical.method, critical.target_window) == ("critical", 32768)
    assert critical.attention_factor > 1
    assert set(none.lambdas) == {1.0}
    assert none.attention_factor == 1


def asked_at_12k() -> dict[str, list[dict[str, Any]]]:
    """The answers at 12,288 tokens by file."""
    answers = lines(f"{FOLDER}/answers-12k.jsonl")
    assert {line["context_tokens"] for line in answers} == {12288}
    return {name: [line for line in answers if line["file"] == name] for name in {line["file"] for line in answers}}
