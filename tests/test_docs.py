"""The docs are held to the code and the records: tables, tree, commands, names, recipes."""

import html
import importlib.util
import itertools
import json
import re
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pico
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import longrope
from longrope.cli import DEFAULT_RECIPE, app
from longrope.engine import memory
from longrope.engine.kernels import HOPPER
from longrope.engine.memory import estimate_memory
from longrope.factors import FactorTable, load_factors
from longrope.models import LanguageModel, read_spec
from longrope.recipe import load_recipe
from longrope.records import Score, TrainStep, Trial, read_records
from longrope.report.provenance import describe_rope
from longrope.rope import RopeSpec

ROOT = Path(__file__).parent.parent
README, LOG = (ROOT / "README.md").read_text(), (ROOT / "docs" / "log.md").read_text()
SENTENCES, LOGGED = (" ".join(text.split()) for text in (README, LOG))
SEARCHES = ("longrope-gradient", "longrope-evolution")
METHODS = ("none", "pi", "ntk", "dynamic-ntk", "yarn", "longrope-evolution", "longrope-gradient")
SVG = "{http://www.w3.org/2000/svg}"
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/recipe.toml"))
WALKS = [path for path in PUBLISHED if (path / "stages").exists()]
RUNS = [path for path in PUBLISHED if path not in WALKS]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that writes the tables, as a module of its own."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "results" / "tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tables", module)  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_records(tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing them again from the records changes nothing, and there are some."""
    monkeypatch.setattr(Path, "write_text", lambda *_: None)
    assert tables.write_tables() == []
    assert "| YaRN | 25.55 |" in README


def test_a_table_of_several_texts_is_refused(tables: Any) -> None:
    """The tuned model's perplexities at 64k and 256k are of two texts; passkeys have other prompts at each length."""
    found = {
        (score.metric, score.context_tokens): tables._number(score)
        for score in read_records(ROOT / "results" / "smollm2-64k-tuned" / "scores.jsonl", Score)
        if score.method == "longrope-tuned"
    }
    near, far = (found["perplexity", length] for length in (65536, 262144))
    keys, other = (found["passkey", length] for length in (65536, 262144))
    again = tables.Cell("", (replace(keys.scores[0], texts_fingerprint="0"),))
    for rows in ([["a", near, far]], [["a", near], ["b", far]], [["a", keys], ["b", again]]):
        with pytest.raises(tables.MixedTextsError, match=r"different texts: (perplexity|passkey) of"):
            tables._table(["", "64k"], rows)
    tables._table(["", "64k", "passkeys 64k", "passkeys 256k"], [["a", near, keys, other]])
    tables._table([tables.EACH_ROW, "64k"], [["a", near], ["b", far]])
    with pytest.raises(tables.MixedTextsError, match="different texts"):
        tables._table([tables.EACH_ROW, "64k"], [["a", near, far]])
    with pytest.raises(tables.MixedTextsError, match="different texts: a, b"):
        tables._one_text([{"texts_fingerprint": name} for name in "aba"])


def test_every_table_of_scores_is_checked_for_its_texts(tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is refused once every score is of a text of its own; none is made past the check."""
    read, numbers = tables.read_records, itertools.count()

    def estranged(path: Path, kind: type[Any]) -> list[Any]:
        found = read(path, kind)
        return found if kind is Trial else [replace(x, texts_fingerprint=f"{next(numbers)}") for x in found]

    monkeypatch.setattr(tables, "read_records", estranged)
    refused = set()
    for name, make in tables.TABLES.items():
        before = next(numbers)
        try:
            make()
        except tables.MixedTextsError:
            refused.add(name)
        else:
            assert next(numbers) == before + 1, f"{name} reads scores and shows them unchecked"
    assert {"tuned", "further", "compare", "ratios", "nano-walk", "win", "demo", "earlier", "depths"} <= refused


def test_the_shares_of_the_tuned_models_follow_from_the_scores() -> None:
    """Each is a share of the original's perplexity at 8k on the same text, worked out from the raw lines."""
    scores = []
    for run in ("smollm2-64k-tuned", "smollm2-256k-tuned"):
        lines = (ROOT / "results" / run / "scores.jsonl").read_text().splitlines()
        scores += [line for line in map(json.loads, lines) if "depth" not in line["metric"]]
    made = {(line["method"], line["metric"], line["context_tokens"]): line for line in scores}
    tuned, longer = "longrope-tuned", "longrope-tuned-256k"
    first = {made[tuned, "perplexity", n]["texts_fingerprint"] for n in (2048, 8192, 65536)}
    assert first == {made["none", "perplexity", 8192]["texts_fingerprint"]}
    second = {made[longer, metric, 8192]["texts_fingerprint"] for metric in ("perplexity", "ratio-to-none")}
    assert {made[tuned, "perplexity", n]["texts_fingerprint"] for n in (131072, 262144)} == second
    assert {made[longer, "perplexity", n]["texts_fingerprint"] for n in (65536, 262144)} == second != first
    value = {at: line["value"] for at, line in made.items()}
    original = value[longer, "perplexity", 8192] / value[longer, "ratio-to-none", 8192]
    near = value[tuned, "perplexity", 65536] / value["none", "perplexity", 8192]
    far, after, cost = (
        value[method, "perplexity", tokens] / original
        for method, tokens in ((tuned, 262144), (longer, 262144), (longer, 65536))
    )
    assert original == pytest.approx(18.05, abs=0.005)
    for words in (SENTENCES, LOGGED):
        assert all(f"{share:.3f}" in words for share in (near, far, after, cost)), (near, far, after, cost)
        assert f"{100 * (cost / near - 1):.0f} % more" in words
    assert f"| tuned at 64k, second search |  |  | 16.83 (0.932) | 18.86 ({far:.3f}) |" in README
    short = [value[tuned, "ratio-to-none", n] for n in (2048, 4096, 8192)]
    assert "it has {:.3f}, {:.3f} and {:.3f} of the original's".format(*short) in SENTENCES


def test_the_picture_shows_the_records() -> None:
    """The numbers in the description of the picture are those of the scores."""
    picture = (ROOT / "results" / "by-length.svg").read_text()
    assert "](results/by-length.svg)" in README
    shown = json.loads(html.unescape(re.findall(r"<desc>(.*?)</desc>", picture)[0]))
    scores = read_records(ROOT / "results" / "smollm2-64k" / "scores.jsonl", Score)
    measured: dict[str, dict[str, list[float]]] = {"perplexity": {}, "passkey": {}}
    for score in sorted(scores, key=lambda score: score.context_tokens):
        if score.metric in measured:
            measured[score.metric].setdefault(score.method, []).append(round(score.value, 2))
    assert shown == measured


def test_the_points_of_the_picture_stand_where_the_records_put_them() -> None:
    """Their heights are straight lines of the logarithms of the perplexities, and of the shares of passkeys."""
    scores = read_records(ROOT / "results" / "smollm2-64k" / "scores.jsonl", Score)
    picture = ET.fromstring((ROOT / "results" / "by-length.svg").read_text())  # noqa: S314  # it is our own
    panels = [part for part in picture.iter(f"{SVG}g") if part.get("class") == "panel"]
    for panel, metric in zip(panels, ("perplexity", "passkey"), strict=True):
        own = [score for score in scores if score.metric == metric]
        values = {m: [s.value for s in sorted(own, key=lambda s: s.context_tokens) if s.method == m] for m in METHODS}
        drawn = [part.get("data-points", "") for part in panel.iter(f"{SVG}g") if part.get("class") == "series"]
        heights = [float(text.split(",")[1]) for points in drawn for text in points.split()]
        wanted = np.concatenate([values[method] for method in METHODS])
        wanted = np.log(wanted) if metric == "perplexity" else wanted
        assert len(heights) == len(wanted) == 4 * len(METHODS)
        slope, start = np.polyfit(wanted, heights, 1)
        assert slope < 0
        np.testing.assert_allclose(start + slope * wanted, heights, atol=0.3)  # they are written in tenths of a pixel


@pytest.mark.parametrize("name", ["by-length", "long-pass"])
def test_pictures_are_those_of_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them again changes nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "results"))
    plots = importlib.import_module("plots")
    written: dict[str, str] = {}
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.__setitem__(path.stem, text))
    plots.draw()
    plots.draw_growth()
    assert written[name] == (ROOT / "results" / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", ["smollm2-64k", "demo"])
def test_the_geometry_of_a_published_run_is_that_of_its_factors(name: str) -> None:
    """rope.json names the same geometry, and the formulas give its numbers again."""
    run = ROOT / "results" / name
    rope = json.loads((run / "rope.json").read_text())
    spec = RopeSpec(rope["head_dim"], rope["rotary_dim"], rope["theta"], rope["trained_window"])
    assert spec.fingerprint == load_factors(run / "factors-longrope-gradient.json").tiers[0].spec_fingerprint
    again = describe_rope(spec, load_recipe(run / "recipe.toml").target_tokens)
    for was, now in zip(rope.pop("pairs"), again.pop("pairs"), strict=True):
        assert was == pytest.approx(now, rel=1e-12)
    assert rope == again


def test_the_picture_of_long_passes_shows_the_records() -> None:
    """The numbers in its description are those of the passes on the GPU, and the README's sentence is theirs."""
    picture = (ROOT / "results" / "long-pass.svg").read_text()
    assert "](results/long-pass.svg)" in README
    shown = json.loads(html.unescape(re.findall(r"<desc>(.*?)</desc>", picture)[0]))
    lines = [json.loads(line) for line in (ROOT / "results" / "benchmarks" / "h200.jsonl").read_text().splitlines()]
    passes = {(line["way"], line["tokens"]): line for line in lines if not line["gradient"] and "seconds" in line}
    for key in ("seconds", "peak_gib"):
        drawn = {(way, tokens): value for way, points in shown[key].items() for tokens, value in points}
        assert drawn == {at: round(line[key], 3) for at, line in passes.items() if at[0] != "kernel flash"}
    longest = passes["ours", 2**21]["seconds"] / passes["kernel cuDNN", 2**21]["seconds"]
    assert f"| 2,097,152 | 360 | 5,819 | {longest:.2f} | 422 | 5.3 |" in README


def test_estimated_memory_is_near_the_measured_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a fifth of the peaks on the GPU, for a network of that model's shape that holds no numbers."""
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **shape, **heads, max_position_embeddings=8192)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = LanguageModel(network, None, read_spec(config), "shape")
    lines = [json.loads(line) for line in (ROOT / "results" / "benchmarks" / "h200.jsonl").read_text().splitlines()]
    peaks = {line["tokens"]: line["peak_gib"] for line in lines if line["way"] == "ours" and not line["gradient"]}
    assert len(peaks) == 5
    for tokens, peak in peaks.items():
        assert estimate_memory(model, tokens) / 2**30 == pytest.approx(peak, rel=0.2)
    lines = [json.loads(line) for line in (ROOT / "results" / "benchmarks" / "compiled.jsonl").read_text().splitlines()]
    peaks = {line["tokens"]: line["peak_gib"] for line in lines if line["way"] == "compiled"}
    assert sorted(peaks) == [16384, 65536]
    for tokens, peak in peaks.items():
        assert estimate_memory(replace(model, compiled=True), tokens) / 2**30 == pytest.approx(peak, rel=0.2)
    lines = [json.loads(line) for line in (ROOT / "results" / "benchmarks" / "hopper.jsonl").read_text().splitlines()]
    monkeypatch.setattr(memory, "choose_kernel", lambda *_: (HOPPER, "a test"))  # it copies the keys
    for line in lines:
        if line["way"] in ("ours", "compiled"):
            read = replace(model, compiled=line["way"] == "compiled")
            assert estimate_memory(read, line["tokens"]) / 2**30 == pytest.approx(line["peak_gib"], rel=0.1)


def test_64k_are_read_at_the_speed_and_in_the_memory_that_the_readme_says() -> None:
    """At least 1.4 times as fast as transformers in half of its memory, by medians of runs without a pause."""
    lines = [json.loads(line) for line in (ROOT / "results" / "benchmarks" / "hopper.jsonl").read_text().splitlines()]
    told = {}
    for name in ("H100", "H200"):
        way = {x["way"]: x for x in lines if name in x["device"] and x["tokens"] == 65536}
        assert {way[x]["rest_seconds"] for x in ("plain", "ours", "compiled")} == {0.0}
        told[name] = [way["plain"]["median_seconds"] / way[x]["median_seconds"] for x in ("compiled", "ours")]
        assert told[name][0] >= 1.4
        assert way["plain"]["peak_gib"] / way["compiled"]["peak_gib"] == pytest.approx(33, abs=0.5)
    words = "64k tokens are read at {:.2f} times transformers' speed on an H100 and {:.2f} times on an H200"
    assert words.format(told["H100"][0], told["H200"][0]) in SENTENCES
    assert f"`--compile` at {told['H100'][1]:.2f} and {told['H200'][1]:.2f} times" in SENTENCES
    longest = {x["way"]: x for x in lines if x["tokens"] == 2**21}
    share = longest["ours"]["seconds"] / longest["kernel longrope"]["seconds"]
    assert share < 1.1
    assert f"2,097,152 tokens in 252 s, in {share:.2f} times the kernel's own time and 5.6 GiB" in SENTENCES
    assert longest["ours"]["seconds"] == pytest.approx(252, abs=0.5)
    assert longest["ours"]["peak_gib"] == pytest.approx(5.6, abs=0.05)


def test_the_demo_wins_by_more_than_its_interval() -> None:
    """As the README says; and its table was made by the recipe that comes with the package."""
    scores = read_records(ROOT / "results" / "demo" / "scores.jsonl", Score)
    (ratio,) = (score for score in scores if score.metric.startswith("ratio-to-"))
    rivals = [s for s in scores if (s.metric, s.context_tokens) == ("perplexity", 2048) and "longrope" not in s.method]
    assert ratio.metric == f"ratio-to-{min(rivals, key=lambda score: score.value).method}"
    assert ratio.high < 1
    assert load_recipe(ROOT / "results" / "demo" / "recipe.toml") == load_recipe(DEFAULT_RECIPE)


def test_the_demo_wins_on_all_of_its_text_with_every_python() -> None:
    """The interval of the ratio lies below 1; the first lines are of the demo's own factors."""
    lines = [json.loads(line) for line in (ROOT / "results" / "demo" / "whole.jsonl").read_text().splitlines()]
    ratios = {line["python"]: line for line in lines if line["metric"] == "ratio-to-yarn"}
    assert [python[:4] for python in ratios] == ["3.11", "3.12", "3.13"]
    assert all(line["high"] < 1 for line in ratios.values())
    factors = load_factors(ROOT / "results" / "demo" / "factors.json").tiers[0]
    assert next(iter(ratios.values()))["factors_fingerprint"] == factors.fingerprint


def test_the_nano_models_training_is_recorded_whole() -> None:
    steps = read_records(ROOT / "results" / "nano" / "train.jsonl", TrainStep)
    assert [record.step for record in steps] == list(range(len(steps)))
    told = f"{steps[-1].tokens_seen / 1e6:.0f} million tokens"
    assert told in (ROOT / "results" / "README.md").read_text()


def test_the_walk_from_scratch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own lines, with smaller numbers."""
    code = README.split("From scratch")[1].split("```python\n")[1].split("```")[0]
    smaller = {"vocabulary=2048": "vocabulary=300", "d_model=256": "d_model=32", "layers=6": "layers=2"}
    smaller |= {"window=256": "window=64", "steps=2000": "steps=25", "batch_windows=64": "batch_windows=2"}
    smaller["2048"] = "256"
    for given, small in smaller.items():
        assert given in code
        code = code.replace(given, small)
    (tmp_path / "books").mkdir()
    for name in ("one", "two"):
        (tmp_path / "books" / f"{name}.txt").write_text(pico.make_text(12000, seed=len(name) + ord(name[0])))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  # it is our own README
    assert names["losses"].shape == (1, 255)
    assert names["losses"].isfinite().all()
    assert names["factors"].target_window == 256


def raw(method: str, metric: str, tokens: int) -> dict[str, Any]:
    """One line of the shown run's scores, read without the package."""
    lines = map(json.loads, (ROOT / "results" / "smollm2-64k" / "scores.jsonl").read_text().splitlines())
    (line,) = (x for x in lines if (x["method"], x["metric"], x["context_tokens"]) == (method, metric, tokens))
    return line  # type: ignore[no-any-return]


def test_ratios_follow_from_the_scores() -> None:
    """The published ratios, worked out from the raw lines without the script."""
    ours, evolved, yarn = (raw(method, "perplexity", 65536)["value"] for method in (*SEARCHES, "yarn"))
    original = raw("none", "perplexity", 8192)["value"]
    paired = raw("longrope-gradient", "ratio-to-yarn", 65536)
    assert paired["value"] == pytest.approx(ours / yarn, rel=1e-6)
    assert paired["low"] < paired["value"] < paired["high"]
    interval = f"{ours / yarn:.4f} ({paired['low']:.4f}-{paired['high']:.4f})"
    budget = "24 gradient steps, 40 window passes"
    assert f"| LongRoPE, gradient ({budget}) | {ours:.2f} | {interval} | {ours / original:.3f} |" in README
    budget = "112 of the paper's 6,720 window passes"
    shown = f"{evolved:.2f} | {evolved / yarn:.3f} | {evolved / original:.3f}"
    assert f"| LongRoPE, evolution ({budget}) | {shown} |" in README
    assert f"{ours / yarn:.4f} of YaRN's perplexity (paired: {interval[8:-1]})" in LOGGED


def test_what_is_said_of_passkeys_follows_from_the_scores() -> None:
    """Shares in the text, counted anew over the depths, and that all methods lose every key at the deepest."""
    shares = {}
    for method in (*SEARCHES, "yarn"):
        whole = raw(method, "passkey", 65536)
        by_depth = [raw(method, f"passkey-depth-0.{5 + 10 * i:02}", 65536) for i in range(10)]
        assert by_depth[0]["value"] == 0
        found = sum(round(line["value"] * line["num_windows"]) for line in by_depth)
        assert sum(line["num_windows"] for line in by_depth) == whole["num_windows"] == 50
        shares[method] = f"{100 * found / 50:.0f} % ({100 * whole['low']:.0f}-{100 * whole['high']:.0f})"
        assert f"| {100 * found / 50:.0f}%{shares[method].split('%')[1]} |" in README
    ours, evolved, yarn = shares.values()
    assert all(
        raw(method, "passkey-depth-0.05", 65536)["value"] == 0 for method in ("none", "pi", "ntk", "dynamic-ntk")
    )
    assert raw("none", "passkey-depth-0.05", 8192)["value"] == 0
    share, interval = ours.split(" % ")
    assert f"answer {share} % of the keys at 64k {interval} and YaRN {yarn}" in SENTENCES
    assert int(share) < 95
    assert int(evolved.split()[0]) < int(yarn.split()[0]) < int(share)


def test_the_shown_run_is_that_of_the_recipe() -> None:
    assert load_recipe(ROOT / "results" / "smollm2-64k" / "recipe.toml") == load_recipe(
        ROOT / "recipes" / "smollm2-64k.toml"
    )


def test_every_folder_of_results_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "results" / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({path.parent.name for path in (ROOT / "results").glob("*/*.jsonl")})


def test_the_tree_is_the_real_one() -> None:
    """Every line of the README's tree exists, and every module and folder has its line."""
    tree = README.split("## The tree\n\n```\n")[1].split("```")[0]
    named = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    package = ROOT / "src" / "longrope"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert named == modules | folders
    tops = [line.split()[0] for line in tree.splitlines() if line and not line.startswith(" ")]
    assert all((ROOT / top).is_dir() for top in tops)


def test_every_door_is_described() -> None:
    doors = set(re.findall(r"^longrope (\w+)  ", README, re.MULTILINE))
    assert doors == {command.callback.__name__ for command in app.registered_commands if command.callback}
    for door in doors:
        assert CliRunner().invoke(app, [door, "--help"]).exit_code == 0


def test_flags_in_the_readme_exist() -> None:
    helps = "".join(
        CliRunner().invoke(app, [c.callback.__name__, "--help"]).output for c in app.registered_commands if c.callback
    )
    others = {"--help", "--nproc-per-node"}  # the latter is torchrun's
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - others
    assert len(flags) > 5
    assert {flag for flag in flags if flag not in helps} == set()


def test_names_in_the_walk_are_public() -> None:
    walk = "".join(block.split("```")[0] for block in README.split("```python\n")[1:])
    names = set(re.findall(r"\blongrope\.(\w+)", walk)) - {"engine", "recipe"}
    assert len(names) > 5
    assert names <= set(longrope.__all__)
    compile(walk, "README.md", "exec")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert load_recipe(path).target_tokens > 8192


@pytest.mark.parametrize("run", WALKS, ids=lambda path: path.name)
def test_published_walks_load_and_belong_together(run: Path) -> None:
    """Each stage names its factors, follows the one before it, and the tuned scores are those of its tiers."""
    scores, recipe = read_records(run / "scores.jsonl", Score), load_recipe(run / "recipe.toml")
    stages = sorted((run / "stages").iterdir())
    told = [json.loads((stage / "stage.json").read_text()) for stage in stages]
    assert [entry["stage"] for entry in told][: len(recipe.stages)] == [str(stage) for stage in recipe.stages]
    for stage, before in zip(stages[1:], stages, strict=False):
        inputs = json.loads((stage / "stage.json").read_text())["inputs"]
        assert inputs["before"] == before.name.rpartition("-")[2]
    tiers = [load_factors(stage / "factors.json").tiers[0] for stage in stages if "tune" not in stage.name]
    some = (combinations(tiers, count) for count in range(1, len(tiers) + 1))
    tables = (chosen for tables in some for chosen in tables if len({x.target_window for x in chosen}) == len(chosen))
    walks = {FactorTable(chosen).fingerprint for chosen in tables}
    assert load_factors(run / "factors.json").fingerprint in walks
    tuned = [score for score in scores if score.method.startswith("longrope-tuned")]
    assert {score.factors_fingerprint for score in tuned} <= walks
    (weights,) = {score.model.partition(", tuned ")[2] for score in tuned}
    assert weights in {entry["weights"] for entry in told}
    trainings = [stage for stage in recipe.stages if stage.tune]
    for training, train in zip(trainings, sorted((run / "stages").glob("*-tune-*/train.jsonl")), strict=True):
        assert len(read_records(train, TrainStep)) == (training.steps or recipe.tune.steps)


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_published_records_load_and_belong_together(run: Path) -> None:
    """Scores, trials and factors open with this version; the longrope scores are those of the factors beside them."""
    scores, trials = read_records(run / "scores.jsonl", Score), read_records(run / "trials.jsonl", Trial)
    recipe = load_recipe(run / "recipe.toml")
    assert {score.context_tokens for score in scores} == set(recipe.measure.lengths)
    for method in {score.method for score in scores if score.method.startswith("longrope")}:
        factors = load_factors(run / f"factors-{method}.json").tiers[0]
        made = {score.factors_fingerprint for score in scores if score.method == method}
        assert made == {factors.fingerprint}
        validated = [t for t in trials if t.method == method and t.kind == "validation"]
        assert (factors.lambdas, factors.start_tokens) in {(t.lambdas, t.start_tokens) for t in validated}
