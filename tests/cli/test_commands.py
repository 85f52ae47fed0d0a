"""Each command once for real, in this process, since starting torch takes seconds."""

import json
import math
import re
from dataclasses import asdict, fields
from pathlib import Path

import pico
import pytest
import torch
import toys
from commands import Command, Result, assert_one_paragraph, assert_shown, table_row
from paired_runs import METRICS, document_numbers, make_finished
from whole_run import make_whole_run

from longrope.data import load_texts
from longrope.evaluation.pairing import pair_runs
from longrope.models import load_model, read_spec
from longrope.registry import FORMATS
from longrope.report import describe_outcome
from longrope.rope import RescaleFactors, dump_factors, load_factors
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir


@pytest.mark.usefixtures("unopened")
def test_extend_schedules_prints_and_resumes(command: Command, recipe_file: Path) -> None:
    result = command("extend", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0, result.err
    run = RunDir("run")
    scores = read_records(run.scores, Score)
    (found,) = load_factors(run.factors()).factor_sets
    assert {(score.method, score.chosen_by) for score in scores} == {("none", ""), found.source[:2]}
    for score in scores:
        assert_shown(result.out, score)
    for line in ("factors: run/factors.json", "checkpoint: run/hf", "report: run/report.html"):
        assert line in result.out.splitlines()
    for word in ("load", "search", "measure", "export"):
        assert any(line.startswith(word) for line in result.err.splitlines())
    (entry,) = json.loads(run.provenance.read_text())
    assert entry["command"].startswith("longrope extend --recipe ")
    assert (entry["torch"], entry["device"].split(",")[0]) == (torch.__version__, "cpu")
    rope, (cost,) = json.loads(run.rope.read_text()), json.loads((run.path / "costs.json").read_text())
    assert rope["fingerprint"] == load_factors(run.factors()).factor_sets[0].spec_fingerprint
    assert cost["trials"] == len(read_records(run.trials, Trial))
    page = (run.path / "report.html").read_text()
    for shown in (
        entry["torch"],
        "critical-pair rule",
        "What the searches took",
        "No weight of the model was changed.",
    ):
        assert shown in page
    again = command("extend", "--out", "run", "--json")
    assert again.code == 0
    working = ("search", "measure original", "measure LongRoPE")
    assert not [line for line in again.err.splitlines() if line.startswith(working)]
    printed = sorted(json.dumps(score, sort_keys=True) for score in json.loads(again.out))
    assert printed == sorted(json.dumps(asdict(score), sort_keys=True) for score in scores)


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_search_writes_factors(command: Command, recipe_file: Path, method: str) -> None:
    result = command("search", "--recipe", recipe_file, "--method", method, "--out", "run")
    assert result.code == 0, result.err
    (factors,) = load_factors("run/factors.json").factor_sets
    first, second, loss, *following = result.out.splitlines()
    assert (first, second) == ("factors: run/factors.json", f"method: {factors.source.label}")
    assert loss.startswith("loss on held-out windows: ")
    assert [line.split()[-3:] for line in following] == [
        ["run", "--measure-data", "OTHER-TEXTS"],
        ["longrope", "export", "run"],
    ]
    assert factors.chosen_by == f"longrope-{method}"
    assert {trial.method for trial in read_records(RunDir("run").trials, Trial)} == {factors.chosen_by}
    again = command("search", "--recipe", recipe_file, "--method", method, "--out", "run", "--json")
    assert json.loads(again.out) == json.loads(Path("run/factors.json").read_text())


def test_measure_prints_what_it_writes(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = read_spec(pico.make_network().config)
    factors = RescaleFactors((1.0, 1.5, 2.0, 4.0), 512, spec.fingerprint, method="longrope-gradient")
    (tmp_path / "factors.json").write_text(dump_factors(factors))
    given = ("measure", pico_folder, "--factors", tmp_path / "factors.json", "--measure-data", text_folders[1])
    result = command(*given, "--lengths", "512,256", "--seed", 5, "--out", "run", "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    lines = [json.loads(line) for line in Path("run/scores.jsonl").read_text().splitlines()]
    assert sorted(map(json.dumps, printed)) == sorted(map(json.dumps, lines))
    assert all(list(score) == [f.name for f in fields(Score)] for score in printed)
    assert {score["factors_fingerprint"] for score in printed} == {factors.fingerprint}
    assert {(score["method"], score["seed"]) for score in printed} == {("longrope-gradient", 5)}
    assert {(score["metric"], score["context_tokens"]) for score in printed} >= {
        (metric, length) for metric in ("perplexity", "passkey", "passkey-depth-0.05") for length in (256, 512)
    }
    table = command("measure", pico_folder, "--data", text_folders[0], "--metrics", "perplexity", "--lengths", "64")
    assert table_row(table.out, "original model")
    assert not Path("runs").exists()
    assert "measure 3 of 3 windows of 64 tokens\n" in table.err


def test_a_gguf_file_is_measured_as_the_folder_is(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """With the same weights, below and beyond the trained window."""
    file = pico.save_gguf(tmp_path / "pico.gguf", pico.make_network())
    given = ("--measure-data", text_folders[1], "--metrics", "perplexity", "--lengths", "64,128", "--json")
    done = [command("measure", source, *given) for source in (file, pico_folder)]
    assert [result.code for result in done] == [0, 0], done[0].err
    of_file, of_folder = ([score["value"] for score in json.loads(result.out)] for result in done)
    assert of_file == pytest.approx(of_folder, rel=1e-5)
    assert len(set(of_file)) == 2


def test_measure_says_what_it_reads_skips_and_lacks(command: Command, pico_folder: Path, tmp_path: Path) -> None:
    """A text that is long enough for one of the three windows, and a file that is none."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "book.txt").write_text(pico.make_text(90))
    (tmp_path / "texts" / "latin.txt").write_bytes("größe".encode("latin-1"))
    text = load_texts([], load_model(pico_folder).tokenizer, measure=[tmp_path / "texts"]).measure
    length, tokens = len(text.tokens) - 1, f"{len(text.tokens):,} tokens"
    given = ("--measure-data", tmp_path / "texts", "--metrics", "perplexity", "--lengths", length)
    result = command("measure", pico_folder, *given)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    size = len((tmp_path / "texts" / "book.txt").read_bytes())
    fit = f"windows of {length} tokens that fit: search 0, tune 0, measure 1"
    read = f"read 1 file, {size} bytes: search 0 documents, 0 tokens; tune 0 documents, 0 tokens; "
    assert lines[2:5] == [
        f"{read}measure 1 document, {tokens}; {fit}",
        f"skipped 1 (not UTF-8 text): {tmp_path / 'texts' / 'latin.txt'}",
        f"measure 1 of 3 windows of {length} tokens: the measure text has {tokens}",
    ]


def test_compare_prints_every_method(command: Command, recipe_file: Path) -> None:
    result = command("compare", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0, result.err
    scores = read_records(RunDir("run").scores, Score)
    formulas = {"pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical", "critical-real"}
    others = {"dca", "self-extend", "jet-long", "ntk-scan", "longrope2"}
    methods = {"none", *formulas, *others, "longrope-evolution", "longrope-gradient"}
    assert {score.source.known_as for score in scores} == methods
    scores_table, costs_table = re.split(r"^What the searches took\s*$", result.out, flags=re.MULTILINE)
    for score in scores:
        assert_shown(scores_table, score)
    assert result.out.splitlines()[-1] == describe_outcome(RunDir("run"))
    costs = json.loads(Path("run/costs.json").read_text())
    assert [cost["method"] for cost in costs] == ["longrope-evolution", "longrope-gradient", "ntk-scan"]
    assert table_row(costs_table, "trials")[1:] == [f"{cost['trials']:,}" for cost in costs]
    Path("run/costs.json").unlink()
    again = command("compare", "--out", "run", "--json")
    assert len(json.loads(again.out)) == len(scores)
    assert json.loads(Path("run/costs.json").read_text()) == costs


@pytest.mark.usefixtures("unopened")
def test_export_writes_the_checkpoint_of_a_run(command: Command, recipe_file: Path) -> None:
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    result = command("export", "run", "--factor-sets", "two", "--drop-start-tokens", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report == json.loads(Path("run/export.json").read_text())
    assert (report["factor_sets"], report["target_window"]) == ("two", 256)
    config = json.loads(Path("run/hf/config.json").read_text())
    assert config["rope_parameters"]["long_factor"] == pytest.approx(
        load_factors("run/factors.json").factor_sets[0].lambdas
    )


@pytest.mark.usefixtures("unopened")
def test_export_writes_a_gguf_file(command: Command, recipe_file: Path) -> None:
    """For llama.cpp, beside the checkpoint, and opened again; a second one replaces it. By the option's former name."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    for factor_sets in ("single", "two"):
        result = command("export", "run", "--to", "gguf", "--tiers", factor_sets, "--drop-start-tokens", "--json")
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report == json.loads(Path("run/gguf/export.json").read_text())
        assert report["factor_sets"] == factor_sets
        assert 0 <= max(report["difference_short"], report["difference_long"]) < 0.02
    native = load_model("run/gguf/model.gguf", device="cpu").spec.native
    assert native
    assert native.lambdas == pytest.approx(load_factors("run/factors.json").factor_sets[0].lambdas)
    assert command("export", "run", "--to", "gguf", "--drop-start-tokens").out == "checkpoint: run/gguf/model.gguf\n"
    assert not Path("run/hf").exists()


def test_a_format_of_another_package_is_written(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its row alone; without it the format is unknown."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    given = ("export", "run", "--to", "toy", "--drop-start-tokens")
    assert "Known: hf, gguf" in assert_one_paragraph(command(*given))
    monkeypatch.setitem(FORMATS, "toy", toys.FORMAT)
    assert command(*given).out == "checkpoint: run/toy/factors.json\n"
    (factor_set,) = load_factors("run/factors.json").factor_sets
    assert json.loads(Path("run/toy/factors.json").read_text()) == list(factor_set.lambdas)
    assert json.loads(Path("run/toy/export.json").read_text())["target_window"] == 256


def test_inspect_tells_the_geometry(command: Command, tmp_path: Path) -> None:
    """Against the formulas of the papers, written out here; weights are not needed."""
    pico.make_network("stablelm", rope={"rope_theta": 100.0}).config.save_pretrained(tmp_path)
    result = command("inspect", tmp_path, "--to", "256", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    dim = report["rotary_dim"]
    pairs = report.pop("pairs")
    assert report.items() >= {"theta": 100.0, "trained_window": 64, "target_window": 256, "head_dim": 16}.items()
    assert [pair["pair"] for pair in pairs] == list(range(dim // 2))
    for i, pair in enumerate(pairs):
        wavelength = 2 * math.pi * 100 ** (2 * i / dim)
        assert pair["wavelength_tokens"] == pytest.approx(wavelength)
        assert pair["turns_in_window"] == pytest.approx(64 / wavelength)
        assert pair["pi"] == 4
        assert pair["ntk"] == pytest.approx(4 ** (2 * i / (dim - 2)))
        assert 1 <= pair["yarn"] <= 4
        assert pair["ntk-critical"] == pytest.approx(4 ** (i / report["pairs_that_turn_fully"]))
    assert report["pairs_that_turn_fully"] == sum(pair["turns_in_window"] >= 1 for pair in pairs)
    text = command("inspect", tmp_path, "--to", "256").out
    assert f"rotary_dim: {dim}" in text
    assert table_row(text, "yarn")[1:] == [f"{1 + 0.1 * math.log(4):.5g}", "0.1 ln s + 1"]
    assert table_row(text, "0")[1:3] == [f"{2 * math.pi:.4g}", f"{64 / (2 * math.pi):.4g}"]


def test_report_writes_the_page_of_a_run_or_of_several(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the run, where --out says, or here; --open hands the browser the page's own address."""
    opened: list[str] = []

    def show(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", show)
    for name in ("one", "two"):
        make_whole_run(Path(name), trained=False)
    assert command("report", "one") == Result(0, "report: one/report.html\n", "")
    result = command("report", "one", "--out", "pages/one.html", "--json", "--open")
    assert json.loads(result.out) == {"report": "pages/one.html"}
    assert opened == [Path("pages/one.html").resolve().as_uri()]
    assert Path("pages/one.html").read_bytes() == Path("one/report.html").read_bytes()
    said = command("report", "one", "two").out
    assert said.endswith("report: comparison.html\n")
    assert "two is not paired with one: " in said
    assert "2 runs beside each other" in Path("comparison.html").read_text()
    assert not Path("two/report.html").exists()


def test_report_compares_several_runs_with_the_first(command: Command) -> None:
    """By token and by prompt, as far as they measured the same; else it is said why not."""
    documents = document_numbers(9)
    runs = [make_finished(Path(name), seed, documents) for seed, name in enumerate(("yarn", "pi", "ntk"))]
    runs[2].summaries.unlink()
    result = command("report", "yarn", "pi", "ntk")
    expected = pair_runs(runs[1], runs[0])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.out.splitlines() if "│ pi " in line]
    assert [row[:1] + row[2:3] for row in rows] == [["pi", "1k"]] * len(expected)
    first = expected[0]
    assert f"{first.value:.4g} ({first.low:.4g}-{first.high:.4g})" in result.out
    assert "ntk is not paired with yarn: ntk/sample-summaries.jsonl holds nothing of the perplexity" in result.out
    said = json.loads(command("report", "yarn", "pi", "ntk", "--json").out)
    assert said["pairs"] == [asdict(one) for one in expected]
    assert len(said["unpaired"]) == 1
    whole = runs[1].summaries.read_bytes()
    runs[1].summaries.write_bytes(b"{}\n" + whole)
    damaged = command("report", "yarn", "pi")
    assert damaged.code == 2
    assert "pi/sample-summaries.jsonl" in damaged.err
    runs[1].summaries.write_bytes(whole)
    for run in runs[:2]:
        run.scores.write_text("".join(line for line in run.scores.open() if f'"{METRICS[run is runs[0]]}"' in line))
    assert "pi is not paired with yarn: they have no measurement in common." in command("report", "yarn", "pi").out


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_report_refuses_what_is_no_run(command: Command, path: str) -> None:
    """Nothing is left of it."""
    Path("empty").mkdir()
    result = command("report", path)
    assert result.code == 2
    assert result.err.startswith("longrope: ")
    assert "A run directory is needed." in result.err
    assert list(Path().iterdir()) == [Path("empty")]
