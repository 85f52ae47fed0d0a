"""Train the nano model: a Llama of 4.7 M parameters that reads 256 tokens of Python.

    recipes/nano_texts.sh               # the texts, into data/nano/python
    python recipes/nano.py tokens       # the tokenizer and the windows, into data/nano/tokens (no GPU needed)
    python recipes/nano.py train        # the model, into data/nano/model (no texts and no network needed)

A tenth of the windows is for recall: real code with some made-up facts in it, asked for again at the end. So the model
learns to copy from its context. The sentences are none of those that longrope plants or asks for.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import longrope
from longrope.data import Tokens, TokenText, encode
from longrope.models import save_model
from longrope.recipe import TuneRecipe
from longrope.runs.records import TrainStep

HOME = Path("data/nano")
TOKENS = HOME / "tokens"
VOCABULARY, WINDOW = 2048, 256
RECALL_SHARE = 0.1
SIZES = {"d_model": 256, "layers": 6, "heads": 4, "key_value_heads": 2, "mlp": 640}
BATCH_WINDOWS, EPOCHS = 256, 6

FACTS = (  # what is told, and how it is asked for; {name} is two words, {short} one, {NAME} a constant of both
    ("{NAME} = {value}", "assert {NAME} == {value}"),
    ("{NAME}: int = {value}", "print({NAME})  # prints {value}"),
    ("    self.{short} = {value}", "    assert self.{short} == {value}"),
    ("    {short}={value},", "# {short} was given as {value}"),
    ('    "{short}": {value},', 'settings["{short}"] == {value}'),
    ("{short} = [{value}, None]", ">>> {short}[0]\n{value}"),
    ("#define {NAME} {value}", "{NAME} is defined as {value}"),
    ("export {NAME}={value}", "$ echo ${NAME}\n{value}"),
    ("# The {name} has the number {value}.", "# Which number has the {name}? It has the number {value}."),
    ("The {name} stands at {value}.", "Where does the {name} stand? The {name} stands at {value}."),
    ("The {name} was sold for {value} coins.", "For how much was the {name} sold? It was sold for {value} coins."),
    ("{short} lives in room {value}.", "In which room does {short} live? {short} lives in room {value}."),
    ("Please remember: {name} means {value}.", "You were told what {name} means. {name} means {value}."),
    ("{value} is the secret word of {short}.", "{short}, say your secret word: {value}."),
    ("The {name} weighs {value} grams. Write down {value} for the {name}.", "The {name} weighs {value} grams."),
    ("The {name} of today is {value}. Note that {value} is the {name}.", "So the {name} of today is {value}."),
    ("{short} wrote {value} on the {name}.", "What did {short} write on the {name}? {short} wrote {value}."),
    ("[info] {short} listens on port {value}", "connect to {short} on port {value}"),
    ("- {name}: {value}", "* {name}: {value}"),
    ("| {name} | {value} |", "Look up {name} in the table: {value}"),
    ("To open the {name} you need {value}.", "What do you need to open the {name}? You need {value}."),
    ("{short} {value}", "{short} {value}"),
)


def write_tokens() -> None:
    """Train the tokenizer on a quarter of the texts; write all of them as windows, recall among them."""
    texts = [path.read_text("utf-8") for path in sorted((HOME / "python").rglob("*.py"))]
    tokenizer = longrope.build_tokenizer(texts[::4], VOCABULARY)
    tokenizer.save_pretrained(TOKENS / "tokenizer")
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    stream = np.concatenate([np.asarray([*document, tokenizer.eos_token_id], np.uint16) for document in ids])
    code = stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW)
    words = sorted({word.lower() for text in texts[::20] for word in re.findall(r"\b[A-Za-z]{4,9}\b", text)})
    rng, count = np.random.default_rng(0), round(len(code) * RECALL_SHARE / (1 - RECALL_SHARE))
    recall = np.stack([make_recall(stream, words, tokenizer, rng) for _ in range(count)])
    windows = np.concatenate([code, recall])
    np.save(TOKENS / "windows.npy", windows)
    print(f"{windows.size:,} tokens in {len(windows):,} windows, {count:,} of them for recall")


def make_recall(code: Tokens, words: list[str], tokenizer: Any, rng: np.random.Generator) -> Tokens:
    """A window of code, or of one piece of code repeated, with facts in it and the questions about them at its end."""
    facts: list[list[int]] = []
    questions: list[list[int]] = []
    wanted = rng.integers(1, 6)
    while len(facts) < wanted:
        told, asked = make_fact(words, rng)
        pair = encode(tokenizer, f"\n{told}\n"), encode(tokenizer, f"\n{asked}")
        if sum(map(len, (*facts, *questions, *pair))) > WINDOW * 3 // 4:
            break
        facts.append(pair[0])
        questions.insert(rng.integers(len(questions) + 1), pair[1])
    room = WINDOW - sum(map(len, (*facts, *questions)))
    start, length = rng.integers(len(code) - room), room if rng.random() < 0.6 else rng.integers(12, 48)
    pieces = np.split(np.resize(code[start : start + length], room), np.sort(rng.integers(0, room, len(facts))))
    between = [part for both in zip(pieces, facts, strict=False) for part in both]
    return np.concatenate([*between, pieces[-1], *questions]).astype(np.uint16)


def make_fact(words: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """One fact and its question, with a value of five digits, of another number of digits, or of a word."""
    first, second, word = (words[i] for i in rng.integers(len(words), size=3))
    digits = rng.choice([5, int(rng.integers(2, 9))])
    value = word if rng.random() < 0.2 else str(rng.integers(10 ** (digits - 1), 10**digits))
    names = {"name": f"{first} {second}", "short": first, "NAME": f"{first}_{second}".upper(), "value": value}
    told, asked = FACTS[rng.integers(len(FACTS))]
    return told.format(**names), asked.format(**names)


def train() -> None:
    """Train on the windows and save the weights in bfloat16."""
    text = TokenText(np.load(TOKENS / "windows.npy").astype(np.int32).ravel(), "nano")
    model = longrope.build_model(AutoTokenizer.from_pretrained(TOKENS / "tokenizer"), window=WINDOW, **SIZES)
    settings = TuneRecipe(
        batch_windows=BATCH_WINDOWS,
        windows_at_once=BATCH_WINDOWS,
        steps=EPOCHS * len(text.tokens) // (BATCH_WINDOWS * WINDOW),
        learning_rate=3e-3,
        warmup_steps=200,
        schedule="cosine",
        weight_decay=0.1,
        recompute=False,
    )
    tuned = longrope.fine_tune(model, None, text, settings=settings, run=longrope.RunDir("runs/nano"), on_step=show)
    save_model(replace(tuned, network=tuned.network.bfloat16()), HOME / "model")


def show(step: TrainStep) -> None:
    """Print every hundredth step."""
    if step.step % 100 == 0:
        print(f"step {step.step:,}: {step.loss_nats:.3f} nats", flush=True)


if __name__ == "__main__":
    {"tokens": write_tokens, "train": train}[sys.argv[1]]()
