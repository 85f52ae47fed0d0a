"""Send an exported checkpoint to the Hugging Face hub. Nothing is sent but by ``upload``."""

from pathlib import Path

from huggingface_hub import HfApi

from longrope.errors import ExportError, converting_errors
from longrope.exports import mlx
from longrope.runs.run_dir import RunDir

SENT = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.gguf", "README.md", mlx.FILE)


def find_checkpoint(path: Path) -> Path:
    """The folder or GGUF file that is meant by a path: its own, or the checkpoint of a run directory.

    Raises:
        ExportError: there is none.
    """
    for folder in (RunDir(path).checkpoint, path) if path.is_dir() else ():
        if (folder / "config.json").is_file():
            return folder
    if path.is_file() and path.suffix == ".gguf":
        return path
    raise ExportError(
        f"{path} holds no checkpoint.",
        "A run that was exported, a folder with a config.json, or a GGUF file is needed.",
        "Export first: longrope export RUN",
    )


def upload(path: Path, repo: str, *, revision: str = "", private: bool = False) -> str:
    """Send a checkpoint to a repository on the hub, which is made if it is not there.

    Args:
        path: a run directory, an exported folder or a GGUF file.
        repo: OWNER/NAME.
        revision: a branch, made if it is not there; the main one if left out.
        private: make a new repository private; one that is there stays as it is.

    Returns:
        The address of what was sent.

    Raises:
        ExportError: there is no checkpoint, or the hub refuses it.
    """
    checkpoint = find_checkpoint(path)
    with converting_errors(
        ExportError,
        f"{checkpoint} cannot be sent to {repo!r}",
        "Needed: the hub within reach, a name of the form OWNER/NAME, and a token that may write there.",
        "Log in with hf auth login, and repeat the command: files that are there already are not sent again.",
    ):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        if checkpoint.is_dir():
            message = "Upload a checkpoint with rescaled RoPE"
            return str(
                api.upload_folder(
                    repo_id=repo,
                    folder_path=checkpoint,
                    revision=revision or None,
                    allow_patterns=list(SENT),
                    commit_message=message,
                )
            )
        return str(
            api.upload_file(
                path_or_fileobj=checkpoint, path_in_repo=checkpoint.name, repo_id=repo, revision=revision or None
            )
        )
