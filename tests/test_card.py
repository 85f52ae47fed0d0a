"""Model cards against the hub's own parser and scores made by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, metadata_load

from longrope.exports import Origin, export_hf
from longrope.exports.card import format_card, result_table
from longrope.exports.comparison import ExportReport
from longrope.models import ASSETS, LanguageModel
from longrope.rope import RescaleFactors
from longrope.runs.records import Score

REPORT = ExportReport("single", 256, 64, 1e-6, 2e-6, 1e-6, 0, 0.0, "5.0")
TWO = replace(REPORT, factor_sets="two")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model("llama")


@pytest.fixture(scope="module")
def factors(model: LanguageModel) -> RescaleFactors:
    spec = model.spec.fingerprint
    return RescaleFactors((1.0, 1.5, 3.0, 4.0), 256, spec, attention_factor=1.2, method="longrope-gradient")


def make_score(metric: str, tokens: int, value: float, method: str, **fields: Any) -> Score:
    known: dict[str, Any] = {
        "num_tokens": 100,
        "num_windows": 3,
        "seed": 0,
        "model": "pico-llama",
        "texts_fingerprint": "one text",
    }
    known |= {"factors_fingerprint": method, "seconds": 1.0, "low": value * 0.9, "high": value * 1.1}
    return Score(metric, value, method=method, context_tokens=tokens, **(known | fields))


@pytest.fixture(scope="module")
def scores(factors: RescaleFactors) -> list[Score]:
    """Those of a run: YaRN is the best baseline at 256 tokens, NTK at 64."""
    made = [
        make_score("perplexity", tokens, value, method)
        for method, values in {"none": (10, 100), "ntk": (11, 50), "yarn": (12, 20)}.items()
        for tokens, value in zip((64, 256), values, strict=True)
    ]
    own = {"method": factors.method, "factors_fingerprint": factors.fingerprint}
    return [
        *made,
        make_score("perplexity", 256, 15.25, **own),
        make_score("perplexity-last-30", 256, 14.0, **own),
        make_score("passkey", 256, 0.0, "none", texts_fingerprint="keys", low=0.0, high=0.16),
        make_score("passkey", 256, 0.8, **own, texts_fingerprint="keys", low=0.49, high=0.94),
        make_score("perplexity", 64, 11.5, **own),
        make_score("passkey-depth-0.05", 256, 0.5, **own, texts_fingerprint="keys"),
        make_score("ratio-to-yarn", 256, 0.7625, **own, low=0.75, high=0.77),
        make_score("ratio-to-none", 64, 1.15, **own, low=1.1, high=1.2),
        make_score("difference-to-yarn", 256, 0.2, **own, low=-0.1, high=0.5),
    ]


def read(text: str) -> tuple[dict[str, Any], list[EvalResult]]:
    """The metadata and the model index of a card, by the hub's parser."""
    data: Any = ModelCard(text).data
    return data.to_dict(), data.eval_results or []


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_hub_reads_the_metadata(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score], tmp_path: Path
) -> None:
    """Every key, and for each of the checkpoint's own scores a result with its value and interval."""
    text = format_card(model, factors, REPORT, Origin("someone/pico-1.5"), scores)
    metadata, results = read(text)
    assert metadata.pop("model-index")[0]["name"] == "pico-1.5-longrope-256"
    assert metadata == {
        "base_model": "someone/pico-1.5",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["longrope", "long-context"],
        "metrics": ["perplexity", "accuracy"],
    }
    found = {(result.metric_type, result.metric_args["context_tokens"]): result for result in results}  # type: ignore[index]
    assert {key: result.metric_value for key, result in found.items()} == {
        ("perplexity", 64): 11.5,
        ("perplexity", 256): 15.25,
        ("accuracy", 256): 0.8,
    }
    assert found["accuracy", 256].metric_args == {"context_tokens": 256, "low": 0.49, "high": 0.94}
    assert found["perplexity", 256].dataset_revision == "one text"
    (tmp_path / "README.md").write_text(text)
    assert metadata_load(tmp_path / "README.md")["pipeline_tag"] == "text-generation"  # type: ignore[index]


def test_the_table_shows_the_best_baseline_beside_ours(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score]
) -> None:
    """By the longest length, all lengths of the same method; parts of a metric have no row."""
    text = format_card(model, factors, REPORT, Origin("pico-llama"), scores)
    assert rows_of(text) == [
        ["", "original model", "YaRN", "LongRoPE, gradient"],
        ["---", "---:", "---:", "---:"],
        ["Perplexity, 64 tokens", "10 (9-11)", "12 (10.8-13.2)", "11.5 (10.35-12.65)"],
        ["Perplexity, 256 tokens", "100 (90-110)", "20 (18-22)", "15.25 (13.72-16.78)"],
        ["Passkeys found, 256 tokens", "0% (0%-16%)", "", "80% (49%-94%)"],
    ]
    assert "\n\nPerplexity relative to YaRN, 256 tokens: 0.7625 (0.75-0.77), paired token by token.\n\n" in text
    assert (
        "\n\nPerplexity relative to the original model, 64 tokens: 1.15 (1.1-1.2), paired token by token.\n\n" in text
    )
    assert "found, difference from YaRN, 256 tokens: +20% (-10% to +50%), on the same passkeys.\n" in text


def test_only_what_was_measured_on_the_same_texts_stands_side_by_side(
    factors: RescaleFactors, scores: list[Score]
) -> None:
    """A score of other texts leaves its cell empty, and one of other factors or another model is no score of ours."""
    others = [replace(s, texts_fingerprint="another text") if s.method == "none" else s for s in scores]
    own = [score for score in others if score.method == factors.method]
    table = result_table(others, own, Origin("pico-llama"))
    assert table.header == ("YaRN", "LongRoPE, gradient")
    assert [row[0] for row in table.rows] == [
        "Perplexity, 64 tokens",
        "Perplexity, 256 tokens",
        "Passkeys found, 256 tokens",
    ]


def test_scores_of_other_factors_or_models_are_left_out(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score]
) -> None:
    for others in (
        [replace(score, factors_fingerprint="others") for score in scores],
        [replace(score, model="another model") for score in scores],
    ):
        text = format_card(model, factors, REPORT, Origin("pico-llama"), others)
        metadata, results = read(text)
        assert not results
        assert "metrics" not in metadata
        assert "## Results" not in text


def test_a_baseline_that_the_search_chose_stands_beside_itself(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score]
) -> None:
    """The card says both; the plain baseline has the same factors and is no score of the checkpoint."""
    found = replace(factors, method="yarn", chosen_by="longrope-gradient")
    own: dict[str, Any] = {"method": "yarn", "factors_fingerprint": found.fingerprint}
    baseline = [replace(s, **own) if s.method == "yarn" else s for s in scores]
    made = [replace(s, **own, chosen_by="longrope-gradient") if s.method == factors.method else s for s in baseline]
    text = format_card(model, found, REPORT, Origin("pico-llama"), made)
    assert "Method: YaRN (chosen by the gradient search);" in text
    plain = format_card(model, factors, REPORT, Origin("pico-llama"), scores)
    assert "Method: LongRoPE, gradient;" in plain
    assert rows_of(text)[1:] == rows_of(plain)[1:]
    assert rows_of(text)[0] == ["", "original model", "YaRN", "YaRN (chosen by the gradient search)"]
    assert read(text)[1] == read(plain)[1]
    assert text.count("paired token by token") == plain.count("paired token by token")


def test_keys_alone_find_the_best_baseline(factors: RescaleFactors) -> None:
    """Without perplexity the most keys decide, not the fewest."""
    keys = [make_score("passkey", 256, value, method) for method, value in {"pi": 0.1, "yarn": 0.6, "ntk": 0.3}.items()]
    own = make_score("passkey", 256, 0.5, factors.method)
    assert result_table([*keys, own], [own], Origin("pico-llama")).header == ("YaRN", "LongRoPE, gradient")


def test_a_tuned_model_says_so(model: LanguageModel, factors: RescaleFactors, scores: list[Score]) -> None:
    """The base model is the one that was loaded; the tuned weights without factors have a column of their own."""
    tuned = replace(model, name="pico-llama, tuned 3fa2b1c0")
    own = [replace(score, model=tuned.name) if score.method == factors.method else score for score in scores]
    bare = make_score("perplexity", 256, 90, "none", model=tuned.name)
    text = format_card(tuned, factors, REPORT, Origin("pico-llama", tuned=True), [*own, bare])
    assert "The weights of `pico-llama`, trained further on long texts" in text
    assert "not trained further" not in text
    assert rows_of(text)[0] == ["", "original model", "tuned, not rescaled", "YaRN", "LongRoPE, gradient"]
    assert rows_of(text)[3][2] == "90 (81-99)"
    assert len(read(text)[1]) == 3
    plain = format_card(model, factors, REPORT, Origin("pico-llama"), scores)
    assert "The weights of `pico-llama`, not trained further" in plain


def test_two_factor_sets_claim_only_what_they_do(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score]
) -> None:
    """Below the switch another list is taken than the one that was measured: it is said, and not in the index."""
    text = format_card(model, factors, TWO, Origin("pico-llama"), scores)
    assert {result.metric_args["context_tokens"] for result in read(text)[1]} == {256}  # type: ignore[index]
    assert "rows at up to 64 tokens were measured with the long factors" in text
    assert "choose the window at the" in text
    single = format_card(model, factors, REPORT, Origin("pico-llama"), scores)
    assert "with the long factors" not in single
    assert "The same factors serve every length" in single
    assert "at 90 %\nof the positions compared, by at most 1e-06 and 2e-06 of their" in single


def test_dropped_start_tokens_leave_no_result(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score]
) -> None:
    """The scores were measured with them; the table says so, and the index stays empty."""
    found = replace(factors, start_tokens=16)
    own = [replace(s, factors_fingerprint=found.fingerprint) if s.method == found.method else s for s in scores]
    report = replace(REPORT, start_tokens_dropped=16, loss_change_nats=0.0123)
    text = format_card(model, found, report, Origin("pico-llama"), own)
    assert not read(text)[1]
    assert "measured with the start tokens" in text
    assert "16 start tokens of the search were dropped: +0.0123 nats" in text


def test_infinite_perplexity_is_no_result(model: LanguageModel, factors: RescaleFactors, scores: list[Score]) -> None:
    """JSON has no infinity, so the hub would refuse the index; the table shows it."""
    lost = [replace(s, value=float("inf")) if s.metric == "perplexity" else s for s in scores]
    text = format_card(model, factors, REPORT, Origin("pico-llama"), lost)
    assert [result.metric_type for result in read(text)[1]] == ["accuracy"]
    assert rows_of(text)[3][3].startswith("inf (")


def test_a_score_without_an_interval_is_reported_without_one(model: LanguageModel, factors: RescaleFactors) -> None:
    """Some benchmarks give none; JSON has no infinity for its ends either."""
    own = {"method": factors.method, "factors_fingerprint": factors.fingerprint}
    score = make_score("harness:task:perplexity", 256, 31.5, **own, low=-math.inf, high=math.inf)
    text = format_card(model, factors, REPORT, Origin("pico-llama"), [score])
    assert rows_of(text)[-1][-1] == "31.5"
    (result,) = read(text)[1]
    assert (result.metric_value, result.metric_args) == (31.5, {"context_tokens": 256})


@pytest.mark.parametrize(
    ("origin", "title", "on_hub"),
    [
        (Origin("someone/Model-3.1-8B"), "Model-3.1-8B", "someone/Model-3.1-8B"),
        (Origin("nano"), "nano", ""),
        (Origin("{here}/model-1.5"), "model-1.5", ""),
        (Origin("{here}/model-1.5.Q4_1.gguf"), "model-1.5.Q4_1", ""),
        (Origin("{here}/model-1.5", hub_name="someone/model"), "model", "someone/model"),
    ],
)
def test_the_base_model_is_a_name_of_the_hub_or_none(
    origin: Origin, title: str, on_hub: str, tmp_path: Path, model: LanguageModel, factors: RescaleFactors
) -> None:
    """Versions stay whole, and no path of this machine gets into a card."""
    (tmp_path / "model-1.5").mkdir()
    (tmp_path / "model-1.5.Q4_1.gguf").touch()
    origin = replace(origin, base_model=origin.base_model.format(here=tmp_path))
    assert (origin.title, origin.on_hub) == (title, on_hub)
    text = format_card(model, factors, REPORT, origin, [])
    assert read(text)[0].get("base_model", "") == on_hub
    assert f"# {title}, context window 256 tokens" in text
    assert f"`{on_hub or title}`, not trained further" in text
    assert str(tmp_path) not in text


def test_licence_and_language_are_those_of_the_base_models_card(
    tmp_path: Path, model: LanguageModel, factors: RescaleFactors
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: [en, de]\ntags: [old]\nwidget: []\n---\n# Base\n")
    metadata, _ = read(format_card(model, factors, REPORT, Origin(str(tmp_path)), []))
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["longrope", "long-context"],
        "license": "mit",
        "language": ["en", "de"],
    }
    assert read(format_card(model, factors, REPORT, Origin("nano"), []))[0]["license"] == "apache-2.0"
    assert read((ASSETS / "nano" / "README.md").read_text())[0]["library_name"] == "transformers"


@pytest.mark.parametrize("card", ["no metadata", "---\nlicense: [\n---\n", "---\njust words\n---\n"])
def test_base_card_without_metadata_tells_no_licence(
    card: str, tmp_path: Path, model: LanguageModel, factors: RescaleFactors
) -> None:
    """A card that others wrote, and that cannot be read, does not stop an export."""
    (tmp_path / "README.md").write_text(card)
    assert "license" not in read(format_card(model, factors, REPORT, Origin(str(tmp_path)), []))[0]


@pytest.mark.parametrize(
    ("family", "vllm", "llama_cpp"),
    [("llama", True, True), ("mistral", True, True), ("qwen3", True, False), ("cohere", False, False)],
)
def test_runtimes_are_reported_of_where_they_take_the_lists(family: str, vllm: bool, llama_cpp: bool) -> None:
    model = pico.make_model(family)
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 256, model.spec.fingerprint)
    text = format_card(model, factors, REPORT, Origin("pico"), [])
    assert ("vllm serve this-folder --max-model-len 256" in text) == ("vLLM" in text) == vllm
    assert ("llama-cli -m RUN/gguf/model.gguf -c 256" in text) == ("llama.cpp" in text) == llama_cpp
    assert ("were seen to apply their factors in vLLM 0.32.0 on a CPU" in text) == vllm
    assert ("seen to apply their factors in xllamacpp 2026.10.11549" in text) == llama_cpp


def test_the_cards_own_lines_load_the_checkpoint(
    model: LanguageModel, factors: RescaleFactors, scores: list[Score], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole export: what the report says stands in the card, and its Python lines give the exported model."""
    report = export_hf(model, factors, tmp_path / "this-folder", origin=Origin("pico-llama"), scores=scores)
    text = (tmp_path / "this-folder" / "README.md").read_text()
    assert text == format_card(model, factors, report, Origin("pico-llama"), scores)
    assert f"{report.difference_short:.2g} and {report.difference_long:.2g}" in text
    assert "attention factor 1.2000" in text
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(text.split("```python\n")[1].split("```")[0], "README.md", "exec"), names)  # noqa: S102  # our own
    assert torch.equal(names["model"].lm_head.weight, model.network.lm_head.weight)
    assert names["model"].config.rope_parameters["long_factor"] == list(factors.lambdas)
    assert names["tokenizer"]("The river")["input_ids"] == model.tokenizer("The river")["input_ids"]
