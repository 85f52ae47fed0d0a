"""What a checkpoint states of its licence: what its base says, and the notice that some licences ask for."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from longrope import reading
from longrope.errors import ModelError
from longrope.models import ASSETS, EMBEDDED, read_gguf_file
from longrope.models.adapters import find_adapter
from longrope.models.trained_weights import find_trained_weights

INHERITED = ("license", "license_name", "license_link", "language", "datasets")
LISTED = ("language", "datasets")
LARGEST_CARD, LONGEST_VALUE = 2**22, 500  # bytes of a card, characters of a value in it
NOTICE_FILE = "NOTICE"
NOTICES = {  # licence, by the hub's name -> what must go with everything that is made of the model
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms.",
}
OWNERS = {"google/gemma-": ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text")}  # under the first


def inherited(base_model: str, hub_name: str = "", model_type: str = "") -> dict[str, Any]:
    """What the base model says of licence, language and data, for the metadata of a card.

    Args:
        base_model: a folder with a card, a GGUF file, the bundled model's name, or a folder with adapters or trained
            weights of one of these; others say nothing.
        hub_name: the name on the hub, by which Gemma's licence is known where the base says none.
        model_type: transformers' name.
    """
    own = find_adapter(base_model) or find_trained_weights(base_model)
    base_model = own.base if own else base_model
    path = Path(base_model)
    found = _of_gguf(path) if path.suffix == ".gguf" and path.is_file() else _of_card(base_model)
    known = [types[0] for owner, types in OWNERS.items() if hub_name.startswith(owner) and model_type in types]
    return found if found.get("license") or not known else found | {"license": known[0]}


def notice_of(stated: dict[str, Any]) -> str:
    """The notice that the licence of some metadata asks for; empty for most."""
    return NOTICES.get(str(stated.get("license", "")), "")


def _of_gguf(path: Path) -> dict[str, Any]:
    try:
        metadata = read_gguf_file(path).metadata
    except ModelError:  # what was loaded from there once is in memory
        return {}
    keys = {key: key.replace("license_", "license.") for key in INHERITED[:3]}
    return {key: str(metadata[f"general.{name}"]) for key, name in keys.items() if metadata.get(f"general.{name}")}


def _of_card(base_model: str) -> dict[str, Any]:
    card = (ASSETS / EMBEDDED if base_model == EMBEDDED else Path(base_model)) / "README.md"
    if not card.is_file():
        return {}
    try:
        text = reading.read_bytes(card, LARGEST_CARD).decode()
        data = ModelCard(text, ignore_metadata_errors=True).data
        stated = {key: data.get(key) for key in INHERITED}
    except Exception:  # noqa: BLE001  # a stranger's card must not cost an export, whatever reading it raises
        return {}
    return {key: value for key, value in stated.items() if value and _is_plain(value, lists=key in LISTED)}


def _is_plain(value: Any, *, lists: bool) -> bool:
    """Whether a value of a card is a text of ordinary length, or, where there may be several, a list of such."""
    if lists and isinstance(value, list):
        return all(_is_plain(item, lists=False) for item in value)
    return isinstance(value, str) and len(value) <= LONGEST_VALUE and value.isprintable()
