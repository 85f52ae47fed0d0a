"""Numbers of tokens as people write them: ``64k`` is 65,536."""

import re

from longrope.errors import RecipeError


def parse_tokens(text: str) -> int:
    """Read a number of tokens: ``64k`` = ``65536`` = ``65_536``, ``2m`` = ``2048k`` (raises RecipeError)."""
    match = re.fullmatch(r"(\d+(?:_\d+)*)([km]?)", text.strip().lower(), re.ASCII)
    if not match or not (tokens := int(match[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2]]):
        raise RecipeError(f"{text!r} was given as a number of tokens.", "Write 65536, 64k or 2m.", "Correct it.")
    return tokens


def format_tokens(tokens: int) -> str:
    """Write a number of tokens the short way: 65536 -> ``64k``, 1000 -> ``1000``."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)
