"""The embedded model: small, opened by anybody, and good enough inside its window to show what is lost beyond it.

The oracle is transformers itself: the folder opened by its own classes, and losses from whole logits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import passkey_context, scores_of
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import longrope
from longrope.data import Texts, load_texts
from longrope.models import LanguageModel, load_model

ASSETS = Path(longrope.__file__).parent / "assets"
FOLDER = ASSETS / "nano"
WINDOW = 256
CODE = 'def greet(name: str) -> str:\n    """Say héllo — twice."""\n\treturn f"{name}!" * 2  # 20 %\n'


@pytest.fixture(scope="module")
def nano() -> LanguageModel:
    """The embedded model by its name."""
    return load_model("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain() -> Any:
    """The same weights, opened by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def texts(nano: LanguageModel) -> Texts:
    """The default text of the default model."""
    return load_texts(["stdlib"], nano.tokenizer)


def test_it_is_small_enough_to_come_with_the_package() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 12_000_000


def test_nothing_in_it_is_pickled_or_is_code() -> None:
    files = {path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in files} <= {".json", ".md", ".safetensors", ".toml"}
    assert {"nano.toml", "nano/config.json", "nano/model.safetensors", "nano/tokenizer.json"} <= files
    assert "auto_map" not in json.loads((FOLDER / "config.json").read_text())


def test_it_has_grouped_queries_and_a_window_of_256(nano: LanguageModel) -> None:
    config = nano.network.config
    assert 1 <= config.num_key_value_heads < config.num_attention_heads
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert (nano.spec.trained_window, config.max_position_embeddings) == (WINDOW, WINDOW)
    assert nano.spec.native is None
    assert 0 < nano.spec.critical_pair < nano.spec.num_pairs, (
        "some pairs never complete a full period: there is something to search"
    )


def test_transformers_opens_the_same_model(nano: LanguageModel, plain: Any, texts: Texts) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer(CODE, return_tensors="pt")["input_ids"]
    assert nano.name == "nano"
    assert nano.tokenizer(CODE)["input_ids"] == ids[0].tolist()
    assert tokenizer.decode(ids[0]) == CODE
    assert len(tokenizer) == plain.config.vocab_size
    assert tokenizer.eos_token_id == plain.config.eos_token_id
    windows = torch.from_numpy(texts.measure.windows(WINDOW, 2)).long()
    with torch.no_grad():
        assert torch.equal(nano.network(windows).logits, plain(windows).logits)


def test_the_loss_falls_with_position_inside_the_window(plain: Any, texts: Texts) -> None:
    """Earlier tokens are used, and from far away: what is to be kept when the window grows."""
    windows = torch.from_numpy(texts.measure.windows(WINDOW, 24)).long()
    with torch.no_grad():
        logits = plain(windows).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none").view(24, -1)
    of_token = dict(enumerate(losses.mean(0).tolist(), start=1))  # the first token of a window has no loss
    early = np.mean([of_token[i] for i in range(8, 40)])
    late = np.mean([of_token[i] for i in range(192, 256)])
    assert early - late > 0.3
    assert late < 3


def test_it_answers_passkeys_inside_the_window(nano: LanguageModel) -> None:
    answered = scores_of("passkey", passkey_context(nano, None, WINDOW))[0]
    assert (answered.metric, answered.num_windows) == ("passkey", 20)
    assert answered.value >= 0.95


def test_the_standard_library_gives_it_three_disjoint_parts(nano: LanguageModel, texts: Texts) -> None:
    """One after the other they are the whole stream, tokenized here: no position is in two parts, none is left out."""
    sizes = [len(part.tokens) for part in (texts.search, texts.tune, texts.measure)]
    assert min(sizes) > 24 * 2048, "windows of the default target must fit"
    whole = np.concatenate([part.tokens for part in (texts.search, texts.tune, texts.measure)])
    modules = nano.tokenizer.decode(whole).split("<|end|>")
    folder = Path(json.__file__).parents[1]
    assert modules.pop() == ""
    assert len(modules) == np.count_nonzero(whole == nano.tokenizer.eos_token_id)
    assert len(set(modules)) == len(modules)
    assert set(modules) <= {path.read_bytes().decode("utf-8", errors="replace") for path in folder.glob("*.py")}
