"""A checkpoint that was just written: the record of its RoPE, and what the clients at hand make of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from longrope import distributed
from longrope.errors import ExportError, LongRopeError
from longrope.models import LanguageModel
from longrope.runs.files import unfinished_file
from longrope.verification.checking import Verification, format_row, verify
from longrope.verification.clients import Client, at_hand, is_checkpoint, kind_of
from longrope.verification.truth import write_record

LARGEST_WORK = {"cpu": 1e11, "cuda": 1e14}  # parameters times tokens, of which a pass takes two operations each
MOST_PARAMETERS = 1e9  # the model is loaded twice more, in float32
PROMPT_WINDOWS = 3.5  # half, one and two original windows


def verify_export(
    path: Path,
    model: LanguageModel,
    switch_tokens: int,
    on_message: Callable[[str], None],
    *,
    clients: Sequence[str] | None = None,
) -> list[Verification]:
    """Write the record of an exported checkpoint, and open it in the clients at hand where that takes seconds.

    Args:
        path: of the checkpoint, which was compared with the model.
        model: that was exported.
        switch_tokens: the original window.
        on_message: called with the verdicts, or with why there are none.
        clients: their names, if not those at hand.

    Returns:
        What each client did; nothing where it was left out, or where the format is no client's.
    """
    if not is_checkpoint(path):  # a format that another package adds
        return []
    write_record(path, model.spec, switch_tokens)
    names = [client.name for client in at_hand(kind_of(path))] if clients is None else list(clients)
    if not names or distributed.shard():  # the other processes of a sequence are not here
        return []
    if _takes_long(model, switch_tokens):
        on_message(f"not opened in {', '.join(names)}, for its size; `longrope verify` does")
        return []
    try:
        done = verify(path, names, device=model.device.type)
    except LongRopeError as error:
        on_message(f"not opened in {', '.join(names)}: {error}")
        return []
    for each in done:
        client, verdict, differences = format_row(each)
        on_message(f"opened in {client}: {verdict}; {each.message or differences}")
    return done


def quick_clients(model: LanguageModel, kind: str, switch_tokens: int) -> tuple[Client, ...]:
    """The clients that ``verify_export`` opens a checkpoint of a kind in, a folder or a GGUF file."""
    return () if distributed.shard() or _takes_long(model, switch_tokens) else at_hand(kind)


def _takes_long(model: LanguageModel, switch_tokens: int) -> bool:
    parameters = sum(weight.numel() for weight in model.network.parameters())
    work = parameters * switch_tokens * PROMPT_WINDOWS
    return bool(parameters > MOST_PARAMETERS or work > LARGEST_WORK.get(model.device.type, 0))


def add_to_card(card: Path, done: Sequence[Verification]) -> None:
    """Add what clients did to a model card; nothing where none was asked."""
    if not done:
        return
    rows = [f"| {client} | {verdict} | {differences} |" for client, verdict, differences in map(format_row, done)]
    section = f"""
## In other runtimes

Opened right after the export. *applied*: the log-probabilities after prompts of these lengths are those of the exported
model with its factors, up to the difference beside each length, in nats. `longrope verify this-folder --with CLIENT`
opens it in others.

| runtime | verdict | tokens: largest difference |
| --- | --- | --- |
{chr(10).join(rows)}
"""
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n" + section
    with unfinished_file(card, ExportError) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def dump_verifications(done: Sequence[Verification]) -> str:
    """The JSON text of what clients did."""
    return json.dumps([asdict(each) for each in done], indent=1) + "\n"
