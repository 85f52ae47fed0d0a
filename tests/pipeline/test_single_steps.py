"""The steps of a run by themselves: search, measure, compare, tune, export."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import intervals
import pico
import pytest
import torch
from huggingface_hub import ModelCard
from outcomes import (
    FORMULAS,
    LONGROPE2,
    SCAN,
    TARGET,
    Countdown,
    InterruptError,
    Outcome,
    outcome,
    read_lines,
    written_scores,
)

from longrope import pipeline
from longrope.data import load_texts
from longrope.errors import RecipeError, RunError, TextsError
from longrope.evaluation import measure, perplexity
from longrope.labels import Source
from longrope.models import load_model, save_model
from longrope.pipeline import (
    Callbacks,
    Session,
    compare,
    export_again,
    extend,
    measure_only,
    plan_tasks,
    run_tasks,
    search_costs,
)
from longrope.recipe import ExportRecipe, MeasureRecipe, Recipe, Stage, TuneRecipe
from longrope.rope import baseline_factors, load_factors
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search.cost import compare_costs

NEAR_EXACT = ("dca", "self-extend", "jet-long")  # baselines of attention


@pytest.mark.usefixtures("unopened")
def test_a_search_alone_is_what_a_schedule_begins_with(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    factors = pipeline.search(recipe, run)
    assert load_factors(run.factors()).factor_sets == (factors,)
    assert run.factors().read_bytes() == whole["gradient"].factors
    assert not run.scores.exists()
    trials = read_lines(run.trials)
    extend(recipe, run)
    assert read_lines(run.trials) == trials
    assert outcome(run) == whole["gradient"]


@pytest.mark.usefixtures("unopened")
def test_the_card_of_a_run_holds_its_scores(recipe: Recipe, tmp_path: Path) -> None:
    """Read by the hub's parser; an export again writes the card again, with the base model's name on the hub."""
    run = RunDir(tmp_path)
    own = [s for s in extend(recipe, run) if s.method == "longrope-gradient" and s.metric in ("perplexity", "passkey")]
    data: Any = ModelCard.load(run.checkpoint / "README.md").data
    labels = {"perplexity": "Perplexity", "passkey": "Passkeys found"}
    measured = {(r.metric_name, r.metric_value) for r in data.eval_results}
    assert measured == {
        (f"{labels[s.metric]}, {s.context_tokens:,} tokens", s.value) for s in own if s.metric in labels
    }
    assert len(measured) == 2
    assert data.base_model is None
    export_again(run, replace(recipe.export, base_model="someone/pico"))
    again: Any = ModelCard.load(run.checkpoint / "README.md").data
    assert (again.base_model, again.eval_results) == ("someone/pico", data.eval_results)


@pytest.mark.usefixtures("unopened")
def test_a_run_is_exported_again_with_other_settings(recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    extend(recipe, run)
    single = whole["gradient"].config["rope_parameters"]
    assert single["short_factor"] == single["long_factor"]
    export_again(run, ExportRecipe(factor_sets="two", drop_start_tokens=True))
    two = outcome(run)
    assert two.report["factor_sets"] == "two"
    assert two.config["rope_parameters"]["short_factor"] == [1.0] * 4
    assert two.config["rope_parameters"]["long_factor"] == single["long_factor"]
    export_again(run, recipe.export)
    assert outcome(run) == whole["gradient"]


def test_measuring_alone_gives_the_numbers_of_the_schedule(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    (tmp_path / "factors.json").write_bytes(whole["gradient"].factors)
    scores = measure_only(recipe, None, RunDir(tmp_path / "a"))
    scores += measure_only(recipe, tmp_path / "factors.json", RunDir(tmp_path / "b"))
    assert written_scores(scores) == whole["gradient"].scores
    assert len(read_lines(tmp_path / "a" / "scores.jsonl")) == len(scores) / 2


def test_trained_weights_are_compared_with_their_base(recipe: Recipe, tmp_path: Path) -> None:
    """Retention is the ratio of two perplexities that are measured apart; without a base there is none."""
    trained = load_model(recipe.model, device="cpu")
    with torch.no_grad():
        trained.network.get_input_embeddings().weight.mul_(4)
    save_model(trained, tmp_path / "trained")
    window = trained.spec.trained_window
    settings = MeasureRecipe(lengths=(window,), metrics=("perplexity", "retention"), windows=2)
    other = replace(recipe, model=str(tmp_path / "trained"), measure=settings)
    before, after = (
        measure_only(replace(of, measure=replace(settings, metrics=("perplexity",))), None)[0].value
        for of in (recipe, other)
    )
    (ratio,) = (s for s in measure_only(other, None, base=recipe.model) if s.metric == "ratio-to-none")
    assert ratio.value == pytest.approx(after / before)
    assert abs(ratio.value - 1) > 1e-3
    assert [s.metric for s in measure_only(other, None)] == ["perplexity"]
    run = RunDir(tmp_path / "run")
    measure_only(other, None, run, base=recipe.model)
    with pytest.raises(RunError, match=r"compared with itself without factors, and in .*run it was with the weights"):
        measure_only(other, None, run)
    assert measure_only(other, None, run, base=recipe.model), "the same base goes on"
    longer = pico.make_network("llama", max_position_embeddings=2 * window)
    longer.save_pretrained(tmp_path / "longer")
    pico.make_tokenizer().save_pretrained(tmp_path / "longer")
    with pytest.raises(RecipeError, match=f"longer has a window of {2 * window} tokens, not {window}"):
        measure_only(other, None, base=str(tmp_path / "longer"))


def test_a_directory_holds_scores_of_one_number_format(recipe: Recipe, tmp_path: Path) -> None:
    """Those of another would be looked up where they were measured before."""
    short = replace(recipe, measure=MeasureRecipe(lengths=(32,), metrics=("perplexity",), windows=2))
    run = RunDir(tmp_path / "run")
    (first,) = measure_only(replace(short, dtype="float32"), None, run)
    narrow, before = replace(short, dtype="bfloat16"), run.scores.read_bytes()
    with pytest.raises(RunError, match=r"is in bfloat16, and the scores in .*run are of float32\.") as error:
        measure_only(narrow, None, run)
    assert "--dtype float32" in str(error.value)
    assert run.scores.read_bytes() == before
    assert measure_only(short, None, run) == [first], "by auto the same"
    (other,) = measure_only(narrow, None, RunDir(tmp_path / "other"))
    assert other.value != first.value


def test_the_python_function_refuses_another_number_format_as_the_command_does(recipe: Recipe, tmp_path: Path) -> None:
    """Whichever of the two made the run, with the same error."""
    settings = MeasureRecipe(lengths=(32,), metrics=("perplexity",), windows=2)
    short = replace(recipe, measure=settings)
    texts = load_texts(recipe.data, load_model(recipe.model).tokenizer, measure=recipe.measure_data).measure
    wide, narrow = (replace(short, dtype=dtype) for dtype in ("float32", "bfloat16"))

    def measure_in_python(recipe: Recipe, run: RunDir) -> list[Score]:
        model = load_model(recipe.model, dtype=recipe.dtype)
        return measure(model, None, texts, settings=settings, run=run)

    def measure_by_command(recipe: Recipe, run: RunDir) -> list[Score]:
        return measure_only(recipe, None, run)

    ways = (measure_in_python, measure_by_command)
    for i, first in enumerate(ways):
        run = RunDir(tmp_path / str(i))
        before, errors = first(wide, run), list[str]()
        for second in ways:
            with pytest.raises(RunError, match=r"is in bfloat16, and the scores in .* are of float32\.") as error:
                second(narrow, run)
            errors.append(str(error.value))
        assert errors[0] == errors[1]
        assert first(wide, run) == before
    run = RunDir(tmp_path / "short")
    with pytest.raises(TextsError, match="tokens"):
        measure(load_model(short.model), None, replace(texts, tokens=texts.tokens[:20]), settings=settings, run=run)
    assert not run.has(run.provenance), "what cannot be measured leaves the format open"


def test_comparing_measures_every_method_on_the_same_text(recipe: Recipe, tmp_path: Path) -> None:
    settings = MeasureRecipe(lengths=(64, 192, TARGET), metrics=("perplexity",), windows=2, tail_tokens=16)
    full, run = replace(recipe, measure=settings), RunDir(tmp_path)
    every = compare(full, run)
    scores = [score for score in every if "ratio" not in score.metric]
    searches = (SCAN, LONGROPE2, "longrope-evolution", "longrope-gradient")
    sources = [
        Source("none"),
        *map(Source, (*FORMULAS, *NEAR_EXACT)),
        *(load_factors(run.factors(s)).factor_sets[0].source for s in searches),
    ]
    wanted = {(m, n, k) for m in sources for n in settings.lengths for k in ("perplexity", "perplexity-last-16")}
    keys = [(score.source, score.context_tokens, score.metric) for score in scores]
    assert set(keys) == wanted
    assert len(keys) == len(wanted)
    for length in settings.lengths:
        own = [score for score in scores if score.context_tokens == length]
        assert len({score.texts_fingerprint for score in own}) == 1
        assert len({(score.metric, score.num_tokens) for score in own}) == 2
    assert written_scores(read_records(run.scores, Score)) == written_scores(every)
    fingerprints = {(score.source.known_as, score.factors_fingerprint) for score in scores}
    model = load_model(recipe.model, device="cpu")
    baselines = {name: baseline_factors(model.spec, name, TARGET, settings.lengths) for name in FORMULAS}
    searched = {method: load_factors(run.factors(method)) for method in searches}
    tables = {method: table.fingerprint for method, table in {**baselines, **searched}.items()}
    assert fingerprints == {("none", ""), *tables.items(), *((name, "") for name in NEAR_EXACT)}
    values = {(score.method, score.context_tokens): score.value for score in scores if score.metric == "perplexity"}
    text = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data).measure
    pieces = text.divided(text.windows(TARGET, 2), 192)
    losses = perplexity.window_losses(model, baselines["dynamic-ntk"].factor_sets[1], pieces)
    assert values["dynamic-ntk", 192] == pytest.approx(intervals.perplexity(losses))
    assert values["dynamic-ntk", 64] == pytest.approx(values["none", 64])
    assert values["dynamic-ntk", TARGET] == pytest.approx(values["ntk", TARGET])
    assert {trial.method for trial in read_records(run.trials, Trial)} == set(searched)


def test_comparing_ends_with_every_method_against_the_best_closed_form(recipe: Recipe, tmp_path: Path) -> None:
    """Token by token and key by key, at the longest length, last in print."""
    settings = MeasureRecipe(lengths=(192, TARGET), windows=2, tail_tokens=0, passkeys=10)
    scores = compare(replace(recipe, measure=settings), RunDir(tmp_path))
    values = {(s.metric, s.source.known_as): s.value for s in scores if s.context_tokens == TARGET}
    baselines = (*FORMULAS, SCAN, LONGROPE2, *NEAR_EXACT)
    best = min(baselines, key=lambda name: values["perplexity", name])
    others = [name for name in ("none", *baselines, "longrope-evolution", "longrope-gradient") if name != best]
    paired = scores[-2 * len(others) :]
    assert [(s.source.known_as, s.metric) for s in paired] == [
        (name, f"{metric}-to-{best}") for name in others for metric in ("ratio", "difference")
    ]
    for ratio, difference in zip(paired[::2], paired[1::2], strict=True):
        of_perplexities = values["perplexity", ratio.source.known_as] / values["perplexity", best]
        assert ratio.value == pytest.approx(of_perplexities, rel=1e-5)
        assert ratio.low <= ratio.value <= ratio.high
        of_keys = values["passkey", ratio.source.known_as] - values["passkey", best]
        assert difference.value == pytest.approx(of_keys)
        assert difference.low < difference.value < difference.high
    assert {s.context_tokens for s in paired} == {TARGET}


@pytest.mark.slow
def test_a_comparison_that_was_interrupted_ends_as_a_whole_one(recipe: Recipe, tmp_path: Path) -> None:
    settings = MeasureRecipe(lengths=(TARGET,), metrics=("perplexity",), windows=1, tail_tokens=0)
    full = replace(recipe, measure=settings)
    expected = compare(full, RunDir(tmp_path / "whole"))
    run = RunDir(tmp_path / "broken")
    for watch in (
        Callbacks(on_trial=Countdown(4)),
        Callbacks(on_trial=Countdown(18)),
        Callbacks(on_trial=Countdown(60)),
        Callbacks(on_step=Countdown(10)),
    ):
        with pytest.raises(InterruptError):
            compare(full, run, watch)
    assert written_scores(compare(full, run)) == written_scores(expected)
    whole_trials, trials = (read_records(RunDir(tmp_path / name).trials, Trial) for name in ("whole", "broken"))
    assert [replace(t, seconds=0.0) for t in trials] == [replace(t, seconds=0.0) for t in whole_trials]


@pytest.fixture
def tuning(recipe: Recipe) -> Recipe:
    """A run that searches, tunes and recovers the short window."""
    return replace(
        recipe,
        stages=(Stage(search=TARGET), Stage(tune=TARGET), Stage(short=64)),
        tune=TuneRecipe(steps=3, batch_windows=2, warmup_steps=0, learning_rate=1e-2),
        measure=MeasureRecipe(
            (64, TARGET), ("perplexity", "retention"), 2, 0, baselines=("ntk", "yarn"), paired_windows=3
        ),
    )


@pytest.mark.usefixtures("unopened")
def test_tuned_weights_are_measured_against_those_before(tuning: Recipe, tmp_path: Path) -> None:
    """Retention against the original, the last score against the best rival of the untuned model; the card has both."""
    run = RunDir(tmp_path)
    scores = extend(tuning, run)
    values = {(s.metric, s.method, s.context_tokens): s.value for s in scores}
    before, after = values["perplexity", "none", 64], values["perplexity", "longrope-tuned", 64]
    assert values["ratio-to-none", "longrope-tuned", 64] == pytest.approx(after / before, rel=1e-5)
    best = min(("ntk", "yarn"), key=lambda name: values["perplexity", name, TARGET])
    assert (scores[-1].metric, scores[-1].method) == (f"ratio-to-{best}", "longrope-tuned")
    untuned = load_model(tuning.model, device="cpu")
    texts = load_texts(tuning.data, untuned.tokenizer, measure=tuning.measure_data)
    windows = texts.measure.windows(TARGET, 3)
    rival = baseline_factors(untuned.spec, best, TARGET, (64, TARGET)).choose(TARGET)
    theirs = perplexity.window_losses(untuned, rival, windows)
    session = Session(tuning, run, untuned, texts)
    tuned = run_tasks(session, plan_tasks(session))
    ours = perplexity.window_losses(tuned.model, tuned.longest, windows)
    assert scores[-1].value == pytest.approx(intervals.perplexity(ours - theirs), rel=1e-5)
    assert abs(scores[-1].value - 1) > 1e-3
    card = (run.checkpoint / "README.md").read_text()
    assert f"| Perplexity, {TARGET} tokens |" in card
    assert f"{scores[-1].value:.4g} ({scores[-1].low:.4g}-{scores[-1].high:.4g})" in card
    assert "| Perplexity, 64 tokens |" not in card  # the checkpoint takes the long factors there, too
    assert written_scores(extend(tuning, run)) == written_scores(scores)


@pytest.mark.slow
@pytest.mark.usefixtures("unopened")
def test_an_interrupted_schedule_compares_with_the_weights_before_its_tuning(tuning: Recipe, tmp_path: Path) -> None:
    whole, run, steps = extend(tuning, RunDir(tmp_path / "whole")), RunDir(tmp_path / "broken"), list[str]()

    def stop_in_short_search(text: str) -> None:
        steps.append(text)
        if text.startswith("stage 3"):
            raise InterruptError

    with pytest.raises(InterruptError):
        extend(tuning, run, Callbacks(on_step=stop_in_short_search))
    assert written_scores(extend(tuning, run)) == written_scores(whole)


def test_the_costs_of_a_run_are_written(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    found_by_gradient = replace(recipe, search=replace(recipe.search, validation_windows=2))
    pipeline.search(found_by_gradient, run)
    costs = search_costs(run)
    assert costs == compare_costs(read_records(run.trials, Trial))
    assert json.loads((run.path / "costs.json").read_text()) == [asdict(cost) for cost in costs]
    assert [cost.method for cost in costs] == ["longrope-gradient"]
