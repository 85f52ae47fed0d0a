"""Ask an OpenAI-compatible server: log-probabilities where it gives them, else passkeys beyond the original window."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from longrope.engine.passes import greedy_answers
from longrope.errors import LongRopeError, TextsError, describe_error
from longrope.evaluation.prompts.passkeys import Passkey, build_passkeys
from longrope.models import LanguageModel, rescaled
from longrope.verification.clients import find_client
from longrope.verification.running import Answers, RefusedError, Row
from longrope.verification.truth import Truth
from longrope.verification.turnings import Turning, accepted
from longrope.verification.verdicts import APPLIED, ORIGINAL, OTHER, REFUSED, UNCLEAR

SECONDS = 600
LONGEST_ANSWER = 2**24  # bytes
FEWEST = 5  # log-probabilities that servers of the older interface give
PASSKEYS = 5
NOT_THERE = (404, 405, 501)
BAD_REQUEST = (400, 422, *NOT_THERE)


class NoLogProbabilitiesError(Exception):
    """A server answers, but without log-probabilities."""


class _StatusError(RefusedError):
    """An answer with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the status."""
        super().__init__(f"status {status}: {text[:300]}")
        self.status = status


@dataclass(frozen=True)
class _Server:
    """A server's address, the name of its model, the tokenizer of the checkpoint, and how prompts are given."""

    address: str
    model: str
    tokenizer: Any
    texts: bool = False
    top: int = FEWEST

    @classmethod
    def find(cls, address: str, tokenizer: Any) -> "_Server":
        """The server with the first model that it lists (raises RefusedError)."""
        listed = _send(address, "GET", "models").get("data") or []
        names = [str(each["id"]) for each in listed if isinstance(each, dict) and each.get("id")]
        if not names:
            raise RefusedError("it lists no model under /models")
        return cls(address, names[0], tokenizer)

    def complete(self, prompt: str | list[int], **settings: Any) -> dict[str, Any]:
        """The first choice for a prompt."""
        asked = {"model": self.model, "prompt": prompt, "temperature": 0, **settings}
        choice: dict[str, Any] = _send(self.address, "POST", "completions", asked)["choices"][0]
        return choice

    def next_tokens(self, prompt: Sequence[int]) -> Row:
        """Token ids with log-probabilities of what follows a prompt; empty if the server gives none.

        Empty, too, for a prompt that is no whole number of words, so that its text has other tokens.
        """
        given: str | list[int] = list(prompt)
        if self.texts:
            given = _as_text(self.tokenizer, prompt)
            if self.tokenizer(given)["input_ids"] != list(prompt):
                return []
        stated = self.complete(given, max_tokens=1, logprobs=self.top).get("logprobs") or {}
        if content := stated.get("content"):  # of the newer interface
            entries = content[0].get("top_logprobs") or []
            known = [(entry.get("id"), entry["token"], entry["logprob"]) for entry in entries]
        else:
            first = (stated.get("top_logprobs") or [{}])[0] or {}
            known = [(None, token, value) for token, value in first.items()]
        ids = ((_token_id(self.tokenizer, token) if i is None else i, value) for i, token, value in known)
        return [(int(i), float(value)) for i, value in ids if i is not None]


def ask(
    address: str, tokenizer: Any, prompts: Sequence[Sequence[int]], positions: int, top: int
) -> tuple[Answers, str]:
    """The log-probabilities of a server, and the name of its model in a sentence.

    Args:
        address: of its interface, such as ``http://localhost:8000/v1``.
        tokenizer: of the checkpoint.
        prompts: token ids.
        positions: the last ones of each prompt that are asked for.
        top: how many of the likeliest tokens.

    Raises:
        RefusedError: it cannot be reached or refuses a prompt, with its own message.
        NoLogProbabilitiesError: it gives none.
    """
    with _refusing_odd_answers():
        return _ask(address, tokenizer, prompts, positions, top)


@contextmanager
def _refusing_odd_answers() -> Iterator[None]:
    """Convert what fails where an answer is read into RefusedError; its form is the server's own choice."""
    try:
        yield
    except LongRopeError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RefusedError(f"it answers in another form than OpenAI's ({describe_error(error)})") from error


def _ask(
    address: str, tokenizer: Any, prompts: Sequence[Sequence[int]], positions: int, top: int
) -> tuple[Answers, str]:
    ends = [[prompt[:end] for end in range(len(prompt) - positions + 1, len(prompt) + 1)] for prompt in prompts]
    server = _with_log_probabilities(_Server.find(address, tokenizer), ends[0], top)
    rows = [[server.next_tokens(prompt) for prompt in of] for of in ends]
    if not all(any(row) for row in rows):
        raise RefusedError("it takes prompts as text alone, and their text has other tokens")
    return Answers(rows, {}), f"model {server.model}" + (", prompts sent as text" if server.texts else "")


def _with_log_probabilities(server: _Server, prompts: Sequence[Sequence[int]], top: int) -> _Server:
    """The server, asked in the first way in which it gives log-probabilities: prompts as token ids, or as text."""
    refused: _StatusError | None = None
    for texts, count in ((False, top), (False, FEWEST), (True, top), (True, FEWEST)):
        asked = replace(server, texts=texts, top=count)
        try:
            if any(asked.next_tokens(prompt) for prompt in (prompts if texts else prompts[:1])):
                return asked
            refused = None
        except _StatusError as error:
            if error.status not in BAD_REQUEST:
                raise
            refused = error
    if refused is None or refused.status in NOT_THERE:
        raise NoLogProbabilitiesError
    raise refused


def _as_text(tokenizer: Any, prompt: Sequence[int]) -> str:
    return str(tokenizer.decode(prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _token_id(tokenizer: Any, text: str) -> int | None:
    """The token that is written so, None where several are."""
    if text.startswith("token_id:"):
        return int(text.removeprefix("token_id:"))
    numbers = _written(tokenizer).get(text, ())
    return numbers[0] if len(numbers) == 1 else None


@cache
def _written(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """The tokens of a vocabulary by how each of them is written alone."""
    known: dict[str, tuple[int, ...]] = {}
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number], clean_up_tokenization_spaces=False)
        known[text] = (*known.get(text, ()), number)
    return known


def ask_passkeys(address: str, model: LanguageModel, truth: Truth, original: Turning) -> tuple[str, str]:
    """A verdict by passkeys beyond the original window, beside ones within it and what our own passes find.

    Returns:
        The verdict, and the counts in a sentence.
    """
    window = min(truth.window_tokens, 4 * truth.switch_tokens)
    try:
        near, far = (build_passkeys(model.tokenizer, n, PASSKEYS, 0) for n in (truth.switch_tokens, window))
    except TextsError as error:
        return UNCLEAR, f"no log-probabilities, and no passkeys: {error.found} {error.needed}"
    right = next(iter(accepted(truth, window, find_client(address)).values()))
    ours, without = (_found(model, turning, far) for turning in (right, original))
    try:
        with _refusing_odd_answers():
            server = _Server.find(address, model.tokenizer)
            theirs, control = (sum(_answers(server, task) for task in of) for of in (far, near))
    except RefusedError as error:
        return REFUSED, str(error)
    counts = (
        f"no log-probabilities; of {PASSKEYS} passkeys it finds {control} within {truth.switch_tokens:,} tokens and "
        f"{theirs} within {window:,}, where we find {ours} with the scaling and {without} without"
    )
    if control == 0 or ours - without < 2:
        return UNCLEAR, counts
    if theirs - without > (ours - without) / 2:
        return APPLIED, counts
    return (ORIGINAL if theirs <= without else OTHER), counts


def _found(model: LanguageModel, turning: Turning, tasks: Sequence[Passkey]) -> int:
    found = 0
    for task in tasks:
        with rescaled(model, turning.as_factors(model.spec, len(task.tokens))):
            found += int(greedy_answers(model, np.asarray(task.tokens)[None], task.answer_tokens).sum())
    return found


def _answers(server: _Server, task: Passkey) -> bool:
    """Whether a server's answer to a passkey prompt holds the passkey."""
    cut = len(task.tokens) - task.answer_tokens
    asked, key = (_as_text(server.tokenizer, tokens.tolist()) for tokens in (task.tokens[:cut], task.tokens[cut:]))
    count = task.answer_tokens + 2
    try:
        text = str(server.complete(asked, max_tokens=count)["text"])
    except _StatusError as error:
        if error.status not in BAD_REQUEST:
            raise
        said = {"model": server.model, "messages": [{"role": "user", "content": asked}]}
        answer = _send(server.address, "POST", "chat/completions", {**said, "max_tokens": count, "temperature": 0})
        text = str(answer["choices"][0]["message"]["content"])
    return key.strip() in text


def _send(address: str, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request and its JSON answer (raises RefusedError)."""
    parts = urlsplit(address)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
        body = None if content is None else json.dumps(content)
        connection.request(method, f"{parts.path.rstrip('/')}/{path}", body, headers)
        response = connection.getresponse()
        text = response.read(LONGEST_ANSWER).decode("utf-8", "replace")
        connection.close()
        if response.status != 200:
            raise _StatusError(response.status, " ".join(text.split()))
        answer = json.loads(text)
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise RefusedError(describe_error(error)) from None
    if not isinstance(answer, dict):
        raise RefusedError(f"/{path} answers {text[:100]}")
    return answer
