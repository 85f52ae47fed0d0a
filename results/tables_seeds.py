"""The table of Gemma-3-270M's trainings to 2,097,152 tokens with two formulas and two seeds."""

import numpy as np
from numpy.typing import NDArray
from tables_cells import Records, Row, table
from tables_million import AGAIN, FORMULAS, GEMMA, HUNDRED, LENGTHS, NONE, YARN, Key, counted, joined_scores

from longrope.evaluation.statistics import Interval, share_difference

PER_TEXT = {"prose-needle": 10, "many-passkeys": 20}  # prompts that stand in one text
SEEDS = {  # runs with a hundred prompts of each kind: words -> those of NTK and YaRN
    "seed 0": (f"{GEMMA}-window", f"{YARN}-window"),
    "seed 1": (AGAIN[GEMMA] + HUNDRED, AGAIN[YARN] + HUNDRED),
}


def seeds_table(records: Records) -> str:
    """What is found with the factors of both formulas, of the same prompts, and the paired difference."""
    rows: list[Row] = []
    for metric, words in (("prose-needle", "needles"), ("many-passkeys", "passkeys, 20 a text")):
        for length, name in LENGTHS.items():
            for seed, runs in SEEDS.items():
                by_run = (joined_scores(records, [(run, FORMULAS[trained(run)])]) for run in runs)
                found = [own.get((metric, length)) for own in by_run]
                answers = [answered(records, run).get((metric, length)) for run in runs]
                if any(found):
                    cells = [counted(score) if score else NONE for score in found]
                    rows.append([f"{words}, {name}, {seed}", *cells, difference(metric, *answers)])
    head = ["each row on its own text", "NTK", "YaRN", "YaRN less NTK, in points"]
    return table(head, rows or [[NONE, "", "", ""]])


def trained(run: str) -> str:
    """The run of the training whose weights a run measures."""
    return run.removesuffix("-window").removesuffix(HUNDRED)


def answered(records: Records, run: str) -> dict[Key, NDArray[np.bool_]]:
    """Which prompts of a run were answered, by the summaries of its samples."""
    lines = records.lines_if_any(f"{run}/sample-summaries.jsonl")
    return {(line["metric"], line["context_tokens"]): np.asarray(list(line["answers"])) == "1" for line in lines}


def paired(metric: str, theirs: NDArray[np.bool_], ours: NDArray[np.bool_]) -> Interval:
    """The second share less the first, of the same prompts, with its 95 % interval by texts."""
    return share_difference(ours, theirs, np.arange(len(ours)) // PER_TEXT[metric])


def difference(metric: str, theirs: NDArray[np.bool_] | None, ours: NDArray[np.bool_] | None) -> str:
    """The same in points."""
    if ours is None or theirs is None:
        return NONE
    value, low, high, _ = paired(metric, theirs, ours)
    return f"{100 * value:+.0f} ({100 * low:.0f} to {100 * high:.0f})"
