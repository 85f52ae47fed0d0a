"""Load config, weights and tokenizer of a GGUF file by transformers' tables, reading its vocabulary once.

transformers itself reads it again for the config, for the weights and for the class of the tokenizer, each time by a
reader that makes an object of every entry.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from longrope.data import opening_token
from longrope.errors import ModelError
from longrope.models.geometry import config_entries
from longrope.models.gguf_checks import check_gguf_keys, check_version
from longrope.models.gguf_file import GgufFile, check_types
from longrope.models.gguf_geometry import read_rope_rows
from longrope.rope import gguf_metadata
from longrope.rope.hf_config import read_head_dim

GLOBAL, LOCAL = "full_attention", "sliding_attention"  # layer types of transformers
LOCAL_THETA = "rope.freq_base_swa"
OPENS = "tokenizer.ggml.add_bos_token"  # whether a BOS token stands before every text


def load_gguf_config(file: GgufFile) -> Any:
    """The config that a file stands for, with the scaling that it declares (transformers drops most of it).

    Raises:
        ModelError: keys of attention or positions that we do not know, or tensors that cannot be dequantized.
    """
    check_types(file)
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

    if file.architecture in GGUF_CONFIG_ARCHS:
        config = AutoConfig.from_pretrained(file.path.parent, gguf_file=file.path.name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file.write_header(Path(folder) / file.path.name)
            config = AutoConfig.from_pretrained(folder, gguf_file=file.path.name)
        check_gguf_keys(file, config)  # the others are read key by key
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = _with_stated_rope(file, config)
        switch = config.rope_parameters.get("original_max_position_embeddings")
        if switch and hasattr(config, "original_max_position_embeddings"):
            config.original_max_position_embeddings = switch  # Phi-3's default would go before the one of the file
    return config


def load_gguf_network(file: GgufFile, config: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The network with the dequantized weights of a file, and transformers' report on them."""
    how = {"config": config, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    from transformers import GgufConfig
    from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS

    if file.architecture in GGUF_ARCHS:  # which are read without the slow reader of the gguf package
        whole = GgufConfig(dequantize=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.path.parent, gguf_file=file.path.name, quantization_config=whole, **how
        )
        network, report = loaded
        network.hf_quantizer.remove_quantization_config(network)
        _state_ends(network, file)
        return network, report
    with torch.device("meta"):
        skeleton: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = _read_weights(file, skeleton, dtype)
    loaded = type(skeleton).from_pretrained(None, state_dict=weights, **how)
    _state_ends(loaded[0], file)
    return loaded[0], loaded[1]


def _state_ends(network: Any, file: GgufFile) -> None:
    """Have the generation config end at all tokens that the file names as ends: of a text, a turn and a message."""
    stated = network.generation_config.eos_token_id
    named = [file.metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    known = [token for token in named if isinstance(token, int) and 0 <= token < network.config.vocab_size]
    ends = dict.fromkeys([*(stated if isinstance(stated, list) else [stated]), *known])
    network.generation_config.eos_token_id = [token for token in ends if token is not None] or None


def load_gguf_tokenizer(file: GgufFile, config: Any, installed: str = version("transformers")) -> Any:
    """The tokenizer of a file, by the class that transformers has for the model type.

    Args:
        file: what is read.
        config: the one made of it.
        installed: the version of transformers.

    Raises:
        ModelError: transformers is too old, or the tokenizer does not put a BOS token before every text, or none, as
            the file states.
    """
    check_version(file, installed)
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    known = TOKENIZER_MAPPING_NAMES.get(config.model_type)
    unread = known is None or known == "MistralCommonBackend"  # that one reads no GGUF files
    named = {} if unread else {"tokenizer_type": config.model_type}  # else the config is read the slow way for it
    tokenizer: Any = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name, **named)
    opens = file.metadata.get(OPENS)
    if opens is None or (opening_token(tokenizer) is not None) == opens:
        return tokenizer
    raise ModelError(
        f"{file.path} states {OPENS} = {opens}.",
        f"The tokenizer that transformers {installed} makes of it begins a text with "
        f"{'no such token' if opens else tokenizer.bos_token}.",
        "Load the model's original safetensors folder instead.",
    )


def _read_weights(file: GgufFile, skeleton: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of a file by their names in the network, in the order of rows that it expects."""
    from transformers import modeling_gguf_pytorch_utils as tables

    stated = skeleton.config.to_dict()
    make: Any = tables.TENSOR_PROCESSORS.get(file.architecture, tables.TensorProcessor)
    processor = make(config=stated)
    keys = skeleton.state_dict()
    whole: Any = SimpleNamespace(config=skeleton.config, state_dict=lambda: keys, named_children=lambda: ())
    names = tables.get_gguf_hf_weights_map(whole, processor)
    if set(keys) - set(names.values()):  # some are known by their names within a part alone; seconds for each part
        names = tables.get_gguf_hf_weights_map(skeleton, processor)
    weights: dict[str, Any] = {}
    parsed = {"config": stated, "tensors": weights}  # stacked experts are put there by the processor itself
    for place in file.tensors:
        values = file.read_tensor(place)
        done = processor.process(weights=values, name=place.name, tensor_key_mapping=names, parsed_parameters=parsed)
        if done.name in names:
            weights[names[done.name]] = torch.from_numpy(np.require(done.weights, requirements=["C", "W"])).to(dtype)
    return weights


def _with_stated_rope(file: GgufFile, config: Any) -> dict[str, Any]:
    """The config's ``rope_parameters`` with what the file states; layers that slide have a base of their own."""
    head_dim = read_head_dim(config_entries(config))
    stated = gguf_metadata.read_parameters(file.stated, read_rope_rows(file), head_dim, str(file.path))
    before = config.rope_parameters
    if GLOBAL not in before:
        return {**before, **stated}
    local = {"rope_theta": float(file.stated[LOCAL_THETA])} if LOCAL_THETA in file.stated else {}
    return {**before, GLOBAL: {**before[GLOBAL], **stated}, LOCAL: {**before[LOCAL], **local}}
