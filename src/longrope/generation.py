"""Answers over long documents: one set of factors for all of them, the document read in tiles, then token by token.

Run: longrope generate MODEL --factors factors.json --document book.txt --prompt "Who is the captain?"

Keys carry the factors that they were made with, so the factor set is chosen once, for the prompt and all tokens that
may follow, and never changes while the cache lives.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import apply_template, encode, opening_tokens
from longrope.engine.decoding import decode, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.saved_document import SavedDocument, describe_making, open_document, save_document
from longrope.errors import CacheError, FactorsError, ModelError, RecipeError, TextsError
from longrope.models import LanguageModel, check_not_rescaled, rescaled
from longrope.rope import FactorTable, RescaleFactors, as_table
from longrope.settings import Count, CountOrZero, Settings, above, at_least

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what tokenizers give for bytes that are no whole character yet
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class GenerationSettings(Settings, by_option=True):
    """How an answer is decoded.

    Attributes:
        max_new_tokens: the answer ends after so many tokens if the model does not end it before.
        temperature: 0 takes the likeliest token each time; else logits are divided by it and a token is drawn.
        top_p: draw among the fewest likeliest tokens that together have this probability.
        seed: of the draws.
        eight_bit: keep keys and values as 8-bit integers.
        offload: keep keys and values in the CPU's memory.
    """

    max_new_tokens: Count = 256
    temperature: Annotated[float, at_least(0)] = 0.0
    top_p: Annotated[float, above(0, 1)] = 1.0
    seed: CountOrZero = 0
    eight_bit: bool = False
    offload: bool = False

    def check(self) -> None:
        """Refuse settings that would do nothing (raises RecipeError)."""
        if self.top_p < 1 and not self.temperature:
            raise RecipeError(
                f"top_p is {self.top_p} and the temperature 0.",
                "The likeliest token is taken each time, so top_p would do nothing.",
                "Give a temperature, too: --temperature 0.7.",
            )


@dataclass(frozen=True)
class Generation:
    """An answer and what it took.

    Attributes:
        text: of the new tokens, without special ones.
        prompt_tokens: document, question and all that stands around them.
        new_tokens: of the answer, its end token left out.
        ended: whether the model ended it; otherwise it was cut at ``max_new_tokens``.
        window_tokens: of the set of factors; the trained window if there are no factors.
        factors_fingerprint: of that factor set, empty if there are none.
        prefill_seconds: to read the prompt.
        decode_seconds: to write the answer, from its first token on.
        cache_bytes: of keys and values.
        reused_tokens: of the prompt, those whose keys and values came from a saved document.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    ended: bool
    window_tokens: int
    factors_fingerprint: str
    prefill_seconds: float
    decode_seconds: float
    cache_bytes: int
    reused_tokens: int = 0


def generate(
    model: LanguageModel,
    factors: FactorTable | RescaleFactors | None,
    document: str,
    prompt: str,
    *,
    settings: GenerationSettings | None = None,
    cache: str | Path | None = None,
    on_text: Callable[[str], None] = lambda _: None,
    on_read: Callable[[int, int], None] = lambda *_: None,
) -> Generation:
    """Answer a prompt about a document.

    Args:
        model: any whose layers keep keys and values alone, or go on right from transformers' own cache.
        factors: of which the smallest factor set that holds prompt and answer is taken; None runs without factors.
        document: put before the prompt, with a blank line between; as one user message if there is a chat template.
            It may be empty if ``cache`` has one.
        prompt: the question, or the beginning of what a base model is to go on with.
        settings: greedy decoding of up to 256 tokens if left out.
        cache: a file that keeps what was read: it is written if it is not there, and otherwise the document in it is
            not read again.
        on_text: given each piece of the answer as it comes, whole characters only; together they are the text.
        on_read: given how many tokens of the prompt are read, and of how many.

    Raises:
        TextsError: the document or the prompt is blank.
        FactorsError: prompt and planned answer are longer than the longest window of the factors (or than the trained
            window without factors), or the factors belong to another geometry.
        ModelError: the model has recurrent layers that do not go on right from a cache, or gives logits that are no
            numbers.
        CacheError: the file is damaged, holds another document, or was made by another model or with other factors.
    """
    settings = settings or GenerationSettings()
    if factors is None:
        check_not_rescaled(model)
    plan = plan_answer(model, factors, document, prompt, settings=settings, cache=cache)
    file, saved, tokens, factor_set, most = plan.file, plan.saved, plan.tokens, plan.factor_set, settings.max_new_tokens
    how = {"eight_bit": settings.eight_bit, "offload": settings.offload}
    keys = KeyValueCache(model, len(tokens) + most, **how, drop=file is None)  # a file keeps all, for other questions
    named = factor_set.fingerprint if factor_set else ""
    written = _Written(model.tokenizer, on_text)
    rng = np.random.default_rng(settings.seed)
    choose: Callable[[Any], int] = lambda logits: choose_token(logits.cpu().numpy(), settings, rng)  # noqa: E731
    with rescaled(model, factor_set):
        began = time.perf_counter()
        made_with = describe_making(model, named, keys) if file else {}
        reused = saved.restore(keys, model, tokens, made_with) if saved else 0
        logits = read_prompt(model, tokens[reused:], keys, lambda read: on_read(read, len(tokens)))
        read = time.perf_counter()
        if file and not saved:
            save_document(file, plan.document, tokens, keys, made_with)
        for token in decode(model, logits, keys, choose, most):
            written.add(token)
        done = time.perf_counter()
    return Generation(
        text=written.finish(),
        prompt_tokens=len(tokens),
        new_tokens=len(written.tokens),
        ended=len(written.tokens) < most,
        window_tokens=factor_set.target_window if factor_set else model.spec.trained_window,
        factors_fingerprint=named,
        prefill_seconds=round(read - began, 3),
        decode_seconds=round(done - read, 3),
        cache_bytes=keys.num_bytes,
        reused_tokens=reused,
    )


@dataclass(frozen=True)
class AnswerPlan:
    """What is read and with which factors, known before the model runs.

    Attributes:
        document: its text.
        tokens: of document and prompt, with all that stands around them.
        factor_set: that serves the whole prompt and its answer; None without factors.
        file: that keeps the document as it was read, if one is given.
        saved: what is in it, if it is there.
    """

    document: str
    tokens: list[int]
    factor_set: RescaleFactors | None
    file: Path | None
    saved: SavedDocument | None


def plan_answer(
    model: LanguageModel,
    factors: FactorTable | RescaleFactors | None,
    document: str,
    prompt: str,
    *,
    settings: GenerationSettings,
    cache: str | Path | None = None,
) -> AnswerPlan:
    """Encode document and prompt, and choose the factor set; arguments and errors are those of ``generate``."""
    file = Path(cache) if cache else None
    saved = open_document(file) if file and file.exists() else None
    document = _document_of(saved, document) if saved else document
    tokens = encode_question(model.tokenizer, document, prompt)
    factor_set = _choose_factors(model, _as_saved(saved, factors), len(tokens), settings.max_new_tokens)
    return AnswerPlan(document, tokens, factor_set, file, saved)


def _document_of(saved: SavedDocument, document: str) -> str:
    """The document of a file, which one that is given besides must be (raises CacheError)."""
    if document and document != saved.text:
        raise CacheError(
            f"{saved.path} holds another document than the one of {len(document):,} characters that is given.",
            f"A file holds one document; this one has {len(saved.text):,} characters.",
            "Leave --document out, or give another file with --cache.",
        )
    return saved.text


def _as_saved(
    saved: SavedDocument | None, factors: FactorTable | RescaleFactors | None
) -> FactorTable | RescaleFactors | None:
    """Of several factor sets the one that a document was read with; a longer question may ask for another one."""
    sets = as_table(factors).factor_sets if factors and saved else ()
    same = [each for each in sets if saved and each.fingerprint == saved.made_with.get("factors")]
    return same[0] if same else factors


def encode_question(tokenizer: Any, document: str, prompt: str) -> list[int]:
    """Token ids of a document and a question, by the tokenizer's chat template or one after the other.

    Raises:
        TextsError: one of them is blank.
        ModelError: the chat template fails.
    """
    for name, text in (("document", document), ("prompt", prompt)):
        if not isinstance(text, str):
            raise TextsError(
                f"The {name} is a {type(text).__name__}.",
                "A text is needed.",
                "Read a file first: Path(...).read_text().",
            )
        if not text.strip():
            raise TextsError(f"The {name} is blank.", "A document and a prompt are needed.", f"Give a --{name}.")
    text = f"{document}\n\n{prompt}"
    if getattr(tokenizer, "chat_template", None):
        return encode(tokenizer, apply_template(tokenizer, text))
    return [*opening_tokens(tokenizer), *encode(tokenizer, text)]


def _choose_factors(
    model: LanguageModel, factors: FactorTable | RescaleFactors | None, prompt_tokens: int, new_tokens: int
) -> RescaleFactors | None:
    """The smallest factor set for prompt and answer together, None where there are no factors (raises FactorsError)."""
    planned, table = prompt_tokens + new_tokens, as_table(factors) if factors else None
    longest = table.factor_sets[-1].target_window if table else model.spec.trained_window
    if planned > longest:
        raise FactorsError(
            f"Document and prompt are {prompt_tokens:,} tokens, and up to {new_tokens:,} are to follow: {planned:,}.",
            f"The longest window of these factors is {longest:,}."
            if table
            else f"Without factors the model holds the {longest:,} that it was trained on.",
            f"Search factors with `longrope search {model.name} --to {planned} --data PATH` and give them with "
            "--factors, or give a shorter document or fewer --max-new-tokens.",
        )
    return table.choose(planned) if table else None


def choose_token(logits: Logits, settings: GenerationSettings, rng: np.random.Generator) -> int:
    """The likeliest token, or one drawn from the likeliest (raises ModelError for logits [V] that are no numbers)."""
    if not math.isfinite(highest := float(logits.max())):
        raise ModelError(
            f"The highest logit of the next token is {highest}.",
            "Numbers are needed: the number format of the model is too narrow, or its weights are damaged.",
            "Load the model with --dtype bfloat16 or float32.",
        )
    if not settings.temperature:
        return int(logits.argmax())
    shares = np.exp((logits.astype(np.float64) - highest) / settings.temperature)
    order = np.argsort(-shares, kind="stable")
    gathered = np.cumsum(shares[order]) / shares.sum()
    kept = order[: int(np.searchsorted(gathered, settings.top_p)) + 1]
    return int(rng.choice(kept, p=shares[kept] / shares[kept].sum()))


@dataclass
class _Written:
    """Tokens as they come, and their text: a piece is reported once its bytes are whole characters.

    A piece is what the last tokens add to the text of those before them, since tokenizers write a token in other ways
    at the beginning of a text.
    """

    tokenizer: Any
    on_text: Callable[[str], None]
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    before: int = 0  # tokens[before:reported] are what the last piece came from
    reported: int = 0

    def add(self, token: int) -> None:
        self.tokens.append(token)
        if not self._new_text().endswith(UNFINISHED):
            self._report()

    def finish(self) -> str:
        """The whole text, unfinished characters at its end included."""
        self._report()
        return "".join(self.pieces)

    def _new_text(self) -> str:
        known, whole = (self._decoded(self.tokens[self.before : end]) for end in (self.reported, None))
        return whole[len(known) :]

    def _report(self) -> None:
        if piece := self._new_text():
            self.before, self.reported = self.reported, len(self.tokens)
            self.pieces.append(piece)
            self.on_text(piece)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
