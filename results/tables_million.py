"""Tables of the runs to 2,097,152 tokens; a place without a record says so."""

from collections.abc import Callable, Iterable

from tables_cells import ORIGINAL, Cell, Records, Row, number, percent, table

from longrope.runs.records import Score


def share(score: Score) -> Cell:
    """A ratio with three decimals."""
    return Cell(f"{score.value:.3f}", (score,))


GEMMA, YARN = "gemma3-2048k", "gemma3-2048k-yarn"  # trained alike, with the factors of two formulas
SMALL, ATTENTION = "smollm2-2048k-all", "smollm2-2048k"  # all weights trained, and those of the attention alone
SMALL_YARN = f"{SMALL}-yarn"  # trained as the former, with YaRN's factors
RUNS = {
    GEMMA: "Gemma-3-270M",
    YARN: "Gemma-3-270M, YaRN's factors",
    SMALL: "SmolLM2-135M",
    SMALL_YARN: "SmolLM2-135M, YaRN's factors",
    ATTENTION: "SmolLM2-135M, attention alone",
}
AGAIN = {run: f"{run}-seed1" for run in (GEMMA, YARN)}  # the same trainings with another seed
THIRD = f"{GEMMA}-seed2"  # and with a third one; RULER was measured of its weights
FORMULAS = {GEMMA: "ntk-critical", SMALL: "critical", ATTENTION: "critical"} | dict.fromkeys((YARN, SMALL_YARN), "yarn")
FORMULAS |= {again: FORMULAS[run] for run, again in AGAIN.items()} | {THIRD: FORMULAS[GEMMA]}
UNTRAINED = f"{GEMMA}-untrained"
FURTHER = (f"{UNTRAINED}-1024k", f"{UNTRAINED}-2048k")  # two of them, by factors for those lengths
BEFORE = f"{GEMMA}-before"  # the factors of the trained run with the original weights
REWORDED, WORDED = f"{GEMMA}-reworded", f"{GEMMA}-reworded-short"  # on a GPU, and short texts on a CPU
NEEDLES = {"codes": "gemma3-needles-codes", "varied needles": "gemma3-needles-varied"}
TUNED = "longrope-tuned"
LENGTHS = {n * 1024: f"{n:,}k" for n in (4, 8, 32, 128, 512, 1024, 2048)}
# All that the trained window predicts:
LAST = {run: "last-tokens-32767" if run in (GEMMA, YARN) else "last-tokens-8191" for run in RUNS}
COLUMNS: dict[str, tuple[str, Callable[..., Cell]]] = {
    "first tokens": ("prefix-perplexity", number),
    "by position": ("position-perplexity", number),
    "last tokens": ("last", number),
    "of near context's": ("far-context", share),
    "of the original's": ("far-context-original", share),
    "of near's, last 4,096": ("far-context-last-4096", share),
    "of the original's, last 4,096": ("far-context-original-last-4096", share),
    "of shuffled far context's": ("far-shuffled", share),
    "of another text's": ("far-replaced", share),
    "short, of the original's": ("ratio-to-none", share),
    "needles": ("prose-needle", percent),
    "passkeys, 20 a text": ("many-passkeys", percent),
    "passkeys, one a text": ("passkey", percent),
}
APART = {  # ending of a run's name -> what of it stands beside the run
    "-lengths": (
        *("prefix-perplexity", "position-perplexity", "last-tokens-32767", "far-context", "far-context-last-4096"),
        *("far-context-original", "far-context-original-last-4096", "prose-needle", "many-passkeys"),
    ),
    "-passkeys": ("passkey",),
    "-ruler": ("ruler-subset",),
    "-ruler-2048k": ("ruler-subset", "prose-needle"),
    "-control": ("far-shuffled", "far-replaced", "last-tokens-32767", "far-context", "far-context-last-4096"),
}
HUNDRED = "-hundred"  # ending of a run with a hundred of each; they come before the run's fewer
FAR = f"{ATTENTION}-far"  # one window of prose
OF_FAR = ("prefix-perplexity", "position-perplexity", LAST[ATTENTION], "far-context", "far-context-last-4096")
METHODS = {
    "none": ORIGINAL,
    "pi": "PI",
    "yarn": "YaRN",
    "critical": "critical-pair rule",
    "ntk-critical": "NTK by critical dimension",
}
NONE = "not measured"
OF_YARN = ", YaRN's factors"  # after what is said of a training with them
Key = tuple[str, int]  # metric, length
Scores = dict[Key, Score]


def trained_scores(records: Records, run: str) -> dict[tuple[str, int], Score]:
    """Those of the trained weights in a run, and those that were measured apart, under the method of the factors."""
    scores = dict(records.scores(run, TUNED)) if records.has(run) else {}
    for apart, metrics in APART.items():
        found = records.scores(run + apart, FORMULAS[run]) if records.has(run + apart) else {}
        scores = {key: score for key, score in found.items() if key[0] in metrics} | scores  # the run's own first
    return scores | joined_scores(records, [(run + HUNDRED, FORMULAS[run])])


def aims_table(records: Records) -> str:
    """What was aimed at beforehand, what the records say, and whether it is reached."""
    rows = [
        *_gemma_aims(trained_scores(records, GEMMA)),
        *_gemma_aims(trained_scores(records, YARN), OF_YARN),
        *_measured(_gemma_aims(trained_scores(records, AGAIN[GEMMA]), ", seed 1")),
        *_measured(_gemma_aims(trained_scores(records, AGAIN[YARN]), f"{OF_YARN}, seed 1")),
        *_measured(_gemma_aims(trained_scores(records, THIRD), ", seed 2")),
        *_small_aims(trained_scores(records, SMALL)),
        *_small_aims(trained_scores(records, SMALL_YARN), OF_YARN),
    ]
    return table(["each row on its own text", "aim", "measured", "reached"], rows)


def _measured(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row[2] != NONE]


def _gemma_aims(gemma: Scores, which: str = "") -> list[Row]:
    far, near = 2**21, 2**15
    last = "Gemma-3-270M, last 32,767 of 2,097,152 tokens, of the original's in its window"
    rows = [
        _aim(last, 1.0, gemma, ("far-context-original", far)),
        _aim("the same over the last 4,096", 1.0, gemma, ("far-context-original-last-4096", far)),
        _aim("needles in prose at 2,048k, of those at 32k", 0.9, gemma, ("prose-needle", far), ("prose-needle", near)),
        _least("needles in prose at every length up to 512k", 0.85, gemma, "prose-needle", 2**19),
        _aim("needles in prose at 2,048k", 0.8, gemma, ("prose-needle", far)),
        _least("passkeys, one a text, at every length", 0.95, gemma, "passkey", far),
        _aim("texts of 32k, of the original's perplexity", 1.005, gemma, ("ratio-to-none", near)),
    ]
    return [[f"{words}{which}", *cells] for words, *cells in rows]


def _small_aims(small: Scores, which: str = "") -> list[Row]:
    far, near = 2**20, 2**13
    last = "SmolLM2-135M, last 8,191 of 1,048,576 tokens, of near context's"
    needles = ("prose-needle", far), ("prose-needle", near)
    rows = [
        _aim(last, 1.04, small, ("far-context", far)),
        _aim("the same, of the original's in its window", 1.0, small, ("far-context-original", far)),
        _aim("needles in prose at 1,024k, of those at 8k", 0.9, small, *needles),
    ]
    return [[f"{words}{which}", *cells] for words, *cells in rows]


def _aim(words: str, bound: float, scores: Scores, at: Key, of: Key | None = None) -> Row:
    """A score, or its share of another one, beside its bound: perplexities below, what is found above."""
    used = [scores[key] for key in (at, of) if key in scores]
    if len(used) < 1 + (of is not None):
        return [words, _bound(at[0], bound), NONE, ""]
    value = used[0].value / (used[1].value if of else 1.0)
    reached = value >= bound if _is_share(at[0]) else value <= bound
    return [words, _bound(at[0], bound), _cell(at[0], value, used), "yes" if reached else "no"]


def _least(words: str, bound: float, scores: Scores, metric: str, longest: int) -> Row:
    """The least share over lengths; the place says at how many, and whether the longest is among them."""
    used = [score for (name, at), score in scores.items() if name == metric and at <= longest]
    if not used:
        return [words, _bound(metric, bound), NONE, ""]
    least = min(score.value for score in used)
    shown = Cell(f"at least {least:.0%}, {len(used)} length{'s' * (len(used) > 1)}", tuple(used))
    so_far = "yes" if max(at for name, at in scores if name == metric and at <= longest) == longest else "so far"
    return [words, _bound(metric, bound), shown, so_far if least >= bound else "no"]


def _is_share(metric: str) -> bool:
    return metric in ("prose-needle", "passkey")


def _bound(metric: str, bound: float) -> str:
    return f"at least {bound:.0%}" if _is_share(metric) else f"at most {bound:.4g}"


def _cell(metric: str, value: float, used: list[Score]) -> Cell:
    ends = f" ({used[0].low:.3f}-{used[0].high:.3f})" if len(used) == 1 else ""
    return Cell(f"{value:.0%}" if _is_share(metric) else f"{value:.3f}{ends}", tuple(used))


def attention_length_table(records: Records) -> str:
    """The same of SmolLM2 with its attention trained alone, and one window of prose of 2,097,152 tokens."""
    far = joined_scores(records, ((FAR, FORMULAS[ATTENTION]),))
    return length_table(records, ATTENTION, {key: score for key, score in far.items() if key[0] in OF_FAR})


def length_table(records: Records, run: str = GEMMA, more: Scores | None = None) -> str:
    """What the trained model has at every length; columns without a record at any length are left out."""
    scores = trained_scores(records, run) | (more or {})
    named = {words: (LAST[run] if metric == "last" else metric, write) for words, (metric, write) in COLUMNS.items()}
    shown = {words: column for words, column in named.items() if any(name == column[0] for name, _ in scores)}
    rows: list[Row] = []
    for length, name in LENGTHS.items():
        found = [(scores.get((metric, length)), write) for metric, write in shown.values()]
        if any(score for score, _ in found):
            rows.append([name, *(write(score) if score else "" for score, write in found)])
    head = ["each row on its own text", *(shown or COLUMNS)]
    return table(head, rows or [[NONE, *[""] * len(COLUMNS)]])


def untrained_table(records: Records) -> str:
    """Methods without training and the trained model: perplexity of the same last tokens, and the same needles."""
    subjects: list[tuple[str, tuple[str, ...], str]] = [
        (label, (GEMMA, *FURTHER, UNTRAINED), method) for method, label in METHODS.items()
    ]
    subjects += [("NTK by critical dimension, factors for 2,048k", (BEFORE,), "ntk-critical")]
    trained = [("the same, trained", GEMMA), ("YaRN, factors for 2,048k, trained", YARN)]
    shown = [(length, LAST[GEMMA], number) for length in LENGTHS if length > 32768]
    shown += [(length, "prose-needle", counted) for length in LENGTHS if 32768 < length < 2**21]  # others at 2,048k
    shown.sort(key=lambda column: column[0])
    rows: list[Row] = []
    joined = [(label, joined_scores(records, ((run, method) for run in runs))) for label, runs, method in subjects]
    for label, scores in [*joined, *((label, trained_scores(records, run)) for label, run in trained)]:
        found = [(scores.get((metric, length)), write) for length, metric, write in shown]
        rows.append([label, *(write(score) if score else NONE for score, write in found)])
    head = ["needles" if write is counted else f"last tokens, {LENGTHS[length]}" for length, _, write in shown]
    return table(["", *head], rows)


def counted(score: Score) -> Cell:
    """How many were found of how many."""
    return Cell(f"{round(score.value * score.num_windows)} of {score.num_windows}", (score,))


ALIKE: dict[str, tuple[str, Callable[..., Cell]]] = {  # what two trainings with other factors are compared by
    "of near context's": ("far-context", share),
    "of the original's": ("far-context-original", share),
    "short, of the original's": ("ratio-to-none", share),
    "needles": ("prose-needle", counted),
    "passkeys, 20 a text": ("many-passkeys", counted),
}


def alike_table(records: Records, run: str = GEMMA, formula: str = "NTK") -> str:
    """The two trainings of a model, which differ in their factors alone, side by side at every length."""
    both = [trained_scores(records, one) for one in (run, f"{run}-yarn")]
    rows: list[Row] = []
    for length, name in LENGTHS.items():
        found = [(scores.get((metric, length)), write) for metric, write in ALIKE.values() for scores in both]
        if any(score for score, _ in found):
            rows.append([name, *(write(score) if score else "" for score, write in found)])
    head = [f"{words}{named}" for words in ALIKE for named in (f", {formula}", ", YaRN")]
    return table(["each row on its own text", *head], rows or [[NONE, *[""] * len(head)]])


def needles_table(records: Records) -> str:
    """What is found in the form of the trained needles, and in another one, in rows and at lengths with records."""
    run = GEMMA
    arms: list[tuple[str, dict[Key, Score]]] = [
        ("original", joined_scores(records, ((WORDED, "none"), (run, "none")))),
        (
            "trained to 2,048k",
            joined_scores(records, ((WORDED, "ntk-critical"), (REWORDED, "ntk-critical")))
            | trained_scores(records, run),
        ),
        *((f"64k alone, {kind}", joined_scores(records, ((folder, TUNED),))) for kind, folder in NEEDLES.items()),
    ]
    metrics = {"prose-needle": "needles in prose", "reworded-questions": "reworded questions"}
    lengths = sorted({at for _, scores in arms for name, at in scores if name == "reworded-questions"})
    rows: list[Row] = []
    for metric, words in metrics.items():
        for label, scores in arms:
            found = [scores.get((metric, length)) for length in lengths]
            if any(found):
                rows.append([f"{words}: {label}", *(counted(score) if score else NONE for score in found)])
    return table(["", *(f"{length // 1024}k" for length in lengths)], rows or [[NONE]])


def joined_scores(records: Records, parts: Iterable[tuple[str, str]]) -> dict[Key, Score]:
    """The scores of methods in runs, those of later runs before those of earlier ones."""
    found: dict[Key, Score] = {}
    for run, method in parts:
        found |= records.scores(run, method) if records.has(run) else {}
    return found


def far_table(records: Records) -> str:
    """Single passes over one text: perplexity of the same last tokens by how many stand before them."""
    lines = records.lines_if_any(f"{GEMMA}/far.jsonl")
    rows: list[Row] = [
        [
            f"{line['tokens']:,}",
            f"{line['factors_window'] // 1024:,}k",
            f"{line['processes']}",
            f"{line['whole']['last']:.2f}",
            f"{line['whole']['last_4096']:.2f}",
            f"{line['whole']['last'] / line['near']['last']:.3f}",
            f"{line['whole']['seconds']:.0f}",
            f"{line['whole']['peak_bytes'] / 2**30:.0f}",
        ]
        for line in sorted(lines, key=lambda line: (line["tokens"], line["factors_window"]))
    ]
    head = ["tokens", "factors for", "GPUs", "last tokens", "last 4,096", "of near context's", "seconds", "peak in GiB"]
    return table(head, rows or [[NONE, *[""] * (len(head) - 1)]])


def training_table(records: Records) -> str:
    """What each training took: steps, seconds a step, tokens a second and memory at the peak."""
    rows: list[Row] = []
    for run, model in RUNS.items():
        stages = sorted((records.folder / run).glob("stages/*/train.jsonl"))
        for path in stages:
            lines = records.lines(path.relative_to(records.folder).as_posix())
            later = sorted(line["seconds"] for line in lines[1:]) or [lines[0]["seconds"]]
            peak, tokens = max(line["memory_gib"] for line in lines), lines[0]["num_tokens"]
            minutes = sum(line["seconds"] for line in lines) / 60
            cells = [
                f"{len(lines)}",
                f"{tokens:,}",
                f"{later[len(later) // 2]:.1f}",
                f"{peak:.0f} GiB",
                f"{minutes:.1f}",
            ]
            _, kind, window, *_ = path.parent.name.split("-")
            rows.append([f"{model}, {kind} {window}", *cells])
        rows += [] if stages else [[model, NONE, "", "", "", ""]]
    return table(["", "steps", "tokens scored in a step", "seconds a step", "memory", "minutes in all"], rows)


def answers_table(records: Records) -> str:
    """Answers of ``longrope generate`` about one sentence of a document."""
    runs = {GEMMA: "NTK by critical dimension", YARN: "YaRN"}
    lines = [(words, line) for run, words in runs.items() for line in records.lines_if_any(f"{run}/answers.jsonl")]
    rows: list[Row] = [
        [
            f"{line['prompt_tokens']:,}",
            f"{line['depth']:.2f}",
            factors,
            "8 bits" if line["eight_bit"] else "offloaded" if line["offload"] else "16 bits",
            f"{line['prefill_seconds']:.0f}",
            f"{line['decode_seconds'] / max(1, line['new_tokens']):.2f}",
            f"{line['cache_bytes'] / 2**30:.1f}",
            f"{line['peak_bytes'] / 2**30:.1f}",
            "yes" if line["found"] else "no",
        ]
        for factors, line in lines
    ]
    head = [
        "prompt tokens",
        "depth",
        "factors",
        "cache",
        "seconds to read",
        "seconds a token",
        "cache in GiB",
        "peak in GiB",
        "found",
    ]
    return table(head, rows or [[NONE, *[""] * (len(head) - 1)]])
