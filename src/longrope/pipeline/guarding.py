"""Text to measure on is apart from all that was searched or tuned on: the shares are reported, large ones refused."""

from collections.abc import Callable

from longrope.data import (
    Hashes,
    Overlap,
    Texts,
    TokenText,
    all_runs,
    check_apart,
    check_unsearched,
    hash_windows,
    sketch_common,
)
from longrope.models import LanguageModel
from longrope.rope import FactorTable

DONE = {"search": "searched", "tune": "tuned"}


def check_parts(
    model: LanguageModel, texts: Texts, length: int, windows: int, *, tuned: bool, report: Callable[[str], None]
) -> None:
    """Report how much of the measured windows stands in the parts to search and to tune on, before these are used.

    Args:
        model: as it was loaded; what its weights were tuned on before counts, too.
        texts: of the run.
        length: of the longest windows that are measured, in tokens.
        windows: how many are.
        tuned: whether the run tunes.
        report: takes a line for each part.

    Raises:
        TextsError: a large share does (see ``check_apart``), also of copies with changes; or the text is too short.
    """
    documents = _hash_measured(model, texts.measure, length, windows)
    runs = all_runs(documents)
    for part in (texts.search, texts.tune) if tuned else (texts.search,):
        overlap = check_apart(documents, sketch_common(runs, part, model.tokenizer), part.name)
        report(f"{overlap.share:.1%} of the text to measure on stands in the text to {part.name} on")
    if model.tuned_on:
        report(_describe(check_apart(documents, model.tuned_on, "tune"), "tune"))


def check_known(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    length: int,
    windows: int,
    report: Callable[[str], None],
) -> None:
    """Report how much of the measured windows factors were searched on and weights tuned on, by their sketches.

    The arguments are those of ``check_parts``, with factors that are measured, if there are some.

    Raises:
        TextsError: a large share was (see ``check_apart`` and ``check_unsearched``).
    """
    if table and any(factor_set.searched for factor_set in table.factor_sets):
        cut = text.windows(length, windows)
        report(_describe(max(check_unsearched(cut, found.searched) for found in table.factor_sets), "search"))
    if model.tuned_on:
        report(_describe(check_apart(_hash_measured(model, text, length, windows), model.tuned_on, "tune"), "tune"))


def _hash_measured(model: LanguageModel, text: TokenText, length: int, windows: int) -> dict[str, Hashes]:
    return hash_windows(text, text.windows(length, windows), text.numbered().windows(length, windows), model.tokenizer)


def _describe(overlap: Overlap, purpose: str) -> str:
    return (
        f"about {overlap.share:.1%} of the text to measure on was {DONE[purpose]} on "
        f"({overlap.found:,} of {overlap.asked:,} samples)"
    )
