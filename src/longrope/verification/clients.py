"""The clients that a checkpoint can be opened in: a row and a function of ``ask_client`` for each.

To add one, write both.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from longrope.errors import RecipeError

SERVERS = ("http://", "https://")  # begin the name of a client that is a server
FOLDER, FILE = "folder", "GGUF file"
MLX = ("mlx-lm", "mlx" if sys.platform == "darwin" else "mlx[cpu]")


@dataclass(frozen=True)
class Client:
    """A runtime that opens checkpoints.

    Attributes:
        name: on the command line.
        opens: what it is made for: folders, GGUF files, or both.
        interface: by which ``ask_client`` asks it, a key of ``INTERFACES``; empty for a server.
        module: of its Python library; where it can be imported, the script runs with this Python.
        requirements: for pip, where it cannot; none where it must be installed by hand.
        alone: whether its dependencies clash with ours, so that it always has an environment of its own.
        chooses_by: what a runtime with two lists of factors chooses by: the ``length`` of each sequence, or the
            ``window`` that it was started with, so that shorter sequences may have the long list, too.
        tolerance_nats: the largest difference of a log-probability from ours that its number formats explain.
        remote_code: whether it may run code of the checkpoint's folder; it shares the environment of ``same_as``.
        same_as: the name of the client that is the same but for this.
        quick: whether an export opens its checkpoint in it where it is at hand.
    """

    name: str
    opens: tuple[str, ...]
    interface: str = ""
    module: str = ""
    requirements: tuple[str, ...] = ()
    alone: bool = False
    chooses_by: Literal["length", "window"] = "window"
    tolerance_nats: float = 0.02
    remote_code: bool = False
    same_as: str = ""
    quick: bool = True

    @property
    def at_hand(self) -> bool:
        """Whether its script can run with this Python."""
        return not self.alone and bool(self.module) and find_spec(self.module) is not None


CLIENTS: dict[str, Client] = {
    row.name: row
    for row in (
        Client("transformers", (FOLDER,), "transformers", "transformers", chooses_by="length"),
        Client(
            "transformers-4.57",
            (FOLDER,),
            "transformers",
            requirements=("transformers==4.57.6",),
            alone=True,
            chooses_by="length",
        ),
        Client(  # it rounds what is multiplied with quantized weights to 8 bits
            "llama.cpp", (FILE,), "llama.cpp", "xllamacpp", ("xllamacpp",), tolerance_nats=0.3
        ),
        Client("mlx-lm", (FOLDER,), "mlx-lm", "mlx_lm", MLX),  # it takes the long list for all lengths
        Client(
            "mlx-lm-remote-code",
            (FOLDER,),
            "mlx-lm",
            "mlx_lm",
            MLX,
            remote_code=True,
            same_as="mlx-lm",
            quick=False,
        ),
        Client("vllm", (FOLDER,), "vllm", "vllm", tolerance_nats=0.3, quick=False),
    )
}


def find_client(name: str) -> Client:
    """The client of a name, or the server at an address (raises RecipeError)."""
    if name.startswith(SERVERS):
        return Client(name, (FOLDER, FILE), tolerance_nats=0.3)
    if name not in CLIENTS:
        raise RecipeError(
            f"The client {name!r} was asked for.",
            f"Known: {', '.join(CLIENTS)}, and servers by their address, such as http://localhost:8000/v1.",
            "Choose some of them with --with.",
        )
    return CLIENTS[name]


def kind_of(path: Path) -> str:
    """Whether a checkpoint is a folder or a GGUF file (raises RecipeError for anything else)."""
    if path.is_dir() and (path / "config.json").is_file():
        return FOLDER
    if path.is_file() and path.suffix == ".gguf":
        return FILE
    found = "is a folder without config.json" if path.is_dir() else "is no .gguf file" if path.exists() else "is absent"
    raise RecipeError(
        f"{path} {found}.",
        "A checkpoint to open is needed: a Hugging Face folder, or a GGUF file.",
        "Give the folder of config.json (of a run directory: RUN/hf), or the file.",
    )


def is_checkpoint(path: Path) -> bool:
    """Whether it is something that clients are made for."""
    return (path / "config.json").is_file() or (path.is_file() and path.suffix == ".gguf")


def at_hand(kind: str) -> tuple[Client, ...]:
    """The clients made for a folder, or for a GGUF file, that can run with this Python and start quickly."""
    return tuple(row for row in CLIENTS.values() if kind in row.opens and row.quick and row.at_hand)


def chosen_clients(path: Path, names: Sequence[str]) -> tuple[Client, ...]:
    """The clients of these names, each once; without names those at hand.

    Raises:
        RecipeError: an unknown name, or none is given and none is at hand.
    """
    if chosen := tuple(find_client(name) for name in dict.fromkeys(names)) or at_hand(kind_of(path)):
        return chosen
    kind = kind_of(path)
    raise RecipeError(
        f"{path} is a {kind}, and no client that opens one is installed.",
        f"Clients for it: {', '.join(row.name for row in CLIENTS.values() if kind in row.opens)}.",
        "Name one, which is then installed into an environment of its own: --with "
        f"{next(row.name for row in CLIENTS.values() if kind in row.opens and row.requirements)}.",
    )


def suited_clients(path: Path, paths: Sequence[Path], names: Sequence[str]) -> tuple[str, ...]:
    """Of the clients that are asked for, those to open one of several checkpoints in.

    Those are the ones that are made for its kind; of one checkpoint alone, all of them.

    Raises:
        RecipeError: an unknown name, or one that is made for none of the checkpoints.
    """
    if len(paths) == 1:
        return tuple(names)
    kinds = {kind_of(each) for each in paths}
    for client in map(find_client, names):
        if not kinds & set(client.opens):
            raise RecipeError(
                f"The client {client.name} opens {' and '.join(client.opens)}s, and none is given.",
                "Each client must have a checkpoint to open.",
                "Leave it out, or add a checkpoint.",
            )
    return tuple(name for name in names if kind_of(path) in find_client(name).opens)
