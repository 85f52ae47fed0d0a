"""The rows of the metrics, and what begins the names of their records."""

from functools import partial

from longrope.registry import ORIGINAL
from longrope.rows import Metric, by_name

RULER_TASKS = (  # of the benchmark (arXiv 2404.06654), by its names
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa"),
)
SUBSET_TASKS = ("niah_single_2", "niah_multikey_1", "niah_multiquery", "vt", "cwe", "fwe")
RULER_SUBSET = "ruler-subset"  # their mean
HARNESS = "harness:"  # begins the name of a benchmark of lm-evaluation-harness, or the path of its task file
BENCHMARK = f"{HARNESS}TASK"
RATIO, DIFFERENCE = "ratio-to-", "difference-to-"  # begin the names of paired comparisons with the method that follows
REWORDED = "reworded-questions"
SHOTS = (4, 16, 64, 256, 1024, 2048)  # of in-context learning, beside as many as fit
USES = {  # made-up tasks of what long windows are used for
    "many-shot": "Labels by examples found, as many as fit",
    **{f"many-shot-{count}": f"Labels by {count:,} examples found" for count in SHOTS},
    "manual-questions": "Questions about a manual answered",
    "dialogue-memory": "Numbers of a dialogue remembered",
    REWORDED: "Facts found that are asked for in other words",
}
SUMMARY = "planted-summary"
PROSE, ACCURACY, MANY_PASSKEYS = "prose-needle", "accuracy", "many-passkeys"
CHAT_NEEDLE = "chat-needle"
LONG_PPL = "longppl-"  # begins the names of scores of LongPPL: by an evaluator, or compared
LAST_TOKENS = "last-tokens-"  # begins the names of what is about the same last tokens, whatever is read before them

# Makers of the rows of one section each.
_perplexity = partial(Metric, section="perplexity", log=True)
_found = partial(Metric, format="share", section="retrieval")
_ruler = partial(Metric, format="share", section="ruler")
_far = partial(Metric, section="far")
_paired = partial(Metric, section="paired")

METRICS: dict[str, Metric] = by_name(
    _perplexity("perplexity", "Perplexity", measure="longrope.evaluation.perplexity:Perplexity"),
    _perplexity("perplexity-last-", "Perplexity over the last {} tokens"),
    _found("passkey", "Passkeys found", hub="accuracy", measure="longrope.evaluation.passkey:PasskeyRetrieval"),
    _perplexity(
        "prefix-perplexity",
        "Perplexity of the first tokens of longer windows",
        measure="longrope.evaluation.perplexity:PrefixPerplexity",
    ),
    Metric(
        "retention",
        "Perplexity relative to the original model",
        section="retention",
        measure="longrope.evaluation.retention:Retention",
        record=f"{RATIO}{ORIGINAL}",
    ),
    _found("needle", "Needles found", hub="accuracy", measure="longrope.evaluation.needles:Needles"),
    _found(
        CHAT_NEEDLE,
        "Needles found, asked in the chat format",
        hub="accuracy",
        measure="longrope.evaluation.needles:Needles",
    ),
    _found(PROSE, "Needles in prose found", hub="accuracy", measure="longrope.evaluation.prose:ProseNeedles"),
    *(_found(f"{PROSE}-{kind}", f"Needles in prose found, {kind}s") for kind in ("number", "name", "sentence")),
    _ruler("ruler", "RULER", measure="longrope.evaluation.ruler:RulerMean"),
    *(_ruler(f"ruler-{task}", f"RULER, {task}", measure="longrope.evaluation.ruler:RulerTask") for task in RULER_TASKS),
    _ruler(RULER_SUBSET, "RULER, mean of six tasks", measure="longrope.evaluation.ruler:RulerMean"),
    Metric(
        ACCURACY,
        "Accuracy: mean of needles in prose and of RULER's six tasks",
        format="share",
        section="effective",
        measure="longrope.evaluation.effective:Accuracy",
    ),
    Metric(
        "effective-length",
        "Effective length in tokens",
        format="tokens",
        section="effective",
        measure="longrope.evaluation.effective:EffectiveLength",
    ),
    Metric("length-area", "Area under the curve of accuracy by length", format="share", section="effective"),
    _far(
        "far-context",
        "Perplexity of the last tokens, relative to near context alone",
        measure="longrope.evaluation.far_context:FarContext",
    ),
    _far("far-context-last-", "The same over the last {} tokens"),
    _far(
        "far-context-original",
        "Perplexity of the last tokens, relative to the original model with near context alone",
    ),
    _far("far-context-original-last-", "The same over the last {} tokens, relative to the original model"),
    _perplexity(
        "longppl",
        "LongPPL, key tokens by {}",
        measure="longrope.evaluation.longppl:LongPerplexity",
        record=f"{LONG_PPL}by-",
    ),
    _perplexity(LAST_TOKENS, "Perplexity of the same last {} tokens"),
    *(
        row
        for name, words in {
            "far-shuffled": "shuffled far context",
            "far-replaced": "another text as far context",
        }.items()
        for row in (
            _far(
                name,
                f"Perplexity of the last tokens, relative to {words}",
                measure="longrope.evaluation.far_context:FarControl",
            ),
            _far(f"{name}-perplexity", f"Perplexity of the last tokens with {words}", log=True),
        )
    ),
    _perplexity(
        "position-perplexity",
        "Perplexity of the tokens from half of the length on, in longer windows",
        measure="longrope.evaluation.perplexity:PositionPerplexity",
    ),
    _found(
        MANY_PASSKEYS,
        "Passkeys found, several in a text",
        hub="accuracy",
        measure="longrope.evaluation.many_passkeys:ManyPasskeys",
    ),
    *(
        Metric(name, label, format="share", hub="accuracy", measure="longrope.evaluation.uses:Use")
        for name, label in USES.items()
    ),
    Metric(
        SUMMARY,
        "Planted notes in the summary",
        format="share",
        hub="accuracy",
        measure="longrope.evaluation.uses:PlantedSummary",
    ),
    Metric(
        BENCHMARK,
        "{}",
        format="benchmark",
        section="benchmarks",
        measure="longrope.evaluation.lm_eval:Benchmark",
        record=HARNESS,
    ),
    _paired(RATIO, "Perplexity relative to {}"),
    _paired(f"{LONG_PPL}{RATIO}", "LongPPL relative to {}"),
    _paired(f"{LAST_TOKENS}{RATIO}", "Perplexity of the last tokens relative to {}"),
    *(
        _paired(f"{name}{DIFFERENCE}", f"{label}, difference from {{}}", format="difference")
        for name, label in {
            f"{PROSE}-": "Needles in prose found",
            f"{MANY_PASSKEYS}-": "Passkeys found, several in a text",
            f"{ACCURACY}-": "Accuracy",
            "": "Passkeys found",
        }.items()
    ),
)


def asked_metrics() -> tuple[str, ...]:
    """The metrics that can be asked for; the last one stands for every benchmark."""
    return tuple(row.name for row in METRICS.values() if row.measure)


def is_task_file(metric: str) -> bool:
    """Whether a benchmark of lm-evaluation-harness is named by a file, which may run code."""
    return metric.endswith((".yaml", ".yml"))
