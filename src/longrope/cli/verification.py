"""The command that opens checkpoints in other runtimes."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from longrope.cli.commands import app
from longrope.cli.console import print_table, watching
from longrope.cli.launching import check_alone
from longrope.cli.options import AsJson, Device, DryRun, DType
from longrope.errors import DryRunEnd
from longrope.lengths import parse_tokens
from longrope.verification.clients import CLIENTS, suited_clients


@app.command()
def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Hugging Face folder or GGUF file; of several, each client opens those of its kind.",
        ),
    ],
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="CLIENT",
            help=f"{', '.join(CLIENTS)}, or the address of an OpenAI-compatible server (http://localhost:8000/v1); "
            "repeatable. A client that is not installed gets an environment of its own.",
            show_default="installed ones that start quickly",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Checkpoint that states the scaling to be applied.",
            show_default="the export's record beside PATH, else PATH's own config",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths", help="Prompts to compare: 4k,8k,12k.", show_default="below, at and above the original window"
        ),
    ] = None,
    device: Device = None,
    dtype: DType = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Open checkpoints in other runtimes, and find out by log-probabilities whether each applies the RoPE scaling.

    Exit codes: 0 every client applied it, 1 at least one client has another verdict, 2 bad input.

    applied: the log-probabilities agree with ours. original: the scaling is ignored. other scaling: another one is
    applied, named if it is known. unclear: the candidates are too similar. refused: the client's message follows.
    The table has the largest difference of a log-probability from ours, in nats, at the end of prompts of each length.
    """
    check_alone("verify")
    from longrope.pipeline import report_checks
    from longrope.verification.checking import APPLIED, format_row, verify
    from longrope.verification.exported import dump_verifications

    done = []
    with watching() as watch:
        for path in paths:
            names = suited_clients(path, paths, clients or ())
            if clients and not names:
                continue
            with suppress(DryRunEnd):  # each checkpoint has its estimate
                done += verify(
                    path,
                    names,
                    reference=reference,
                    lengths=[parse_tokens(length) for length in lengths.split(",")] if lengths else (),
                    device=device or "auto",
                    dtype=dtype or "float32",
                    on_message=watch.on_step,
                    on_loaded=partial(report_checks, report=watch.on_step, dry_run=dry_run),
                )
        if dry_run:
            raise DryRunEnd
    if as_json:
        print(dump_verifications(done), end="")
    else:
        header = ["checkpoint", "client", "verdict", "tokens: difference in nats"]
        notes = [f"{each.client}: {each.message}" for each in done if each.message]
        rows = [(each.checkpoint, *format_row(each)) for each in done]
        print_table("verify", header, rows, "\n".join(dict.fromkeys(notes)))
    if any(result.verdict != APPLIED for result in done):
        raise typer.Exit(1)
