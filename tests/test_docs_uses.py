"""What docs/uses.md says of SmolLM2 is what the committed records hold."""

import json
from typing import Any

import numpy as np
import pytest
from documents import DOCS, RESULTS, words
from tables_uses import chance

from longrope.rope import load_factors

FOLDER = RESULTS / "uses-smollm2"
TEXT = words("docs/uses.md")
SHOTS = ("many-shot", *(f"many-shot-{shots}" for shots in (4, 16, 64, 256)))


def scores(which: str) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (FOLDER / which / "scores.jsonl").read_text().splitlines()
    return {(one["metric"], one["context_tokens"]): one for one in map(json.loads, lines)}


ORIGINAL, EXTENDED = scores("original"), scores("extended")


def test_both_were_asked_the_same() -> None:
    assert ORIGINAL.keys() == EXTENDED.keys()
    asked = [
        {place: (one["texts_fingerprint"], one["num_windows"], one["seed"]) for place, one in made.items()}
        for made in (ORIGINAL, EXTENDED)
    ]
    assert asked[0] == asked[1]
    counts = {count for (metric, _), (_, count, _) in asked[0].items() if metric != "planted-summary"}
    assert counts == {80}
    assert "Each share is of 80 questions, ten about each text, or of eight summaries" in TEXT


def test_its_factors_are_those_that_the_page_names() -> None:
    factors = load_factors(RESULTS / "smollm2-64k" / "factors-longrope-gradient.json").factor_sets[-1]
    assert {one["factors_fingerprint"] for one in EXTENDED.values()} == {factors.fingerprint}
    assert "(`results/smollm2-64k`" in DOCS["docs/uses.md"]


def test_chance_is_that_of_a_reader_that_repeats_a_label_by_simulation() -> None:
    """Labels drawn one by one; the word of one of the examples is asked for, and the label of one of them given."""
    rng = np.random.default_rng(0)
    for shots in (4, 16, 64):
        drawn = rng.integers(4, size=(100_000, shots))
        asked, given = (drawn[np.arange(100_000), rng.integers(shots, size=100_000)] for _ in range(2))
        assert np.mean(asked == given) == pytest.approx(chance(f"many-shot-{shots}"), abs=0.005)
    assert (chance("many-shot"), chance("dialogue-memory")) == (0.25, 0.0)
    assert f"has {chance('many-shot-4'):.0%} right".replace("%", " %") in TEXT


def test_within_the_window_nothing_is_above_chance() -> None:
    assert all(ORIGINAL[metric, 8192]["low"] <= chance(metric) for metric in SHOTS)
    assert ORIGINAL["planted-summary", 8192]["value"] == 0
    for metric, count in {"manual-questions": 2, "dialogue-memory": 3}.items():
        assert round(80 * ORIGINAL[metric, 8192]["value"]) == count
        assert f"{count} of 80" in TEXT
    for place, one in ORIGINAL.items():
        if place[1] == 8192:
            assert one["low"] <= EXTENDED[place]["high"]
            assert EXTENDED[place]["low"] <= one["high"]


def test_beyond_the_window_nothing_is_above_chance() -> None:
    assert all(one["value"] == 0 for (_, length), one in ORIGINAL.items() if length > 8192)
    places = [(metric, at) for metric in SHOTS for at in (8192, 16384, 32768, 65536)]
    assert [place for place in places if EXTENDED[place]["low"] > chance(place[0])] == [("many-shot-64", 8192)]
    score = EXTENDED["many-shot-64", 8192]
    shares = "{:.0f} % ({:.0f}-{:.0f})".format(*(100 * score[name] for name in ("value", "low", "high")))
    assert f"Of the forty intervals of both models one does not: {shares} of the extended model with 64" in TEXT
    assert 2 * len(places) == 40
