"""recipes/ask_document.py: one sentence in a long document is asked for at several depths, on a pico model."""

import json
from pathlib import Path
from typing import Any

import pico
import pytest
from recipe_scripts import load_script

from longrope.models import load_model
from longrope.rope import baseline_factors, dump_factors


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("ask_document")


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_a_sentence_stands_alone_at_its_depth(script: Any, depth: float) -> None:
    text = pico.make_text(600)
    found = script.planted(text, depth, "Here it is.")
    before, _, after = found.partition("\n\nHere it is.\n\n")
    assert before + after == text
    assert len(before) / len(text) == pytest.approx(depth, abs=0.03)
    assert all(answer not in question and "{}" in sentence for sentence, question, answer in script.FACTS)


def test_the_document_is_cut_to_about_so_many_tokens(script: Any) -> None:
    tokenizer, text = pico.make_tokenizer(), pico.make_text(600)
    assert len(tokenizer(script.cut(tokenizer, text, 300))["input_ids"]) == pytest.approx(300, rel=0.1)
    assert script.cut(tokenizer, text, 10**6) == text


def test_a_line_for_each_depth(script: Any, tmp_path: Path) -> None:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "head_dim": 16}
    pico.make_network("gemma3_text", **layers).save_pretrained(tmp_path / "model")  # type: ignore[arg-type]
    pico.make_tokenizer().save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model", device="cpu")
    (tmp_path / "factors.json").write_text(dump_factors(baseline_factors(model.spec, "yarn", 2048)))
    (tmp_path / "document.txt").write_text(pico.make_text(3000))
    given = [str(tmp_path / name) for name in ("model", "document.txt", "out.jsonl")]
    given += ["--factors", str(tmp_path), "--tokens", "1500", "--depths", "0.1,0.9"]
    for how in ("--eight-bit-cache", "--offload-cache"):
        script.main([*given, "--device", "cpu", how])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["depth"] for line in lines] == [0.1, 0.9] * 2
    assert [(line["eight_bit"], line["offload"]) for line in lines] == [(True, False)] * 2 + [(False, True)] * 2
    assert all(1500 < line["prompt_tokens"] < 1700 for line in lines)
    assert all(line["found"] == line["answer"].strip().startswith(line["expected"]) for line in lines)
