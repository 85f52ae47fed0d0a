"""Numbers as people write them: ``64k`` tokens are 65,536, and one file is no ``1 files``."""

import re

from longrope.errors import RecipeError

MOST_TOKENS = 2**53
DIGITS = 40  # more than any number up to that has


def parse_tokens(text: str) -> int:
    """Read a number of tokens: ``64k`` = ``65536`` = ``65_536``, ``2m`` = ``2048k`` (raises RecipeError)."""
    match = re.fullmatch(r"(\d+(?:_\d+)*)([km]?)", text.strip().lower(), re.ASCII)
    digits = match[1].replace("_", "").lstrip("0")[:DIGITS] if match else ""
    tokens = int(digits or "0") * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2] if match else ""]
    if not 0 < tokens <= MOST_TOKENS:
        shown = text if len(text) <= DIGITS else f"{text[:DIGITS]}..."
        raise RecipeError(f"{shown!r} was given as a number of tokens.", "Write 65536, 64k or 2m.", "Correct it.")
    return tokens


def format_tokens(tokens: int) -> str:
    """Write a number of tokens the short way: 65536 -> ``64k``, 1000 -> ``1000``."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def counted(count: int, noun: str) -> str:
    """Write a number of things: ``1 source``, ``2,048 sources``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
