"""Generation on the command line, and what is refused."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from commands import run_command
from generating import DOCUMENT, PROMPT, SHORT, WORDS, make_table
from typer.testing import CliRunner

import longrope
from longrope import generation
from longrope.cli import app
from longrope.data import read_document
from longrope.errors import CacheError, FactorsError, ModelError, RecipeError, TextsError
from longrope.generation import Generation, GenerationSettings, encode_question, generate
from longrope.models import LanguageModel, rescaled
from longrope.rope import dump_factors

# What is refused


def test_too_long_is_reported_in_numbers(make: Callable[[str], LanguageModel]) -> None:
    """Before anything is read: the prompt, the answer, the factor set, and what to type."""
    model = make("llama")
    tokens = len(encode_question(model.tokenizer, DOCUMENT, PROMPT))
    table = make_table(model, (128, tokens + 11))
    with pytest.raises(FactorsError) as messages:
        generate(model, table, DOCUMENT, PROMPT, settings=SHORT)
    assert (
        messages.value.found == f"Document and prompt are {tokens} tokens, and up to 12 are to follow: {tokens + 12}."
    )
    assert messages.value.needed == f"The longest window of these factors is {tokens + 11}."
    assert f"longrope search pico-llama --to {tokens + 12} --data" in messages.value.remedy
    with pytest.raises(FactorsError, match="Without factors the model holds the 64 that it was trained on"):
        generate(model, None, DOCUMENT, PROMPT, settings=SHORT)


def test_blank_texts_are_refused(make: Callable[[str], LanguageModel]) -> None:
    model = make("llama")
    with pytest.raises(TextsError, match="The prompt is blank"):
        generate(model, make_table(model), DOCUMENT, " \n")
    with pytest.raises(TextsError, match="The document is blank"):
        generate(model, make_table(model), "", PROMPT)


def test_factors_of_another_geometry_are_refused(make: Callable[[str], LanguageModel]) -> None:
    with pytest.raises(FactorsError, match="rotary geometry"):
        generate(make("llama"), make_table(make("qwen3")), DOCUMENT, PROMPT)


def test_a_recurrent_model_answers_as_transformers_would() -> None:
    """Greedily, token by token after a whole pass over all before; states have no 8-bit form."""
    model = pico.make_model("lfm2", layer_types=["conv", "full_attention"])
    table = make_table(model)
    answer = generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(max_new_tokens=6))
    tokens = encode_question(model.tokenizer, DOCUMENT, PROMPT)
    prompt_tokens = len(tokens)
    with rescaled(model, table.choose(len(tokens) + 6)):
        while len(tokens) < prompt_tokens + 6:
            tokens.append(int(model.network(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    written = tokens[prompt_tokens:]
    written = written[: written.index(0)] if 0 in written else written
    assert answer.new_tokens == len(written)
    assert answer.text == model.tokenizer.decode(written, skip_special_tokens=True)
    with pytest.raises(ModelError, match="'lfm2' has recurrent layers"):
        generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(eight_bit=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"{name} = {value}") as messages:
        GenerationSettings(**{name: value})  # type: ignore[arg-type]
    assert f"--{name.replace('_', '-')}" in messages.value.remedy


def test_a_setting_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="top_p would do nothing"):
        GenerationSettings(top_p=0.9)
    GenerationSettings(top_p=0.9, temperature=0.1)


@pytest.mark.parametrize(
    ("content", "messages"),
    [(b"\xfa\x81\x00a", "not UTF-8 text"), (b" \n", "is blank"), (b"a\0b", "is binary"), (None, "is no file")],
)
def test_documents_that_are_no_text_are_refused(content: bytes | None, messages: str, tmp_path: Path) -> None:
    path = tmp_path / "document"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextsError, match=messages):
        read_document(path)


def test_packed_documents_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(WORDS.encode()))
    assert read_document(tmp_path / "a.txt.gz") == WORDS


# The command line


@pytest.fixture
def command(
    pico_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``longrope generate`` on a saved model, a document and a table of factors in the current directory."""
    model = pico.make_model("llama")
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(DOCUMENT)
    Path("run").mkdir()
    for path in ("factors.json", "run/factors.json"):
        Path(path).write_text(dump_factors(make_table(model)))

    def run(*arguments: str) -> tuple[int, str, str]:
        given = ("generate", pico_folder, "--document", "book.txt", "--prompt", PROMPT, *arguments)
        return astuple(run_command(monkeypatch, capsys, *given))

    return run


@pytest.mark.parametrize("factors", ["factors.json", "run"])
def test_the_command(
    factors: str, command: Callable[..., tuple[int, str, str]], make: Callable[[str], LanguageModel]
) -> None:
    """The answer goes to stdout, what was chosen and what it took to stderr; --json prints one object instead."""
    model = make("llama")
    expected = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT)
    code, out, err = command("--factors", factors, "--max-new-tokens", "12")
    assert code == 0, err
    assert out == expected.text + "\n"
    load, choices, costs = err.splitlines()
    assert load.startswith("load ")
    assert "CPU flash" in choices
    assert f"read {expected.prompt_tokens} tokens in" in costs
    assert f"wrote {expected.new_tokens} in" in costs
    assert f"window 512 tokens, factors {expected.factors_fingerprint}" in costs
    assert ("cut at --max-new-tokens" in costs) != expected.ended
    code, out, _ = command("--factors", factors, "--max-new-tokens", "12", "--json")
    printed = json.loads(out)
    assert list(printed) == [field.name for field in fields(Generation)]
    timeless = {name: value for name, value in asdict(expected).items() if "seconds" not in name}
    assert {name: printed[name] for name in timeless} == timeless


def test_every_option_of_the_command_is_heard(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    def note(model: LanguageModel, *_: Any, settings: GenerationSettings, **__: Any) -> Generation:
        heard.append((settings, model.network.dtype))
        return Generation("", 1, 0, True, 64, "", 0.0, 0.0, 0)

    monkeypatch.setattr(generation, "generate", note)
    arguments = (
        "--factors run --max-new-tokens 7 --temperature 0.5 --top-p 0.9 --seed 3 --eight-bit-cache --offload-cache"
    )
    assert command(*arguments.split(), "--offload-cache", "--device", "cpu", "--dtype", "bfloat16")[0] == 0
    wanted = GenerationSettings(7, 0.5, 0.9, 3, eight_bit=True, offload=True)
    assert heard == [(wanted, torch.bfloat16)]
    assert command("--json", "--factors", "run")[0] == 0
    assert heard[1] == (GenerationSettings(), torch.float32)


def test_the_command_prints_each_piece_as_it_comes(
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed: list[str] = []

    def answer(*_: Any, on_text: Callable[[str], None], **__: Any) -> Generation:
        for piece in ("The ", "river", "."):
            on_text(piece)
            printed.append(capsys.readouterr().out)
        return Generation("The river.", 1, 3, True, 64, "", 0.0, 0.0, 0)

    monkeypatch.setattr(generation, "generate", answer)
    code, out, _ = command("--factors", "run")
    assert (code, printed, out) == (0, ["The ", "river", "."], "\n")


def test_a_dry_run_answers_nothing(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("--factors", "run", "--dry-run")
    assert (code, out) == (0, "")
    line = r"^read \d+ tokens and write up to 256: about [\d.]+ (s|min), .* GiB are free\)$"
    assert re.search(line, err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ((), "Without factors the model holds the 64"),
        (("--document", "nothing.txt"), "nothing.txt is no file"),
        (("--prompt", " "), "The prompt is blank"),
        (("--factors", "nothing.json"), "cannot be read as rescale factors"),
        (("--temperature", "-1"), "temperature = -1"),
        (("--factors", "factors.json", "--max-new-tokens", "5000"), "The longest window of these factors is 2,048"),
    ],
)
def test_bad_input_is_one_paragraph(
    arguments: tuple[str, ...], messages: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("longrope: ")
    assert messages in err.splitlines()[-1]


def test_it_is_public() -> None:
    assert longrope.generate is generate
    assert longrope.GenerationSettings is GenerationSettings


def test_a_document_is_not_reused_by_a_model_whose_config_computes_other_keys(tmp_path: Path) -> None:
    """The weights and the rotary table are the same; what a layer sees, or how it is normalized, is not."""
    kept = tmp_path / "kept.lrd"
    model = pico.make_model("mistral", sliding_window=16, max_position_embeddings=256)
    generate(model, None, pico.make_text(40), "What?", settings=SHORT, cache=kept)
    generate(model, None, "", "Which?", settings=SHORT, cache=kept)
    for change in ({"sliding_window": 32}, {"sliding_window": 16, "rms_norm_eps": 1e-3}):
        with pytest.raises(CacheError, match="was read with something else: config"):
            generate(
                pico.make_model("mistral", max_position_embeddings=256, **change),
                None,
                "",
                "Which?",
                settings=SHORT,
                cache=kept,
            )


@pytest.mark.parametrize("command", ["generate", "export", "verify"])
def test_a_command_of_one_process_is_refused_in_a_launch(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun would have each process print, and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = ["nano", "--prompt", "What?"] if command == "generate" else [str(tmp_path)]
    done = CliRunner().invoke(app, [command, *given])
    assert isinstance(done.exception, RecipeError)
    assert f"`longrope {command}` was started in 2 processes" in str(done.exception)
