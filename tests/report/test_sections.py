"""Factors, checkpoint and stages on the page of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import FACTORS, add_factors, captioned, make_run, read_page, score, texts_of

from longrope.labels import label_of
from longrope.report import write_report
from longrope.report.contents import read_run
from longrope.report.curves import search_section
from longrope.report.stages import stage_section
from longrope.report.tables import number
from longrope.rope import RopeSpec, dump_factors
from longrope.runs.provenance import record_rope
from longrope.runs.run_dir import RunDir


def test_the_factors_of_an_extension_are_shown_once(extended: RunDir) -> None:
    """Two files hold the same ones. Without rope.json there are no closed forms beside them."""
    shown = read_page(write_report(extended))
    rows = [("LongRoPE, gradient", str(i), text) for i, text in enumerate(("1", "1.25", "3.1416", "7.5"))]
    assert shown.tables["Rescale factor of each pair: data"] == [("method", "pair", "rescale factor λ"), *rows]
    (messages,) = (text for text in shown.texts["p"] if "ttention factor" in text)
    assert "attention factor 1.0625, start tokens: 4, fingerprint" in messages
    assert any("no rope.json, the baselines are not shown" in text for text in shown.texts["p"])


def test_the_factors_of_each_search_of_a_comparison_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evolved = replace(FACTORS, lambdas=(1.0, 2.0, 2.0, 16.0), method="longrope-<u>evolution", attention_factor=1.5)
    add_factors(run, FACTORS)
    (run.path / "factors-longrope-evolution.json").write_text(dump_factors(evolved))
    shown = read_page(write_report(run))
    rows = shown.tables["Rescale factor of each pair: data"][1:]
    assert [row[0] for row in rows] == ["longrope-<u>evolution"] * 4 + ["LongRoPE, gradient"] * 4
    assert [row[2] for row in rows[:4]] == ["1", "2", "2", "16"]
    assert any("attention factor 1.5000" in text for text in shown.texts["p"])


def test_a_page_tells_a_baseline_that_a_search_chose_from_the_baseline(tmp_path: Path) -> None:
    """In its words, figures and tables; a score that was written before ``chosen_by`` is told of by its factors."""
    chosen = [replace(FACTORS, method="yarn", chosen_by=f"longrope-{name}") for name in ("evolution", "gradient")]
    label = "YaRN (chosen by the gradient search)"
    plain = replace(score("yarn", 1024, "perplexity", 14.0), factors_fingerprint=FACTORS.fingerprint)
    new = replace(plain, chosen_by="longrope-gradient", seconds=2.5)
    old = replace(plain, method="longrope-gradient", seconds=3.5, metric="passkey", value=0.5)
    run = make_run(tmp_path, [plain, new, old])
    add_factors(run, *chosen)
    shown = read_page(write_report(run))
    rows = shown.tables["Rescale factor of each pair: data"][1:]
    assert [row[0] for row in rows] == ["YaRN (chosen by the evolutionary search)"] * 4 + [label] * 4
    assert any(f"{label}: attention factor 1.0625" in text for text in shown.texts["p"])
    assert any("They come from YaRN." in text for text in shown.texts["p"])
    assert [row[0] for row in shown.tables["Perplexity (95 % interval)"][1:]] == ["YaRN", label]
    assert [row[0] for row in shown.tables["Passkeys found (95 % interval)"][1:]] == [label]
    assert shown.tables["Seconds of each measurement"][0] == ("measurement", "YaRN", label)
    assert any(f"perplexity at 1,024 tokens, {label}" in text for texts in shown.texts.values() for text in texts)
    assert ("factors, " + label, FACTORS.fingerprint) in shown.tables["Fingerprints and seeds"]


def test_the_reopened_checkpoint_is_reported_of_where_there_is_one(extended: RunDir) -> None:
    (messages,) = (text for text in texts_of(extended, "p") if "reopened" in text)
    assert "plain transformers 5.10.0" in messages
    assert "At 90 % of the positions" in messages
    assert messages.endswith("0.0012 below 64 tokens, 0.0045 above.")
    extended.export_report.unlink()
    texts = read_page(write_report(extended)).texts
    assert "Checkpoint" not in texts["h2"]
    assert not any("reopened" in text for text in texts["p"])


def test_a_stage_names_what_it_was_made_of_and_leaves_its_settings_to_the_recipe() -> None:
    run = RunDir(Path(__file__).parents[2] / "results" / "smollm2-64k-tuned")
    (table,) = stage_section([read_run(run)]).tables
    messages = {row[0]: row[-1] for row in table.rows}
    assert list(messages) == ["search 64k", "tune 64k", "short-context search 8k", "search 128k", "extrapolate 256k"]
    assert messages["tune 64k"] == "before dd3fbe54, seed 0, text fda85a94f835f45d, dtype auto"


@pytest.mark.parametrize("name", ["smollm2-64k", "smollm2-64k-needles"])
def test_the_figure_of_what_was_found_agrees_with_the_costs(name: str) -> None:
    """The lowest loss of each search is the one that costs.json says it reached, start tokens included."""
    run = RunDir(Path(__file__).parents[2] / "results" / name)
    tables = {figure.title: figure.table for figure in search_section([read_run(run)]).figures}
    losses: dict[str, list[str]] = {}
    for row in tables["What was found, on held-out windows"].rows:
        losses.setdefault(row[0], []).append(row[4])
    costs = json.loads(run.costs.read_text())
    reached = {label_of(cost["method"]): number(cost["validation_loss_nats"]) for cost in costs}
    assert {label: min(own, key=float) for label, own in losses.items()} == reached


@pytest.mark.parametrize("edges", [[], ["exponent of the base"], ["exponent of the base", "attention factor"]])
def test_a_page_says_what_a_scan_found_and_whether_it_is_finished(extended: RunDir, edges: list[str]) -> None:
    """Its factors are those of a baseline: the run is still about what its search chose."""
    numbers = {"exponent": 1.875, "theta": 493507.4, "attention_factor": 1.17261, "passes": 212, "budget": 240}
    extended.scan.write_text(json.dumps({**numbers, "edges": edges}))
    add_factors(extended, replace(FACTORS, lambdas=(1.0, 2.0, 4.0, 8.0), method="ntk", chosen_by="ntk-scan"))
    texts = texts_of(extended, "p")
    (messages,) = (text for text in texts if text.startswith("The scan of base and attention factor took"))
    assert "212 window passes of a budget of 240: base 493,507 (theta times s to the power of 1.875)" in messages
    assert "attention factor 1.1726." in messages
    unfinished = f"It is unfinished: the best {' and the '.join(edges)} lies on the edge of the grid."
    assert messages.endswith(unfinished) if edges else "unfinished" not in messages
    assert "were chosen by gradient descent, on books/<search>." in texts[1]
    assert "They come from" not in texts[1]


def test_a_page_states_the_attention_factor_of_each_method(extended: RunDir) -> None:
    """Those of the formulas at the target, and those of the run's factors; equal curves are drawn once."""
    spec = RopeSpec(8, 8, 1e4, 64)
    record_rope(extended, spec, 256)
    tables = captioned(extended)
    assert tables["Attention factors"][:8] == [
        ("method", "attention factor", "at 256 tokens"),
        ("PI", "1", "1"),
        ("NTK", "1", "1"),
        ("NTK by critical dimension", "1", "1"),
        ("dynamic NTK", "1", "1"),
        ("YaRN", "0.1 ln s + 1", "1.1386"),
        ("critical-pair rule", "sqrt(1 + ln s / ln L)", "1.1547"),
        ("critical-pair rule, from ten turns", "sqrt(1 + ln s / ln L)", "1.1547"),
    ]
    (own,) = tables["Attention factors"][8:]
    assert own == ("LongRoPE, gradient", "searched", "1.0625")
    drawn = dict.fromkeys(row[0] for row in tables["Rescale factor of each pair: data"][1:])
    rules = ["critical-pair rule", "critical-pair rule, from ten turns"]
    assert list(drawn)[:-1] == ["PI", "NTK", "NTK by critical dimension", "YaRN", *rules]
