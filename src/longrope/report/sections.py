"""The order of a page, its first words, and the sections that say what a run took and where it came from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longrope.labels import NOT_REACHED, Source, is_part, label_of
from longrope.lengths import format_tokens
from longrope.registry import ORIGINAL, TUNED, baselines, one_set_formulas
from longrope.report.contents import Contents
from longrope.report.curves import search_section, training_section
from longrope.report.factors import factor_section
from longrope.report.parts import Section, titled
from longrope.report.scores import measured_sections
from longrope.report.stages import stage_section
from longrope.report.tables import ScoreTable, interval, number
from longrope.rope import RescaleFactors
from longrope.runs.records import Score
from longrope.schedule import stage_label
from longrope.verdict import SHARES, conclude, inner_label, is_found

COMPARED = {"gradient": "gradient descent", "evolution": "the paper's evolutionary search"}
SEARCHES = {**COMPARED, "cma": "CMA-ES over knots"}

HEADLINES = {  # the metrics among the first facts, in their order, and what is said beside the number
    "perplexity": "perplexity {at}, {method}",
    "ratio-to-yarn": "of YaRN's perplexity {at}, paired",
    "passkey": "of {windows} passkeys found {at}",
    "needle": "of {windows} needles found {at}",
    "ruler": "of RULER's tasks {at}",
}


@dataclass(frozen=True)
class Fact:
    """One number that a reader wants first, with what it is, and its interval."""

    value: str
    name: str
    interval: str = ""


def all_sections(runs: Sequence[Contents]) -> list[Section]:
    """Every section of a page, the empty ones too."""
    made = [stage_section(runs), factor_section(runs), search_section(runs), training_section(runs)]
    return [*measured_sections(runs), *made, cost_section(runs), checkpoint_section(runs), provenance_section(runs)]


def tell_run(run: Contents, *, named: bool) -> list[str]:
    """What was extended, and how, in words; with the model's name or without."""
    sentences = [f"{run.model if named else 'The model'}{_tell_windows(run)}."]
    if run.recipe and run.factors:
        method = run.recipe.search.method
        search = SEARCHES.get(method, label_of(method))
        searched = [found for found in run.factors if found.chosen_by not in baselines()]
        by = search if len({found.source.known_as for found in searched}) < 2 else " and by ".join(COMPARED.values())
        chosen = (
            f"are those of {by}"
            if method in one_set_formulas()
            else f"were chosen by {by}, on {', '.join(run.recipe.data)}"
        )
        sentences.append(f"The rescale factors of its RoPE {chosen}.")
        sentences += [f"They come from {label}." for label in dict.fromkeys(map(_tell_chosen, searched)) if label]
    if run.recipe and run.scores:
        other = ", ".join(run.recipe.measure_data)
        sentences.append(f"It was measured on {other or 'other parts of the same text'}.")
    if run.is_trained:
        steps = [*run.train, *(step for stage in run.stages for step in stage.train)]
        sentences.append(f"Its weights were trained, in {len(steps):,} recorded steps.")
    else:
        sentences.append("No weight of the model was changed.")
    return sentences


def _tell_chosen(factors: RescaleFactors) -> str:
    """What factors are that a search has chosen and not made; empty for all others."""
    return label_of(factors.method) if factors.chosen_by not in ("", factors.method) else ""


def _tell_windows(run: Contents) -> str:
    target = f"{run.reached_tokens:,}" if run.reached_tokens else ""
    if run.rope:
        return f" was trained on {run.rope['trained_window']:,} tokens and is read here at up to {target or 'more'}"
    return f" is read here at up to {target} tokens" if target else " was measured"


def facts_of(run: Contents) -> list[Fact]:
    """What the run won and what short texts pay for it, the windows, and its own scores at the longest length."""
    facts = _verdict_facts(run)
    if run.rope and run.reached_tokens:
        facts.append(Fact(f"{run.rope['trained_window']:,} → {run.reached_tokens:,}", "tokens: trained, reached"))
    own = _own_source(run)
    longest = max((score.context_tokens for score in run.scores), default=0)
    at_longest = {s.metric: s for s in run.scores if (s.source, s.context_tokens) == (own, longest)}
    shown = {(fact.value, fact.interval) for fact in facts if fact.interval}  # the comparison of the verdict
    measured = [_fact(at_longest[metric], text) for metric, text in HEADLINES.items() if metric in at_longest]
    return [*facts, *(fact for fact in measured if (fact.value, fact.interval) not in shown)]


def _verdict_facts(run: Contents) -> list[Fact]:
    """The first comparison of the verdict, and what it costs at a short length."""
    verdict = conclude(run.scores, run.export, own=run.by_formula)
    if not verdict:
        return []
    facts, (first, *_) = [], verdict.comparisons
    if pair := first.pair:
        value, _, ends = interval(pair).partition(" ")
        kind = "difference from" if first.metric in SHARES else "perplexity as a share of that of"
        at = f"{kind} {verdict.theirs.label} at {verdict.context_tokens:,} tokens: {first.outcome}"
        facts.append(Fact(value, at, ends[1:-1]))
    elif first.ours and first.theirs:
        values = " / ".join(interval(score).partition(" ")[0] for score in (first.ours, first.theirs))
        name = inner_label(first.metric)
        at = f"{verdict.context_tokens:,} tokens, against {verdict.theirs.label}: {first.outcome}, unpaired"
        facts.append(Fact(values, f"{name} at {at}"))
    if short := verdict.short:
        ends = f"{short.low - 1:+.1%} to {short.high - 1:+.1%}" if math.isfinite(short.high - short.low) else ""
        whose = "the same weights with the model's own RoPE" if short.trained else f"the {label_of(ORIGINAL)}"
        where = "of the exported checkpoint " if short.exported else ""
        name = f"perplexity {where}at {short.context_tokens:,} tokens, against {whose}"
        facts.append(Fact(f"{short.ratio - 1:+.1%}", name, ends))
    return facts


def _fact(score: Score, text: str) -> Fact:
    value, _, ends = interval(score).partition(" ")
    at = f"at {score.context_tokens:,} tokens"
    return Fact(value, text.format(at=at, windows=score.num_windows, method=score.source.label), ends[1:-1])


def _own_source(run: Contents) -> Source:
    """The source that the run is about: tuned before searched, the recipe's search before another."""
    own = run.by_formula or [s for s in run.scores if is_found(s)]
    measured = {s.source.known_as: s.source for s in own}
    searched = [name for name in measured if name.startswith("longrope")]
    wanted = [TUNED, f"longrope-{run.recipe.search.method}" if run.recipe else "", *searched, *measured]
    others = list(dict.fromkeys(s.source for s in run.scores if s.method != ORIGINAL))
    alone = others[0] if len(others) == 1 else Source(ORIGINAL)
    return next((measured[name] for name in wanted if name in measured), alone)


WORDS = {  # of keys of costs.json and export.json whose names alone do not say what they are
    "token_passes": "tokens pushed through the model",
    "validation_loss_nats": "best loss on held-out windows, nats",
    "common_loss_nats": "loss that all searches reached, nats",
    "trials_to_common": "trials to that loss",
    "token_passes_to_common": "tokens to that loss",
    "seconds_to_common": "seconds to that loss",
    "tiers": "factor sets",  # their key in earlier versions
    "switch_tokens": "length above which long factors are taken, tokens",
    "difference_short": "logits' difference, short texts",
    "difference_long": "logits' difference, long texts",
    "rounding": "difference by angles in float32 alone",
    "loss_change_nats": "change of the loss without start tokens, nats",
    "short_tokens": "length of short texts, tokens",
    "perplexity_original": "perplexity of short texts, the model's own RoPE",
    "perplexity_single": "perplexity of short texts, one list of factors",
    "perplexity_two": "perplexity of short texts, two lists",
}


def in_words(field: str) -> str:
    """A key of ``costs.json`` or ``export.json`` as the page has it."""
    return WORDS.get(field, field.replace("_", " "))


def cost_section(runs: Sequence[Contents]) -> Section:
    """What the searches took, and the seconds of every measurement."""
    tables = []
    for run in runs:
        if run.costs:
            header = ("search", *map(_search_name, run.costs))
            names = [name for name in run.costs[0] if name not in ("method", "stage")]
            rows = tuple(
                (
                    in_words(name),
                    *(number(NOT_REACHED if cost.get(name) is None else cost[name]) for cost in run.costs),
                )
                for name in names
            )
            tables.append(ScoreTable(titled(runs, run, "What the searches took"), header, rows))
        if run.scores:
            tables.append(_seconds_table(runs, run))
    return Section("cost", "Cost", "cost needs costs.json or scores.jsonl", tables=tuple(tables))


def _search_name(cost: dict[str, Any]) -> str:
    """What made it, and the stage of a schedule that it was."""
    return ", ".join(filter(None, (label_of(cost["method"]), stage_label(cost.get("stage", "")))))


def _seconds_table(runs: Sequence[Contents], run: Contents) -> ScoreTable:
    """Seconds of each metric by method and length; depths and last tokens came out of the same passes."""
    timed = [score for score in run.scores if not is_part(score.metric)]
    measured = sorted({(score.metric, score.context_tokens) for score in timed})
    cells = {(score.metric, score.context_tokens, score.source): number(score.seconds) for score in timed}
    sources = dict.fromkeys(score.source for score in timed)
    header = ("measurement", *(source.label for source in sources))
    rows = tuple((f"{name}, {n:,} tokens", *(cells.get((name, n, s), "") for s in sources)) for name, n in measured)
    return ScoreTable(titled(runs, run, "Seconds of each measurement"), header, rows)


def checkpoint_section(runs: Sequence[Contents]) -> Section:
    """How the reopened checkpoint compared with the model in memory."""
    words, tables = [], []
    for run in runs:
        if run.export:
            words.append(titled(runs, run, _tell_export(run.export)))
            rows = tuple((in_words(name), number(value)) for name, value in run.export.items())
            tables.append(ScoreTable(titled(runs, run, "The reopened checkpoint"), ("", "value"), rows))
    needs = "the checkpoint needs `longrope export`"
    return Section("checkpoint", "Checkpoint", needs, tuple(words), (), tuple(tables))


def _tell_export(export: dict[str, Any]) -> str:
    short, long = (f"{export[name]:.2g}" for name in ("difference_short", "difference_long"))
    return (
        f"hf/ was reopened by plain transformers {export['transformers']} in a process of its own. At 90 % of the "
        "positions compared, no logit differs from ours by more than this share of the logits' standard deviation: "
        f"{short} below {export['switch_tokens']:,} tokens, {long} above."
    )


def provenance_section(runs: Sequence[Contents]) -> Section:
    """Versions, device and command of every process that wrote here; fingerprints and seeds of what was measured."""
    tables, words = [], []
    for run in runs:
        if run.provenance:
            names = dict.fromkeys(name for session in run.provenance for name in session)
            rows = tuple(
                (name, *(_stage_record(session.get(name, "")) for session in run.provenance)) for name in names
            )
            header = ("", *(f"process {i + 1}" for i in range(len(run.provenance))))
            tables.append(ScoreTable(titled(runs, run, "Where and with what"), header, rows))
        else:
            words.append(titled(runs, run, "Versions and device were not recorded: there is no provenance.json."))
        tables.append(
            ScoreTable(titled(runs, run, "Fingerprints and seeds"), ("", "value"), tuple(_named_content(run)))
        )
    return Section("provenance", "Provenance", "", tuple(words), (), tuple(tables))


def _named_content(run: Contents) -> Iterator[tuple[str, str]]:
    """What the records call the model, its geometry, the factors and the texts."""
    yield "model", run.model
    if run.rope:
        yield "RoPE geometry", str(run.rope["fingerprint"])
    for found in run.factors:
        yield f"factors, {found.source.label}", found.fingerprint
    for search in dict.fromkeys((trial.method, trial.texts_fingerprint) for trial in run.trials):
        yield f"texts searched on, {label_of(search[0])}", search[1]
    texts: dict[tuple[str, str], dict[str, None]] = {}
    for s in run.scores:
        if not is_part(s.metric):
            texts.setdefault((s.metric, s.texts_fingerprint), {})[format_tokens(s.context_tokens)] = None
    for (metric, fingerprint), lengths in texts.items():
        yield f"texts of {metric}, {', '.join(lengths)}", fingerprint
    seeds = [run.recipe.seed] if run.recipe else []
    yield "seeds", ", ".join(str(seed) for seed in dict.fromkeys([*seeds, *(score.seed for score in run.scores)]))


def _stage_record(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
