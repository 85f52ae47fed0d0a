"""Answers over long documents against transformers' own greedy decoding, and what is streamed, drawn and refused."""

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from long_passes import set_tile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import longrope
from longrope import cli, generation
from longrope.data import read_document
from longrope.errors import FactorsError, ModelError, RecipeError, TextsError
from longrope.generation import Generation, GenerationSettings, choose_token, encode_question, generate
from longrope.models import LanguageModel, rescaled
from longrope.rope import FactorTable, RescaleFactors, dump_factors

FAMILIES = ("llama", "mistral", "qwen3", "phi3", "gemma2", "gpt_neox", "cohere")
DOCUMENT, PROMPT = pico.make_text(150), "What does the river hold?"
SHORT = GenerationSettings(max_new_tokens=12)
END = 0  # the pico tokenizer's end of text
WORDS = "Ünïcödé: 雨が降る 🜂🌧 ¡fin!"


@pytest.fixture(scope="module")
def make() -> Callable[[str], LanguageModel]:
    """Pico models that are made once and never changed."""
    made: dict[str, LanguageModel] = {}
    return lambda family: made.setdefault(family, pico.make_model(family))


def make_table(model: LanguageModel, windows: tuple[int, ...] = (128, 512, 2048)) -> FactorTable:
    """Tiers that differ, so that the wrong one gives another answer."""
    return FactorTable(
        tuple(
            RescaleFactors(
                tuple(1.0 + at + pair for pair in range(model.spec.num_pairs)),
                window,
                model.spec.fingerprint,
                start_tokens=3,
                attention_factor=1 + at / 10,
            )
            for at, window in enumerate(windows)
        )
    )


def answer_of_transformers(
    model: LanguageModel, factor_set: RescaleFactors | None, new_tokens: int
) -> tuple[str, int, bool]:
    """Text, tokens and whether it ended by itself, of transformers' own greedy decoding with its own cache."""
    ids = torch.tensor([encode_question(model.tokenizer, DOCUMENT, PROMPT)])
    with rescaled(model, factor_set), torch.no_grad():
        found = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
        )
    new = found[0, ids.shape[1] :].tolist()
    ended = new[-1] == END
    return model.tokenizer.decode(new, skip_special_tokens=True), len(new) - ended, ended


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], list[Any]]:
    """Make the model say these tokens, whatever it would say; its logits are kept in the list that is returned."""

    def force(tokens: list[int]) -> list[Any]:
        left, seen = iter(tokens), list[Any]()

        def choose(logits: Any, *_: object) -> int:
            seen.append(logits)
            return next(left)

        monkeypatch.setattr(generation, "choose_token", choose)
        return seen

    return force


# The answer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tile", [7, 65536])
def test_the_answer_is_that_of_transformers(
    family: str, tile: int, make: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under factors, with the document read at once or in tiles."""
    model = make(family)
    set_tile(monkeypatch, tile, rows=1)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT)
    factor_set = make_table(model).factor_sets[1]
    assert 128 < done.prompt_tokens + 12 <= 512
    assert (done.text, done.new_tokens, done.ended) == answer_of_transformers(model, factor_set, 12)
    assert (done.window_tokens, done.factors_fingerprint) == (512, factor_set.fingerprint)


def test_factor_sets_and_documents_matter(make: Callable[[str], LanguageModel]) -> None:
    """So that a wrong factor set would be noticed."""
    model = make("llama")
    factor_sets = make_table(model, (512, 513, 514)).factor_sets
    texts = {generate(model, factor_set, DOCUMENT, PROMPT, settings=SHORT).text for factor_set in factor_sets}
    texts.add(generate(model, factor_sets[0], DOCUMENT.replace("river", "night"), PROMPT, settings=SHORT).text)
    assert len(texts) == 4


def test_without_factors_the_model_runs_as_it_is() -> None:
    """Within its trained window."""
    model = pico.make_model("llama", max_position_embeddings=512)
    done = generate(model, None, DOCUMENT, PROMPT, settings=SHORT)
    assert (done.text, done.new_tokens, done.ended) == answer_of_transformers(model, None, 12)
    assert (done.window_tokens, done.factors_fingerprint) == (512, "")


def test_the_factor_set_is_chosen_once(make: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """For prompt and planned answer together, though the prompt alone fits into a smaller factor set."""
    model = make("llama")
    prompt_tokens = len(encode_question(model.tokenizer, DOCUMENT, PROMPT))
    table = make_table(model, (prompt_tokens + 11, prompt_tokens + 12, 2048))
    asked, installed = [], []
    choose, install = FactorTable.choose, rescaled

    def note_choice(self: FactorTable, tokens: int) -> RescaleFactors:
        asked.append(tokens)
        return choose(self, tokens)

    def note_install(model: LanguageModel, factors: RescaleFactors) -> Any:
        installed.append(factors)
        return install(model, factors)

    monkeypatch.setattr(FactorTable, "choose", note_choice)
    monkeypatch.setattr(generation, "rescaled", note_install)
    done = generate(model, table, DOCUMENT, PROMPT, settings=SHORT)
    assert asked == [prompt_tokens + 12]
    assert installed == [table.factor_sets[1]]
    assert done.window_tokens == prompt_tokens + 12
    assert generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(11)).window_tokens == prompt_tokens + 11


def test_one_factor_set_alone_may_be_given(make: Callable[[str], LanguageModel]) -> None:
    model = make("llama")
    factor_set = make_table(model).factor_sets[1]
    one, many = (
        generate(model, given, DOCUMENT, PROMPT, settings=SHORT).text for given in (factor_set, make_table(model))
    )
    assert one == many


@pytest.mark.parametrize("stated", [END, [200, END], None])
def test_the_answer_ends_at_an_end_token(
    stated: Any, forced: Callable[[list[int]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the generation config, which may know several, or the tokenizer; it is no part of the answer."""
    model = pico.make_model("llama")
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", stated)
    table = make_table(model)
    for end in (END, 200):
        forced([*model.tokenizer("wind")["input_ids"], end, 33, 34])
        known = end == END or isinstance(stated, list)
        done = generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(max_new_tokens=4))
        assert done.ended == known
        assert done.text.startswith("wind")
        if known:
            assert (done.text, done.new_tokens) == ("wind", len(model.tokenizer("wind")["input_ids"]))


def test_what_it_took_is_reported(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    model = make("llama")
    forced([40, 41, 42, END])
    read: list[tuple[int, int]] = []
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT, on_read=lambda *n: read.append(n))
    tokens = len(encode_question(model.tokenizer, DOCUMENT, PROMPT))
    assert (done.prompt_tokens, done.new_tokens, done.ended) == (tokens, 3, True)
    assert read == [(tokens, tokens)]
    assert done.prefill_seconds >= 0
    assert done.decode_seconds >= 0
    assert done.cache_bytes == (tokens + 12) * 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, float32


def test_reading_is_reported_tile_by_tile(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    forced([END])
    set_tile(monkeypatch, 100, rows=1)
    read: list[tuple[int, int]] = []
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT, on_read=lambda *n: read.append(n))
    total = done.prompt_tokens
    assert read == [(at, total) for at in (*range(100, total, 100), total)]
    assert (done.text, done.new_tokens) == ("", 0)


# The cache


def test_an_offloaded_cache_gives_the_same_answer(make: Callable[[str], LanguageModel]) -> None:
    model = make("qwen3")
    plain, offloaded = (
        generate(model, make_table(model), DOCUMENT, PROMPT, settings=GenerationSettings(12, offload=offload))
        for offload in (False, True)
    )
    assert (plain.text, plain.cache_bytes) == (offloaded.text, offloaded.cache_bytes)


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_bits_keep_the_logits(
    family: str, make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    """After the whole prompt and at each token that is then forced: within a twentieth of their spread, in the mean."""
    model = make(family)
    logits: dict[bool, list[Any]] = {}
    for eight_bit in (False, True):
        logits[eight_bit] = forced([*range(40, 51), END])
        wanted = GenerationSettings(12, eight_bit=eight_bit)
        done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted)
        head_dim = model.spec.head_dim
        entries = 2 * 2 * 2 * head_dim * (done.prompt_tokens + 12)
        if family not in ("phi3", "gpt_neox"):  # which have other numbers of key heads here
            assert done.cache_bytes == (entries * 4 if not eight_bit else entries + 4 * entries // head_dim)
    plain, small = (np.stack(logits[eight_bit]) for eight_bit in (False, True))
    assert plain.shape == small.shape == (12, 320)
    assert 0 < np.abs(small - plain).mean() < 0.05 * plain.std()


# Drawing


def test_drawn_tokens_follow_the_shares() -> None:
    """Softmax of logits over the temperature, within the fewest tokens that hold top_p of it."""
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (0.5, 1.0, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (1.0, 0.69, [0, 4 / 7, 0, 3 / 7]),
        (1.0, 0.71, [0, 4 / 9, 2 / 9, 3 / 9]),
        (2.0, 0.01, [0, 1, 0, 0]),
    ):
        rng = np.random.default_rng(1)
        wanted = GenerationSettings(temperature=temperature, top_p=top_p)
        drawn = np.bincount([choose_token(logits, wanted, rng) for _ in range(4000)], minlength=4) / 4000
        np.testing.assert_allclose(drawn, expected, atol=0.025)
        assert ((drawn == 0) == (np.array(expected) == 0)).all()


def test_the_likeliest_is_taken_at_temperature_zero() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([-np.inf, 3, 5, 5], np.float32)
    assert {choose_token(logits, GenerationSettings(), rng) for _ in range(9)} == {2}
    assert {choose_token(logits, GenerationSettings(temperature=1e-3), rng) for _ in range(50)} == {2, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(bad: float, temperature: float) -> None:
    wanted = GenerationSettings(temperature=temperature)
    with pytest.raises(ModelError, match=f"The highest logit of the next token is {bad}"):
        choose_token(np.array([1, bad, 2], np.float32), wanted, np.random.default_rng(0))


def test_a_seed_decides_the_draws(make: Callable[[str], LanguageModel]) -> None:
    model = make("llama")
    texts = [
        generate(model, make_table(model), DOCUMENT, PROMPT, settings=GenerationSettings(12, 1.0, seed=seed)).text
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


# The stream


def stream(tokenizer: Any, tokens: list[int]) -> tuple[str, list[str]]:
    pieces: list[str] = []
    written = generation._Written(tokenizer, pieces.append)
    for token in tokens:
        written.add(token)
    return written.finish(), pieces


def test_characters_of_many_bytes_come_whole(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    """Though each of their bytes is a token of its own."""
    model = make("llama")
    tokens = model.tokenizer(WORDS)["input_ids"]
    assert len(tokens) > 1.5 * len(WORDS)
    forced([*tokens, END])
    pieces: list[str] = []
    wanted = GenerationSettings(max_new_tokens=80)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted, on_text=pieces.append)
    assert "".join(pieces) == done.text == WORDS
    assert len(pieces) > 20
    assert not any("�" in piece for piece in pieces)
    assert done.new_tokens == len(tokens)


def test_a_character_that_is_cut_is_reported_at_the_end(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    model = make("llama")
    forced(model.tokenizer("ab🌧")["input_ids"])
    pieces: list[str] = []
    wanted = GenerationSettings(max_new_tokens=4)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted, on_text=pieces.append)
    assert "".join(pieces) == done.text
    assert pieces[:2] == ["a", "b"]
    assert set(done.text[2:]) == {"�"}
    assert not done.ended


@given(st.lists(st.integers(0, 319), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_tokens_stream_to_their_text(tokens: list[int]) -> None:
    """Bytes that are no text and special tokens included."""
    tokenizer = STREAMED
    text, pieces = stream(tokenizer, tokens)
    assert text == "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)
    assert all(pieces)


STREAMED = pico.make_tokenizer()


def test_spaces_before_words_are_kept() -> None:
    """A tokenizer in the manner of Llama-2 drops the space of the first token of a text alone."""
    vocabulary = {"<unk>": 0, "▁the": 1, "▁river": 2, "s": 3, "▁": 4}
    bare = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare)
    tokens = [1, 2, 3, 1, 4, 2]
    text, pieces = stream(tokenizer, tokens)
    assert text == tokenizer.decode(tokens) == "the rivers the  river"
    assert pieces == ["the", " river", "s", " the", " ", " river"]


# The prompt


def test_a_prompt_without_a_template_follows_the_document(make: Callable[[str], LanguageModel]) -> None:
    tokenizer = make("llama").tokenizer
    assert encode_question(tokenizer, "One.", "Two?") == tokenizer("One.\n\nTwo?")["input_ids"]


def test_a_chat_template_makes_one_message() -> None:
    tokenizer = pico.make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    text = tokenizer.decode(encode_question(tokenizer, "One.", "Two?"))
    assert text == "<|user|>One.\n\nTwo?<|assistant|>"


def test_a_beginning_token_stands_once() -> None:
    """Whether the tokenizer adds it, or the template does."""
    tokenizer = pico.make_tokenizer()
    tokenizer.bos_token = "<|end|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", END)]
    )
    assert tokenizer("a")["input_ids"][0] == END
    plain = encode_question(tokenizer, "One.", "Two?")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    for tokens in (plain, encode_question(tokenizer, "One.", "Two?")):
        assert tokens.count(END) == 1
        assert tokens[0] == END
        assert tokenizer.decode(tokens[1:]) == "One.\n\nTwo?"


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
    [(b"\xff\xfe\x00a", "not UTF-8 text"), (b" \n", "is blank"), (b"a\0b", "is binary"), (None, "is no file")],
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
        given = ["longrope", "generate", str(pico_folder), "--document", "book.txt", "--prompt", PROMPT, *arguments]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        messages = capsys.readouterr()
        return int(ended.value.code or 0), messages.out, messages.err

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
    choices, costs = err.splitlines()
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
    arguments = "--max-new-tokens 7 --temperature 0.5 --top-p 0.9 --seed 3 --eight-bit-cache --offload-cache"
    assert command(*arguments.split(), "--device", "cpu", "--dtype", "bfloat16")[0] == 0
    wanted = GenerationSettings(7, 0.5, 0.9, 3, eight_bit=True, offload=True)
    assert heard == [(wanted, torch.bfloat16)]
    assert command("--json")[0] == 0
    assert heard[1] == (GenerationSettings(), torch.float32)


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
