"""Models of our own: a tokenizer trained on some texts, and a Llama of stated sizes with random weights."""

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from longrope.errors import ModelError
from longrope.models.devices import choose_device
from longrope.models.geometry import read_tables
from longrope.models.language_model import LanguageModel

END = "<|end|>"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def build_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text comes back as it was, and every digit is a token of its own.

    ``<|end|>`` ends a document and pads; nothing is put before a text.

    Args:
        documents: what to train on.
        vocabulary: entries, of which 257 are the bytes and the end.

    Raises:
        ModelError: the vocabulary cannot hold these, or the documents are too few to fill it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise ModelError(
            f"The tokenizer has {size:,} entries.",
            f"{vocabulary:,} were asked for; {len(ALPHABET) + 1} are the least.",
            "Give more documents, or ask for another size.",
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def build_model(  # noqa: PLR0913  # the sizes of a model are its arguments
    tokenizer: Any,
    *,
    d_model: int,
    layers: int,
    heads: int,
    window: int,
    key_value_heads: int | None = None,
    mlp: int | None = None,
    theta: float = 10_000.0,
    seed: int = 0,
    device: str = "auto",
) -> LanguageModel:
    """Build a Llama with random weights in float32, ready to be trained; its input and output embeddings are one.

    Matrices are drawn as GPT-2's: with standard deviation 0.02, and those that write into the residual stream with
    ``1 / sqrt(2 * layers)`` of it, so that the stream does not grow with the depth.

    Args:
        tokenizer: whose vocabulary the model speaks.
        d_model: width of the residual stream.
        layers: blocks.
        heads: query heads, each of ``d_model / heads`` entries.
        window: the longest context that it will be trained on, in tokens.
        key_value_heads: heads of keys and values, ``heads`` of them if None.
        mlp: width of the MLP, ``8 / 3 * d_model`` if None.
        theta: base of the rotary frequencies.
        seed: of the weights.
        device: ``cpu``, ``cuda``, or ``auto``.

    Raises:
        ModelError: sizes that do not fit together.
    """
    groups = heads if key_value_heads is None else key_value_heads
    hidden = d_model * 8 // 3 if mlp is None else mlp
    _check_sizes(d_model=d_model, layers=layers, heads=heads, window=window, key_value_heads=groups, mlp=hidden)
    if not 1 < theta < float("inf"):
        raise ModelError(f"theta = {theta}.", "A finite number above 1 is needed.", "Most models take 10000.")
    place, reason = choose_device(device)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d_model,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=window,
        initializer_range=0.02,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    network = _draw_network(config, seed).requires_grad_(False).eval().to(place)
    name = f"llama-{d_model}x{layers}"
    return LanguageModel(
        network, tokenizer, read_tables(config), name, (f"device {place} ({reason})", "torch.float32 (new)")
    )


def _draw_network(config: LlamaConfig, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, so that a seed means the same weights everywhere
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for layer in network.model.layers:
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            matrix.weight.data *= (2 * config.num_hidden_layers) ** -0.5
    return network


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        least = 2 if name == "window" else 1
        if size < least:
            raise ModelError(f"{name} = {size}.", f"At least {least} is needed.", "Correct it.")
    width, heads, groups = sizes["d_model"], sizes["heads"], sizes["key_value_heads"]
    if width % (2 * heads):
        raise ModelError(
            f"d_model = {width} is not divisible into {heads} heads of even size.",
            "RoPE rotates the entries of a head in pairs.",
            f"Choose a multiple of {2 * heads} for d_model.",
        )
    if heads % groups:
        raise ModelError(
            f"heads = {heads} is not divisible by key_value_heads = {groups}.",
            "Every head of keys and values serves the same number of query heads.",
            f"Choose a divisor of {heads} for key_value_heads.",
        )
