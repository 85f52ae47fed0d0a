"""What methods and searches are called wherever factors or scores are shown."""

from typing import NamedTuple

from longrope import registry

LABELS = {"training": "training loss"}  # shown beside methods
SEARCHES = {
    "longrope-gradient": "the gradient search",
    "longrope-evolution": "the evolutionary search",
    "longrope-recovered": "the short-context search",
    "ntk-scan": "the scan of base and attention factor",
}
JOINT = "+"  # between the methods of composed factors


class Source(NamedTuple):
    """Where factors come from, and which search chose them.

    Attributes:
        method: of the factors; or the name that a score has instead, for example ``longrope-tuned``.
        chosen_by: the search that selected the factors; empty for a formula that nobody searched.
        factors_method: the method of the factors where ``method`` is another name.
    """

    method: str
    chosen_by: str = ""
    factors_method: str = ""

    @property
    def known_as(self) -> str:
        """The name given instead of the factors' method, or else the search that chose them, or else their method.

        With the factors' fingerprint it tells two records apart, also one that was written without ``chosen_by``.
        """
        return self.method if self.factors_method else self.chosen_by or self.method

    @property
    def label(self) -> str:
        """In words, for example ``YaRN (chosen by the gradient search)``; what a search found itself has its label."""
        origin = self.factors_method or self.method
        chosen = f"chosen by {SEARCHES.get(self.chosen_by, self.chosen_by)}"
        told = [chosen] if self.chosen_by not in ("", origin) else []
        if self.factors_method:
            told = [f"factors: {label_of(origin)}", *told]
        return f"{label_of(self.method)} ({', '.join(told)})" if told else label_of(self.method)


def label_of(method: str) -> str:
    """What a method is called in words; one that is not ours keeps its name."""
    return f" {JOINT} ".join(
        LABELS.get(part) or registry.label_of(part) for part in map(str.strip, method.split(JOINT))
    )


def join_methods(first: str, second: str) -> str:
    """The method of composed factors: each of theirs once, in order, those that change nothing left out."""
    parts = dict.fromkeys(part for part in (*first.split(JOINT), *second.split(JOINT)) if part != "none")
    return JOINT.join(parts) or "none"
