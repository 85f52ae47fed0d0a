"""Folders that mlx-lm would run wrongly without a word: they make it refuse, and say how it runs them rightly.

mlx-lm ignores longrope in most model types. In the others it takes the long list at every length, and derives the
attention factor from windows. A checkpoint whose config names a file of code under ``model_file`` it refuses unless it
is given ``--trust-remote-code``; then that file makes the model. The file that is written here gives mlx-lm the window
that yields the attention factor, or says that there is none. Seen with ``VERSION``; transformers 4.57.6 and 5.24.0 and
vLLM 0.32.0 do not read the key (source).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from longrope.rope import FactorLists
from longrope.rope.hf_legacy import ONLY_BARE, deriving_window, needs_window

VERSION = "mlx-lm 0.32.2"
KEY, FILE = "model_file", "mlx_lm_model.py"
MODULES = {  # of the model types whose longrope it applies (seen)
    **{name: name for name in ("llama", "qwen2", "qwen3", "olmo2", "olmoe", "phi3", "granite", "granitemoe")},
    **{name: name for name in ("seed_oss", "smollm3")},
    "mistral": "llama",
}
REFUSAL = '''"""Why mlx-lm refuses this checkpoint."""

raise ImportError({why!r})
'''
MODEL = '''"""The model of this checkpoint in mlx-lm, which refuses it unless it may run this file: --trust-remote-code.

mlx-lm derives longrope's attention factor from windows; with the one below it derives {attention:.6g}.
"""

from mlx_lm.models.{module} import Model as Model
from mlx_lm.models.{module} import ModelArgs as PlainArgs


class ModelArgs(PlainArgs):
    @classmethod
    def from_dict(cls, params):
        stated = {place}
        return super().from_dict({{**params, **stated}})
'''
IN_SCALING = '{{"rope_scaling": {{**params["rope_scaling"], "original_max_position_embeddings": {window}}}}}'
AT_TOP = '{{"original_max_position_embeddings": {window}}}'


@dataclass(frozen=True)
class MlxNeeds:
    """What mlx-lm needs for a checkpoint that it would run wrongly: a window, or nothing helps, and why not.

    Attributes:
        window: from which it derives the attention factor, in tokens; 0 if there is none.
        why: it cannot run the checkpoint; empty where a window helps.
        version: that was seen.
        file: in the folder, that it is to be trusted with.
    """

    window: int
    why: str = ""
    version: str = VERSION
    file: str = FILE


def mlx_needs(model_type: str, attention: float, window: int, original: int, *, two_lists: bool) -> MlxNeeds | None:
    """What mlx-lm needs for a checkpoint; None if it runs it rightly as it is.

    Args:
        model_type: of the config.
        attention: the attention factor of the lists.
        window: that the config states, in tokens.
        original: the window before the scaling.
        two_lists: whether there are two.
    """
    if model_type not in MODULES:
        return MlxNeeds(0, f"mlx-lm is not known to apply LongRoPE factors to the model type {model_type}")
    if not needs_window(model_type, attention, window, original, two_lists=two_lists):
        return None
    if not (derived := deriving_window(window, attention)):
        return MlxNeeds(0, f"mlx-lm derives attention factors of 1 or more, and this one is {attention:.6g}")
    return MlxNeeds(derived)


def write_for_mlx(folder: Path, lists: FactorLists, *, two_lists: bool) -> None:
    """Have a folder refused by mlx-lm where it needs something, and not where the base model's folder alone was.

    A config that names another file stays as it is: mlx-lm refuses it already.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.pop(KEY, FILE) != FILE:
        return
    stated = (lists.attention_factor, lists.target_window, lists.switch_tokens)
    if needs := mlx_needs(config["model_type"], *stated, two_lists=two_lists):
        (folder / FILE).write_text(_code(config["model_type"], lists.attention_factor, needs), encoding="utf-8")
        config[KEY] = FILE
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _code(model_type: str, attention: float, needs: MlxNeeds) -> str:
    if needs.why:
        return REFUSAL.format(why=f"{needs.why} ({needs.version}).")
    place = (AT_TOP if model_type in ONLY_BARE else IN_SCALING).format(window=needs.window)
    return MODEL.format(attention=attention, module=MODULES[model_type], place=place)
