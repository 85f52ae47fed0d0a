"""What hours of fuzzing found, by kind: refused in words, at once."""

import json
from pathlib import Path
from typing import Any

import pico
import pytest
from hostile_inputs import SCORE

from longrope.errors import FactorsError, ModelError, RunError, TextsError
from longrope.evaluation.prompts.documents import load_questions
from longrope.models import read_spec
from longrope.models.loading import load_config, load_model
from longrope.reading import parse_json, read_json
from longrope.rope import load_factors, su_attention_factor
from longrope.rope.given import read_given
from longrope.runs.records import Score, read_records

HALF = "\\ud800"


@pytest.mark.parametrize("name", [HALF, "\\uD83D x", "a\\udc00"])
def test_half_a_surrogate_pair_is_no_text(name: str, tmp_path: Path) -> None:
    """It has no bytes in UTF-8, so that no page, card or record could show it."""
    for text in (f'{{"method": "{name}"}}', f'{{"{name}": 1}}', f'[["{name}"]]'):
        with pytest.raises(UnicodeEncodeError):
            parse_json(text.encode())
    assert parse_json(rb'["\ud83d\ude00", "\\ud800", "\u00e9"]') == ["\U0001f600", "\\ud800", "\u00e9"]
    (tmp_path / "x.json").write_text(f'["{name}"]')
    with pytest.raises(RunError, match="surrogates not allowed"):
        read_json(tmp_path / "x.json", lambda reason: RunError(reason, "", ""))


def test_records_factors_and_questions_with_halves_of_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(SCORE).replace('"pi"', f'"{HALF}"') + "\n")
    with pytest.raises(RunError, match=r"x\.jsonl:1: no Score"):
        read_records(tmp_path / "x.jsonl", Score)
    (tmp_path / "f.json").write_text(f'{{"tiers": [{{"method": "{HALF}"}}]}}')
    with pytest.raises(FactorsError, match="surrogates not allowed"):
        load_factors(tmp_path / "f.json")
    row = {"context": "a", "question": "b", "answers": ["c"]}
    (tmp_path / "q.json").write_text(json.dumps([row]).replace('"b"', f'"{HALF}"'))
    with pytest.raises(TextsError, match="surrogates not allowed"):
        load_questions(tmp_path / "q.json")


def test_a_score_of_no_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(SCORE | {"context_tokens": 0}) + "\n")
    with pytest.raises(RunError, match=r"x\.jsonl:1: no Score record .context_tokens is 0"):
        read_records(tmp_path / "x.jsonl", Score)


def test_a_window_of_one_token_has_no_attention_factor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="context window of 1 tokens"):
        su_attention_factor(4.0, 1)
    assert su_attention_factor(1.0, 1) == 1.0
    scaling = {"type": "longrope", "long_factor": [1, 2, 3, 4], "short_factor": [1, 1, 1, 1]}
    stated = {"rope_scaling": scaling, "max_position_embeddings": 256, "original_max_position_embeddings": 1}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(FactorsError, match="original_max_position_embeddings is 1"):
        read_given([tmp_path / "config.json"], read_spec(pico.make_network().config), 256)


@pytest.mark.parametrize(
    "stated",
    [
        {"head_dim": 2**31},
        {"head_dim": None, "hidden_size": 2**40},
        {"head_dim": 2**17},
        {"partial_rotary_factor": 1e12},
    ],
    ids=str,
)
def test_heads_beyond_all_that_there_are_are_refused_at_once(stated: dict[str, Any], tmp_path: Path) -> None:
    config = pico.make_config().to_dict() | stated
    with pytest.raises(ModelError):
        read_spec(load_config(pico.write_config(tmp_path / "model", **config)))


def test_a_tokenizer_at_which_its_library_panics_is_refused(tmp_path: Path) -> None:
    """Its prefix of parts of words is longer than the parts, which Rust's code takes for granted."""
    pico.save_pico(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= {"continuing_subword_prefix": "../..", "merges": [["!", "a"]]}
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="PanicException: range end index"):
        load_model(tmp_path)
