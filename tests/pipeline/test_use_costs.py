"""What answers and checks in other runtimes will take: said before they begin, refused where it cannot fit."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pico
import pytest

from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.errors import DryRunEnd, RecipeError
from longrope.generation import AnswerPlan, GenerationSettings, generate, plan_answer
from longrope.models import LanguageModel
from longrope.pipeline import export_model, use_costs
from longrope.pipeline.use_costs import cache_bytes, estimate_answer, report_answer, report_checks
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

SETTINGS = GenerationSettings(max_new_tokens=40)
PLAN = AnswerPlan("", [1] * 160, None, None, None)


def filled(model: LanguageModel, tokens: int, *, drop: bool = False, **how: bool) -> int:
    """Bytes of a cache that holds so many tokens."""
    cache = KeyValueCache(model, tokens, drop=drop, **how)
    read_prompt(model, np.arange(tokens) % 50, cache)
    return cache.num_bytes


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("family", ["llama", "lfm2"])
def test_keys_and_values_take_what_a_real_cache_takes(family: str, drop: bool, eight_bit: bool) -> None:
    """The other family has states of a constant size beside them."""
    if family == "lfm2" and eight_bit:
        pytest.skip("its states have no 8-bit form")
    model = pico.make_model() if family == "llama" else pico.make_model(family, layer_types=["conv", "full_attention"])
    expected = filled(model, 1000, drop=drop, eight_bit=eight_bit)
    assert cache_bytes(model, 1000, replace(SETTINGS, eight_bit=eight_bit), drop=drop) == expected


def test_layers_that_see_the_last_tokens_alone_are_counted_so() -> None:
    """All layers of this model slide; without dropping they keep everything."""
    model = pico.make_model("mistral", sliding_window=16)
    assert cache_bytes(model, 20_000, SETTINGS, drop=False) == filled(model, 20_000)
    kept = cache_bytes(model, 20_000, SETTINGS, drop=True)
    assert kept < filled(model, 20_000) / 4
    assert kept >= filled(model, 16 + REWOUND_TOKENS)


def test_seconds_grow_with_the_prompt_and_the_answer() -> None:
    """Every measured piece takes a second: ten tokens that are read, and one that is written."""
    model = pico.make_model()
    clock: Callable[[], float] = map(float, count()).__next__
    (cost,) = estimate_answer(model, PLAN, SETTINGS, clock)
    weights = sum(weight.nbytes for weight in model.network.parameters())
    step = 1 + filled(model, 200) / weights
    assert cost.seconds == pytest.approx(160 / 10 + 40 * step)
    assert cost.bytes_needed > weights + filled(model, 200)
    assert cost.stage == "read 160 tokens and write up to 40"


def test_less_than_a_minute_is_not_announced() -> None:
    model, said = pico.make_model(), list[str]()
    slow: Callable[[], float] = (2.0 * number for number in count()).__next__
    quick: Callable[[], float] = (0.001 * number for number in count()).__next__
    report_answer(model, PLAN, SETTINGS, said.append, clock=quick)
    assert said == []
    report_answer(model, PLAN, SETTINGS, said.append, clock=slow)
    assert said[0].startswith("read 160 tokens and write up to 40: about 2.3 min, ")
    report_answer(model, PLAN, SETTINGS, said.append, always=True, clock=quick)
    assert re.search(r": about \d+ s, ", said[1])


def test_an_answer_that_cannot_fit_is_refused() -> None:
    endless = GenerationSettings(max_new_tokens=10**12)
    with pytest.raises(RecipeError, match="It must fit") as caught:
        report_answer(pico.make_model(), PLAN, endless, lambda _: None)
    assert "--eight-bit-cache" in caught.value.remedy


def test_a_saved_document_is_not_read_again(tmp_path: Path) -> None:
    """Of a file with the document the question alone is read."""
    model, text = pico.make_model(), "one two three " * 20
    table = RescaleFactors((1.0,) * model.spec.num_pairs, 4096, model.spec.fingerprint)
    saved = tmp_path / "saved"
    generate(model, table, text, "What?", settings=SETTINGS, cache=saved)
    fresh, again = (
        plan_answer(model, table, text, "What then?", settings=SETTINGS, cache=file)
        for file in (tmp_path / "new", saved)
    )
    unread = [
        int(estimate_answer(model, plan, SETTINGS)[0].stage.split()[1].replace(",", "")) for plan in (fresh, again)
    ]
    assert unread[0] == len(fresh.tokens)
    assert unread[1] < 10


def time_passes(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
    """Let a pass over so many tokens take so many seconds."""
    monkeypatch.setattr(use_costs, "PassTimer", lambda _: seconds)


def test_a_dry_run_of_an_export_writes_nothing(tmp_path: Path, pico_folder: Path) -> None:
    spec = pico.make_model().spec
    factors = RescaleFactors((2.0,) * spec.num_pairs, 256, spec.fingerprint)
    with pytest.raises(DryRunEnd):
        export_model(str(pico_folder), factors, tmp_path / "hf", ExportRecipe(), to="hf", dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_checks_are_estimated_by_all_their_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = pico.make_model(), list[str]()
    time_passes(monkeypatch, float)
    passes = {"transformers": [10, 10, 20], "llama.cpp": [30]}
    report_checks(model, passes, 5.0, report=said.append)
    assert said[0].startswith(f"check in transformers, llama.cpp: about {(70 + 10) / 60:.1f} min")
    with pytest.raises(DryRunEnd):
        report_checks(model, {"transformers": [10]}, 0.0, report=said.append, dry_run=True)
    assert "about 10 s" in said[1]
