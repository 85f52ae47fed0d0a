"""Errors of other libraries become ours in one place; the command line shows their tracebacks only if asked to."""

import pytest

from longrope.errors import LongRopeError, ModelError, TextsError, converting_errors, describe_error


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
