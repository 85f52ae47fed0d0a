"""Text that was tuned on is known again in every disguise that keeps its words; judged by sets of substrings."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from longrope.data import (
    TextSketch,
    TokenText,
    check_apart,
    dump_sketch,
    hash_windows,
    parse_sketch,
    run_hashes,
    sketch_common,
    sketch_documents,
    sketches,
)
from longrope.errors import TextsError

RUN = 48
SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]


def make_prose(words: int, seed: int) -> str:
    """Sentences of made-up words, twelve words a line."""
    made = [WORDS[i] for i in np.random.default_rng(seed).integers(0, len(WORDS), words)]
    lines = [" ".join(made[i : i + 12]).capitalize() for i in range(0, words, 12)]
    return ".\n".join(lines) + ".\n"


def runs_of(text: str) -> set[str]:
    """Every run of 48 letters and digits, without anything else between them."""
    letters = "".join(re.findall(r"[^\W_]", text.lower()))
    return {letters[i : i + RUN] for i in range(len(letters) - RUN + 1)}


TRAINED = [make_prose(6000, seed) for seed in range(3)]
SKETCH = sketch_documents([text] for text in TRAINED)
OTHER = [make_prose(6000, seed) for seed in (20, 21)]
MANY = {f"file-{seed}.txt": run_hashes([make_prose(6000, seed)]) for seed in range(30, 50)}
LICENCE = make_prose(400, 99)


def check(*texts: str, sketch: TextSketch = SKETCH) -> float:
    """The share of texts that was trained on, or the refusal."""
    return check_apart({f"file-{i}.txt": run_hashes([text]) for i, text in enumerate(texts)}, sketch, "tune").share


COPIES = {
    "an exact copy": TRAINED[0],
    "with one line more": TRAINED[0] + "And one line that nobody has read.\n",
    "with a line before": "A preface.\n" + TRAINED[0],
    "wrapped at another width": re.sub(r"\s+", " ", TRAINED[0]).replace(" Ba", "\nBa").replace(" co", "\n   co"),
    "as a comment": "\n".join(f"# {line}" for line in TRAINED[0].splitlines()),
    "in capitals": TRAINED[0].upper(),
    "half of it": TRAINED[0][: len(TRAINED[0]) // 2],
    "half of it and as much that is new": TRAINED[0][: len(TRAINED[0]) // 2] + make_prose(3000, 7),
    "one line in ten changed": "\n".join(
        "Something else stands here." if i % 10 == 0 else line for i, line in enumerate(TRAINED[0].splitlines())
    ),
}


@pytest.mark.parametrize("case", COPIES)
def test_trained_text_is_refused_as(case: str) -> None:
    with pytest.raises(TextsError, match=r"also text to tune on: about \d+% of file-0\.txt"):
        check(COPIES[case])


@pytest.mark.parametrize("case", COPIES)
def test_one_trained_file_among_many_is_refused_by_its_name(case: str) -> None:
    """Where it is a small share of all, and has more than 20,000 letters in common."""
    if len(runs_of(COPIES[case]) & runs_of(TRAINED[0])) <= 20_000:
        pytest.skip("too little in common")
    documents = {**MANY, "copy.txt": run_hashes([COPIES[case]])}
    with pytest.raises(TextsError, match=r"of copy\.txt, [3-5]\.\d% of all"):
        check_apart(documents, SKETCH, "tune")


def test_other_text_of_the_same_kind_passes() -> None:
    assert check(*OTHER) == 0


def test_a_licence_in_common_passes() -> None:
    """Once in the trained text and in all of the measured files, which share nothing else."""
    trained = sketch_documents([[LICENCE + TRAINED[0]], [TRAINED[1]]])
    share = check(*(LICENCE + text for text in OTHER), sketch=trained)
    assert 0 < share < 0.1


def test_a_licence_of_many_trained_files_is_not_kept() -> None:
    """Also where a measured file holds little else."""
    trained = sketch_documents([LICENCE + make_prose(500, 50 + i)] for i in range(6))
    assert check(LICENCE, LICENCE + make_prose(60, 60), sketch=trained) == 0


def test_five_copies_of_a_trained_file_are_still_known() -> None:
    trained = sketch_documents([f"{TRAINED[0]} Copy {i}."] for i in range(5))
    with pytest.raises(TextsError, match="100% of file-0"):
        check(TRAINED[0], sketch=trained)


def test_many_copies_of_a_trained_file_are_known() -> None:
    """With other line ends, wrapping and case: nothing of them is a licence, which is a small part of each file."""
    ways: list[Callable[[str], str]] = [str, str.upper, str.title, lambda text: text.replace(" ", "\n"), str.lower]
    copies = [way(TRAINED[0]) for way in ways] * 2
    copies = [f"{copy} Copy {i}." for i, copy in enumerate(copies)]
    for trained in (sketch_documents([copy] for copy in copies), sketch_documents([LICENCE + copy] for copy in copies)):
        with pytest.raises(TextsError, match="100% of file-0"):
            check(TRAINED[0], sketch=trained)


def test_copies_of_a_long_document_are_known_as_those_of_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs are looked up another way, without a Python number for each."""
    documents = [[f"{TRAINED[0]} Copy {i}."] for i in range(8)]
    short = sketch_documents(documents)
    monkeypatch.setattr(sketches, "SKETCH_HASHES", len(TRAINED[0]) // 8)
    assert len(run_hashes(documents[0])) > 4 * sketches.SKETCH_HASHES
    long = sketch_documents(documents)
    assert set(long.hashes.tolist()) <= set(short.hashes.tolist())
    assert len(long.hashes) > 0


@pytest.mark.parametrize("copied", [100, 300])
def test_the_share_is_that_of_different_runs(copied: int) -> None:
    """Counted in sets, exactly: the sketch of a small text holds all of its runs."""
    words = TRAINED[1].split()
    measured = [OTHER[0] + " ".join(words[500 : 500 + copied]), OTHER[1]]
    known, asked = set.union(*map(runs_of, TRAINED)), set.union(*map(runs_of, measured))
    trained = sketch_documents([[text] for text in TRAINED])
    expected = len(known & asked) / len(asked)
    if len(known) <= len(trained.hashes):
        assert check(*measured, sketch=trained) == expected
    assert check(*measured, sketch=trained) == pytest.approx(expected, abs=0.01)


def test_a_sketch_of_much_text_is_small_and_still_knows_a_file() -> None:
    """Two million letters: of the runs one in thirty is kept, in less than a megabyte."""
    trained = [make_prose(20_000, 100 + seed) for seed in range(18)]
    sketch = sketch_documents([text] for text in trained)
    assert len(sketch.hashes) <= 2**16
    assert sketch.limit < 2**60
    assert len(dump_sketch(sketch)) < 10**6
    with pytest.raises(TextsError, match=r"about (9\d|100)% of file-0"):
        check(trained[7][1000:30_000] + "One more line.", sketch=sketch)
    assert check(*OTHER, sketch=sketch) == 0


def test_sketches_merge_to_that_of_all_texts() -> None:
    first, second = sketch_documents([[TRAINED[0]]]), sketch_documents([[TRAINED[1]], [TRAINED[2]]])
    merged = first.merged(second)
    assert (merged.hashes.tolist(), merged.limit) == (SKETCH.hashes.tolist(), SKETCH.limit)
    assert not TextSketch().merged(TextSketch())
    alone = TextSketch().merged(first)
    assert (alone.hashes.tolist(), alone.limit) == (first.hashes.tolist(), first.limit)


def test_a_sketch_survives_json_and_a_damaged_one_is_refused() -> None:
    text = dump_sketch(SKETCH)
    again = parse_sketch(text, "here")
    assert (again.hashes.tolist(), again.limit) == (SKETCH.hashes.tolist(), SKETCH.limit)
    stated = json.loads(text)
    damaged = [text[:-40], "[]", json.dumps({**stated, "hashes": "?"}), json.dumps({**stated, "limit": -1})]
    damaged += [json.dumps({**stated, "format": "longrope-sketch/9"}), json.dumps({**stated, "hashes": [1]}), ""]
    for content in damaged:
        with pytest.raises(TextsError, match="here cannot be read"):
            parse_sketch(content, "here")


class Letters:
    """A tokenizer whose tokens are code points."""

    def decode(self, tokens: list[int], **_: object) -> str:
        """The text of tokens."""
        return "".join(map(chr, tokens))


def test_windows_are_looked_up_by_document() -> None:
    """Windows that cut documents, and one document in several windows."""
    documents = [TRAINED[0][:3000], OTHER[0][:2000], TRAINED[1][:1000]]
    tokens = np.frombuffer("".join(documents).encode("utf-32-le"), np.int32)
    text = TokenText(tokens, "measure", None, np.asarray([0, 3000, 5000]), ("a.txt", "b.txt", "c.txt"))
    windows, numbers = text.windows(1500, 4), text.numbered().windows(1500, 4)
    found = hash_windows(text, windows, numbers, Letters())
    pieces = {"a.txt": (0, 1500, 3000), "b.txt": (3000, 4500, 5000), "c.txt": (5000, 6000)}
    for name, cuts in pieces.items():
        whole = "".join(documents)
        expected = set.union(*(runs_of(whole[a:b]) for a, b in pairwise(cuts)))
        assert len(found[name]) == len(expected)
        assert SKETCH.overlap(found[name]).share == float(name != "b.txt")


@pytest.mark.parametrize("at_once", [50, 10**6])
def test_what_two_texts_share_is_looked_up_piece_by_piece(
    at_once: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one long document never more than a piece is decoded and hashed; the runs inside the pieces are found."""
    monkeypatch.setattr(sketches, "DECODED_AT_ONCE", at_once)
    decoded = list[int]()

    class Watched:
        """The tokenizer, with how many tokens it decodes at once."""

        def decode(self, ids: list[int], **options: Any) -> str:
            decoded.append(len(ids))
            return str(tokenizer.decode(ids, **options))

    prose = make_prose(300, 5)
    tokens = np.asarray(tokenizer(prose, add_special_tokens=False)["input_ids"], np.int32)
    text = TokenText(tokens, "search", None, np.zeros(1, np.int64), ("one.txt",))
    batches = [sum(map(len, batch)) for batch in sketches._batched([tokens])]
    assert max(batches) <= at_once
    common = sketch_common(run_hashes([prose]), text, Watched())
    assert max(decoded) <= at_once
    pieces = [tokenizer.decode(tokens[i : i + at_once].tolist()) for i in range(0, len(tokens), at_once)]
    assert len(common.hashes) == len(set().union(*map(runs_of, pieces)))
