"""What docs/uses.md says of SmolLM2 is what the committed records hold."""

import json
from typing import Any

from documents import DOCS, RESULTS, words

from longrope.rope import load_factors

FOLDER = RESULTS / "uses-smollm2"
TEXT = words("docs/uses.md")
SHOTS = {4: True, 16: True, 64: False, 256: False}  # whether the original model is above chance at 8,192 tokens


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


def test_within_the_window_what_is_above_chance_is_named() -> None:
    for shots, above in SHOTS.items():
        assert (ORIGINAL[f"many-shot-{shots}", 8192]["low"] > 0.25) == above
    assert ORIGINAL["many-shot", 8192]["low"] < 0.25
    assert ORIGINAL["planted-summary", 8192]["value"] == 0
    for metric, count in {"manual-questions": 2, "dialogue-memory": 3}.items():
        assert round(80 * ORIGINAL[metric, 8192]["value"]) == count
        assert f"{count} of 80" in TEXT
    for place, one in ORIGINAL.items():
        if place[1] == 8192:
            assert one["low"] <= EXTENDED[place]["high"]
            assert EXTENDED[place]["low"] <= one["high"]


def test_beyond_the_window_what_is_above_chance_is_named() -> None:
    assert all(one["value"] == 0 for (_, length), one in ORIGINAL.items() if length > 8192)
    above = {length: EXTENDED["many-shot-4", length]["low"] > 0.25 for length in (8192, 16384, 32768, 65536)}
    assert above == {8192: True, 16384: True, 32768: True, 65536: False}
