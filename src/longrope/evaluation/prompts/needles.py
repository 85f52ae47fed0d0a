"""Needles in haystacks: retrieval as RULER asks for it, and the needles of a heat map of depths (niah)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens, encode
from longrope.evaluation.prompts.chat import ChatFormat
from longrope.evaluation.prompts.passkeys import DEPTHS, spread_depths
from longrope.evaluation.prompts.prompt import Draft, Haystack, Prompt, Source, assemble, encode_all, measure_room
from longrope.evaluation.prompts.words import draw_compounds, draw_value


@dataclass(frozen=True)
class NeedleTask:
    """A kind of retrieval.

    Attributes:
        haystack: ``noise`` (one line again and again), ``essay`` (running text), or other ``needles``.
        keys: how many names have values.
        values: how many values each name has.
        asked: how many names are asked for, at once.
        key_kind: whether a name is a ``word`` or a ``code``.
        kind: whether a value is a ``number`` or a ``code``.
    """

    haystack: str
    keys: int = 1
    values: int = 1
    asked: int = 1
    key_kind: str = "word"
    kind: str = "number"

    def draft(self, source: Source) -> Draft:
        """Needles at random depths, and one question for all that are asked for."""
        names = self.names(source.rng, self.keys)
        facts = [(name, draw_value(source.rng, self.kind)) for name in names for _ in range(self.values)]
        asked = names[: self.asked]
        references = tuple(value for name, value in facts if name in asked)
        return self.hidden(source, facts, [(asked, references)], source.rng.random(len(facts)))

    def hidden(
        self,
        source: Source,
        facts: Sequence[tuple[str, str]],
        questions: Sequence[tuple[Sequence[str], tuple[str, ...]]],
        depths: NDArray[np.float64],
    ) -> Draft:
        """Facts (a name and its value) at their depths, and questions: the names asked for, and their references."""
        needles = encode_all(source.tokenizer, [self.sentence(*fact) for fact in facts])
        taken = sum(map(len, needles))

        def fill(room: int) -> Tokens:
            return self._hay(source, room - taken, {name for name, _ in facts}).planted(needles, depths)

        completed = source.chat is None
        asked = tuple(
            (self._question(names, len(references), completed=completed), references) for names, references in questions
        )
        opening = f"Remember the seal {self.kind}s in this text; they are asked for at its end.\n"
        return Draft(opening, asked, taken, fill)

    def names(self, rng: np.random.Generator, count: int) -> list[str]:
        """Draw names for values."""
        if self.key_kind == "code":
            return [draw_value(rng, "code") for _ in range(count)]
        return draw_compounds(rng, count, parts=2)

    def sentence(self, name: str, value: str) -> str:
        """A needle on a line of its own."""
        line = f"The seal {self.kind} of {name} is {value}.\n"
        return f"\n{line}" if self.haystack == "essay" else line

    def _question(self, names: Sequence[str], values: int, *, completed: bool) -> str:
        """A question; with the beginning of its answer, which is then to be completed."""
        listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
        thing, verb = (f"seal {self.kind}", "is") if values == 1 else (f"seal {self.kind}s", "are")
        return f"\nWhat {verb} the {thing} of {listed}?" + f" The {thing} of {listed} {verb}" * completed

    def _hay(self, source: Source, room: int, taken: set[str]) -> Haystack:
        if self.haystack == "essay":
            return Haystack.of_essay(source.essay, room)
        if self.haystack == "noise":
            return Haystack.of_noise(source.tokenizer, room)
        return Haystack.of_pieces(self._others(source, room, taken))

    def _others(self, source: Source, room: int, taken: set[str]) -> list[list[int]]:
        """Needles of other names, as many as fit."""
        rows: list[list[int]] = []
        while True:
            facts = [(name, draw_value(source.rng, self.kind)) for name in self.names(source.rng, 64)]
            for row in encode_all(source.tokenizer, [self.sentence(*fact) for fact in facts if fact[0] not in taken]):
                if len(row) > room:
                    return rows
                rows.append(row)
                room -= len(row)


def build_needles(
    tokenizer: Any,
    length: int,
    essays: Tokens,
    count: int,
    seed: int,
    most_per_text: int = DEPTHS,
    chat: ChatFormat | None = None,
) -> list[tuple[Prompt, list[float]]]:
    """Build prompts that ask for ``count`` needles in all, at ten depths in turn, 5 % to 95 %.

    A text holds as many needles as take no more than half of it; each is asked for by itself.

    Args:
        tokenizer: the model's.
        length: of text, question and answer together, in tokens.
        essays: [E, N] running texts to hide them in, taken in turn.
        count: how many needles.
        seed: of their names and numbers.
        most_per_text: needles that one text may hold.
        chat: asks in the format of a chat model, each text with one question being one message.

    Returns:
        Each prompt with the depth of the needle of each of its questions.

    Raises:
        TextsError: the length does not hold one needle.
    """
    task, rng = NeedleTask("essay"), np.random.default_rng(seed)
    facts = [(name, draw_value(rng, task.kind)) for name in task.names(rng, count)]
    depths = spread_depths(count)
    questions = [((name,), (value,)) for name, value in facts]
    source = Source(tokenizer, length, essays[0], rng, chat)
    room = measure_room(source, task.hidden(source, facts, questions, np.asarray(depths)))
    longest = max(len(encode(tokenizer, task.sentence(*fact))) for fact in facts)
    per_text = max(1, min(most_per_text, room // 2 // longest))
    prompts: list[tuple[Prompt, list[float]]] = []
    for first in range(0, count, per_text):
        cut = slice(first, first + per_text)
        source = Source(tokenizer, length, essays[len(prompts) % len(essays)], rng, chat)
        draft = task.hidden(source, facts[cut], questions[cut], np.asarray(depths[cut]))
        prompts.append((assemble(source, "needle", draft), depths[cut]))
    return prompts
