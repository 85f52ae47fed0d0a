"""The model card of an exported checkpoint: metadata with the hub's keys, results, how to load it, limits.

It computes nothing: every number is in the scores or in the report of the export. What it says of other runtimes was
seen with the versions below, or read in their source, as it says; nothing checks it against later ones.
"""

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not listed
from jinja2 import Environment, StrictUndefined, select_autoescape

from longrope.errors import printable
from longrope.exports.comparison import ExportReport, dump_report
from longrope.exports.gguf_weights import MODEL_TYPES
from longrope.exports.licences import inherited, notice_of
from longrope.exports.mlx import mlx_needs
from longrope.exports.short_cost import describe_short
from longrope.labels import Source, compared_with, is_part, label_of, metric_label, metric_row, write_interval
from longrope.metrics import DIFFERENCE
from longrope.models import EMBEDDED, LanguageModel, read_place
from longrope.models.adapters import find_adapter
from longrope.models.trained_weights import find_trained_weights
from longrope.registry import ORIGINAL, baselines
from longrope.rope import RescaleFactors
from longrope.rope.hf_legacy import is_refused_by_older
from longrope.runs.identity import TUNED
from longrope.runs.records import Score
from longrope.verdict import conclude, describe_verdict

VLLM_VERSION, LLAMA_CPP_VERSION, OLDER_VERSION = "vLLM 0.32.0", "xllamacpp 2026.10.11549", "4.57.6"
VLLM_TYPES = (  # whose LongRoPE factors it reads
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "stablelm",
)


@dataclass(frozen=True)
class Origin:
    """Where the weights of a checkpoint come from.

    Attributes:
        base_model: what they were loaded from: hub name, folder, file, or the bundled model's name.
        tuned: whether they were trained since.
        hub_name: the base model's name on the hub, where it was loaded from elsewhere.
    """

    base_model: str
    tuned: bool = False
    hub_name: str = ""

    @property
    def title(self) -> str:
        """The last part of its name."""
        return Path(self.hub_name or self.base_model).name.removesuffix(".gguf")

    @property
    def on_hub(self) -> str:
        """The name on the hub, empty if none is known."""
        if self.hub_name or self.base_model == EMBEDDED or Path(self.base_model).exists():
            return self.hub_name
        place = read_place(self.base_model)
        name = place.repo if place else self.base_model
        try:
            validate_repo_id(name)
        except HFValidationError:
            return ""
        return name


def origin_of(source: str, hub_name: str = "") -> Origin:
    """Where the weights of a model come from that is loaded from a place.

    A folder with adapters or with trained weights alone holds what a training made of its base.

    Args:
        source: hub name, folder or file.
        hub_name: the base model's name on the hub, where it was loaded from elsewhere.
    """
    trained = find_adapter(source) or find_trained_weights(source)
    return Origin(trained.base if trained else source, tuned=trained is not None, hub_name=hub_name)


def origin_of_model(model: LanguageModel) -> Origin:
    """Where the weights of a model in memory come from, by its name."""
    return Origin(model.name.partition(TUNED)[0], tuned=TUNED in model.name)


@dataclass(frozen=True)
class ResultTable:
    """The scores of a checkpoint beside those of others on the same texts: a row for each metric and length."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plain(text: str) -> str:
    """A name from anywhere as plain text of a Markdown page: no markup, links, HTML or control characters."""
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", html.escape(printable(text), quote=False))


def as_code(text: str) -> str:
    """A name from anywhere for a span of code in Markdown, which it cannot end."""
    return printable(text).replace("`", "'")


def format_card(
    model: LanguageModel, factors: RescaleFactors, report: ExportReport, origin: Origin, scores: Sequence[Score]
) -> str:
    """The text of a checkpoint's ``README.md``.

    Args:
        model: that was exported.
        factors: as they were found, start tokens included.
        report: of the export.
        origin: of the weights.
        scores: of the run; which of them belong to this model and these factors is seen from the records.
    """
    own = [s for s in scores if _is_own(s, model, factors)]
    described = [score for score in own if _describes(score, report)]
    model_type = model.network.config.model_type
    stated = inherited(origin.base_model, origin.on_hub, model_type)
    template = files(__package__).joinpath("card.md.j2").read_text(encoding="utf-8")
    markdown = Environment(
        autoescape=select_autoescape(default_for_string=False),  # it is Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    markdown.filters |= {"plain": plain, "code": as_code}
    text = markdown.from_string(template).render(
        verdict=_verdict(scores, own, report),
        metadata=_metadata(origin, described, factors, stated).to_yaml(),
        notice=notice_of(stated),
        origin=origin,
        window=factors.target_window,
        trained=model.spec.trained_window,
        factors=factors,
        attention_factor=factors.attention_factor * model.spec.attention_factor,
        report=report,
        layer_type=model.table.layer_type,
        short_line=describe_short(report.short_cost, report.factor_sets).partition(": longrope export")[0]
        if report.short_cost
        else "",
        own_switch=model.spec.native.switch_tokens if model.spec.native and model.spec.native.short else 0,
        table=result_table(scores, own, origin),
        paired=[_describe_pair(score) for score in own if compared_with(score.metric)],
        other_below=report.factor_sets == "two" and any(s.context_tokens <= report.switch_tokens for s in own),
        older=OLDER_VERSION if is_refused_by_older(model_type, *_stated(model, factors, report)) else "",
        mlx=mlx_needs(model_type, *_stated(model, factors, report), two_lists=report.factor_sets == "two"),
        vllm=VLLM_VERSION if model_type in VLLM_TYPES else "",
        llama_cpp=LLAMA_CPP_VERSION if model_type in MODEL_TYPES else "",
    )
    return str(ModelCard(text))  # parsed, so that metadata which the hub cannot read is an error


def has_results(
    card: str, model: LanguageModel, factors: RescaleFactors, origin: Origin, scores: Sequence[Score]
) -> bool:
    """Whether the text of a card has the results of a run, by its arguments as in ``format_card``."""
    own = [score for score in scores if _is_own(score, model, factors)]
    return all(f"| {' | '.join(map(plain, row))} |" in card for row in result_table(scores, own, origin).rows)


def _verdict(scores: Sequence[Score], own: Sequence[Score], report: ExportReport) -> str:
    """What the page of the run begins with, too; empty where nothing can be compared."""
    verdict = conclude(scores, json.loads(dump_report(report)), own=own) if own else None
    return describe_verdict(verdict) if verdict else ""


def _stated(model: LanguageModel, factors: RescaleFactors, report: ExportReport) -> tuple[float, int, int]:
    """The attention factor, the window and the window before the scaling that a checkpoint states."""
    return factors.attention_factor * model.spec.attention_factor, report.target_window, report.switch_tokens


def _is_own(score: Score, model: LanguageModel, factors: RescaleFactors) -> bool:
    """Whether a score is of these weights and factors; a baseline's is not, also where the search chose the same."""
    is_baseline = score.method in baselines() and score.chosen_by != factors.chosen_by
    return (score.model, score.factors_fingerprint) == (model.name, factors.fingerprint) and not is_baseline


def result_table(scores: Sequence[Score], own: Sequence[Score], origin: Origin) -> ResultTable:
    """The scores of a checkpoint (``own``, among all) beside those of the original model and of the best baseline.

    A cell is empty where a method was not measured on the same texts.
    """
    metrics = list(dict.fromkeys(score.metric for score in own if _has_row(score)))
    ordered = sorted((s for s in own if s.metric in metrics), key=lambda s: (metrics.index(s.metric), s.context_tokens))
    rows = {(score.metric, score.context_tokens): score for score in ordered}
    columns = {label_of(ORIGINAL): (Source(ORIGINAL), origin.base_model)}
    if own:
        columns |= {"tuned, not rescaled": (Source(ORIGINAL), own[0].model)} if origin.tuned else {}
        columns |= {best[0].label: best for best in _best_baseline(scores, rows)}
        columns |= {own[0].source.label: (own[0].source, own[0].model)}
    known = {(*_place(s), s.source, s.model): s for s in scores}
    known |= {(*_place(s), s.source, s.model): s for s in own}
    cells = {
        title: [known.get((*_place(score), *column)) for score in rows.values()] for title, column in columns.items()
    }
    shown = {title: column for title, column in cells.items() if any(column)}
    lines = [(_label(score), *(_cell(column[i]) for column in shown.values())) for i, score in enumerate(rows.values())]
    return ResultTable(tuple(shown), tuple(lines))


def _place(score: Score) -> tuple[str, int, str]:
    return score.metric, score.context_tokens, score.texts_fingerprint


def _best_baseline(scores: Sequence[Score], rows: dict[tuple[str, int], Score]) -> list[tuple[Source, str]]:
    """Source and model of the best baseline at the longest length, by perplexity or else by passkeys; or none."""
    plain = [s for s in scores if s.method in baselines() and s.chosen_by in ("", *baselines())]
    for metric, sign in {"perplexity": 1, "passkey": -1}.items():
        longest = max((tokens for name, tokens in rows if name == metric), default=0)
        if own := [score for score in plain if (score.metric, score.context_tokens) == (metric, longest)]:
            best = min(own, key=lambda score: sign * score.value)
            return [(best.source, best.model)]
    return []


def _has_row(score: Score) -> bool:
    """Whether it is a result of its own: parts of others are left out, and comparisons stand beside the table."""
    return not (is_part(score.metric) or compared_with(score.metric))


def _describe_pair(score: Score) -> str:
    """A paired comparison in words."""
    things = "passkeys" if score.metric.startswith(DIFFERENCE) else "prompts"
    how = f"on the same {things}" if DIFFERENCE in score.metric else "paired token by token"
    return f"{_label(score)}: {_cell(score)}, {how}."


def _label(score: Score) -> str:
    return f"{metric_label(score.metric)}, {score.context_tokens:,} tokens"


def _cell(score: Score | None) -> str:
    return write_interval(score.metric, score.value, score.low, score.high) if score else ""


def _interval(score: Score) -> dict[str, float]:
    """The ends of a score's interval; empty where it has none."""
    return {"low": score.low, "high": score.high} if math.isfinite(score.high - score.low) else {}


def _describes(score: Score, report: ExportReport) -> bool:
    """Whether the checkpoint does what was measured: start tokens are dropped, and short factors differ."""
    alike = report.factor_sets == "single" or score.context_tokens > report.switch_tokens
    return alike and not report.start_tokens_dropped


def _metadata(
    origin: Origin, scores: Sequence[Score], factors: RescaleFactors, stated: dict[str, Any]
) -> ModelCardData:
    """The hub's keys; the model index holds the scores of the checkpoint itself."""
    results = [_result(s) for s in scores if math.isfinite(s.value) and _has_row(s)]
    index: dict[str, Any] = {"eval_results": results, "model_name": f"{origin.title}-longrope-{factors.target_window}"}
    return ModelCardData(
        base_model=origin.on_hub or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["longrope", "long-context"],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        **stated,
        **(index if results else {}),
    )


def _result(score: Score) -> EvalResult:
    """A score as an entry of the model index; what was measured on the same texts stands together."""
    row = metric_row(score.metric)
    dataset = ("text", "Texts of the run") if row.section == "perplexity" else (score.metric, score.metric)
    return EvalResult(
        task_type="text-generation",
        dataset_type=dataset[0],
        dataset_name=dataset[1],
        dataset_revision=score.texts_fingerprint,
        metric_type=row.hub or score.metric,
        metric_name=_label(score),
        metric_value=score.value,
        metric_args={"context_tokens": score.context_tokens, **_interval(score)},
    )
