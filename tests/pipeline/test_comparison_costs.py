"""The estimate of a comparison: what it counts against what goes through a model, and its sums by a fixed clock."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest

from longrope import registry
from longrope.data import TokenText, load_texts
from longrope.errors import DryRunEnd
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Reading, Subject
from longrope.models import LanguageModel
from longrope.pipeline import Callbacks, compare
from longrope.pipeline.comparison_costs import COMPARED, Measured, Speeds, estimate_comparison, seconds_of_step
from longrope.recipe import MeasureRecipe, Recipe
from longrope.runs.run_dir import RunDir
from longrope.search.cost import count_choice_passes, count_passes
from longrope.search.scan import count_scan_passes

LENGTHS = (64, 256)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model()


@pytest.fixture(scope="module")
def text(model: LanguageModel, text_folders: tuple[Path, Path]) -> TokenText:
    return load_texts((), model.tokenizer, measure=[text_folders[1]]).measure


def evaluation(model: LanguageModel, text: TokenText, *metrics: str, **settings: Any) -> Evaluation:
    given: dict[str, Any] = {"windows": 3, "passkeys": 4, "needles": 6, "needles_per_text": 3, "ruler_prompts": 2}
    recipe = MeasureRecipe(lengths=LENGTHS, metrics=metrics, tail_tokens=0, **{**given, **settings})
    return Evaluation(text, recipe, Subject(model, None, "none"))


@pytest.mark.parametrize(
    "metrics",
    [
        ("perplexity",),
        ("perplexity", "prefix-perplexity", "retention"),
        ("prefix-perplexity",),
        ("perplexity", "far-context", "far-shuffled"),
        ("passkey",),
        ("prose-needle",),
        ("needle",),
        ("ruler-niah_single_2",),
    ],
)
def test_readings_are_the_tokens_that_go_through_the_model(
    metrics: tuple[str, ...], model: LanguageModel, text: TokenText
) -> None:
    """Samples that metrics share are counted once; of what is written and asked, the steps are counted."""
    given = evaluation(model, text, *metrics)
    if not {"perplexity", "prefix-perplexity"}.intersection(metrics):  # prompts need some length
        given = replace(given, settings=replace(given.settings, lengths=(2048,)))
    readings, calls = given.readings(given.original), list[int]()
    embedding = model.network.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, ids: calls.append(ids[0].numel()))
    given.measure(given.original)
    handle.remove()
    read = [tokens for tokens in calls if tokens >= min(given.settings.lengths) / 2]
    assert sum(read) == pytest.approx(sum(each.tokens * each.passes for each in readings), rel=0.2)
    assert len(read) == sum(-(-each.passes // each.beside) for each in readings), "windows of one pass are said to be"
    assert len(calls) - len(read) == pytest.approx(sum(each.written + each.together for each in readings), rel=0.4)
    assert given.unread(given.original) == []


def test_windows_of_comparisons_are_counted_where_they_are_others(model: LanguageModel, text: TokenText) -> None:
    for paired, passes in ((0, [12, 3]), (3, [12, 3]), (5, [12, 3, 5])):
        given = evaluation(model, text, "perplexity", paired_windows=paired)
        assert [reading.passes for reading in given.readings(given.original)] == passes


def test_metrics_that_cannot_be_estimated_are_named(model: LanguageModel, text: TokenText) -> None:
    given = evaluation(model, text, "perplexity", "harness:arc_easy")
    assert given.unread(given.original) == ["harness:arc_easy"]


def test_what_is_read_of_other_methods_alone_is_estimated_too(model: LanguageModel, text: TokenText) -> None:
    """The original is measured at its own window, where far context cannot be shuffled."""
    given = evaluation(model, text, "perplexity", "far-shuffled", original_tokens=LENGTHS[0])
    other = replace(given.original, method="other")
    assert given.unread(given.original) == ["far-shuffled"]
    assert given.unread(given.original, other) == []
    assert "far-shuffled" in {reading.kind for reading in given.readings(other)}


class Ticks:
    """A clock that goes on by one second whenever it is read."""

    def __init__(self) -> None:
        """It stands at 0."""
        self.now = 0.0

    def __call__(self) -> float:
        """The seconds so far."""
        self.now += 1.0
        return self.now


def test_the_parts_of_an_estimate_add_up(model: LanguageModel, recipe: Recipe) -> None:
    """A pass over any window takes a second by this clock, and so do written tokens, of one text or of several."""
    readings = [Reading("losses", 256, 3), Reading("needles", 256, 2, 10), Reading("evaluator", 256, 5, once=True)]
    readings.append(Reading("answers", 256, 1, 4, 7))
    methods, speeds = [Measured(readings)] * 4, Speeds(model, Ticks())
    costs = estimate_comparison(
        recipe, model, searches=["evolution", "gradient"], scans=1, methods=methods, speeds=speeds
    )
    by_name = {cost.stage: cost.seconds for cost in costs}
    searched = {name: replace(recipe.search, method=name) for name in ("evolution", "gradient")}
    expected = {
        f"search by {name}": count_passes(settings, recipe.target_tokens) + count_choice_passes(settings)
        for name, settings in searched.items()
    }
    expected |= {"scan of base and attention factor": count_scan_passes(model.spec, recipe)}
    expected |= {"measure 4 methods": 4 * (3 + 2 + 10 + 1 + 4 + 7) + 5}
    assert by_name == pytest.approx(expected)
    assert all(0 < cost.bytes_needed < cost.bytes_free for cost in costs)
    assert seconds_of_step(model, Ticks()) == seconds_of_step(model, Ticks(), 8) == 1.0


def test_texts_that_cannot_go_on_side_by_side_are_counted_one_by_one(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrope.pipeline.comparison_costs.rows_beside", lambda *_: 1)
    assert seconds_of_step(model, Ticks(), 8) == 8.0


def test_a_method_that_changes_attention_is_timed_by_itself(model: LanguageModel, recipe: Recipe) -> None:
    """Its context manager is entered for the lengths that are timed, and its passes take twice as long here."""
    entered: list[int] = []

    class Slow:
        def __init__(self, _: LanguageModel, tokens: int) -> None:
            entered.append(tokens)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    given: dict[str, Any] = {"searches": [], "scans": 0, "speeds": Speeds(model, Ticks())}
    plain, slow = (
        estimate_comparison(recipe, model, methods=[Measured([Reading("losses", 64, 3)], way)], **given)[0].seconds
        for way in (None, Slow)
    )
    assert entered
    assert slow == pytest.approx(plain)


@pytest.mark.slow
def test_a_comparison_begins_with_its_estimate(recipe: Recipe, tmp_path: Path) -> None:
    """Before the searches, with the passes that a scan reports; and nothing is left when it is resumed."""
    lines: list[str] = []
    metrics = ("perplexity", "passkey")
    asked = MeasureRecipe(lengths=(256,), windows=1, metrics=metrics, tail_tokens=0, passkeys=2)
    small = replace(recipe, measure=asked)
    run = RunDir(tmp_path)
    compare(small, run, Callbacks(on_step=lines.append))
    names = [line.partition(":")[0] for line in lines]
    count = 1 + len(registry.baselines()) + len(COMPARED)
    parts = [
        "search by evolution",
        "search by gradient",
        "scan of base and attention factor",
        f"measure {count} methods",
    ]
    first = names.index(parts[0])
    assert names[first : first + 5] == [*parts, "in all"]
    assert names[first + 5].startswith("search factors")
    [told] = [line for line in lines if "window passes of a budget" in line]
    real = int(told.split(" window passes")[0].split()[-1])
    assert count_scan_passes(name_subject(pico.make_model(), None).model.spec, small) == pytest.approx(real, rel=0.25)
    again: list[str] = []
    compare(small, run, Callbacks(on_step=again.append))
    assert not [line for line in again if line.startswith(("search by", "scan of", "measure 1", "in all"))]
    kept = [line for line in run.scores.read_text().splitlines() if not ('"pi"' in line and '"passkey"' in line)]
    run.scores.write_text("".join(f"{line}\n" for line in kept))
    cut: list[str] = []
    with pytest.raises(DryRunEnd):
        compare(small, run, Callbacks(on_step=cut.append), dry_run=True)
    assert [line.partition(":")[0] for line in cut if line.startswith("measure 1")] == ["measure 1 method"]
