"""Texts: files and folders become token streams, split by content into search, tune and measure parts.

Shape legend: W = windows, N = tokens of a window, D = documents.
"""

import gzip
import hashlib
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.errors import TextsError

Tokens = NDArray[np.int32]
Starts = NDArray[np.int64]
STDLIB = "stdlib"
SHARES = {"search": 0.4, "tune": 0.4, "measure": 0.2}
RECORDS = re.compile(r"\.(jsonl(\.gz|\.zst)?|parquet)$", re.IGNORECASE)  # files of many documents, which we cannot read
SHOWN = 3  # names of files in a message
SHINGLE_TOKENS = 48
SKETCH_SIZE = 256
NEEDLES = "harbour lantern orchard violin granite meadow compass saddle chapel ribbon anchor walnut".split()


@dataclass(frozen=True)
class TokenText:
    """One stream of tokens: the documents of one split, one after the other.

    Attributes:
        tokens: [any] int32 token ids.
        name: what it is called in errors (``search``, ``measure`` ...).
        bos: token id that the tokenizer puts before every text, or None; it then opens every window.
        documents: [D] int64, where each document begins in ``tokens``; by default all of them are one. A file is a
            document, and what a split leaves of one is a document, too.
    """

    tokens: Tokens
    name: str
    bos: int | None = None
    documents: Starts = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        """Refuse documents that do not follow one another (raises TextsError)."""
        first, later = self.documents[:1], self.documents[1:]
        if first.tolist() != [0] or np.any(np.diff(self.documents) <= 0) or np.any(later >= len(self.tokens)):
            raise TextsError(
                f"The {self.name} text ({len(self.tokens):,} tokens) has {len(self.documents)} documents in disorder.",
                "The first begins at 0, each of the others later than the one before it, and the last before the end.",
                "Give where each document begins, in the order of the text.",
            )

    def windows(self, length: int, count: int, *, minimum: int = 1) -> Tokens:
        """Cut ``count`` windows that do not overlap, evenly spread over the text; fewer if it is too short for them.

        Returns:
            [W, N] int32 with N = ``length``.

        Raises:
            TextsError: not even ``minimum`` windows fit.
        """
        body = length - (self.bos is not None)
        fitting = min(count, len(self.tokens) // max(1, body))
        if fitting < minimum:
            raise TextsError(
                f"The {self.name} text has {len(self.tokens):,} tokens.",
                f"{minimum} window{'s' * (minimum > 1)} of {length:,} tokens must fit into it.",
                "Give more or longer texts with --data (or --measure-data), or a shorter window.",
            )
        starts = np.linspace(0, len(self.tokens) - body, fitting).astype(int) if fitting > 1 else np.zeros(1, int)
        cut = np.stack([self.tokens[start : start + body] for start in starts])
        return cut if self.bos is None else self._opened(cut)

    def divided(self, windows: Tokens, length: int) -> Tokens:
        """Divide windows [W, M] into [W * (M // N), N] shorter ones of the same text; a remainder is left out."""
        if self.bos is None:
            return _divide(windows, length)
        return self._opened(_divide(windows[:, 1:], length - 1))

    def numbered(self) -> "TokenText":
        """The same text with the number of its document, from 0, in the place of every token.

        Its ``windows`` and ``divided`` say which document each token of this text's belongs to; an opening token
        counts to document 0.
        """
        numbers = np.zeros(len(self.tokens), np.int32)
        numbers[self.documents[1:]] = 1
        return replace(self, tokens=np.cumsum(numbers, dtype=np.int32), bos=None if self.bos is None else 0)

    def _opened(self, cut: Tokens) -> Tokens:
        return np.concatenate([np.full((len(cut), 1), self.bos, np.int32), cut], axis=1)


@dataclass
class TextsReport:
    """What ``load_texts`` has read, and what it has left out.

    Attributes:
        files: those that were read, each one document.
        skipped: files inside of folders that were not, with the reason.
        hidden: how many files were left out because their name, or a folder's on the way to them, begins with a dot.
        documents: in each split; one that a split cuts counts in both.
        tokens: in each split.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line of what was read, and one for each reason to skip files, with the first few of their names."""
        parts = (
            f"{name} {count:,} document{'s' * (count != 1)}, {self.tokens[name]:,} tokens"
            for name, count in self.documents.items()
        )
        lines = [f"read {len(self.files):,} file{'s' * (len(self.files) != 1)}: {'; '.join(parts)}"]
        for reason in dict.fromkeys(reason for _, reason in self.skipped):
            names = [str(path) for path, why in self.skipped if why == reason]
            more = ", ..." if len(names) > SHOWN else ""
            lines.append(f"skipped {len(names):,} ({reason}): {', '.join(names[:SHOWN])}{more}")
        return [*lines, f"skipped {self.hidden:,} (hidden files)"] if self.hidden else lines


@dataclass(frozen=True)
class Texts:
    """Three parts of some texts that share no content: to search factors on, to tune on, and to measure on.

    ``report`` says what was read and what was skipped.
    """

    search: TokenText
    tune: TokenText
    measure: TokenText
    report: TextsReport = field(default_factory=TextsReport)


def load_texts(sources: Sequence[str | Path], tokenizer: Any, *, measure: Sequence[str | Path] = ()) -> Texts:
    """Read files and folders as UTF-8 text and split them by content.

    Documents that occur twice are read once. The rest is taken in the order of the paths, so neighbours stay
    neighbours, and cut into 40 % search, 40 % tune and 20 % measure, at document borders where there are enough. With
    ``measure`` sources the others are cut into two halves for search and tune, and documents that also occur in the
    measuring ones are left out of them.

    Args:
        sources: text files (``.gz`` too), folders of them (files inside that are not UTF-8 text are skipped and stand
            in the report), or ``.npy`` files of token ids made with this tokenizer. The word ``stdlib`` stands for the
            modules of the running Python's standard library; a file or folder of that name is ``./stdlib``.
        tokenizer: the model's.
        measure: further sources, of another kind, to measure on.

    Raises:
        TextsError: a path is missing, or nothing readable is there; a file that is given is no text, or one of records
            (``.jsonl``, ``.parquet``), which is refused inside of a folder, too; this Python has no sources.
    """
    report = TextsReport()
    held_out = list(_unique_documents(measure, tokenizer, set(), report)) if measure else []
    seen = {digest for digest, _ in held_out}
    documents = [tokens for _, tokens in _unique_documents(sources, tokenizer, seen, report)]
    bos = opening_token(tokenizer)
    empty = [given for given, found in ((sources, documents), (measure, held_out)) if given and not found]
    if empty or not (sources or measure):
        raise TextsError(
            f"No text was found in {', '.join(map(str, empty[0])) if empty else '(no path given)'}"
            f"{''.join(f'; {line}' for line in report.lines()[1:])}.",
            "At least one UTF-8 text file that is not empty is needed.",
            "Give files or folders with --data (and --measure-data).",
        )
    shares = {"search": 0.5, "tune": 0.5} if measure else SHARES
    parts = {name: TokenText(tokens, name, bos, starts) for name, (tokens, starts) in _split(documents, shares).items()}
    if measure:
        tokens, borders = _join([tokens for _, tokens in held_out])
        parts["measure"] = TokenText(tokens, "measure", bos, borders[:-1])
    report.documents = {name: len(part.documents) if len(part.tokens) else 0 for name, part in parts.items()}
    report.tokens = {name: len(part.tokens) for name, part in parts.items()}
    return Texts(**parts, report=report)


def read_document(path: Path) -> str:
    """Read one UTF-8 text file (``.gz`` too); raise TextsError if it is missing, no text, or blank."""
    if not path.is_file():
        raise TextsError(f"{path} is no file.", "A UTF-8 text file is needed.", "Check the path.")
    try:
        return _decode(_read(path))
    except NoTextError as error:
        raise _no_text(path, error) from None


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of text, with nothing added."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def encode_answer(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """Token ids of a prompt with its answer, and how many of the last ones tell the answer.

    A tokenizer may join the two; what differs from the prompt alone belongs to the answer, but for white space before
    it: a model that would say " the number 48213" has found the key, too.
    """
    asked, answered = encode(tokenizer, prompt), encode(tokenizer, f"{prompt} {answer}")
    first = next((i for i, (a, b) in enumerate(zip(asked, answered, strict=False)) if a != b), len(asked))
    while not tokenizer.decode(answered[first]).strip():
        first += 1
    return answered, len(answered) - first


def plant_needles(window: Tokens, tokenizer: Any, rng: np.random.Generator) -> tuple[Tokens, NDArray[np.bool_]]:
    """Plant eight made-up facts at all depths of a window [N] and ask for each of them at its end.

    Returns:
        The new window [N], and which next tokens [N - 1] are answers.

    Raises:
        TextsError: facts and questions would take more than half of the window.
    """
    codes = {str(name): str(rng.integers(10**4, 10**5)) for name in rng.choice(NEEDLES, 8, replace=False)}
    facts = [encode(tokenizer, f"\nThe code of the {name} is {code}.\n") for name, code in codes.items()]
    asked = [str(name) for name in rng.permutation(list(codes))]
    questions = [
        encode_answer(tokenizer, f"\nWhat is the code of the {name}? The code of the {name} is", codes[name])
        for name in asked
    ]
    end = np.concatenate([[*tokens] for tokens, _ in questions])
    answers = np.concatenate([np.arange(len(tokens)) >= len(tokens) - count for tokens, count in questions])
    room = len(window) - len(end) - sum(map(len, facts))
    if room < len(window) // 2:
        raise TextsError(
            f"Needles would take {len(window) - room} tokens of a window of {len(window)}.",
            "They may take half of it at most.",
            "Set needle_weight = 0, or take a longer window.",
        )
    depths = (np.arange(len(facts)) + rng.random(len(facts))) / len(facts)
    pieces = np.split(window[:room], (1 + depths * (room - 1)).astype(int))
    planted = [part for piece, fact in zip(pieces, facts, strict=False) for part in (piece, fact)]
    tokens = np.concatenate([*planted, pieces[-1], end]).astype(np.int32)
    return tokens, np.concatenate([np.zeros(len(window) - len(end) - 1, bool), answers])


def fingerprint(windows: Tokens) -> str:
    """Sixteen hex digits that name the content of windows."""
    return hashlib.sha256(np.ascontiguousarray(windows, dtype=np.int32).tobytes()).hexdigest()[:16]


def sketch(windows: Tokens) -> tuple[int, ...]:
    """A bottom-k sketch of what windows [W, N] contain: the 256 smallest hashes of their 48-token shingles.

    Kept with the factors that were searched on these windows; ``check_unsearched`` compares other texts with it.
    """
    hashes = np.unique(np.concatenate([_shingle_hashes(window) for window in windows]))
    return tuple(hashes[:SKETCH_SIZE].tolist())


def check_unsearched(windows: Tokens, searched: Sequence[int]) -> None:
    """Raise TextsError if more than 1 % of the searched text stands in these windows.

    One shared licence header or table of contents passes; a page in common does not.
    """
    if not searched:
        return
    known = np.asarray(sorted(searched), dtype=np.uint64)
    present = np.zeros(len(known), dtype=bool)
    for window in windows:
        present |= np.isin(known, _shingle_hashes(window))
    if (share := present.mean()) > 0.01:
        raise TextsError(
            f"About {share:.0%} of the text that these factors were searched on stands in the text to measure on.",
            "A measurement needs text that no search has seen.",
            "Give other texts with --measure-data.",
        )


def _divide(windows: Tokens, length: int) -> Tokens:
    pieces = windows.shape[1] // length
    return windows[:, : pieces * length].reshape(-1, length)


class NoTextError(Exception):
    """A file that is no text; says why."""


def _no_text(path: Path, reason: object) -> TextsError:
    return TextsError(
        f"{path} is {reason}.", "A UTF-8 text file that is not blank is needed.", "Convert it, or give another."
    )


def _unique_documents(
    sources: Sequence[str | Path], tokenizer: Any, seen: set[str], report: TextsReport
) -> Iterator[tuple[str, Tokens]]:
    """The digest and tokens of each document that is not in ``seen``; the report is filled, and ``seen``, too."""
    for source in sources:
        for path in _stdlib_modules() if source == STDLIB else _files(Path(source), report):
            try:
                content = _read(path)
                digest = hashlib.sha256(content).hexdigest()
                if digest in seen:
                    report.skipped.append((path, "the same content as another file"))
                    continue
                tokens = _read_tokens(path, len(tokenizer)) if path.suffix == ".npy" else _tokenize(content, tokenizer)
            except NoTextError as error:
                if path == Path(source):
                    raise _no_text(path, error) from None
                report.skipped.append((path, str(error)))
                continue
            seen.add(digest)
            report.files.append(path)
            yield digest, tokens


def _files(source: Path, report: TextsReport) -> list[Path]:
    """The files of a source in the order of their paths; what is left out is added to the report."""
    if not source.exists():
        raise TextsError(f"{source} does not exist.", "A text file or a folder of them is needed.", "Check the path.")
    if not source.is_dir():
        _refuse_records([source])
        return [source]
    inside = sorted(path for path in source.rglob("*") if path.is_symlink() or not path.is_dir())
    shown = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(source).parts)]
    files = [path for path in shown if path.is_file()]
    _refuse_records(files)
    report.hidden += len(inside) - len(shown)
    report.skipped += [(path, "no regular file, or a link to a folder") for path in shown if not path.is_file()]
    return files


def _refuse_records(files: Sequence[Path]) -> None:
    """Raise TextsError for files that hold a document in each record: their text is not the files' text."""
    if found := [str(path) for path in files if RECORDS.search(path.name)]:
        names = f"{', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''}"
        raise TextsError(
            f"{len(found)} file{'s' * (len(found) > 1)} of records cannot be read: {names}.",
            "Plain UTF-8 text is needed, one document a file; JSON lines and Parquet are not read.",
            "Write each document to a .txt file, or all token ids to an .npy file, and move these files away.",
        )


def _stdlib_modules() -> list[Path]:
    """The single-file modules of the standard library by name: one Python version gives one list on all platforms."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)
    if not modules:
        raise TextsError(
            f"{folder} holds no sources of Python's standard library.",
            f"The text {STDLIB!r} is read from there.",
            "Use a Python that is installed with its .py files, or give text files or folders.",
        )
    return modules


def _read(path: Path) -> bytes:
    """The content of a file, unpacked if it is a .gz file (raises NoTextError, or TextsError for a broken disk)."""
    if not path.is_file():
        raise NoTextError("no regular file")
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise NoTextError("a damaged .gz file") from None
    except OSError as error:
        raise TextsError(f"{path} cannot be read ({error}).", "A readable file is needed.", "Check it.") from error


def _decode(content: bytes) -> str:
    """The text of a file's content (raises NoTextError)."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise NoTextError("not UTF-8 text") from None
    if not text.strip():
        raise NoTextError("blank")
    if "\0" in text:
        raise NoTextError("binary, not text")
    return text


def _tokenize(content: bytes, tokenizer: Any) -> Tokens:
    """Token ids of one document with the tokenizer's end-of-text token after it (raises NoTextError)."""
    ids = encode(tokenizer, _decode(content))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not (ids or end):
        raise NoTextError("without any token")
    return np.asarray([*ids, *end], dtype=np.int32)


def _read_tokens(path: Path, vocabulary: int) -> Tokens:
    try:
        tokens = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TextsError(f"{path} cannot be read ({error}).", "A numpy array is needed.", "Write it again.") from None
    whole = tokens.ndim == 1 and np.issubdtype(tokens.dtype, np.integer) and len(tokens) > 0
    if not whole or tokens.min() < 0 or tokens.max() >= vocabulary:
        raise TextsError(
            f"{path} holds an array {tokens.dtype}{list(tokens.shape)}.",
            f"One row of token ids below {vocabulary} is needed.",
            "Make it with this model's tokenizer.",
        )
    return np.asarray(tokens, dtype=np.int32)


def opening_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before every text by itself."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if tokenizer.bos_token_id is not None and ids and ids[0] == tokenizer.bos_token_id else None


def _join(documents: list[Tokens]) -> tuple[Tokens, Starts]:
    """The stream of documents, and where each begins in it; the end of the last one closes the list."""
    borders = np.cumsum([0, *(len(document) for document in documents)], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.int32), *documents]), borders


def _split(documents: list[Tokens], shares: dict[str, float]) -> dict[str, tuple[Tokens, Starts]]:
    """Cut the stream of documents at the given shares, moved to the nearest document border if that is near enough.

    Returns:
        The tokens of each part, and where documents begin in them.
    """
    stream, borders = _join(documents)
    parts, first = {}, 0
    for name, share in zip(shares, np.cumsum(list(shares.values())), strict=True):
        ideal = round(share * len(stream))
        border = int(borders[np.argmin(np.abs(borders - ideal))])
        near = abs(border - ideal) <= 0.1 * shares[name] * len(stream)
        last = border if near and border > first else ideal
        inside = borders[(borders > first) & (borders < last)] - first
        parts[name], first = (stream[first:last], np.concatenate([np.zeros(1, np.int64), inside])), last
    return parts


def _shingle_hashes(tokens: Tokens) -> NDArray[np.uint64]:
    """Hashes of every run of 48 tokens: a polynomial hash by prefix sums modulo 2 ** 64, then mixed."""
    if len(tokens) < SHINGLE_TOKENS:
        return np.zeros(0, np.uint64)
    base, inverse = np.uint64(0x9E3779B97F4A7C15), np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(len(tokens), base, np.uint64))
        unpowers = np.cumprod(np.full(len(tokens), inverse, np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((tokens.astype(np.uint64) + np.uint64(1)) * powers)])
        hashes = (sums[SHINGLE_TOKENS:] - sums[:-SHINGLE_TOKENS]) * unpowers[: len(tokens) - SHINGLE_TOKENS + 1]
        hashes ^= hashes >> np.uint64(31)
        hashes *= np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(27)
    return np.unique(hashes)
