"""Errors of other libraries become ours in one place; the command line shows their tracebacks only if asked to."""

from pathlib import Path

import pytest

from longrope.errors import (
    LongRopeError,
    ModelError,
    RunError,
    TextsError,
    converting_errors,
    describe_error,
    from_system,
)
from longrope.runs.files import writing


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (KeyError("factor"), "KeyError: 'factor'"),
        (TypeError("no number.\nmore of it\n"), "TypeError: no number"),
        (
            ValueError("validation failed:\n    hidden_size is odd\n  and more"),
            "ValueError: validation failed: hidden_size is odd",
        ),
        (RuntimeError(), "RuntimeError"),
        (OSError("\n\n first\nsecond"), "OSError: first"),
        (ValueError("a" * 5000), "ValueError: " + "a" * 300),
        (ValueError("one of (1) a file,\n(2) another\nnothing else"), "ValueError: one of (1) a file, (2) another"),
        (ValueError("only a start:"), "ValueError: only a start:"),
    ],
)
def test_type_and_first_line_are_kept(error: Exception, described: str) -> None:
    assert describe_error(error) == described
    with (
        pytest.raises(ModelError) as caught,
        converting_errors(ModelError, "The model cannot be loaded", "A model is needed.", "Give one."),
    ):
        raise error
    assert caught.value.found == f"The model cannot be loaded: {described}."
    assert (caught.value.needed, caught.value.remedy) == ("A model is needed.", "Give one.")
    assert caught.value.__cause__ is error


def test_errors_of_ours_pass_as_they_are() -> None:
    ours = TextsError("a", "b", "c")
    with pytest.raises(LongRopeError) as caught, converting_errors(ModelError, "x", "y", "z"):
        raise ours
    assert caught.value is ours


def test_an_interrupt_is_no_error_of_a_library() -> None:
    with pytest.raises(KeyboardInterrupt), converting_errors(ModelError, "x", "y", "z"):
        raise KeyboardInterrupt


def test_what_the_system_refused_is_seen_through_libraries_in_rust(tmp_path: Path) -> None:
    """tokenizers raises a plain Exception where a disk is full."""
    error = Exception("File too large (os error 27)")
    assert "A file operation failed" in str(from_system(error))
    assert from_system(Exception("unknown token")) is None
    refused = pytest.raises(RunError, match=r"tokenizer.json cannot be written \(Exception: File too large")
    with refused, writing(tmp_path / "tokenizer.json"):
        raise error
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "tokenizer.json"):
        _ = 1 / 0
