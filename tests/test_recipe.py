"""Recipes: TOML in and out, mistakes named with their key, the paper's numbers, numbers of tokens."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from longrope.errors import RecipeError
from longrope.recipe import (
    CmaRecipe,
    EvolutionRecipe,
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    changed,
    dump_recipe,
    load_recipe,
)

RECIPES = Path(__file__).parents[1] / "recipes"
SMALLEST = 'model = "m"\ntarget_tokens = 65536\ndata = ["books"]\n'
DEFAULT = Recipe("m", 65536, ("books",))
UNUSUAL = Recipe(
    model='a "quoted" \\ name\nof two lines',
    target_tokens=2**21,
    data=("one", "two/ü", "three"),
    measure_data=("other",),
    data_weights=(0.5, 2.0, 0.1),
    text_field="body",
    encoding="latin-1",
    factors=("theirs.json", "phi/config.json"),
    seed=17,
    dtype="bfloat16",
    device="cuda",
    rope_table="full_attention",
    trained_window=4096,
    compiled=True,
    stages=(Stage(search=2**20), Stage(extrapolate=2**21), Stage(tune=26, steps=27, factors_of=2), Stage(short=28)),
    search=SearchRecipe(
        method="evolution",
        validation_windows=7,
        tail_tokens=512,
        needle_weight=0.25,
        choose_by="loss",
        evolution=EvolutionRecipe(11, 12, 13, 14, 15, 0.1 + 0.2, 16, 18, ("critical",)),
        gradient=GradientRecipe(19, 1e-3, 0.7, "yarn", 24, 20, "joint", "scan"),
        cma=CmaRecipe(900, 3),
    ),
    tune=TuneRecipe(
        window_tokens=29,
        steps=30,
        batch_windows=31,
        windows_at_once=2,
        learning_rate=0.03,
        warmup_steps=4,
        schedule="cosine",
        weight_decay=0.04,
        clip_norm=0.5,
        checkpoint_every=33,
        recompute=False,
        prefer_documents=True,
        skipped_positions=34,
        short_share=0.35,
        needle_weight=0.36,
        needle_kinds="varied",
        lora_rank=37,
        lora_alpha=38,
        lora_also=("norms",),
        parameters=("global-attention",),
    ),
    measure=MeasureRecipe(
        (4096, 65536),
        ("ruler",),
        21,
        22,
        23,
        ("yarn", "dynamic-ntk"),
        25,
        26,
        27,
        28,
        "squad.json",
        29,
        210,
        "nano",
        "factors.json",
        213,
        213,
        (214,),
        15,
        16,
    ),
    export=ExportRecipe("two", drop_start_tokens=True, base_model="someone/model", max_shard_size="2GB"),
)
ALONE = {"isolate_documents": True, "recompute_layers": 3, "offload": True}  # allowed beside few others
FORMULA = SearchRecipe("yarn", attention_factor=1.5)  # no search takes it
ISOLATED = Recipe("m", 65536, ("books",), search=FORMULA, tune=TuneRecipe(**ALONE))  # type: ignore[arg-type]


def load(tmp_path: Path, text: str) -> Recipe:
    """The recipe of this TOML text."""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted key."""
    found: dict[str, Any] = {}
    for field in fields(node):
        value = getattr(node, field.name)
        found |= leaves(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


@pytest.mark.parametrize("recipe", [DEFAULT, UNUSUAL, ISOLATED], ids=["default", "unusual", "isolated"])
def test_toml_round_trip(tmp_path: Path, recipe: Recipe) -> None:
    assert load(tmp_path, dump_recipe(recipe)) == recipe


def test_the_round_trip_covers_every_setting() -> None:
    """No setting of UNUSUAL has its default value, so none survives by being forgotten; ISOLATED has the others."""
    default, unusual = leaves(DEFAULT), leaves(UNUSUAL)
    others = {"search.attention_factor", *(f"tune.{key}" for key in ALONE)}
    assert {key for key in default if default[key] == unusual[key]} == others
    assert all(leaves(ISOLATED)[key] != default[key] for key in others)
    for recipe in (DEFAULT, UNUSUAL):
        text = dump_recipe(recipe)
        named = {key: key.split(".")[-1] for key in default}
        assert [key for key, last in named.items() if f"{last} = " not in text and f"[[{last}]]" not in text] == []


def test_what_a_file_leaves_out_takes_its_default(tmp_path: Path) -> None:
    assert load(tmp_path, SMALLEST) == DEFAULT
    assert load(tmp_path, SMALLEST + "[search.evolution]\nwindows = 9\n").search == SearchRecipe(
        evolution=EvolutionRecipe(windows=9)
    )


def test_token_counts_may_be_written_short(tmp_path: Path) -> None:
    measure = '[measure]\nlengths = ["4k", 8192, "2m"]\ntail_tokens = "1k"\n'
    recipe = load(tmp_path, SMALLEST.replace("65536", '"64k"') + measure)
    assert recipe.target_tokens == 65536
    assert recipe.measure.lengths == (4096, 8192, 2097152)
    assert recipe.measure.tail_tokens == 1024


def test_whole_numbers_are_taken_as_real_ones(tmp_path: Path) -> None:
    rate = load(tmp_path, SMALLEST + "[search.gradient]\nlearning_rate = 1\n").search.gradient.learning_rate
    assert (type(rate), rate) == (float, 1.0)


@pytest.mark.parametrize("text", ["model = ", "= 3", "[[["])
def test_what_is_no_toml_is_refused_by_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml"):
        load(tmp_path, text)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml"):
        load_recipe("nowhere.toml")


# Keys of earlier versions

FORMER = '[measure]\nrivals = ["pi", "yarn"]\n[export]\ntiers = "two"\n'


def test_keys_of_earlier_versions_are_read_and_written_under_their_names_of_today(tmp_path: Path) -> None:
    recipe = load(tmp_path, SMALLEST + FORMER)
    assert recipe == replace(DEFAULT, measure=MeasureRecipe(baselines=("pi", "yarn")), export=ExportRecipe("two"))
    written = dump_recipe(recipe)
    assert "rivals" not in written
    assert "tiers" not in written
    assert load(tmp_path, written) == recipe


def test_keys_of_earlier_versions_can_be_set() -> None:
    recipe = changed(DEFAULT, ["measure.rivals=pi,yarn", "export.factor_sets=two"])
    assert (recipe.measure.baselines, recipe.export.factor_sets) == (("pi", "yarn"), "two")


def test_a_setting_under_both_its_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'measure.rivals' and 'measure.baselines'"):
        load(tmp_path, SMALLEST + '[measure]\nrivals = ["pi"]\nbaselines = ["yarn"]\n')


def test_stages_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Records and folders call them by these keys still, so finished stages of a run are found."""
    former = 'stages = [{ search = "64k" }, { carry = "128k" }, { recover = "4k" }]\n'
    recipe = load(tmp_path, SMALLEST.replace("65536", '"128k"') + former)
    assert recipe.stages == (Stage(search=65536), Stage(extrapolate=131072), Stage(short=4096))
    assert [f"{stage}" for stage in recipe.stages] == ["search 64k", "carry 128k", "recover 4k"]
    assert "recover" not in dump_recipe(recipe)


# Mistakes


@pytest.mark.parametrize(
    ("addition", "unknown", "nearest"),
    [
        ("sed = 3", "sed", "seed"),
        ("target_token = 3", "target_token", "target_tokens"),
        ('[search]\nmetod = "evolution"', "search.metod", "search.method"),
        ("[search.evolution]\npopluation = 3", "search.evolution.popluation", "search.evolution.population"),
        ("[search.gradient]\nlearning-rate = 0.1", "search.gradient.learning-rate", "search.gradient.learning_rate"),
        ("[mesure]\nwindows = 3", "mesure", "measure"),
        ("[export]\nfactor_set = 'two'", "export.factor_set", "export.factor_sets"),
        ("validate_every = 3", "validate_every", "search.gradient.validate_every"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path, addition: str, unknown: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, SMALLEST + addition + "\n")
    assert repr(unknown) in caught.value.found
    assert repr(nearest) in caught.value.needed


def test_an_unknown_key_is_refused_however_far_from_any(tmp_path: Path) -> None:
    for key in ("0", "budget"):
        with pytest.raises(RecipeError, match=f"'{key}'.*resembles none of the known ones"):
            load(tmp_path, SMALLEST + f"{key} = 0\n")


@pytest.mark.parametrize(
    ("addition", "key"),
    [
        ('seed = "seven"', "seed|seven"),
        ("seed = 1.0", "seed"),
        ("seed = true", "seed"),
        ("dtype = 16", "dtype"),
        ('measure_data = "books"', "measure_data"),
        ("measure_data = [1]", "measure_data"),
        ("search = 3", "search"),
        ("[search.gradient]\nlearning_rate = 'fast'", r"search\.gradient\.learning_rate"),
        ("[search.gradient]\nlearning_rate = true", r"search\.gradient\.learning_rate"),
        ("[measure]\nlengths = 4096", r"measure\.lengths"),
        ("[measure]\nlengths = [4096.0]", r"measure\.lengths"),
        ("[export]\ndrop_start_tokens = 1", r"export\.drop_start_tokens"),
        ("[export]\ndrop_start_tokens = 'yes'", r"export\.drop_start_tokens"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key(tmp_path: Path, addition: str, key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        load(tmp_path, SMALLEST + addition + "\n")


@pytest.mark.parametrize("key", ["model", "target_tokens", "data"])
def test_a_missing_required_key_is_named(tmp_path: Path, key: str) -> None:
    text = "".join(line for line in SMALLEST.splitlines(keepends=True) if not line.startswith(key))
    with pytest.raises(RecipeError, match=f"no '{key}'"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("", "dtype", "int8"),
        ("", "target_tokens", 0),
        ("", "target_tokens", -65536),
        ("search", "method", "annealing"),
        ("search", "validation_windows", 0),
        ("search.gradient", "start", "dynamic-ntk"),
        ("search.gradient", "steps", 0),
        ("search.gradient", "validate_every", 0),
        ("search.gradient", "learning_rate", 0.0),
        ("search.gradient", "learning_rate", float("nan")),
        ("search.evolution", "validate_every", 0),
        ("measure", "windows", 0),
        ("measure", "passkeys", 0),
        ("measure", "needles", 0),
        ("measure", "ruler_prompts", 0),
        ("export", "factor_sets", "three"),
    ],
)
def test_a_value_that_no_run_can_use_is_refused_by_key(tmp_path: Path, table: str, key: str, value: Any) -> None:
    smallest = SMALLEST.replace("target_tokens = 65536\n", "") if key == "target_tokens" else SMALLEST
    heading, prefix = (f"[{table}]\n", f"{table}.") if table else ("", "")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f"{smallest}{heading}{key} = {value!r}\n")
    assert f"{prefix}{key} = {value!r}" in caught.value.found


def test_a_wrong_item_of_a_list_is_refused_by_index(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"measure\.metrics\[1\] = 'exactness'"):
        load(tmp_path, SMALLEST + "[measure]\nmetrics = ['perplexity', 'exactness']\n")
    with pytest.raises(RecipeError, match=r"measure\.lengths\[1\] = 0"):
        load(tmp_path, SMALLEST + "[measure]\nlengths = [4096, 0]\n")


def test_questions_about_documents_need_a_file(tmp_path: Path) -> None:
    asked = SMALLEST + "[measure]\nmetrics = ['ruler-qa']\n"
    with pytest.raises(RecipeError, match=r"measure\.qa_data"):
        load(tmp_path, asked)
    assert load(tmp_path, asked + "qa_data = 'questions.json'\n").measure.qa_data == "questions.json"


# The paper's numbers

K = 1024


@pytest.mark.parametrize(
    ("target", "numbers"),
    [
        (4 * K, (64, 32, 16, 16, 40, 5)),
        (256 * K, (64, 32, 16, 16, 40, 5)),
        (256 * K + 1, (64, 32, 16, 16, 40, 3)),
        (512 * K, (64, 32, 16, 16, 40, 3)),
        (512 * K + 1, (32, 32, 8, 8, 40, 3)),
        (2048 * K, (32, 32, 8, 8, 40, 3)),
    ],
)
def test_zeros_become_the_papers_numbers(target: int, numbers: tuple[int, ...]) -> None:
    """Population, mutations and crossovers halve beyond 512k, nothing else; texts go from 5 to 3 beyond 256k."""
    filled = EvolutionRecipe().filled(target)
    chosen = (filled.population, filled.parents, filled.mutations, filled.crossovers, filled.generations)
    assert (*chosen, filled.windows) == numbers
    assert filled.mutation_probability == 0.3


@pytest.mark.parametrize("target", [4 * K, 2048 * K])
def test_numbers_that_were_given_stay(target: int) -> None:
    given_numbers = EvolutionRecipe(5, 4, 3, 2, 1, 0.5, 6, 7)
    assert given_numbers.filled(target) == given_numbers
