"""The errors that users see: what was found, what was needed, what to do next.

Exceptions of other libraries become one of these in one place: ``converting_errors``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_REASON = 300  # characters
OUT_OF_MEMORY = (  # torch's, on GPUs and CPUs
    "OutOfMemoryError",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
)
LONGEST_PARAGRAPH = 1000  # characters of what the command line prints of an error


class DryRunEnd(Exception):  # noqa: N818  # it is no error
    """What ends a dry run, after its estimates: nothing was written."""


class LongRopeError(ValueError):
    """Bad input, described in three parts and printed as one paragraph; the CLI exits with code 2."""

    def __init__(self, found: str, needed: str, remedy: str) -> None:
        """Keep the three parts apart, so that callers and tests can look at each."""
        super().__init__(f"{found} {needed} {remedy}")
        self.found, self.needed, self.remedy = found, needed, remedy

    @property
    def paragraph(self) -> str:
        """One line of at most 1,000 characters for a terminal: of long parts the middle is left out."""
        parts = [printable(part) for part in (self.found, self.needed, self.remedy)]
        most = LONGEST_PARAGRAPH - len("longrope: ") - len(parts)
        for _ in parts:
            if (excess := sum(map(len, parts)) - most) > 0:
                longest = max(range(len(parts)), key=lambda i: len(parts[i]))
                half = max(len(parts[longest]) - excess, most // 3) // 2 - len(" ... ")
                parts[longest] = f"{parts[longest][:half]} ... {parts[longest][-half:]}"
        return " ".join(parts)

    def __reduce__(self) -> tuple[type["LongRopeError"], tuple[str, str, str]]:
        """Let it go from process to process: it is made again from its three parts."""
        return type(self), (self.found, self.needed, self.remedy)


class ModelError(LongRopeError):
    """A model that cannot be loaded, or whose rotary embedding one table of factors cannot describe."""


class FactorsError(LongRopeError):
    """Rescale factors that are malformed or belong to another geometry."""


class TextsError(LongRopeError):
    """Texts that are missing, too short, or already used for searching."""


class RecipeError(LongRopeError):
    """A recipe or a setting that cannot be carried out."""


class RunError(LongRopeError):
    """A run directory that is locked, damaged or made by another recipe."""


class ExportError(LongRopeError):
    """Factors that the target format cannot carry, or a checkpoint that reopens with other logits."""


class CacheError(LongRopeError):
    """A saved document that is torn, or that was read by another model or with other factors."""


class ProcessLostError(LongRopeError):
    """Another process of the launch has died; the CLI exits with code 1, and the run can be resumed."""


def printable(text: str, keep: str = "") -> str:
    """A text for a terminal: control characters, such as those that colour or retitle it, as Python escapes them."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, numpy or Python says that memory does not suffice."""
    reason = describe_error(error)
    return isinstance(error, MemoryError) or any(sign in reason for sign in OUT_OF_MEMORY)


def is_of_system(error: BaseException) -> bool:
    """Whether an exception says what the system refused: Python's own, safetensors', or of a library in Rust."""
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError" or "(os error " in str(error)


def from_system(error: BaseException) -> LongRopeError | None:
    """What the system or torch refuses, as an error of ours; None for anything else.

    It is the last of the boundaries: readers and writers convert their own with more to say.
    """
    reason = describe_error(error)
    if is_out_of_memory(error):
        return LongRopeError(
            f"There is not enough memory ({reason}).",
            "The run keeps all finished work.",
            "Give a shorter window, a smaller batch or more processes, or free memory; the same command goes on from "
            "here.",
        )
    if isinstance(error, OSError) or "(os error " in str(error):
        return LongRopeError(
            f"A file operation failed ({reason}).",
            "Every file and folder that is named must be accessible, with enough space where files are written.",
            "Correct this; the same command goes on from here.",
        )
    return None


@contextmanager
def converting_errors(kind: type[LongRopeError], found: str, needed: str, remedy: str) -> Iterator[None]:
    """Convert any exception of a ``with`` block into one of ours, with its type and first line after ``found``.

    A panic of a library in Rust is one, too: PyO3 derives it from BaseException. Errors of ours pass as they are. The
    original exception stays attached as the cause; the command line prints its traceback if the environment variable
    ``LONGROPE_DEBUG`` is 1.

    Args:
        kind: the class to raise.
        found: what failed, without a full stop.
        needed: as for ``LongRopeError``.
        remedy: as for ``LongRopeError``.
    """
    try:
        yield
    except LongRopeError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime":  # a fault of a library in Rust
            raise kind(f"{found}: {describe_error(error)}.", needed, remedy) from error
        raise


def describe_error(error: BaseException) -> str:
    """The type of an exception and the first line of its message, and what follows a colon or comma at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    count = next((i for i, line in enumerate(lines, 1) if not line.endswith((":", ","))), len(lines))
    message = " ".join(lines[:count])[:LONGEST_REASON].rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
