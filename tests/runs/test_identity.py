"""One hash and one error say whether work that is begun again has the same inputs."""

import hashlib

import pytest

from longrope.errors import RunError
from longrope.runs.identity import check_same, hash_inputs


def test_the_hash_is_that_of_the_json_text_with_sorted_keys() -> None:
    """Written out by hand, so that folders and samples of earlier versions are found again."""
    text = b'{"a": [1, "x"], "b": null}'
    assert hash_inputs({"b": None, "a": (1, "x")}) == hashlib.sha256(text).hexdigest()[:16]
    assert hash_inputs(("model", "0" * 16), 8) == hashlib.sha256(b'["model", "0000000000000000"]').hexdigest()[:8]


def test_every_changed_input_is_named_also_where_one_side_has_none() -> None:
    before, now = {"seed": "0", "text": "a", "old": "1"}, {"seed": "1", "text": "a", "new": "2"}
    with pytest.raises(RunError) as caught:
        check_same("runs/x", "training", before, now, needed="Needed.")
    changes = "seed = 1 (was 0); new = 2 (was nothing); old = nothing (was 1)"
    assert str(caught.value).startswith(f"runs/x was made by another training: {changes}. Needed.")
    check_same("runs/x", "training", before, dict(reversed(before.items())), needed="Needed.")
