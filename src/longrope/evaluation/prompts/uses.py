"""What long windows are used for, as made-up texts with questions: many shots, a manual, a dialogue, a summary.

Nothing in them can be known from elsewhere: labels, codes and numbers are drawn at random. Each question is asked right
after its text, and its answer is right where greedy decoding would give it word for word.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longrope.data import Tokens, encode, encode_answer, opening_tokens
from longrope.errors import TextsError
from longrope.evaluation.prompts.prompt import Draft, Haystack, Source
from longrope.evaluation.prompts.prose import ProseNeedle, ProseText
from longrope.evaluation.prompts.words import WORDS, draw_compounds, draw_letters, draw_value

LABELS = 4
MOST_SHOTS = 2048
TURN_TOKENS = 40  # of small talk in a dialogue, taken from the measured text
NOTES = 5
THINGS = (
    "bench berth bicycle booth cabin crate desk flight gate key locker mooring parcel permit platform receipt "
    "seat shelf stall suitcase ticket trolley"
).split()


@dataclass(frozen=True)
class Asked:
    """A question without its answer, the answer, and where in the text it is decided, 0 (start) to 1 (end)."""

    kind: str
    question: str
    answer: str
    depth: float


@dataclass(frozen=True)
class Script:
    """A text to be written: its pieces in order, and the questions about as many of them as fit.

    Attributes:
        ending: tokens that the longest question with its answer may take.
        pieces: the token ids of line after line.
        ask: given how many lines stand in the text, questions about them.
        most: lines at most.
        whole: whether all of them must stand in the text.
    """

    ending: int
    pieces: Iterator[list[int]]
    ask: Callable[[int], list[Asked]]
    most: int
    whole: bool = False


Writer = Callable[[Any, np.random.Generator, Tokens, int, int], Script]


def write_shots(shots: int, tokenizer: Any, rng: np.random.Generator, essay: Tokens, room: int, count: int) -> Script:
    """Examples of two words and a made-up label; the first word decides it, and the questions have other second words.

    So many examples, or for 0 as many as fit. Chance is one in four: the labels. Who looks the first word up in the
    examples answers all.
    """
    del essay, room
    labels = draw_letters(rng, LABELS, letters=5)
    words = [str(word) for word in rng.permutation(WORDS)]
    label_of = {word: labels[i % LABELS] for i, word in enumerate(words)}
    shown: list[str] = []

    def lines() -> Iterator[list[int]]:
        while True:
            for i in rng.permutation(LABELS):  # each as often as the others, so that to repeat one is a guess
                first = words[int(i) + LABELS * int(rng.integers(len(words) // LABELS))]
                shown.append(first)
                second = words[int(rng.integers(len(words)))]
                yield encode(tokenizer, f"{first} {second} = {label_of[first]}\n")

    def ask(lines: int) -> list[Asked]:
        places = {first: (i + 0.5) / lines for i, first in enumerate(shown[:lines])}
        asked_labels = (labels[int(i)] for i in rng.integers(LABELS, size=count))
        known = {label: [first for first in places if label_of[first] == label] for label in labels}
        firsts = [known[label][int(rng.integers(len(known[label])))] for label in asked_labels]
        seconds = (words[int(i)] for i in rng.integers(len(words), size=count))
        asked = zip(firsts, seconds, strict=True)
        return [Asked("label", f"{a} {b} =", label_of[a], places[a]) for a, b in asked]

    longest = max(len(encode(tokenizer, f" {word}")) for word in (*WORDS, *labels))
    return Script(4 * longest + 4, lines(), ask, shots or MOST_SHOTS, whole=shots > 0)


def write_manual(tokenizer: Any, rng: np.random.Generator, essay: Tokens, room: int, count: int) -> Script:
    """A manual of valves, each with its limit and the valve that it replaces; half of the questions take two steps.

    No question is asked twice: of a text with few valves there are fewer than ``count``, two for each but the first.
    """
    del essay
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    codes: list[str] = []
    limits: list[str] = []
    replaced: list[int] = []
    drawn = rng.permutation(len(letters) ** 2 * 900)

    def lines() -> Iterator[list[int]]:
        for i, number in enumerate(drawn):
            pair, digits = divmod(int(number), 900)
            codes.append(f"{letters[pair // len(letters)]}{letters[pair % len(letters)]}-{digits + 100}")
            limits.append(str(rng.integers(1000, 10000)))
            replaced.append(int(rng.integers(i)) if i else -1)
            link = f"It replaces {codes[replaced[i]]}." if i else "It is the first."
            yield encode(tokenizer, f"Valve {codes[i]}: the limit is {limits[i]} bar. {link}\n")

    def ask(lines: int) -> list[Asked]:
        asked, before = [], (set[int](), set[int]())  # of one step, and of two
        for number in range(min(count, 2 * (lines - 1))):
            i, same = int(rng.integers(1, lines)), before[number % 2]
            if i in same:
                others = [other for other in range(1, lines) if other not in same]
                i = others[int(rng.integers(len(others)))]
            same.add(i)
            if number % 2:
                at, text = replaced[i], f"\nThe limit in bar of the valve that {codes[i]} replaces is"
            else:
                at, text = i, f"\nThe limit in bar of valve {codes[i]} is"
            asked.append(Asked("two steps" if number % 2 else "one step", text, limits[at], (at + 0.5) / lines))
        return asked

    ending = len(encode(tokenizer, "\nThe limit in bar of the valve that WW-888 replaces is 8888 8888"))
    return Script(ending + 8, lines(), ask, min(len(drawn), max(2, room)))


def write_dialogue(tokenizer: Any, rng: np.random.Generator, essay: Tokens, room: int, count: int) -> Script:
    """Small talk with numbers in it, half of which change later; the last one counts."""
    ending = 8 + len(encode(tokenizer, "\nWhich number did Anna give last? The suitcase has the number 8888 8888"))
    of_fact = len(encode(tokenizer, " The number of my suitcase is now 8888."))
    of_turn = TURN_TOKENS + len(encode(tokenizer, "\nAnna: ")) + 1
    most = max(1, (room - ending) // (2 * (of_turn + of_fact)))
    things = [str(thing) for thing in rng.permutation(THINGS)[: min(count, most)]]
    turns = max(2 * len(things), (room - ending - 2 * of_fact * len(things)) // of_turn)
    places = rng.permutation(turns)[: 2 * len(things)].reshape(-1, 2)
    said: dict[int, str] = {}
    facts: list[tuple[str, str, str, int]] = []
    for i, (thing, pair) in enumerate(zip(things, places, strict=True)):
        first, last = sorted(map(int, pair))
        old, new = (str(number) for number in rng.choice(np.arange(1000, 10000), 2, replace=False))
        said[first] = f"The number of my {thing} is {old}."
        if i % 2:
            said[last] = f"The number of my {thing} is now {new}."
        facts.append((thing, new if i % 2 else old, "changed" if i % 2 else "kept", last if i % 2 else first))

    def lines() -> Iterator[list[int]]:
        for turn in range(turns):
            talk = essay[turn * TURN_TOKENS : (turn + 1) * TURN_TOKENS].tolist()
            fact = encode(tokenizer, f" {said[turn]}") if turn in said else []
            yield [*encode(tokenizer, "\nAnna: " if turn % 2 else "\nBen: "), *talk, *fact]

    def ask(lines: int) -> list[Asked]:
        asked = "\nWhich number did {} give last? The {} has the number"
        return [
            Asked(kind, asked.format("Anna" if at % 2 else "Ben", thing), number, at / lines)
            for thing, number, kind, at in facts
        ]

    return Script(ending, lines(), ask, turns, whole=True)


def draft_summary(source: Source) -> Draft:
    """Notes in running text, all of which a summary is to repeat; each found one counts alike."""
    rng = source.rng
    names = draw_compounds(rng, NOTES, parts=2)
    notes = [f"the code of the {name} is {draw_value(rng, 'number')}" for name in names]
    pieces = [encode(source.tokenizer, f"\nNote: {note}.\n") for note in notes]
    taken, depths = sum(map(len, pieces)), rng.random(NOTES)
    opening = "Some lines of this text begin with the word Note. The summary at its end repeats every note.\n\n"

    def fill(room: int) -> Tokens:
        return Haystack.of_essay(source.essay, room - taken).planted(pieces, depths)

    return Draft(opening, (("\n\nSummary with every note:\n", tuple(notes)),), taken, fill)


def build_texts(
    write: Writer, name: str, tokenizer: Any, length: int, essays: Tokens, count: int, seed: int, per_text: int
) -> list[ProseText]:
    """Write texts with ``count`` questions in all.

    Args:
        write: what makes the script of a text.
        name: of the metric, for the error.
        tokenizer: the model's.
        length: of text, question and answer together, in tokens.
        essays: [E, N] running texts, taken in turn; what the lines leave of the length is filled with their beginning.
        count: how many questions.
        seed: of all that is drawn.
        per_text: questions about one text, which is read once for them; at most, where a text has fewer.

    Raises:
        TextsError: the length does not hold the lines.
    """
    texts: list[ProseText] = []
    while (asked := sum(len(text.needles) for text in texts)) < count:
        rng, essay = np.random.default_rng([seed, length, len(texts)]), essays[len(texts) % len(essays)]
        texts.append(_write(write, name, tokenizer, length, essay, rng, min(per_text, count - asked)))
    return texts


def _write(
    write: Writer, name: str, tokenizer: Any, length: int, essay: Tokens, rng: np.random.Generator, count: int
) -> ProseText:
    head, ending = opening_tokens(tokenizer), encode(tokenizer, "\n")
    script = write(tokenizer, rng, essay, length - len(head) - len(ending), count)
    room = length - len(head) - len(ending) - script.ending
    body: list[list[int]] = []
    for piece in script.pieces:
        if len(piece) > room or len(body) == script.most:
            break
        body.append(piece)
        room -= len(piece)
    if len(body) < (script.most if script.whole else LABELS):
        raise TextsError(
            f"{name} was asked for at {length} tokens.",
            f"It has {script.most if script.whole else LABELS:,} lines or more, of which {len(body):,} fit.",
            f"Measure {name} at greater lengths.",
        )
    needles = tuple(_needle(tokenizer, asked) for asked in script.ask(len(body)))
    written = sum(map(len, body)) + len(head) + len(ending) + max(len(needle.tokens) for needle in needles)
    parts: Sequence[Any] = [head, essay[: length - written], ending, *body]
    return ProseText(np.concatenate(parts).astype(np.int32), needles)


def _needle(tokenizer: Any, asked: Asked) -> ProseNeedle:
    tokens, answer_tokens = encode_answer(tokenizer, asked.question, asked.answer)
    return ProseNeedle(asked.kind, asked.depth, np.asarray(tokens, np.int32), answer_tokens)
