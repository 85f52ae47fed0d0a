"""RULER's tasks and needles: prompts of exact length in any tokenizer, answers that are really written, honest shares.

The oracles: a reader that knows the words of the decoded prompt alone, transformers' greedy decoding, counts by hand.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from measuring import make_context, scores_of
from typer.testing import CliRunner

from longrope.cli import app
from longrope.cli.options import measuring
from longrope.data import Tokens, TokenText
from longrope.engine import decoding
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.errors import ModelError, RecipeError, TextsError
from longrope.evaluation import answers, find_metric, measure, ruler
from longrope.evaluation.answers import Answer, answer_prompt, share_found
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts import build_prompt
from longrope.evaluation.prompts.documents import DocumentQuestion, load_questions
from longrope.evaluation.prompts.needles import build_needles
from longrope.evaluation.prompts.passkeys import FILLER
from longrope.evaluation.prompts.prompt import Prompt, Question, fingerprint_prompts
from longrope.evaluation.prompts.words import WORDS, draw_compounds, draw_letters
from longrope.evaluation.ruler import mean_interval
from longrope.evaluation.statistics import wilson_interval
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import MeasureRecipe
from longrope.registry import RULER_TASKS
from longrope.rope import baseline_factors
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

REFERENCES = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}  # one, in the other tasks
KEEPERS = {"Vesel": "Ann", "Tarn": "Otto", "Mirren": "Ulla", "Corrib": "Pavel", "Ness": "Ines", "Erne": "Tadeo"}
QUESTIONS = tuple(
    DocumentQuestion(
        f"The lighthouse of {place} stands on a rock. Its keeper is {name}, who likes the sea.",
        f"Who is the keeper of the lighthouse of {place}?",
        (f"old {name}", name),
    )
    for place, name in KEEPERS.items()
)


# Tokenizers


def training_texts() -> list[str]:
    """Texts that hold every character, at the beginning of words and within them."""
    rng = np.random.default_rng(0)
    characters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    mixed = ["".join(rng.choice(characters, 6)) for _ in range(600)]
    return [*WORDS, *mixed, " ".join(mixed), "1. 2, 3? (4) - = : '", pico.make_text(600)]


TOKENIZERS = {
    "byte-level": pico.make_tokenizer(),
    "unigram": pico.make_unigram(training_texts(), 400),
    "word-piece": pico.make_word_piece(training_texts(), 500),
}
every_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)
every_task = pytest.mark.parametrize("task", RULER_TASKS)


def essay_of(tokenizer: Any, length: int) -> Tokens:
    """Running text, as many tokens as a prompt or more."""
    ids = tokenizer(pico.make_text(2 * length), add_special_tokens=False)["input_ids"]
    return np.asarray(ids[:length], np.int32)


def build(kind: str, task: str, length: int, *, seed: int = 0, sample: int = 0) -> Prompt:
    """One prompt of a task, on the essay of the tokenizer."""
    tokenizer = TOKENIZERS[kind]
    essay = essay_of(tokenizer, length)
    return build_prompt(tokenizer, task, length, essay, seed=seed, sample=sample, questions=QUESTIONS)


def least_of(work: Callable[[], object]) -> int:
    """The least length by the number in the refusal."""
    with pytest.raises(TextsError) as caught:
        work()
    return int(re.findall(r"\d+", caught.value.needed)[0])


def words_of(tokenizer: Any, tokens: Sequence[int] | Tokens) -> str:
    """What tokens say, in lower case, with the spaces taken out that lossy tokenizers put around signs."""
    text = tokenizer.decode(np.asarray(tokens), skip_special_tokens=True).lower()
    return re.sub(r"\s*([-=])\s*", r"\1", re.sub(r"\s+", " ", text))


# Readers


def reply(prompt: str) -> str:
    """The answer to any task, from the words of its prompt alone."""
    asked = re.findall(r"what (?:is|are) the seal \w+ of (.+?) ?\? the seal", prompt)
    if asked:
        values = re.findall(r"the seal (?:number|code) of (\S+) is (\S+?) ?\.", prompt)
        names = re.split(r", | and ", asked[-1])
        return ", ".join(value for name, value in values if name in names)
    if asked := re.findall(r"which variables have the value (\d+)", prompt):
        return ", ".join(variables_of(prompt, asked[-1]))
    if "most often in this list" in prompt:
        listed = prompt.split("most often in this list are")[1]
        return ", ".join(word for word, _ in Counter(re.findall(r"\d+ ?\. ([a-z-]+)", listed)).most_common(10))
    if "made-up words that come" in prompt:
        return ", ".join(word for word, _ in made_up_words(prompt).most_common(3))
    if asked := re.findall(r"keeper of the lighthouse of (\w+) ?\?", prompt):
        return "".join(re.findall(rf"lighthouse of {asked[-1]} stands on a rock ?\. its keeper is (\w+)", prompt))
    return ""


def variables_of(prompt: str, value: str) -> list[str]:
    """All variables that have a value, however many steps away."""
    statements = re.findall(r"var (\w{5})=(?:var )?(\w{5}) ?\.", prompt)
    known = [name for name, giver in statements if giver == value]
    for name in known:
        known += [other for other, giver in statements if giver == name]
    return known


def made_up_words(prompt: str) -> Counter[str]:
    """How often each word comes between the opening and the question, if there is one."""
    return Counter(re.findall(r"[a-z]+", re.split(r"not the dots ?\.|the three made-up", prompt)[1]))


class SampleBuilder:
    """Stands where the network and its cache are: what it says next depends on the words that were read alone."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on prompts are answered by ``answer``; then comes the end token."""
        self.tokenizer, self.answer = tokenizer, answer
        self.read: list[int] = []
        self.left: list[int] = []
        self.read_lengths: list[int] = []
        self.pushed = 0
        monkeypatch.setattr(answers, "KeyValueCache", self.open_cache)
        monkeypatch.setattr(decoding, "prefill", self.prefill)

    def open_cache(self, *_: object) -> "SampleBuilder":
        """Begin to read another text."""
        self.read.clear()
        return self

    @property
    def tokens(self) -> int:
        """How many tokens the cache holds."""
        return len(self.read)

    def rewind(self, tokens: int) -> None:
        """Forget what follows."""
        del self.read[tokens:]

    def prefill(self, _: object, tokens: Tokens, cache: Any) -> Any:
        """Logits [1, V] of the next token."""
        assert cache is self
        self.read += tokens[0].tolist()
        self.pushed += tokens.size
        self.read_lengths.append(len(self.read))
        if tokens.size > 1:
            said = self.answer(words_of(self.tokenizer, self.read))
            self.left = self.tokenizer(f" {said}", add_special_tokens=False)["input_ids"] if said else []
        logits = torch.zeros(1, len(self.tokenizer))
        logits[0, self.left.pop(0) if self.left else 0] = 1
        return logits


@pytest.fixture(scope="module")
def model(pico_folder: Path) -> LanguageModel:
    """The pico model, loaded."""
    return load_model(pico_folder, device="cpu")


@pytest.fixture
def reading(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[LanguageModel, SampleBuilder]]:
    """A model with a tokenizer whose answers are those of a reader; its end token is 0."""

    def make(kind: str, answer: Callable[[str], str]) -> tuple[LanguageModel, SampleBuilder]:
        tokenizer = TOKENIZERS[kind]
        return replace(model, tokenizer=tokenizer), SampleBuilder(tokenizer, answer, monkeypatch)

    return make


def text_of(tokenizer: Any, length: int) -> TokenText:
    """A text to measure on, as ``load_texts`` gives it."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token == "<s>" else None
    return TokenText(np.concatenate([essay_of(tokenizer, length)] * 3), "measure", bos)


def measure_ruler(
    model: LanguageModel, text: TokenText, windows: Tokens, task: str, length: int, settings: MeasureRecipe
) -> Score:
    """The score of one task."""
    context = replace(make_context(model, None, windows, length, text=text), settings=settings)
    [score] = scores_of(f"ruler-{task}", context)
    return score


def measure_needles(model: LanguageModel, text: TokenText, windows: Tokens, length: int, needles: int) -> list[Score]:
    """The scores of needles."""
    return scores_of("needle", make_context(model, None, windows, length, text=text, needles=needles))


@every_tokenizer
@every_task
def test_a_copying_reader_scores_one_and_a_constant_one_nothing(
    task: str, kind: str, reading: Callable[..., tuple[LanguageModel, SampleBuilder]], tmp_path: Path
) -> None:
    length = 3000
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in hub_rows()))
    settings = MeasureRecipe(metrics=("ruler",), ruler_prompts=3, qa_data=str(tmp_path / "qa.jsonl"))
    constant = "one thing and another, and nothing more"
    for answer, share in ((reply, 1.0), (lambda _: constant, 0.0), (lambda _: "", 0.0)):
        fake, reader = reading(kind, answer)
        text = text_of(fake.tokenizer, length)
        score = measure_ruler(fake, text, text.windows(length, 2), task, length, settings)
        assert (score.metric, score.value, score.num_windows) == (f"ruler-{task}", share, 3)
        assert (score.num_tokens, max(reader.read_lengths) <= length) == (reader.pushed, True)
        assert (score.low, score.high) == wilson_interval(3 * share, 3)


@every_tokenizer
def test_a_copying_reader_finds_every_needle_and_a_constant_one_none(
    kind: str, reading: Callable[..., tuple[LanguageModel, SampleBuilder]]
) -> None:
    for answer, share in ((reply, 1.0), (lambda _: "one thing and another", 0.0)):
        fake, reader = reading(kind, answer)
        text = text_of(fake.tokenizer, 2000)
        scores = measure_needles(fake, text, text.windows(2000, 2), 2000, 20)
        assert [score.value for score in scores] == [share] * 11
        assert [score.num_windows for score in scores] == [20] + [2] * 10
        assert [score.metric for score in scores[:2]] == ["needle", "needle-depth-0.05"]
        assert max(reader.read_lengths) <= 2000


def test_depths_are_scored_apart(reading: Callable[..., tuple[LanguageModel, SampleBuilder]]) -> None:
    """A reader that has forgotten the first half of its text."""
    fake, _ = reading("byte-level", lambda prompt: reply(prompt[len(prompt) // 2 :]))
    text = text_of(fake.tokenizer, 4000)
    scores = measure_needles(fake, text, text.windows(4000, 2), 4000, 20)
    assert [score.value for score in scores] == [0.5] + [0.0] * 5 + [1.0] * 5
    assert (scores[0].low, scores[0].high) == wilson_interval(10, 20)


def test_answers_in_part_count_in_part(reading: Callable[..., tuple[LanguageModel, SampleBuilder]]) -> None:
    """A reader that stops after its first word, and one that says the words in another order."""
    shares = {}
    for name, change in (("first", lambda words: words[:1]), ("turned", lambda words: words[::-1])):
        fake, _ = reading("byte-level", lambda prompt, change=change: " ".join(change(reply(prompt).split(", "))))
        text = text_of(fake.tokenizer, 3000)
        settings = MeasureRecipe(ruler_prompts=2)
        measured = (text, text.windows(3000, 1))
        for task in REFERENCES:
            score = measure_ruler(fake, *measured, task, 3000, settings)
            shares[name, task] = score.value
    assert shares == {
        (name, task): pytest.approx(1 / count if name == "first" else 1)
        for name in ("first", "turned")
        for task, count in REFERENCES.items()
    }


# Prompts


@every_tokenizer
@every_task
def test_a_prompt_and_its_answer_have_the_length(task: str, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    least = least_of(lambda: build(kind, task, 1))
    for length in (least, least + 1, least + 57, 2500, 4099):
        prompt = build(kind, task, length)
        (question,) = prompt.questions
        assert prompt.text.dtype == question.tokens.dtype == np.int32
        assert len(prompt.text) + len(question.tokens) + question.answer_tokens == length
        assert len(question.references) == REFERENCES.get(task, 2 if task == "qa" else 1)
        written = tokenizer(" " + ", ".join(question.references), add_special_tokens=False)["input_ids"]
        assert question.answer_tokens >= (16 if task == "qa" else max(16, 2 * len(written)))
        opened = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        assert (prompt.text == tokenizer.bos_token_id).sum() == opened
        assert not opened or prompt.text[0] == tokenizer.bos_token_id


@every_tokenizer
@every_task
def test_a_length_without_room_is_refused_with_the_least_one(task: str, kind: str) -> None:
    for sample in (0, 1):
        least = least_of(lambda sample=sample: build(kind, task, 1, sample=sample))  # type: ignore[misc]
        build(kind, task, least, sample=sample)
        with pytest.raises(TextsError, match=f"At least {least} tokens .* Measure ruler-{task} at greater"):
            build(kind, task, least - 1, sample=sample)


@every_task
def test_a_prompt_is_decided_by_seed_and_sample(task: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prints = [
        fingerprint_prompts([build("byte-level", task, 2500, seed=seed, sample=sample)], tokenizer)
        for seed, sample in ((0, 0), (0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@every_task
def test_a_fingerprint_names_text_question_and_references(task: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prompt = build("byte-level", task, 2500)
    (question,) = prompt.questions
    others = [
        replace(prompt, text=np.append(prompt.text[:-1], prompt.text[-1] + 1)),
        replace(prompt, questions=(replace(question, tokens=question.tokens[:-1]),)),
        replace(prompt, questions=(replace(question, references=("another",)),)),
        replace(prompt, text=prompt.text[:-1], questions=(replace(question, tokens=prompt.text[-1:]),)),
    ]
    prints = {fingerprint_prompts([one], tokenizer) for one in (prompt, *others)}
    assert len(prints) == 5


def find(tokens: Sequence[int] | Tokens, piece: Sequence[int] | Tokens) -> list[int]:
    """Where a piece stands in tokens."""
    tokens, piece = np.asarray(tokens), np.asarray(piece)
    views = np.lib.stride_tricks.sliding_window_view(tokens, len(piece))
    return np.flatnonzero((views == piece).all(1)).tolist()


def facts_of(tokenizer: Any, prompt: Prompt) -> list[tuple[str, str, str]]:
    """Kind, name and value of every needle, in their order."""
    return re.findall(r"the seal (number|code) of (\S+) is (\S+?) ?\.", words_of(tokenizer, prompt.text))


def without(tokens: list[int], piece: list[int]) -> list[int]:
    """Tokens without a piece that must stand in them just once."""
    (at,) = find(tokens, piece)
    return tokens[:at] + tokens[at + len(piece) :]


@every_tokenizer
@pytest.mark.parametrize(
    ("task", "kind_of_value", "needles"),
    [
        ("niah_single_2", "number", 1),
        ("niah_single_3", "code", 1),
        ("niah_multikey_1", "number", 4),
        ("niah_multivalue", "number", 4),
        ("niah_multiquery", "number", 4),
    ],
)
def test_an_essay_goes_on_after_its_needles(task: str, kind_of_value: str, needles: int, kind: str) -> None:
    """Without the needles, which stand there once and whole, its tokens are those of the running text."""
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, task, 2500)
    facts = facts_of(tokenizer, prompt)
    rest = prompt.text.tolist()
    for _, name, value in facts:
        line = f"\nThe seal {kind_of_value} of {name} is {value}.\n"
        rest = without(rest, tokenizer(line, add_special_tokens=False)["input_ids"])
    assert [fact[0] for fact in facts] == [kind_of_value] * needles
    assert len({name for _, name, _ in facts}) == (1 if task == "niah_multivalue" else needles)
    essay = essay_of(tokenizer, 2500).tolist()
    (start,) = find(rest, essay[:30])
    assert rest[start:] == essay[: len(rest) - start]
    assert start < 150 < len(rest) - start


@every_tokenizer
def test_noise_is_one_line_again_and_again(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, "niah_single_1", 2500)
    ((_, name, value),) = facts_of(tokenizer, prompt)
    needle = tokenizer(f"The seal number of {name} is {value}.\n", add_special_tokens=False)["input_ids"]
    rest = without(prompt.text.tolist(), needle)
    line = tokenizer(FILLER, add_special_tokens=False)["input_ids"]
    lines = (len(rest) - rest[::-1].index(rest[-1])) // len(line)
    body = [*line * lines][-(len(rest) // len(line) - 3) * len(line) :]
    assert rest[-len(body) :] == body
    assert len(body) > 1500


@every_tokenizer
@pytest.mark.parametrize(("task", "kind_of_value"), [("niah_multikey_2", "number"), ("niah_multikey_3", "code")])
def test_needles_of_other_names_fill_the_haystack(task: str, kind_of_value: str, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = build(kind, task, 2500)
    facts = facts_of(tokenizer, prompt)
    lines = [f"The seal {kind_of_value} of {name} is {value}.\n" for _, name, value in facts]
    rows = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    body = [token for row in rows for token in row]
    assert prompt.text[-len(body) :].tolist() == body
    assert len(prompt.text) - len(body) < 150 + max(map(len, rows))
    asked = words_of(tokenizer, prompt.questions[0].tokens)
    assert [value for _, name, value in facts if f" {name}?" in asked.replace(" ?", "?")] == [
        *prompt.questions[0].references
    ]


@every_tokenizer
def test_needles_of_the_map_stand_at_their_depths(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = np.stack([essay_of(tokenizer, 3000), essay_of(tokenizer, 3000)[::-1]])
    built = build_needles(tokenizer, 3000, texts, 23, seed=5)
    assert [len(prompt.questions) for prompt, _ in built] == [10, 10, 3]
    assert [depth for _, depths in built for depth in depths] == pytest.approx(
        [0.05 + 0.1 * (i % 10) for i in range(23)]
    )
    for i, (prompt, depths) in enumerate(built):
        essay, rest, places = texts[i % 2].tolist(), prompt.text.tolist(), []
        for (_, name, value), question in zip(facts_of(tokenizer, prompt), prompt.questions, strict=True):
            assert question.references == (value,)
            assert f"{name} is" in words_of(tokenizer, question.tokens)
            assert len(prompt.text) + len(question.tokens) + question.answer_tokens == 3000
            line = tokenizer(f"\nThe seal number of {name} is {value}.\n", add_special_tokens=False)["input_ids"]
            places += find(rest, line)
            rest = without(rest, line)
        (start,) = find(rest, essay[:30])
        assert rest[start:] == essay[: len(rest) - start]
        assert places == pytest.approx([start + depth * (len(rest) - start) for depth in depths], abs=1)


def test_fewer_needles_share_a_short_text() -> None:
    """They take half of what opening, question and answer leave, but for a single one."""
    tokenizer = TOKENIZERS["byte-level"]
    least = least_of(lambda: build_needles(tokenizer, 1, essay_of(tokenizer, 3000)[None], 1, seed=0))
    shares = []
    for length in (least, least + 60, 800, 3000):
        built = build_needles(tokenizer, length, essay_of(tokenizer, 3000)[None], 1 if length == least else 20, seed=0)
        assert sum(len(prompt.questions) for prompt, _ in built) == (1 if length == least else 20)
        shares.append(len(built[0][0].questions))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (1, 10)
    assert shares[2] in range(2, 10)
    with pytest.raises(TextsError, match=f"At least {least} tokens"):
        build_needles(tokenizer, least - 1, essay_of(tokenizer, 3000)[None], 1, seed=0)


@every_tokenizer
def test_variables_hang_together(kind: str) -> None:
    """Five have the value, by four steps; the worked example has five others and another value."""
    prompt = build(kind, "vt", 2500)
    words = words_of(TOKENIZERS[kind], [*prompt.text, *prompt.questions[0].tokens])
    shown, asked = dict.fromkeys(re.findall(r"have the value (\d{5}) ?\?", words))
    assert variables_of(words, asked) == [name.lower() for name in prompt.questions[0].references]
    answered = re.findall(rf"with the value {shown} are ([a-z, ]+)", words)
    assert [name.strip() for name in answered[0].split(",")] == variables_of(words, shown)
    assert len({*variables_of(words, asked), *variables_of(words, shown)}) == 10


@pytest.mark.parametrize(("length", "often", "seldom"), [(3000, 6, 1), (6000, 30, 3)])
@every_tokenizer
def test_common_words_come_as_often_as_in_the_benchmark(length: int, often: int, seldom: int, kind: str) -> None:
    prompt = build(kind, "cwe", length)
    example, listed = words_of(TOKENIZERS[kind], prompt.text).split("most often in this list are")
    numbered = re.findall(r"(\d+) ?\. ([a-z-]+)", listed)
    assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
    counted = Counter(word for _, word in numbered)
    common = set(prompt.questions[0].references)
    assert {word for word, count in counted.items() if count == often} == common
    assert {count for word, count in counted.items() if word not in common} == {seldom}
    shown = [word for word, _ in Counter(re.findall(r"\d+ ?\. ([a-z-]+)", example)).most_common(10)]
    assert set(re.findall(r"[a-z]+", listed.split(".")[0])) == set(shown)
    assert not set(shown) & set(counted)


@every_tokenizer
def test_frequent_words_fall_with_the_square_of_their_rank(kind: str) -> None:
    prompt = build(kind, "fwe", 4000)
    counted = made_up_words(words_of(TOKENIZERS[kind], prompt.text))
    ranked = [count for _, count in counted.most_common(8)]
    assert [word for word, _ in counted.most_common(3)] == list(prompt.questions[0].references)
    assert ranked == pytest.approx([ranked[0] * 4 / rank**2 for rank in range(2, 10)], abs=1)
    assert ranked[2] > ranked[3]


def test_the_third_word_stands_out_even_in_the_shortest_text() -> None:
    for sample in range(5):
        least = least_of(lambda sample=sample: build("byte-level", "fwe", 1, sample=sample))  # type: ignore[misc]
        for length in range(least, least + 40):
            prompt = build("byte-level", "fwe", length, sample=sample)
            counted = made_up_words(words_of(TOKENIZERS["byte-level"], prompt.text))
            ranked = [count for _, count in counted.most_common(4)]
            assert ranked[2] > ranked[3], (sample, length)


def test_no_word_is_a_part_of_another() -> None:
    assert [(a, b) for a in WORDS for b in WORDS if a != b and a in b] == []
    assert len(set(WORDS)) == len(WORDS)


def test_drawn_words_are_all_different() -> None:
    rng = np.random.default_rng(0)
    for count, parts in ((5, 1), (len(WORDS), 1), (len(WORDS) + 1, 2), (40_000, 3)):
        drawn = draw_compounds(rng, count)
        assert len(set(drawn)) == count
        assert {word.count("-") + 1 for word in drawn} == {parts}
    assert len(set(draw_letters(rng, 600, letters=2))) == 600


# Questions about documents


def hub_rows() -> list[dict[str, Any]]:
    """The questions as rows of the hub."""
    return [
        {
            "id": i,
            "context": q.document,
            "question": q.question,
            "answers": {"text": list(q.answers), "answer_start": [0]},
        }
        for i, q in enumerate(QUESTIONS)
    ]


def squad() -> dict[str, Any]:
    """The questions in SQuAD's own form, with one that has no answer."""
    asked = [
        {"question": q.question, "answers": [{"text": a, "answer_start": 1} for a in q.answers]} for q in QUESTIONS
    ]
    unanswered = {"question": "Who painted it?", "is_impossible": True, "answers": []}
    paragraphs = [{"context": q.document, "qas": [row]} for q, row in zip(QUESTIONS, asked, strict=True)]
    paragraphs[0]["qas"].append(unanswered)  # type: ignore[attr-defined]
    return {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:]}]}


@pytest.mark.parametrize("form", ["squad", "list", "lines", "plain answers"])
def test_questions_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    plain = [{"context": q.document, "question": q.question, "answers": [*q.answers, q.answers[0]]} for q in QUESTIONS]
    texts = {
        "squad": json.dumps(squad()),
        "list": json.dumps(hub_rows()),
        "lines": "\n".join(json.dumps(row) for row in hub_rows()) + "\n\n",
        "plain answers": json.dumps(plain),
    }
    (tmp_path / "questions").write_text(texts[form])
    assert load_questions(tmp_path / "questions") == QUESTIONS
    (tmp_path / "one").write_text(json.dumps(hub_rows()[0]))
    assert load_questions(tmp_path / "one") == QUESTIONS[:1]


@pytest.mark.parametrize("answers", ["Ulm", {"text": "Ulm", "answer_start": 3}])
def test_a_single_answer_is_not_taken_for_a_list_of_letters(answers: Any, tmp_path: Path) -> None:
    """Of which one stands in nearly every text."""
    (tmp_path / "one").write_text(json.dumps({"context": "c", "question": "q", "answers": answers}))
    assert load_questions(tmp_path / "one") == (DocumentQuestion("c", "q", ("Ulm",)),)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "3",
        '{"data": []}',
        '{"data": [{"paragraphs": [{"qas": []}, 5]}]}',
        '[{"context": "c", "question": "q"}]',
        '[{"context": "c", "question": "q", "answers": [" "]}]',
        '{"context": "c", "question": "q", "answers": [{"txt": "a"}]}',
        '{"context": "c", "question": "q", "answers": ["a"]}\n{"context"',
        '{"context": "c", "question": "q", "answers": [{"text": 3}]}',
        '{"context": {"title": ["c"]}, "question": "q", "answers": ["a"]}',
        '{"context": "c", "question": ["q"], "answers": ["a"]}',
        None,
    ],
)
def test_a_file_that_holds_no_questions_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TextsError, match=r"questions\.json"):
        load_questions(path)


@every_tokenizer
def test_documents_fill_the_prompt(kind: str) -> None:
    """The asked one once, the others as often as there is room, and each prompt asks another question."""
    tokenizer = TOKENIZERS[kind]
    asked = set()
    for sample in range(len(QUESTIONS)):
        prompt = build(kind, "qa", 2000, sample=sample)
        (place,) = re.findall(r"lighthouse of (\w+)", words_of(tokenizer, prompt.questions[0].tokens))
        asked.add(place)
        messages = Counter(re.findall(r"lighthouse of (\w+) stands", words_of(tokenizer, prompt.text)))
        assert (messages.pop(place), set(messages) | {place}) == (1, {name.lower() for name in KEEPERS})
        assert max(messages.values()) - min(messages.values()) <= 1
        assert sum(messages.values()) > 8
    assert len(asked) == len(QUESTIONS)


def test_a_question_without_others_is_asked_alone() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    prompt = build_prompt(tokenizer, "qa", 500, essay_of(tokenizer, 500), questions=QUESTIONS[:1])
    assert words_of(tokenizer, prompt.text).count("stands on a rock") == 1
    assert len(prompt.text) + len(prompt.questions[0].tokens) + prompt.questions[0].answer_tokens == 500


def test_too_few_questions_are_reported() -> None:
    with pytest.raises(TextsError, match=r"There are 6 questions .* Question 7 .* measure\.qa_data"):
        build("byte-level", "qa", 500, sample=6)


# Answers


@pytest.mark.parametrize(
    ("text", "references", "any_of", "share"),
    [
        (" 123, then 45.", ("123", "45"), False, 1.0),
        (" 123", ("123", "45"), False, 0.5),
        ("", ("123",), False, 0.0),
        (" the SILVER-Fox", ("silver-fox",), False, 1.0),
        (" the silver fox", ("silver-fox",), False, 0.0),
        (" in Ulm", ("Paris", "Ulm"), True, 1.0),
        (" in Bern", ("Paris", "Ulm"), True, 0.0),
    ],
)
def test_references_are_looked_for_as_in_the_benchmark(
    text: str, references: tuple[str, ...], any_of: bool, share: float
) -> None:
    assert share_found(text, references, any_of=any_of) == share


def asking(*references: str, room: int = 12, any_of: bool = False) -> Prompt:
    """A prompt with one question of three tokens."""
    question = Question(np.asarray([5, 6, 7], np.int32), references, any_of, room)
    return Prompt(np.arange(1, 9, dtype=np.int32), (question,))


def test_writing_ends_when_everything_is_said_when_the_model_ends_or_when_the_room_is_full(
    reading: Callable[..., tuple[LanguageModel, SampleBuilder]],
) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    said = "The river turns the mill"
    words = [len(tokenizer(f" {part}")["input_ids"]) for part in ("The river", said)]
    cases = {
        "found": (asking("river", room=200), words[0], 1.0),
        "any": (asking("cloud", "river", room=200, any_of=True), words[0], 1.0),
        "ended": (asking("cloud", "river", room=200), words[1] + 1, 0.5),
        "full": (asking("mill", room=words[0]), words[0], 0.0),
    }
    for name, (prompt, pushed, share) in cases.items():
        fake, reader = reading("byte-level", lambda _: said)
        (answer,) = answer_prompt(fake, prompt)
        assert answer.share == share, name
        assert answer.pushed_tokens == reader.pushed - 8 == 3 + pushed - 1, name
        assert f" {said}".startswith(answer.text), name


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_neox"])
def test_a_shared_text_gives_the_answers_of_separate_ones(family: str) -> None:
    """And both are those of transformers' own greedy decoding over the whole prompt, under factors."""
    model = pico.make_model(family, sliding_window=300) if family == "mistral" else pico.make_model(family)
    tokens = np.random.default_rng(0).integers(1, 300, (5, 700)).astype(np.int32)
    questions = tuple(Question(row[600 : 610 + i], ("?",), False, 12) for i, row in enumerate(tokens[1:]))
    prompt = Prompt(tokens[0, :600], questions)
    with rescaled(model, baseline_factors(model.spec, "yarn", 700).factor_sets[0]):
        together = answer_prompt(model, prompt)
        apart = [answer_prompt(model, Prompt(prompt.text, (question,)))[0] for question in questions]
        assert together == apart
        for question, answer in zip(questions, together, strict=True):
            assert answer.text == transformers_answer(model, np.concatenate([prompt.text, question.tokens]))
    assert len({answer.text for answer in together}) > 1


def transformers_answer(model: LanguageModel, tokens: Tokens) -> str:
    """Up to 12 tokens by transformers' ``generate``."""
    ids = torch.from_numpy(tokens)[None].long()
    with torch.no_grad():
        found = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    return str(model.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


def test_the_saving_of_shared_texts_stands_in_the_records(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``needle`` counts what was pushed, the depths what separate runs push; both counted here at the network."""
    text = text_of(model.tokenizer, 1500)
    windows = text.windows(1500, 2)
    pushed: list[int] = []

    def read_counted(model: LanguageModel, tokens: Tokens, cache: KeyValueCache) -> torch.Tensor:
        pushed.append(tokens.size)
        return prefill(model, tokens, cache)

    monkeypatch.setattr(decoding, "prefill", read_counted)
    scores = measure_needles(model, text, windows, 1500, 20)
    assert scores[0].num_tokens == sum(pushed)
    pushed.clear()
    built = build_needles(model.tokenizer, 1500, essays(text, windows, 1500), 20, 0)
    for prompt, _ in built:
        for question in prompt.questions:
            answer_prompt(model, Prompt(prompt.text, (question,)))
    assert sum(score.num_tokens for score in scores[1:]) == sum(pushed)
    assert sum(pushed) > 4 * scores[0].num_tokens


def test_recurrent_models_are_refused(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrope.engine.kv_cache.remembers_keys_alone", lambda _: False)
    text = text_of(model.tokenizer, 600)
    with pytest.raises(ModelError, match="recurrent"):
        measure_needles(model, text, text.windows(600, 1), 600, 10)


# Scores


def test_essays_are_the_measured_windows_without_their_opening_token() -> None:
    plain = TokenText(np.arange(1, 101, dtype=np.int32), "measure")
    opened = replace(plain, bos=0)
    assert essays(plain, plain.windows(40, 2), 20).ravel().tolist() == plain.windows(40, 2).ravel().tolist()
    cut = essays(opened, opened.windows(41, 2), 21)
    assert cut.shape == (4, 20)
    assert cut.ravel().tolist() == opened.windows(41, 2)[:, 1:].ravel().tolist()


def test_each_prompt_takes_another_essay(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def build_noted(tokenizer: Any, task: str, length: int, essay: Tokens, **given: Any) -> Prompt:
        seen.append((given["sample"], essay[:3].tolist()))
        return build_prompt(tokenizer, task, length, essay, **given)

    monkeypatch.setattr(ruler, "build_prompt", build_noted)
    monkeypatch.setattr(answers, "answer_prompt", lambda *_: [Answer("", 0.0, 1)])
    text = TokenText(np.arange(3000, dtype=np.int32) % 300, "measure")
    windows, settings = text.windows(900, 3), MeasureRecipe(ruler_prompts=5)
    measure_ruler(model, text, windows, "niah_single_2", 450, settings)
    pieces = windows.reshape(-1, 450)
    assert dict(seen) == {i: pieces[i % 6][:3].tolist() for i in range(5)}


def test_the_mean_is_over_tasks(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task counts the same; the tokens, prompts and seconds of all are added."""
    text = text_of(model.tokenizer, 1600)
    monkeypatch.setattr(answers, "answer_prompt", lambda _, prompt: [Answer("", len(prompt.text) % 4 / 4, 30)])
    context = make_context(model, None, text.windows(1600, 2), text=text, seed=3, ruler_prompts=3)
    tasks = {name: find_metric(name) for name in find_metric("ruler").parts(context.settings)}
    assert list(tasks) == [f"ruler-{task}" for task in RULER_TASKS if task != "qa"]
    scores = [score for name in tasks for score in scores_of(name, context)]
    [mean] = scores_of("ruler", context)
    assert len({score.value for score in scores}) > 2
    assert mean.value == pytest.approx(np.mean([score.value for score in scores]))
    assert (mean.metric, mean.num_windows) == ("ruler", 33)
    assert mean.num_tokens == sum(score.num_tokens for score in scores)
    assert (mean.low, mean.high) == pytest.approx(wilson_interval(mean.value * 33, 33))
    assert mean.seconds == pytest.approx(sum(score.seconds for score in scores), abs=0.001 * 11)
    assert (mean.method, mean.context_tokens, mean.seed) == ("none", 1600, 3)
    assert mean.texts_fingerprint not in {score.texts_fingerprint for score in scores}
    assert re.fullmatch(r"[0-9a-f]{16}", mean.texts_fingerprint)


def test_the_mean_of_unlike_shares_by_hand() -> None:
    interval = mean_interval([[1.0, 1.0], [0.5, 0.0], [0.25, 0.0]])
    assert interval.value == pytest.approx((1 + 0.25 + 0.125) / 3)
    assert interval[1:3] == pytest.approx(wilson_interval(6 * interval.value, 6))


def test_the_intervals_cover_as_often_as_they_say() -> None:
    """Shares of four references, which depend on each other or not, and means over unlike tasks: 95 % or more."""
    rng = np.random.default_rng(0)
    for difficulties in ([0.7], [0.1], [0.95, 0.6, 0.2, 0.05]):
        for together in (False, True):
            inside = 0
            for _ in range(500):
                found = rng.random((len(difficulties), 20, 1 if together else 4)) < np.reshape(difficulties, (-1, 1, 1))
                interval = mean_interval(found.mean(2).tolist())
                inside += int(interval.low <= np.mean(difficulties) <= interval.high)
            assert inside / 500 >= 0.93, (difficulties, together)


# The whole


SETTINGS = MeasureRecipe(lengths=(1600,), metrics=("needle", "ruler"), windows=2, needles=10, ruler_prompts=2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers are right by turns, without a model; the list grows by one for each prompt that is answered."""
    answered: list[str] = []

    def answer(_: object, prompt: Prompt) -> list[Answer]:
        answered.append(str(len(prompt.text)))
        return [Answer("", float((len(answered) + i) % 3 == 0), 30) for i in range(len(prompt.questions))]

    monkeypatch.setattr(answers, "answer_prompt", answer)
    return answered


def test_measuring_gives_every_task_their_mean_and_the_map(
    model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    settings = replace(SETTINGS, lengths=(3200, 1600))
    scores = measure(model, None, text, settings=settings, run=run, seed=2)
    tasks = [f"ruler-{task}" for task in RULER_TASKS if task != "qa"]
    depths = [f"needle-depth-0.{5 + 10 * i:02}" for i in range(10)]
    expected = ["needle", *depths, *tasks, "ruler"]
    assert [(s.context_tokens, s.metric) for s in scores] == [(n, m) for n in (1600, 3200) for m in expected]
    for length in (1600, 3200):
        own = {score.metric: score for score in scores if score.context_tokens == length}
        assert own["ruler"].value == pytest.approx(np.mean([own[task].value for task in tasks]))
        assert own["needle"].value == pytest.approx(np.mean([own[depth].value for depth in depths]))
    assert sorted(map(repr, read_records(run.scores, Score))) == sorted(map(repr, scores))
    count = len(quick)
    assert measure(model, None, text, settings=settings, run=run, seed=2) == scores
    assert len(quick) == count
    measure(model, None, text, settings=settings, run=run, seed=3)
    assert len(quick) == 2 * count


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"ruler_prompts": 3}, 33),
        ({"needles": 11}, 2),
        ({"windows": 3}, 22),  # the first window stays, and ten needles stand in that one
        ({"lengths": (1601,)}, 23),
        ({"metrics": ("ruler-vt", "needle", "ruler")}, 0),
    ],
)
def test_what_other_settings_would_ask_is_asked(
    change: dict[str, Any], asked: int, model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    """Only what stays the same is taken from the run."""
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    measure(model, None, text, settings=SETTINGS, run=run)
    assert len(quick) == 23
    assert len(measure(model, None, text, settings=replace(SETTINGS, **change), run=run)) == 23
    assert len(quick) == 23 + asked


@pytest.mark.parametrize("before", [0, 1, 5, 22])
def test_an_interruption_loses_the_task_in_hand_at_most(
    before: int, model: LanguageModel, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    settings, right = replace(SETTINGS, metrics=("ruler",)), answers.answer_prompt

    def interrupted(*given: Any) -> list[Answer]:
        if len(quick) == before:
            raise KeyboardInterrupt
        return right(*given)

    monkeypatch.setattr(answers, "answer_prompt", interrupted)
    with pytest.raises(KeyboardInterrupt) if before < 22 else pytest.MonkeyPatch.context():
        measure(model, None, text, settings=settings, run=run)
    monkeypatch.setattr(answers, "answer_prompt", right)
    measure(model, None, text, settings=settings, run=run)
    assert len(quick) == 22 + before % 2
    written = [score.metric for score in read_records(run.scores, Score)]
    assert sorted(written) == sorted(["ruler", *(f"ruler-{task}" for task in RULER_TASKS if task != "qa")])


def test_a_file_of_questions_adds_their_task(model: LanguageModel, quick: list[str], tmp_path: Path) -> None:
    path, text, run = tmp_path / "squad.json", text_of(model.tokenizer, 3200), RunDir(tmp_path / "run")
    path.write_text(json.dumps(squad()))
    settings = replace(SETTINGS, metrics=("ruler",), qa_data=str(path))
    assert [score.metric for score in measure(model, None, text, settings=settings, run=run)][-2:] == [
        "ruler-qa",
        "ruler",
    ]
    before = len(quick)
    path.write_text(json.dumps(squad()).replace("Ulla", "Olla"))
    measure(model, None, text, settings=settings, run=run)
    assert len(quick) == before + 2
    with pytest.raises(RecipeError, match="qa_data"):
        replace(settings, metrics=("ruler-qa",), qa_data="")


def test_a_length_that_is_too_short_is_refused_before_anything_is_asked(
    model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    text = text_of(model.tokenizer, 3200)
    for metric in ("needle", "ruler-cwe"):
        settings = replace(SETTINGS, lengths=(40,), metrics=(metric,))
        with pytest.raises(TextsError, match=f"A prompt of 40 tokens was asked for {metric}"):
            measure(model, None, text, settings=settings)
    assert quick == []


def test_the_command_measures_needles_and_tasks(
    pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """By a random model, which finds nothing, with factors' own lengths and a file of questions."""
    (tmp_path / "squad.json").write_text(json.dumps([*hub_rows() * 4]))
    given = ["measure", str(pico_folder), "--data", str(text_folders[0]), "--lengths", "600", "--json"]
    asked = ["--metrics", "needle,ruler-niah_single_1,ruler-qa", "--qa-data", str(tmp_path / "squad.json")]
    done = CliRunner().invoke(app, given + asked)
    assert done.exit_code == 0, done.output
    scores = [Score(**line) for line in json.loads(done.stdout)]
    assert [score.metric for score in scores if "depth" not in score.metric] == asked[1].split(",")
    assert {score.value for score in scores} == {0.0}
    assert {(score.num_windows) for score in scores if "depth" not in score.metric} == {20}


def test_questions_that_no_metric_asks_are_refused(pico_folder: Path, text_folders: tuple[Path, Path]) -> None:
    """By the command; a recipe that has them can be run for other metrics."""
    given = ["measure", str(pico_folder), "--data", str(text_folders[0]), "--lengths", "600", "--qa-data", "squad.json"]
    done = CliRunner().invoke(app, [*given, "--metrics", "needle"])
    assert isinstance(done.exception, RecipeError)
    assert "None of them asks its questions" in str(done.exception)
    asked = MeasureRecipe(metrics=("ruler",), qa_data="squad.json")
    assert measuring(asked, None, "needle") == replace(asked, metrics=("needle",))


def test_the_nano_model_finds_single_needles_inside_its_window() -> None:
    """20 of 20 in repeated lines, as measured; it has seen none of these sentences."""
    nano = load_model("nano", device="cpu", dtype="float32")
    text = TokenText(np.zeros(1000, np.int32), "measure")
    score = measure_ruler(nano, text, text.windows(256, 1), "niah_single_1", 256, MeasureRecipe())
    assert score.num_windows == 20
    assert score.value >= 0.9
