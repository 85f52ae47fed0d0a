"""The command that sends a checkpoint to the hub."""

from pathlib import Path
from typing import Annotated

import typer

from longrope.cli.commands import app
from longrope.cli.console import say


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run directory, exported folder, or GGUF file.")],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; created if it does not exist.")
    ],
    revision: Annotated[str, typer.Option("--revision", help="Branch to send to; created if it does not exist.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Send a checkpoint to the Hugging Face hub."""
    from longrope import exports

    say(f"sent: {exports.upload(path, repo, revision=revision, private=private)}")
