"""Documents that a model has read, in files: the next answer is that of a fresh reading, or the file is refused."""

import io
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from commands import run_command
from generating import DOCUMENT, PROMPT, make_table
from safetensors.torch import load_file, save_file

from longrope.errors import CacheError, FactorsError, LongRopeError
from longrope.generation import Generation, GenerationSettings, generate
from longrope.models import LanguageModel
from longrope.rope import FactorTable, dump_factors

SHORT = GenerationSettings(max_new_tokens=12)
OTHER = "What does the night hold?"
FAMILIES = ("llama", "qwen3", "phi3", "gemma2", "gpt_neox")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model("llama")


def ask(model: LanguageModel, prompt: str, cache: Path | None, document: str = DOCUMENT, **given: Any) -> Generation:
    factors = given.pop("factors", make_table(model))
    return generate(model, factors, document, prompt, cache=cache, **{"settings": SHORT, **given})


def said(done: Generation) -> tuple[str, int, bool]:
    return done.text, done.prompt_tokens, done.ended


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_next_answer_is_that_of_a_fresh_reading(family: str, eight_bit: bool, tmp_path: Path) -> None:
    """The document is neither given nor read again: of the prompt nothing is read but what the questions differ in."""
    model, file = pico.make_model(family), tmp_path / "book.cache"
    settings = replace(SHORT, eight_bit=eight_bit)
    read: list[int] = []
    logits: list[torch.Tensor] = []
    embedding, head = model.network.get_input_embeddings(), model.network.get_output_embeddings()
    embedding.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    head.register_forward_hook(lambda _, __, output: logits.append(output.flatten()))
    first = ask(model, PROMPT, file, settings=settings)
    assert (read[0], first.reused_tokens) == (first.prompt_tokens, 0)
    assert said(first) == said(ask(model, PROMPT, None, settings=settings))
    before, count = file.read_bytes(), len(logits)
    second = ask(model, OTHER, file, document="", settings=settings)
    fresh = ask(model, OTHER, None, settings=settings)
    again, anew = logits[count : count + 12], logits[count + 12 :]
    assert said(second) == said(fresh)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(again, anew, strict=True))
    assert not torch.allclose(again[0], logits[0], atol=1e-2), "the question matters"
    assert read[count] == second.prompt_tokens - second.reused_tokens
    assert second.reused_tokens > 0.9 * second.prompt_tokens
    assert file.read_bytes() == before


def test_the_same_question_reads_one_token(model: LanguageModel, tmp_path: Path) -> None:
    """The logits of the answer's first token are those of the prompt's last."""
    file = tmp_path / "book.cache"
    first, second = (ask(model, PROMPT, file) for _ in range(2))
    assert said(first) == said(second)
    assert second.reused_tokens == second.prompt_tokens - 1


def test_offloaded_and_bfloat16_keys_are_kept(tmp_path: Path) -> None:
    model = pico.make_model("llama", dtype=torch.bfloat16)
    ask(model, PROMPT, tmp_path / "x")
    settings = replace(SHORT, offload=True)
    assert said(ask(model, OTHER, tmp_path / "x", settings=settings)) == said(ask(model, OTHER, None))
    kept = load_file(tmp_path / "x")
    assert {tensor.dtype for name, tensor in kept.items() if "layers" in name} == {torch.bfloat16}
    assert kept["document"].numpy().tobytes().decode() == DOCUMENT


def test_the_factor_set_is_the_one_of_the_file(model: LanguageModel, tmp_path: Path) -> None:
    """A shorter or longer question would ask for another one of a table; too long a one for it is refused."""
    length = ask(model, PROMPT, None).prompt_tokens
    table = make_table(model, (length + 12, 2048))
    ask(model, PROMPT, tmp_path / "x", factors=table)
    short = ask(model, "A?", tmp_path / "x", factors=table)
    assert short.window_tokens == length + 12
    with pytest.raises(FactorsError, match="longest window"):
        ask(model, PROMPT * 3, tmp_path / "x", factors=table)
    large = ask(model, PROMPT * 3, tmp_path / "y", factors=table)
    assert large.window_tokens == 2048
    again = ask(model, PROMPT, tmp_path / "y", factors=table)
    fresh = ask(model, PROMPT, None, factors=table.factor_sets[1])
    assert said(again) == said(fresh)
    assert again.window_tokens == 2048


# Refused


def other_weights(model: LanguageModel) -> LanguageModel:
    changed = pico.make_model("llama")
    changed.network.model.layers[1].mlp.up_proj.weight.data.mul_(1.001)
    return replace(changed, name=model.name)


CHANGES: dict[str, tuple[Callable[[LanguageModel], dict[str, Any]], str]] = {
    "weights": (lambda model: {"model": other_weights(model)}, "model "),
    "factors": (lambda model: {"factors": FactorTable((make_table(model, (512, 513)).factor_sets[1],))}, "factors "),
    "no factors": (
        lambda _: {"model": pico.make_model("llama", max_position_embeddings=512), "factors": None},
        "model",
    ),
    "8 bits": (lambda _: {"settings": replace(SHORT, eight_bit=True)}, "numbers float32, 8-bit cache"),
    "precision": (lambda _: {"model": pico.make_model("llama", dtype=torch.bfloat16)}, "numbers bfloat16"),
    "document": (lambda _: {"document": DOCUMENT + "The end.\n"}, "another document"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_making_is_refused(name: str, model: LanguageModel, tmp_path: Path) -> None:
    file, (change, found) = tmp_path / "x", CHANGES[name]
    ask(model, PROMPT, file)
    before = file.read_bytes()
    given = {"model": model, **change(model)}
    with pytest.raises(CacheError) as caught:
        ask(given.pop("model"), OTHER, file, **given)
    assert found in caught.value.found
    assert "--cache" in caught.value.remedy
    assert file.read_bytes() == before


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    """Without factors, so that nothing but the model differs."""
    for family in ("llama", "mistral"):
        model = pico.make_model(family, max_position_embeddings=512)
        if family == "llama":
            ask(model, PROMPT, tmp_path / "x", factors=None)
            assert said(ask(model, OTHER, tmp_path / "x", factors=None)) == said(ask(model, OTHER, None, factors=None))
        else:
            with pytest.raises(CacheError, match="model "):
                ask(model, PROMPT, tmp_path / "x", factors=None)


def test_lists_of_a_model_that_switch_between_the_questions_are_refused(tmp_path: Path) -> None:
    """A model with two lists of its own: the longer question is beyond their switch."""
    length = ask(pico.make_model("llama", max_position_embeddings=1024), PROMPT, None, factors=None).prompt_tokens
    lists = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": length + 13, "factor": 4.0, **lists}
    model = pico.make_model("llama", max_position_embeddings=1024, rope=rope)
    ask(model, PROMPT, tmp_path / "x", factors=None)
    assert ask(model, PROMPT, tmp_path / "x", factors=None).reused_tokens == length - 1
    with pytest.raises(CacheError, match="frequencies"):
        ask(model, PROMPT * 2, tmp_path / "x", factors=None)


def test_recurrent_models_are_refused_before_they_read(tmp_path: Path) -> None:
    model = pico.make_model("lfm2", layer_types=["conv", "full_attention"], max_position_embeddings=1024)
    with pytest.raises(CacheError, match="recurrent layers"):
        ask(model, PROMPT, tmp_path / "x", factors=None)
    assert not (tmp_path / "x").exists()


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def cut_header(raw: bytes) -> bytes:
    return raw[:20]


def flip(raw: bytes) -> bytes:
    """One bit of the last value."""
    return raw[:-1] + bytes([raw[-1] ^ 1])


def without_checksums(raw: bytes) -> bytes:
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    del header["__metadata__"]["checksums"]
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + raw[8 + size :]


@pytest.mark.parametrize("spoil", [cut, cut_header, flip, without_checksums, lambda _: b"", lambda _: b"A text.\n"])
def test_a_torn_file_is_refused(spoil: Callable[[bytes], bytes], model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "x"
    ask(model, PROMPT, file)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CacheError, match="cannot be used as a saved document") as caught:
        ask(model, PROMPT, file)
    assert str(file) in caught.value.found


def test_another_safetensors_file_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x")
    with pytest.raises(CacheError, match="it is no saved document"):
        ask(model, PROMPT, tmp_path / "x")


def test_a_file_that_cannot_be_written_is_named(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LongRopeError, match="cannot be written"):
        ask(model, PROMPT, tmp_path / "file" / "x")


# The command line


@pytest.fixture
def command(
    pico_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``longrope generate`` with factors, and with a text on standard input."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(DOCUMENT)
    Path("factors.json").write_text(dump_factors(make_table(pico.make_model("llama"))))

    def run(*arguments: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        given = ("generate", pico_folder, "--factors", "factors.json", "--max-new-tokens", "12", *arguments)
        return astuple(run_command(monkeypatch, capsys, *given))

    return run


def test_a_document_is_kept_and_asked_again(command: Callable[..., tuple[int, str, str]], model: LanguageModel) -> None:
    """The second command is given no document; what was read before is said on stderr."""
    assert command("--document", "book.txt", "--prompt", PROMPT, "--cache", "book.cache")[0] == 0
    code, out, err = command("--prompt", OTHER, "--cache", "book.cache")
    fresh = ask(model, OTHER, None)
    assert (code, out) == (0, fresh.text + "\n"), err
    assert "tokens were read before, read " in err.splitlines()[-1]
    code, out, _ = command("--prompt", OTHER, "--cache", "book.cache", "--json")
    assert json.loads(out)["reused_tokens"] == fresh.prompt_tokens - 1 - _differing(fresh, model)


def _differing(fresh: Generation, model: LanguageModel) -> int:
    """How many tokens of the other question follow the first one that differs, without the last of all."""
    ours, theirs = (model.tokenizer(f"{DOCUMENT}\n\n{prompt}")["input_ids"] for prompt in (OTHER, PROMPT))
    same = np.asarray(ours[: min(len(ours), len(theirs))]) == np.asarray(theirs[: min(len(ours), len(theirs))])
    return fresh.prompt_tokens - 1 - int(same.argmin())


@pytest.mark.parametrize("flag", ["--prompt", "--document"])
def test_prompt_or_document_come_from_standard_input(
    flag: str, command: Callable[..., tuple[int, str, str]], model: LanguageModel
) -> None:
    given = {"--prompt": PROMPT, "--document": "book.txt", flag: "-"}
    piped = PROMPT + "\n" if flag == "--prompt" else DOCUMENT
    code, out, err = command(*(word for pair in given.items() for word in pair), piped=piped)
    assert (code, out) == (0, ask(model, PROMPT, None).text + "\n"), err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--prompt", "-", "--document", "-"), "--document and --prompt are both -"),
        (("--prompt", "Why?"), "--document is missing, and no --cache is given"),
        (("--prompt", "Why?", "--cache", "nothing"), "--document is missing, and there is no file nothing"),
        (("--prompt", "Why?", "--cache", "book.txt"), "cannot be used as a saved document"),
        (("--prompt", "-", "--document", "book.txt"), "The prompt is blank"),
    ],
)
def test_missing_inputs_are_one_paragraph(
    arguments: tuple[str, ...], found: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("longrope: ")
    assert found in err.splitlines()[-1]
