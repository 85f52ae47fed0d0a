"""GGUF files against an independent writer of the same model, networks set by hand, and llama.cpp where it is there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pico
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, LlamaFileType, dequantize
from llama_cpp import ask, tokenize
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, ByT5Tokenizer, PreTrainedTokenizerFast

from longrope.errors import ExportError, FactorsError
from longrope.exports import Origin, export_gguf
from longrope.exports.gguf import verify_file
from longrope.exports.gguf_tokenizer import LLAMA3_WORDS, pre_tokenizer_name
from longrope.exports.gguf_weights import as_stored
from longrope.exports.lists import native_lists
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

WINDOW = 256  # llama.cpp rounds its context up to a multiple of this
LAMBDAS = (1.0, 1.5, 3.0, 4.0)
TOKENS = torch.randint(1, 320, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(5))
TWO = ExportRecipe(factor_sets="two")
TEXT = "Hello  world 12345, it's 3.14!\n\n\tdef f(x):\n    return x**2   # naïve «quote» 你好 🦙🦙   \n 7 88  999 "


@pytest.fixture
def model() -> LanguageModel:
    return pico.make_model("llama", max_position_embeddings=WINDOW)


def make_factors(model: LanguageModel, **fields: Any) -> RescaleFactors:
    settings = {"target_window": 4 * WINDOW, "attention_factor": 1.2, **fields}
    return RescaleFactors(LAMBDAS, spec_fingerprint=model.spec.fingerprint, **settings)


def get_logits(network: Any, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(tokens, use_cache=False).logits.float()  # type: ignore[no-any-return]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the standard deviation."""
    return ((ours - theirs).abs().max() / theirs.std()).item()


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return metadata, {tensor.name: tensor.data for tensor in reader.tensors}


# What is written


@pytest.mark.parametrize("tied", [False, True])
def test_the_file_is_that_of_an_independent_writer(tied: bool, tmp_path: Path) -> None:
    """Every tensor and every word that the tests' own writer gives to llama.cpp, and both lists beside them."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, tie_word_embeddings=tied)
    export_gguf(model, make_factors(model), tmp_path / "ours.gguf", settings=TWO)
    untied = pico.make_network("llama", max_position_embeddings=4 * WINDOW)
    untied.load_state_dict(model.network.state_dict())
    short, long = np.ones(4, np.float32), np.asarray(LAMBDAS, np.float32)
    lists: dict[str, Any] = {"rope_factors_short": short, "rope_factors_long": long}
    wanted, weights = read_file(pico.save_gguf(tmp_path / "other.gguf", untied, **lists))
    written, tensors = read_file(tmp_path / "ours.gguf")
    if tied:
        del weights["output.weight"]
    assert tensors.keys() == weights.keys()
    assert all(np.array_equal(tensors[name], weights[name]) for name in weights)
    assert wanted.items() <= written.items()
    added = {name.removeprefix("llama."): written[name] for name in written.keys() - wanted.keys()}
    assert added == {
        "general.name": "pico-llama, context window 1024",
        "general.file_type": 0,
        "vocab_size": 320,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": WINDOW,
        "rope.scaling.attn_factor": pytest.approx(1.2),
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2), (torch.bfloat16, 2), (torch.float32, 4)])
def test_weights_keep_their_number_format(dtype: torch.dtype, size: int, tmp_path: Path) -> None:
    """Matrices in the model's own, vectors and lists in float32, and nothing is lost on the way."""
    model = pico.make_model("llama", dtype=dtype)
    report = export_gguf(model, make_factors(model), tmp_path / "x.gguf")
    assert max(report.difference_short, report.difference_long) < 1e-4
    _, tensors = read_file(tmp_path / "x.gguf")
    assert tensors["blk.1.attn_k.weight"].nbytes == 16 * 32 * size
    assert {tensors[name].dtype for name in ("blk.0.attn_norm.weight", "rope_freqs.weight")} == {np.dtype("f4")}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=dtype)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_weights_are_written_in_the_format_that_is_asked_for(own: torch.dtype, dtype: str, tmp_path: Path) -> None:
    """Matrices alone; each number is as near as the format has one, and the check of the logits knows of it."""
    model = pico.make_model("llama", dtype=own)
    report = export_gguf(model, make_factors(model), tmp_path / "x.gguf", dtype=dtype)
    assert max(report.difference_short, report.difference_long) < 1e-3
    written, tensors = read_file(tmp_path / "x.gguf")
    assert LlamaFileType(written["general.file_type"]).name.endswith(dtype.upper())
    weights = {t.name: t for t in GGUFReader(tmp_path / "x.gguf").tensors}
    up, norm = weights["blk.0.ffn_up.weight"], weights["blk.0.ffn_norm.weight"]
    assert (up.tensor_type.name, norm.tensor_type.name) == (dtype.upper(), "F32")
    assert tensors["rope_freqs.weight"].dtype == np.float32
    wanted = model.network.state_dict()["model.layers.0.mlp.up_proj.weight"].float().numpy()
    got, largest = dequantize(up.data, up.tensor_type), np.abs(wanted).max()
    off = {"f32": 0, "f16": 2**-11 * largest, "bf16": 2**-8 * largest, "q8_0": largest / 127 * 0.51}
    assert np.abs(got - wanted).max() <= off[dtype]


def test_a_spoiled_quantized_file_is_noticed(model: LanguageModel, tmp_path: Path) -> None:
    """The check compares with rounded weights, and not with whatever the file holds."""
    factors, path = make_factors(model), tmp_path / "x.gguf"
    export_gguf(model, factors, path, dtype="q8_0")
    reader = GGUFReader(path, "r+")
    row = tensor_of(reader, "rope_freqs")
    row[-1] = 1.0
    reader.data.flush()
    with pytest.raises(ExportError, match="other logits than ours"):
        verify_file(as_stored(gguf, model, "q8_0"), native_lists(model, factors, ExportRecipe(), None), path)


def test_rows_that_blocks_do_not_divide_are_written_in_f16(tmp_path: Path) -> None:
    """As llama.cpp's own converter does: 48 columns of the second matrix, of blocks of 32."""
    model = pico.make_model("llama")
    export_gguf(model, make_factors(model), tmp_path / "x.gguf", dtype="q8_0")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "x.gguf").tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("Q8_0", "F16")


def test_formats_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Numbers beyond float16, a format of no name; what was there before stays."""
    model, path = pico.make_model("llama", dtype=torch.bfloat16), tmp_path / "x.gguf"
    path.write_text("before")
    with pytest.raises(ExportError, match="'q2_k'"):
        export_gguf(model, make_factors(model), path, dtype="q2_k")
    model.network.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj\.weight has numbers up to 9.98e\+04"):
        export_gguf(model, make_factors(model), path, dtype="f16")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def with_padding(model: LanguageModel) -> LanguageModel:
    """Its tokenizer names one of its tokens for padding: Phi-3's default is beyond a small vocabulary.

    Nor is the family in its name, by which llama.cpp looks for the special tokens of Phi-3.
    """
    model.tokenizer.pad_token = "<|end|>"
    return replace(model, name="pico")


@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("factor_sets", ["single", "two"])
def test_phi3_is_written_in_its_own_layout(factor_sets: str, partial: float, tmp_path: Path) -> None:
    """Projections in one matrix, halves apart, heads that turn in part; the static layout is not of its graph."""
    model = with_padding(pico.make_model("phi3", max_position_embeddings=WINDOW, partial_rotary_factor=partial))
    lambdas = LAMBDAS[: model.spec.num_pairs]
    factors = RescaleFactors(lambdas, 4 * WINDOW, model.spec.fingerprint, attention_factor=1.2)
    settings = ExportRecipe(factor_sets=factor_sets)
    report = export_gguf(model, factors, tmp_path / "x.gguf", settings=settings)
    assert max(report.difference_short, report.difference_long) < 1e-3
    written, tensors = read_file(tmp_path / "x.gguf")
    assert (written["general.architecture"], written["phi3.rope.scaling.type"]) == ("phi3", "longrope")
    assert written["phi3.rope.dimension_count"] == 2 * len(lambdas)
    state = model.network.state_dict()
    assert np.array_equal(tensors["blk.1.attn_qkv.weight"], state["model.layers.1.self_attn.qkv_proj.weight"])
    with pytest.raises(ExportError, match="longrope"):
        export_gguf(model, factors, tmp_path / "y.gguf", layout="static")


# Opened again


@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("changes", [{}, {"head_dim": 16}, {"tie_word_embeddings": True}], ids=["", "wide", "tied"])
def test_the_reopened_file_gives_our_logits(changes: dict[str, Any], factor_sets: str, tmp_path: Path) -> None:
    """By the report and by an independent look on both sides of the switch."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, **changes)
    lambdas = np.linspace(1, 4, model.spec.num_pairs)
    factors = replace(make_factors(pico.make_model("llama")), lambdas=tuple(lambdas.tolist()))
    factors = replace(factors, spec_fingerprint=model.spec.fingerprint)
    report = export_gguf(model, factors, tmp_path / "deep" / "x.gguf", settings=ExportRecipe(factor_sets=factor_sets))
    assert max(report.difference_short, report.difference_long) < 1e-4
    assert (report.factor_sets, report.target_window, report.switch_tokens) == (factor_sets, 4 * WINDOW, WINDOW)
    again = load_model(tmp_path / "deep" / "x.gguf", device="cpu")
    assert again.spec.trained_window == 4 * WINDOW
    plain = torch.tensor([1e4 ** (-i / len(lambdas)) for i in range(len(lambdas))])
    for length in (WINDOW, WINDOW + 1):
        divisors = torch.ones(len(lambdas)) if length == WINDOW and factor_sets == "two" else torch.tensor(lambdas)
        by_hand = pico.make_network("llama", max_position_embeddings=WINDOW, **changes)
        by_hand.model.rotary_emb.inv_freq.copy_(plain / divisors)
        by_hand.model.rotary_emb.attention_scaling = 1.2
        assert gap(get_logits(again.network, TOKENS[:, :length]), get_logits(by_hand, TOKENS[:, :length])) < 1e-4


def test_plain_transformers_opens_the_weights(model: LanguageModel, tmp_path: Path) -> None:
    """It drops the lists of every GGUF file, so what it opens is the model as it was."""
    export_gguf(model, make_factors(model), tmp_path / "x.gguf")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf")
    assert gap(get_logits(plain, TOKENS), get_logits(model.network, TOKENS)) < 1e-4


def test_mistral_without_a_sliding_window_is_written(tmp_path: Path) -> None:
    model = pico.make_model("mistral")
    assert max(export_gguf(model, make_factors(model), tmp_path / "x.gguf").difference_long, 0) < 1e-4


def test_a_scaling_that_the_model_carries_is_part_of_the_lists(tmp_path: Path) -> None:
    """Linear scaling by 2: below the switch of two factor sets it remains, above it the product stands."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, rope={"rope_type": "linear", "factor": 2.0})
    export_gguf(model, make_factors(model), tmp_path / "x.gguf", settings=TWO)
    written, tensors = read_file(tmp_path / "x.gguf")
    assert tensors["rope_factors_short.weight"].tolist() == [2.0] * 4
    assert tensors["rope_factors_long.weight"].tolist() == [2.0 * x for x in LAMBDAS]
    assert "llama.rope.scaling.factor" not in written, "llama.cpp would divide the positions by it"


def test_start_tokens_are_dropped_only_when_asked(model: LanguageModel, tmp_path: Path) -> None:
    factors = make_factors(model, start_tokens=16)
    with pytest.raises(ExportError, match="first 16 tokens"):
        export_gguf(model, factors, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
    windows = TOKENS.numpy().astype(np.int32)[:, :100]
    settings = ExportRecipe(drop_start_tokens=True)
    report = export_gguf(model, factors, tmp_path / "x.gguf", settings=settings, windows=windows)
    assert report.start_tokens_dropped == 16
    assert report.loss_change_nats != 0


# Refused


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("qwen3", {}, "'qwen3'"),
        ("olmo2", {}, "'olmo2'"),
        ("gpt_neox", {}, "'gpt_neox'"),
        ("mistral", {"sliding_window": 32}, "slides over 32 tokens"),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"mlp_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "'gelu'"),
        ("llama", {"dtype": torch.float64}, "torch.float64"),
    ],
)
def test_models_that_the_file_cannot_hold_are_refused(
    family: str, changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    """By name, before anything is written."""
    model = pico.make_model(family, **changes)
    with pytest.raises(ExportError) as caught:
        export_gguf(model, replace(make_factors(pico.make_model("llama"))), tmp_path / "new" / "x.gguf")
    assert found in caught.value.found
    assert "--to hf" in caught.value.remedy
    assert not (tmp_path / "new").exists()


def test_other_names_and_geometries_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not end in \.gguf"):
        export_gguf(model, make_factors(model), tmp_path / "x.bin")
    with pytest.raises(FactorsError, match="geometry"):
        export_gguf(model, make_factors(pico.make_model("mistral")), tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


# Exports that went wrong


def state(key: str, value: float) -> Callable[[GGUFReader], None]:
    """Another value of a key in the metadata of a file that is open for writing."""

    def change(reader: GGUFReader) -> None:
        field = reader.fields[key]
        field.parts[field.data[0]][:] = value

    return change


def tensor_of(reader: GGUFReader, name: str) -> NDArray[np.float32]:
    return next(tensor.data for tensor in reader.tensors if tensor.name == f"{name}.weight")


def lose_slowest(reader: GGUFReader) -> None:
    tensor_of(reader, "rope_factors_long")[-1] = 1.0


def swap_lists(reader: GGUFReader) -> None:
    short, long = tensor_of(reader, "rope_factors_short"), tensor_of(reader, "rope_factors_long")
    short[:], long[:] = long.copy(), short.copy()


def order_rows_as_transformers(reader: GGUFReader) -> None:
    """The entries of each head of the keys: 2i and 2i + 1 back to i and i + d/2."""
    rows = tensor_of(reader, "blk.0.attn_k")
    rows[:] = rows.reshape(2, 4, 2, 32).swapaxes(1, 2).reshape(rows.shape)


SPOILED = {
    "attention": state("llama.rope.scaling.attn_factor", 1.0),
    "theta": state("llama.rope.freq_base", 1.1e4),
    "switch": state("llama.rope.scaling.original_context_length", 8 * WINDOW),
    "slowest": lose_slowest,
    "lists": swap_lists,
    "rows": order_rows_as_transformers,
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_says_something_else_is_noticed(name: str, model: LanguageModel, tmp_path: Path) -> None:
    factors, path = make_factors(model), tmp_path / "x.gguf"
    export_gguf(model, factors, path, settings=TWO)
    lists = native_lists(model, factors, TWO, None)
    verify_file(model, lists, path)
    reader = GGUFReader(path, "r+")
    SPOILED[name](reader)
    reader.data.flush()
    del reader
    with pytest.raises(ExportError, match="other logits than ours"):
        verify_file(model, lists, path)


# Tokenizers


def cut_by(*steps: Any, **settings: Any) -> PreTrainedTokenizerFast:
    """The pico tokenizer with other steps before its merges."""
    tokenizer: Tokenizer = pico.make_tokenizer().backend_tokenizer
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(list(steps))
    if settings:
        described = json.loads(tokenizer.to_str())
        described["model"] |= settings
        tokenizer = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def make_named() -> dict[str, PreTrainedTokenizerFast]:
    """One tokenizer for each name."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated")
    return {
        "gpt-2": cut_by(byte_level),
        "smollm": cut_by(pre_tokenizers.Digits(individual_digits=True), byte_level),
        "llama-bpe": cut_by(words, bare, ignore_merges=True),
    }


def test_pre_tokenizers_are_named() -> None:
    assert {pre_tokenizer_name(tokenizer) for tokenizer in make_named().values()} == set(make_named())
    assert all(pre_tokenizer_name(tokenizer) == name for name, tokenizer in make_named().items())


def test_the_embedded_model_is_cut_as_smollm() -> None:
    assert pre_tokenizer_name(load_model("nano", device="cpu").tokenizer) == "smollm"


def make_nameless() -> dict[str, Any]:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    normalized = cut_by(byte_level)
    normalized.backend_tokenizer.normalizer = normalizers.NFC()
    uncut = cut_by(byte_level)
    uncut.backend_tokenizer.pre_tokenizer = None
    words = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    return {
        "digits in threes": cut_by(pre_tokenizers.Digits(individual_digits=False), byte_level),
        "a space before": cut_by(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "other words": cut_by(pre_tokenizers.Split(Regex(r"\w+"), "isolated"), byte_level),
        "merges ignored": cut_by(byte_level, ignore_merges=True),
        "normalized": normalized,
        "uncut": uncut,
        "WordPiece": PreTrainedTokenizerFast(tokenizer_object=words),
        "bytes": ByT5Tokenizer(),
    }


@pytest.mark.parametrize("name", make_nameless())
def test_tokenizers_without_a_name_are_refused(name: str, model: LanguageModel, tmp_path: Path) -> None:
    """A wrong name would cut texts otherwise than the model learned, and nobody would notice."""
    other = replace(model, tokenizer=make_nameless()[name])
    with pytest.raises(ExportError, match="gpt-2, smollm, llama-bpe"):
        export_gguf(other, make_factors(model), tmp_path / "x.gguf")


def test_special_and_missing_tokens_are_distinguished(model: LanguageModel, tmp_path: Path) -> None:
    """Ids beyond the tokenizer's have rows in the matrices, too; a token that opens every text is stated."""
    tokenizer = cut_by(pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend = tokenizer.backend_tokenizer
    small = json.loads(backend.to_str())
    dropped = [small["model"]["merges"].pop() for _ in range(3)]
    for pair in dropped:
        del small["model"]["vocab"]["".join(pair)]
    small["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    short = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(small)), bos_token="<|end|>")
    short.add_tokens(["plainly added"])
    export_gguf(replace(model, tokenizer=short), make_factors(model), tmp_path / "x.gguf")
    written, _ = read_file(tmp_path / "x.gguf")
    tokens, kinds = written["tokenizer.ggml.tokens"], written["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 320
    assert (tokens[0], kinds[0], kinds[1]) == ("<|end|>", 3, 1)  # control, normal
    assert (tokens[317], kinds[317]) == ("plainly added", 4)  # user-defined
    assert (tokens[318:], kinds[318:]) == (["[PAD318]", "[PAD319]"], [5, 5])  # unused
    assert written["tokenizer.ggml.bos_token_id"] == 0
    assert (written["tokenizer.ggml.add_bos_token"], written["tokenizer.ggml.add_eos_token"]) == (True, False)


def test_the_tokenizer_of_a_gguf_file_is_taken_over(tmp_path: Path) -> None:
    """Word by word, what transformers does not understand included."""

    def describe(writer: GGUFWriter) -> None:
        writer.add_tokenizer_pre("smollm")
        writer.add_add_space_prefix(False)
        writer.add_chat_template("{{ messages }}")

    source = pico.save_gguf(tmp_path / "source.gguf", pico.make_network("llama"), describe)
    model = load_model(source, device="cpu")
    export_gguf(
        replace(model, name="source, tuned"),
        make_factors(model),
        tmp_path / "x.gguf",
        origin=Origin(str(source), tuned=True),
    )
    (before, _), (after, _) = read_file(source), read_file(tmp_path / "x.gguf")
    words = {name: value for name, value in before.items() if name.startswith("tokenizer.")}
    assert len(words) == 8
    assert {name: value for name, value in after.items() if name.startswith("tokenizer.")} == words
    kinds = {name: GGUFReader(source).fields[name].types for name in words}
    assert {name: GGUFReader(tmp_path / "x.gguf").fields[name].types for name in words} == kinds


# llama.cpp itself


@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_llama_cpp_gives_our_logits(family: str, factor_sets: str, tmp_path: Path) -> None:
    """On both sides of the switch, which it makes by the size of its context."""
    model = with_padding(pico.make_model(family, max_position_embeddings=WINDOW))
    factors = make_factors(model)
    export_gguf(model, factors, tmp_path / "x.gguf", settings=ExportRecipe(factor_sets=factor_sets))
    for length in (WINDOW, 2 * WINDOW):
        short = length == WINDOW and factor_sets == "two"
        with rescaled(model, replace(factors, lambdas=(1.0,) * 4) if short else factors):
            ours = get_logits(model.network, TOKENS[:, : length - 1])[0, -1].log_softmax(-1).numpy()
        theirs = ask(tmp_path / "x.gguf", [TOKENS[0, : length - 1].tolist()], length)
        plain = get_logits(model.network, TOKENS[:, : length - 1])[0, -1].log_softmax(-1).numpy()
        assert np.abs(theirs - ours).max() < 0.01
        assert np.abs(theirs - plain).max() > 0.1


@pytest.mark.parametrize("name", make_named())
def test_llama_cpp_cuts_texts_alike(name: str, model: LanguageModel, tmp_path: Path) -> None:
    named = replace(model, tokenizer=make_named()[name])
    export_gguf(named, make_factors(model), tmp_path / "x.gguf")
    assert tokenize(tmp_path / "x.gguf", TEXT) == named.tokenizer(TEXT)["input_ids"]
