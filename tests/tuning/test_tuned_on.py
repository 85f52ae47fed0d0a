"""A training leaves a sketch of what it has read with the weights, and nobody measures on that text."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
from spying import before

from longrope import evaluation
from longrope.data import TextSketch, TokenText, decode_pieces, run_hashes
from longrope.errors import TextsError
from longrope.evaluation import Evaluation, measure, name_subject
from longrope.exports import export_gguf
from longrope.exports.card import Origin
from longrope.models import LanguageModel, load_model, save_model
from longrope.recipe import MeasureRecipe, TuneRecipe
from longrope.rope import baseline_factors
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune
from longrope.tuning.batches import Batches

TOKENIZER = pico.make_tokenizer()
QUICK = TuneRecipe(window_tokens=64, steps=1, batch_windows=8, learning_rate=1e-3, warmup_steps=0)
MEASURED = MeasureRecipe(lengths=(64,), metrics=("perplexity",), windows=4, tail_tokens=0)


def make_text(seed: int, *, name: str = "measure", before: str = "") -> TokenText:
    tokens = TOKENIZER(before + pico.make_text(600, seed))["input_ids"]
    return TokenText(np.asarray(tokens, np.int32), name, files=(f"{seed}.txt",))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, RunDir]:
    """A model whose adapters were trained on text 1, and the run."""
    run = RunDir(tmp_path_factory.mktemp("tuned"))
    settings = replace(QUICK, steps=4, lora_rank=1)
    return fine_tune(pico.make_model(), None, make_text(1), settings=settings, run=run), run


def check_refuses(model: LanguageModel) -> None:
    """The text of the training is refused, also after a line of another; another text is measured."""
    for text in (make_text(1), make_text(1, before="One more line.\n")):
        with pytest.raises(TextsError, match=r"also text to tune on: about \d+% of 1\.txt"):
            measure(model, None, text, settings=MEASURED)
    assert measure(model, None, make_text(2), settings=MEASURED)


def test_tuned_weights_are_not_measured_on_what_they_were_tuned_on(tuned: tuple[LanguageModel, RunDir]) -> None:
    assert measure(pico.make_model(), None, make_text(1), settings=MEASURED)
    check_refuses(tuned[0])


def test_windows_are_compared_once_for_all_that_is_measured_of_them(
    tuned: tuple[LanguageModel, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again for other windows, and for another model."""
    compared: list[int] = []
    before(monkeypatch, evaluation, "hash_windows", lambda _, windows, *__: compared.append(len(windows)))
    evaluating = Evaluation(make_text(2), MEASURED, name_subject(pico.make_model(), None))
    for model in (tuned[0], replace(tuned[0], name="other")):
        for _ in range(2):
            evaluating.measure(name_subject(model, None))
            evaluating.readings(name_subject(model, None))
    assert compared == [4, 4]
    replace(evaluating, settings=replace(MEASURED, windows=2)).measure(name_subject(tuned[0], None))
    assert compared == [4, 4, 2]
    with pytest.raises(TextsError, match="also text to tune on"):
        replace(evaluating, text=make_text(1), apart=set()).measure(name_subject(tuned[0], None))


def test_the_sketch_travels_with_checkpoints(tuned: tuple[LanguageModel, RunDir], tmp_path: Path) -> None:
    """As a file beside the weights, and as a key of a GGUF file."""
    model = tuned[0]
    factors = baseline_factors(model.spec, "yarn", 128).factor_sets[0]
    origin = Origin("pico", tuned=True)
    save_model(model, tmp_path / "hf")
    export_gguf(model, factors, tmp_path / "model.gguf", origin=origin)
    assert json.loads((tmp_path / "hf" / "tuned_on.json").read_text())["format"] == "longrope-sketch/1"
    for path in (tmp_path / "hf", tmp_path / "model.gguf"):
        again = load_model(path, device="cpu")
        assert again.tuned_on.hashes.tolist() == model.tuned_on.hashes.tolist()
        check_refuses(replace(again, tokenizer=TOKENIZER))


def test_the_sketch_travels_with_adapters(tuned: tuple[LanguageModel, RunDir], tmp_path: Path) -> None:
    """Together with that of their base."""
    run = tuned[1]
    base = pico.save_pico(tmp_path / "base")
    earlier = fine_tune(load_model(base, device="cpu"), None, make_text(3), settings=QUICK)
    (base / "tuned_on.json").write_text(_sketch_file(earlier, tmp_path))
    stated = json.loads((run.adapters / "adapter_config.json").read_text())
    for file in run.adapters.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**stated, "base_model_name_or_path": str(base)}))
    both = load_model(tmp_path, device="cpu")
    for text in (make_text(1), make_text(3)):
        with pytest.raises(TextsError, match="also text to tune on"):
            measure(both, None, text, settings=replace(MEASURED, windows=1))


def _sketch_file(model: LanguageModel, folder: Path) -> str:
    from longrope.models.tuned_on import write_tuned_on

    write_tuned_on(folder, model.tuned_on)
    return (folder / "tuned_on.json").read_text()


def test_a_damaged_sketch_is_refused(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "pico")
    (folder / "tuned_on.json").write_text('{"format": "longrope-sketch/1"')
    with pytest.raises(TextsError, match=r"tuned_on\.json cannot be read"):
        load_model(folder, device="cpu")


def test_untuned_checkpoints_have_no_sketch(tmp_path: Path) -> None:
    model = pico.make_model()
    assert not model.tuned_on
    save_model(model, tmp_path)
    assert not (tmp_path / "tuned_on.json").exists()
    assert not load_model(tmp_path, device="cpu").tuned_on


def test_a_second_training_adds_to_the_sketch() -> None:
    first = fine_tune(pico.make_model(), None, make_text(1), settings=QUICK)
    second = fine_tune(first, None, make_text(2), settings=QUICK)
    known = set(second.tuned_on.hashes.tolist())
    assert known > set(first.tuned_on.hashes.tolist())
    assert isinstance(first.tuned_on, TextSketch)


@pytest.mark.parametrize("prefer", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_the_sketch_is_of_the_windows_that_are_read(steps: int, prefer: bool) -> None:
    """No more than the tokens of the windows of so many steps, document by document, and all of them."""
    text = replace(make_text(1), documents=np.asarray([0, 50, 333, 700], np.int64), files=())
    numbered = Batches.cut(replace(text, tokens=np.arange(len(text.tokens), dtype=np.int32)), 64, 4, seed=2)
    numbered = replace(numbered, prefer_documents=prefer)
    read = {int(token) for step in range(steps) for token in numbered.at(step).ravel()}
    found = [np.concatenate(parts) if parts else np.zeros(0, int) for parts in numbered.read_documents(steps)]
    assert sorted(read) == [int(token) for part in found for token in part]
    for part, first, last in zip(found, text.documents, [*text.documents[1:], len(text.tokens)], strict=True):
        assert ((part >= first) & (part < last)).all()


def test_the_sketch_holds_all_runs_of_a_short_training() -> None:
    text, settings = make_text(1), replace(QUICK, batch_windows=4)
    tuned = fine_tune(pico.make_model(), None, text, settings=settings, seed=2)
    read = [tokens for parts in Batches.cut(text, 64, 4, seed=2).read_documents(1) for tokens in parts]
    pieces = [piece for tokens in read for piece in decode_pieces(TOKENIZER, tokens)]
    assert tuned.tuned_on.hashes.tolist() == run_hashes(pieces).tolist()
