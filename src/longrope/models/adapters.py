"""PEFT adapters as models: the base is loaded, and the adapter is merged into it by peft."""

import warnings
from pathlib import Path
from typing import Any

from torch.nn import Parameter

from longrope.errors import ModelError, converting_errors
from longrope.models.bases import NAMED, Trained, find_base, is_base
from longrope.models.folders import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def find_adapter(source: str | Path) -> Trained | None:
    """The adapter that a folder holds, None for every other source.

    Raises:
        ModelError: it names no base, has no safetensors weights, or a whole model lies beside it.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return None
    base = read_json(folder / CONFIG).get(NAMED)
    whole = sorted(file.name for file in folder.glob("*.safetensors") if file.name != WEIGHTS)
    if whole or not base or not (folder / WEIGHTS).is_file():
        found = f"a whole model beside it ({whole[0]})" if whole else f"no {WEIGHTS}" if base else "no base"
        raise ModelError(
            f"{str(folder)!r} holds a PEFT adapter ({CONFIG}) with {found}.",
            f"Needed: {WEIGHTS}, its base in {NAMED}, and nothing that could be meant instead.",
            "Correct the folder, or merge the adapter with peft's merge_and_unload and give the folder saved from it.",
        )
    return Trained(folder, find_base(folder, str(base)), CONFIG)


def merge_adapter(network: Any, adapter: Trained) -> Any:
    """The network with an adapter added to its weights.

    Raises:
        ModelError: peft is missing, or the adapter does not fit: it was trained on other weights, some of its weights
            have no place, or places are left.
    """
    if not is_base(adapter.folder, network):
        raise ModelError(
            f"The PEFT adapter {str(adapter.folder)!r} was trained on other weights than those of {adapter.base!r}.",
            "Needed: the model that it was trained on; that of a later stage has the adapters of the stages before.",
            f"Correct {NAMED} in its {CONFIG}, or give the exported checkpoint of the run.",
        )
    with converting_errors(
        ModelError,
        f"The PEFT adapter {str(adapter.folder)!r} cannot be merged into its base {adapter.base!r}",
        "Needed: an adapter that was trained on this base and can be merged, such as LoRA's.",
        f"Correct {NAMED} in its {CONFIG}; LONGROPE_DEBUG=1 shows the traceback.",
    ):
        try:
            from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
        except ImportError as error:
            raise ModelError(
                f"{str(adapter.folder)!r} holds a PEFT adapter, and peft is not installed.",
                "peft merges it into its base.",
                "Install longrope[lora].",
            ) from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore")  # weights without a place are refused below
            adapted = PeftModel.from_pretrained(network, str(adapter.folder))
        stated = set(load_peft_weights(str(adapter.folder), device="cpu"))
        held = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        known = {*held, *get_peft_model_state_dict(adapted), *(name for name, _ in adapted.named_parameters())}
        if wrong := sorted((held - stated) | (stated - known)):  # what was trained whole beside adapters may be there
            raise ValueError(f"its weights and those of the base differ in {', '.join(wrong[:3])}")
        _untie(adapted)
        return adapted.merge_and_unload()


def _untie(adapted: Any) -> None:
    """Give the output embedding weights of its own where they are the input embedding's and either has an adapter.

    peft computes with the one changed and the other as it was; merged into what they share, the change is in both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    network: Any = adapted.get_base_model()
    parts: list[Any] = [network.get_input_embeddings(), network.get_output_embeddings()]
    if parts[1] is None or not any(isinstance(part, BaseTunerLayer) for part in parts):
        return
    plain: list[Any] = [part.get_base_layer() if isinstance(part, BaseTunerLayer) else part for part in parts]
    if plain[0].weight is plain[1].weight:
        plain[1].weight = Parameter(plain[0].weight.detach().clone())
        for config in (network.config, network.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
