"""The published runs open with this version, and their records belong together."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from documents import DOCS, RESULTS, ROOT, lines

from longrope.cli import DEFAULT_RECIPE
from longrope.recipe import load_recipe
from longrope.rope import FactorTable, RopeSpec, load_factors
from longrope.runs.provenance import describe_rope
from longrope.runs.records import Score, TrainStep, Trial, read_records

PUBLISHED = sorted(path.parent for path in RESULTS.glob("*/recipe.toml"))
SCHEDULES = [path for path in PUBLISHED if (path / "stages").exists()]
SEARCHES = [path for path in PUBLISHED if path not in SCHEDULES]


@pytest.mark.parametrize("name", ["smollm2-64k", "demo"])
def test_the_geometry_of_a_published_run_is_that_of_its_factors(name: str) -> None:
    """rope.json names the same geometry, and the formulas give its numbers again; later ones are not in it."""
    run = RESULTS / name
    rope = json.loads((run / "rope.json").read_text())
    spec = RopeSpec(rope["head_dim"], rope["rotary_dim"], rope["theta"], rope["trained_window"])
    assert spec.fingerprint == load_factors(run / "factors-longrope-gradient.json").factor_sets[0].spec_fingerprint
    again = describe_rope(spec, load_recipe(run / "recipe.toml").target_tokens)
    for was, now in zip(rope.pop("pairs"), again.pop("pairs"), strict=True):
        assert was == pytest.approx({name: now[name] for name in was}, rel=1e-12)
    assert rope == {name: again[name] for name in rope}


def test_the_demo_wins_by_more_than_its_interval() -> None:
    """As docs/results.md says; and its table was made by the recipe that comes with the package."""
    scores = read_records(RESULTS / "demo" / "scores.jsonl", Score)
    (ratio,) = (score for score in scores if score.metric.startswith("ratio-to-"))
    baselines = [
        s for s in scores if (s.metric, s.context_tokens) == ("perplexity", 2048) and "longrope" not in s.method
    ]
    assert ratio.metric == f"ratio-to-{min(baselines, key=lambda score: score.value).method}"
    assert ratio.high < 1
    assert load_recipe(RESULTS / "demo" / "recipe.toml") == load_recipe(DEFAULT_RECIPE)


def test_the_demo_wins_on_all_of_its_text_with_every_python() -> None:
    """The interval of the ratio lies below 1; the first lines are of the demo's own factors."""
    ratios = {line["python"]: line for line in lines("demo/whole.jsonl") if line["metric"] == "ratio-to-yarn"}
    assert [python[:4] for python in ratios] == ["3.11", "3.12", "3.13"]
    assert all(line["high"] < 1 for line in ratios.values())
    factors = load_factors(RESULTS / "demo" / "factors.json").factor_sets[0]
    assert next(iter(ratios.values()))["factors_fingerprint"] == factors.fingerprint


def test_the_bundled_models_training_is_recorded_whole() -> None:
    steps = read_records(RESULTS / "nano" / "train.jsonl", TrainStep)
    assert [record.step for record in steps] == list(range(len(steps)))
    assert f"{steps[-1].tokens_seen / 1e6:.0f} million tokens" in DOCS["results/README.md"]


def test_the_shown_run_is_that_of_the_recipe() -> None:
    run, recipe = RESULTS / "smollm2-64k" / "recipe.toml", ROOT / "recipes" / "smollm2-64k.toml"
    assert load_recipe(run) == load_recipe(recipe)


def test_every_folder_of_results_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", DOCS["results/README.md"], re.MULTILINE)
    assert sorted(rows) == sorted({path.relative_to(RESULTS).parts[0] for path in RESULTS.glob("*/**/*.jsonl")})


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert load_recipe(path).target_tokens >= 2048


@pytest.mark.parametrize("run", SCHEDULES, ids=lambda path: path.name)
def test_published_schedules_load_and_belong_together(run: Path) -> None:
    """Each stage names its factors, follows the one before it, and the tuned scores are those of its factor sets."""
    scores, recipe = read_records(run / "scores.jsonl", Score), load_recipe(run / "recipe.toml")
    stages = sorted((run / "stages").iterdir())
    noted = [json.loads((stage / "stage.json").read_text()) for stage in stages]
    assert [entry["stage"] for entry in noted][: len(recipe.stages)] == [str(stage) for stage in recipe.stages]
    for stage, before in zip(stages[1:], stages, strict=False):
        inputs = json.loads((stage / "stage.json").read_text())["inputs"]
        assert inputs["before"] == before.name.rpartition("-")[2]
    sets = [load_factors(stage / "factors.json").factor_sets[0] for stage in stages if "tune" not in stage.name]
    some = (combinations(sets, count) for count in range(1, len(sets) + 1))
    tables = (chosen for tables in some for chosen in tables if len({x.target_window for x in chosen}) == len(chosen))
    known = {FactorTable(chosen).fingerprint for chosen in tables}
    assert load_factors(run / "factors.json").fingerprint in known
    tuned = [score for score in scores if score.method.startswith("longrope-tuned")]
    assert {score.factors_fingerprint for score in tuned} <= known
    (weights,) = {score.model.partition(", tuned ")[2] for score in tuned}
    assert weights in {entry["weights"] for entry in noted}
    trainings = [stage for stage in recipe.stages if stage.tune]
    for training, train in zip(trainings, sorted((run / "stages").glob("*-tune-*/train.jsonl")), strict=True):
        assert len(read_records(train, TrainStep)) == (training.steps or recipe.tune.steps)


@pytest.mark.parametrize("run", SEARCHES, ids=lambda path: path.name)
def test_published_records_load_and_belong_together(run: Path) -> None:
    """Scores, trials and factors open with this version; the longrope scores are those of the factors beside them."""
    scores, trials = read_records(run / "scores.jsonl", Score), read_records(run / "trials.jsonl", Trial)
    recipe = load_recipe(run / "recipe.toml")
    assert {score.context_tokens for score in scores} == set(recipe.measure.lengths)
    for method in {score.method for score in scores if score.method.startswith("longrope")}:
        factors = load_factors(run / f"factors-{method}.json").factor_sets[0]
        made = {score.factors_fingerprint for score in scores if score.method == method}
        assert made == {factors.fingerprint}
        validated = [t for t in trials if t.method == method and t.kind == "validation"]
        assert (factors.lambdas, factors.start_tokens) in {(t.lambdas, t.start_tokens) for t in validated}
