"""One model trained alike with several factors, each in a run of its own: same windows, and compared token by token."""

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pico
import pytest
from outcomes import leave_unopened

from longrope.errors import RecipeError, RunError
from longrope.evaluation.pairing import pair_methods, pair_runs
from longrope.evaluation.statistics import ratio_interval
from longrope.models import load_model
from longrope.pipeline import extend
from longrope.recipe import ExportRecipe, GradientRecipe, MeasureRecipe, Recipe, SearchRecipe, Stage, TuneRecipe
from longrope.rope import baseline_factors, load_factors, unscaled
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir

SHORT, TARGET, STEPS = 224, 1344, 3  # passkeys need 180 tokens, needles of a training 1,236
TAIL = 100
Arms = dict[str, RunDir]


def steps_of(run: RunDir) -> list[TrainStep]:
    (folder,) = run.stages.glob("2-tune-*")
    return read_records(folder / "train.jsonl", TrainStep)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, text_folders: tuple[Path, Path]) -> Recipe:
    """One arm: YaRN's factors, a training with needles, the model's own RoPE for its window."""
    return Recipe(
        str(
            pico.save_pico(
                tmp_path_factory.mktemp("pico") / "longer", max_position_embeddings=SHORT, num_hidden_layers=1
            )
        ),
        TARGET,
        (str(text_folders[0]),),
        (str(text_folders[1]),),
        device="cpu",
        stages=(Stage(search=TARGET), Stage(tune=TARGET), Stage(short=SHORT, method="none")),
        search=SearchRecipe(method="yarn", validation_windows=1, gradient=GradientRecipe(steps=1, scan_windows=1)),
        tune=TuneRecipe(
            steps=STEPS, batch_windows=1, learning_rate=3e-3, warmup_steps=1, short_share=0.4, needle_weight=0.5
        ),
        measure=MeasureRecipe(
            lengths=(SHORT, TARGET), metrics=("perplexity", "passkey"), windows=2, tail_tokens=TAIL, passkeys=10
        ),
        export=ExportRecipe(drop_start_tokens=True),
    )


@pytest.fixture(scope="module")
def arms(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Arms:
    """The same training with three kinds of factors, and in the model's own window alone; read them only."""
    folder, recipes = tmp_path_factory.mktemp("arms"), {"yarn": recipe}
    recipes["critical"] = replace(recipe, search=replace(recipe.search, method="critical"))
    recipes["own"] = replace(recipe, tune=replace(recipe.tune, short_share=1.0, needle_weight=0.0))
    with pytest.MonkeyPatch.context() as patch:
        leave_unopened(patch)
        for name, own in recipes.items():
            extend(own, RunDir(folder / name))
    return {name: RunDir(folder / name) for name in recipes}


def test_an_arm_trains_with_the_factors_of_its_method(arms: Arms, recipe: Recipe) -> None:
    spec = load_model(recipe.model, device="cpu").spec
    for name in ("yarn", "critical"):
        (factors,) = baseline_factors(spec, name, TARGET).factor_sets
        short, long = load_factors(arms[name].factors()).factor_sets
        assert (long.lambdas, long.attention_factor, long.method) == (factors.lambdas, factors.attention_factor, name)
        assert short == unscaled(spec, SHORT), "its own window keeps the model's own RoPE"
        (folder,) = arms[name].stages.glob("2-tune-*")
        assert load_factors(folder / "factors.json").factor_sets == (long,)
    first = {name: steps_of(run)[0].loss_nats for name, run in arms.items()}
    assert len(set(first.values())) == len(arms), "the factors act in the first step"


def test_all_arms_train_on_the_same_windows_in_the_same_order(arms: Arms) -> None:
    read = {name: [step.texts_fingerprint for step in steps_of(run)] for name, run in arms.items()}
    assert len(set(read["yarn"])) == STEPS
    assert all(read[name] == read["yarn"] for name in arms)
    assert [step.num_tokens for step in steps_of(arms["own"])] == [TARGET // SHORT * (SHORT - 1)] * STEPS
    long, mixed = TARGET - 1, TARGET // SHORT * (SHORT - 1)
    assert [step.num_tokens for step in steps_of(arms["critical"])] == [long, long, mixed]


def losses(run: RunDir, length: int, value: float) -> np.ndarray:
    """The losses that a run has kept of a perplexity."""
    kept = (np.load(path)["losses"].astype(float) for path in run.path.glob("samples/losses-*.npz"))
    (found,) = (x for x in kept if x.shape[1] == length - 1 and np.isclose(np.exp(x.mean()), value, rtol=1e-9))
    return np.asarray(found)


def test_arms_are_paired_token_by_token_and_passkey_by_passkey(arms: Arms) -> None:
    found = {(c.metric, c.context_tokens): c for c in pair_runs(arms["critical"], arms["yarn"])}
    tail = f"perplexity-last-{TAIL}"
    metrics = ("perplexity", tail, "passkey")
    assert set(found) == {(metric, length) for metric in metrics for length in (SHORT, TARGET)}
    scores = {
        name: {(s.metric, s.context_tokens): s for s in arms[name].read_scores() if s.method == "longrope-tuned"}
        for name in ("critical", "yarn")
    }
    for place in (("perplexity", SHORT), ("perplexity", TARGET)):
        values = [scores[name][place].value for name in ("critical", "yarn")]
        ours, theirs = (losses(arms[name], place[1], v) for name, v in zip(("critical", "yarn"), values, strict=True))
        one = found[place]
        assert one.value == pytest.approx(values[0] / values[1])
        assert (one.low, one.high) == ratio_interval(ours, theirs, np.zeros(ours.shape), 0)[1:3]
        assert (one.pairs, one.resampled) == (ours.size, "blocks")
        if place[1] == TARGET:
            last = found[tail, TARGET]
            assert last.value == pytest.approx(np.exp((ours - theirs)[:, -TAIL:].mean()))
    shares = [scores[name]["passkey", TARGET].value for name in ("critical", "yarn")]
    assert found["passkey", TARGET].value == pytest.approx(shares[0] - shares[1])
    assert (found["passkey", TARGET].pairs, found["passkey", TARGET].run) == (10, "critical")


def test_a_run_beside_itself_differs_in_nothing(arms: Arms) -> None:
    values = {
        c.metric: (c.value, c.low, c.high) for c in pair_runs(arms["yarn"], arms["yarn"]) if c.metric != "passkey"
    }
    assert set(values.values()) == {(1.0, 1.0, 1.0)}


def test_the_methods_of_one_run_are_paired_and_what_lacks_summaries_is_named(copied: RunDir) -> None:
    found, missing = pair_methods(copied, "none")
    values = {(s.method, s.metric, s.context_tokens): s.value for s in copied.read_scores()}
    assert not missing
    assert {(c.run, c.reference) for c in found} == {("longrope-tuned", "none")}
    for one in (c for c in found if c.metric == "perplexity"):
        ours, theirs = (values[method, "perplexity", one.context_tokens] for method in ("longrope-tuned", "none"))
        assert one.value == pytest.approx(ours / theirs)
    assert {c.metric for c in found} == {"perplexity", f"perplexity-last-{TAIL}", "passkey"}
    with pytest.raises(RunError, match="has no scores of 'ntk'"):
        pair_methods(copied, "ntk")
    lines = copied.summaries.read_text().splitlines(keepends=True)
    copied.summaries.write_text("".join(line for line in lines if '"passkey"' not in line))
    fewer, missing = pair_methods(copied, "none")
    assert fewer == [c for c in found if c.metric != "passkey"]
    assert missing == [f"longrope-tuned (passkey at {length:,})" for length in (SHORT, TARGET)]


def test_a_copy_without_its_samples_is_compared_alike(arms: Arms, copied: RunDir) -> None:
    """With other runs and by its methods, by the small file that stands beside the scores."""
    with_runs, methods = pair_runs(copied, arms["critical"]), pair_methods(copied, "none")
    shutil.rmtree(copied.path / "samples")
    assert pair_runs(copied, arms["critical"]) == with_runs
    assert pair_methods(copied, "none") == methods
    reversed_ = {one.metric: 1 / one.value for one in pair_runs(arms["critical"], copied) if "perplexity" in one.metric}
    assert reversed_ == pytest.approx({one.metric: one.value for one in with_runs if one.metric in reversed_})


@pytest.fixture
def copied(arms: Arms, tmp_path: Path) -> RunDir:
    """A finished run of one's own."""
    shutil.copytree(arms["yarn"].path, tmp_path / "yarn")
    return RunDir(tmp_path / "yarn")


def test_runs_that_trained_on_other_windows_are_not_paired(arms: Arms, copied: RunDir) -> None:
    (log,) = copied.stages.glob("2-tune-*/train.jsonl")
    first, *rest = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*rest, first]))
    with pytest.raises(RunError, match="were trained on different windows"):
        pair_runs(arms["critical"], copied)


def test_a_training_that_a_changed_schedule_left_behind_is_not_compared(arms: Arms, copied: RunDir) -> None:
    found = pair_runs(arms["critical"], copied)
    (folder,) = copied.stages.glob("2-tune-*")
    left = shutil.copytree(folder, folder.with_name("2-tune-1344-00000000"))
    first, *rest = (left / "train.jsonl").read_text().splitlines(keepends=True)
    (left / "train.jsonl").write_text("".join([*rest, first]))
    assert pair_runs(arms["critical"], copied) == found


def test_a_trained_run_is_not_paired_with_one_that_was_not(arms: Arms, copied: RunDir) -> None:
    (log,) = copied.stages.glob("2-tune-*/train.jsonl")
    log.unlink()
    with pytest.raises(RunError, match=r"critical was trained, and .*yarn was not"):
        pair_runs(arms["critical"], copied)


def test_runs_that_were_measured_on_other_texts_are_not_paired(arms: Arms, copied: RunDir) -> None:
    scores = copied.read_scores()
    copied.scores.write_text("")
    copied.append(*(replace(score, texts_fingerprint="0" * 16) for score in scores))
    with pytest.raises(
        RunError, match=r"The .* tokens of .*critical and .*yarn are of other texts \(.*0000000000000000\)"
    ):
        pair_runs(arms["critical"], copied)


def test_a_run_that_measured_other_texts_before_is_paired_by_the_common_ones(arms: Arms, copied: RunDir) -> None:
    found = pair_runs(arms["critical"], copied)
    scores, summaries = copied.read_scores(), copied.read_summaries()
    other_scores = [replace(score, texts_fingerprint="0" * 16) for score in scores]
    other_summaries = [replace(summary, texts_fingerprint="0" * 16) for summary in summaries]
    for earlier in (1, -1):
        copied.scores.write_text("")
        copied.append(*chain(*[other_scores, scores][::earlier]))
        copied.summaries.write_text("")
        copied.append(*chain(*[other_summaries, summaries][::earlier]))
        assert pair_runs(arms["critical"], copied) == found
    assert all(one.value in (0, 1) for one in pair_runs(copied, copied)), "with itself all are alike"


def test_a_run_without_summaries_or_scores_is_refused(arms: Arms, copied: RunDir) -> None:
    copied.summaries.unlink()
    with pytest.raises(RunError, match=r"holds nothing of the .* at 224 tokens"):
        pair_runs(copied, arms["critical"])
    copied.scores.unlink()
    with pytest.raises(RunError, match="holds no scores of factors that it has found"):
        pair_runs(arms["critical"], copied)


def test_needles_are_refused_where_every_window_is_read_as_short_ones() -> None:
    with pytest.raises(RecipeError, match=r"tune\.needle_weight = 0\.5 with tune\.short_share = 1"):
        TuneRecipe(short_share=1.0, needle_weight=0.5)
