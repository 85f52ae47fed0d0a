"""Places on the Hugging Face hub beyond a plain name: a revision, a folder or a file of a repository.

They are written as huggingface_hub writes them: ``hf://OWNER/NAME@REVISION/PATH``. With a revision ``hf://`` may be
left out; without one it tells a path in a repository from a path on the disk.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from longrope.errors import ModelError, converting_errors, describe_error

FORM = re.compile(r"(?P<scheme>hf://)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<path>[^@]+?))?/?")
READ = ("*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja")  # no pickles, no code


@dataclass(frozen=True)
class HubPlace:
    """A revision (empty: the newest) and a folder or GGUF file (empty: all) of a repository."""

    repo: str
    revision: str = ""
    path: str = ""


def read_place(source: str | Path) -> HubPlace | None:
    """The place on the hub that a model's name says, None for paths, for plain names and for all that is on the disk.

    Raises:
        ModelError: it begins with ``hf://`` and names no repository.
    """
    text = str(source)
    found = FORM.fullmatch(text)
    if text.startswith("hf://") and not found:
        raise ModelError(
            f"{text!r} names no model on the hub.", "Its form is hf://OWNER/NAME@REVISION/PATH.", "Correct the name."
        )
    if not found or Path(source).exists() or not (found["scheme"] or found["revision"]):
        return None
    return HubPlace(found["repo"], found["revision"] or "", found["path"] or "")


def check_path(source: str | Path) -> None:
    """Raise ModelError for no name, a missing GGUF file, a path that is not looked up, pipes, a run directory."""
    try:
        if not str(source).strip():
            raise ValueError("it is empty")
        Path(source).lstat()
        files = [path for path in Path(source).iterdir() if path.exists()] if Path(source).is_dir() else []
    except (FileNotFoundError, NotADirectoryError):
        if str(source).endswith(".gguf") and read_place(source) is None:  # the hub would be asked for half a minute
            raise ModelError(
                f"There is no file {str(source)!r}.",
                "A hub name, a folder or a GGUF file that is here is needed.",
                "Correct the path. A file on the hub is written hf://OWNER/NAME/PATH.",
            ) from None
        return  # a name on the hub, perhaps
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model {str(source)!r} cannot be looked up ({describe_error(error)}).",
            "A hub name, a folder or a GGUF file is needed.",
            "Correct it.",
        ) from error
    if special := [path.name for path in files if not (path.is_file() or path.is_dir())]:
        raise ModelError(
            f"{special[0]!r} in {str(source)!r} is a pipe or a device.",
            "A model's folder holds regular files: reading another one might never end.",
            "Remove it.",
        )
    checkpoint = Path(source, "hf")
    if checkpoint in files and not {"config.json", "adapter_config.json"} & {path.name for path in files}:
        raise ModelError(
            f"{str(source)!r} holds no config.json, and a checkpoint in the folder hf, as run directories do.",
            "The folder of the checkpoint itself is needed.",
            f"Give {str(checkpoint)!r}.",
        )


def at_hand(source: str | Path) -> str | Path:
    """A model's folder or file: downloaded from a place on the hub, any other source as it is (raises ModelError)."""
    check_path(source)
    place = read_place(source)
    if place is None:
        return source
    with converting_errors(
        ModelError,
        f"{str(source)!r}, taken as a place on the hub, cannot be downloaded",
        "Needed: a repository, a revision and a path that are there, and the hub within reach or in the cache.",
        "Check the name; for a gated or private repository log in with hf auth login.",
    ):
        revision = place.revision or None
        if place.path.endswith(".gguf"):
            return Path(hf_hub_download(place.repo, place.path, revision=revision))
        wanted = [f"{place.path}/{pattern}".lstrip("/") for pattern in READ]
        folder = Path(snapshot_download(place.repo, revision=revision, allow_patterns=wanted), place.path)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{str(source)!r} has no config.json.", "A folder with a model is needed.", "Correct its revision or path."
        )
    return folder
