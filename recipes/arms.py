"""Train one model alike with several factor sets, each an arm of its own, and show all of them in one table.

Run: python recipes/arms.py RECIPE OUT [ARM ...] [--gpus 0,1,2,3] [--reference yarn,scan] [--compare]

An arm is ``longrope extend --recipe RECIPE`` with the settings that ``ARMS`` has for it, in the run directory OUT/ARM:
the same steps, windows, needles and seed, other factors. ``ARM@1`` is the same with the seed 1. One arm runs on each of
the GPUs, the next as soon as one is free; an arm that was interrupted goes on, a finished one is not repeated. The
original is measured at all lengths in the first arm, at the shortest one in the others. Then every arm is compared with
the reference of its seed, token by token and prompt by prompt: OUT/arms.jsonl.

OUT/ARM/sample-summaries.jsonl has what this needs of the samples of an arm, which are large: an arm that was copied
without its samples can be compared with one that is trained later. ``--compare`` runs nothing: it compares and shows
the arms that are in OUT.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import Queue

from longrope.cli.console import print_table
from longrope.evaluation.pairing import Comparison, found_scores, pair_runs
from longrope.labels import label_of, metric_label, split_depth, write_interval
from longrope.lengths import format_tokens
from longrope.registry import ORIGINAL
from longrope.report import write_comparison
from longrope.runs.run_dir import RunDir

OWN = ("search.method=yarn", "tune.short_share=1", "tune.needle_weight=0")  # the factors are never trained with
EXTRAPOLATED = (  # of the bundled model's recipe alone
    'stages=[{search="1k"}, {tune="1k", steps=16}, {search="2k"}, {extrapolate="16k"}, {tune="2k", steps=200}, '
    '{short=256, method="none"}]'
)
ARMS = {
    "searched": (),
    "yarn": ("search.method=yarn",),
    "critical": ("search.method=critical",),
    "ntk": ("search.method=ntk",),
    "pi": ("search.method=pi",),
    "scan": ("search.method=ntk-scan",),
    "longrope2": ("search.method=longrope2",),
    "own": OWN,  # the model's own RoPE in its own window, on the same tokens: what mere adaptation to them gives
    "searched-bare": ("tune.needle_weight=0",),
    "yarn-bare": ("search.method=yarn", "tune.needle_weight=0"),
    "critical-bare": ("search.method=critical", "tune.needle_weight=0"),
    "critical-attention": ("search.method=critical", "tune.parameters=*.self_attn.*"),
    "searched-extrapolated": (EXTRAPOLATED,),
    "yarn-extrapolated": ("search.method=yarn", EXTRAPOLATED),
    "gradient": ("search.method=gradient",),
    "gradient-floor": ("search.method=gradient", "search.gradient.floor=scan"),
    "cma": ("search.method=cma",),
    "cma-tail": ("search.method=cma", "search.tail_tokens=1024"),  # of the bundled model's window of 2,048
    "evolution": ("search.method=evolution",),
    "evolution-critical": ("search.method=evolution", "search.evolution.starts=pi,ntk,yarn,critical"),
}
# Of recipes that train nothing:
SEARCHES = ("gradient", "gradient-floor", "cma", "cma-tail", "evolution", "evolution-critical")
APART = (*SEARCHES, "critical-attention")  # the last trains other weights, and not with other factors
USUAL = [arm for arm, settings in ARMS.items() if EXTRAPOLATED not in settings and arm not in APART]
BARE = "-bare"  # ends the name of an arm without needles
Pair = Callable[[RunDir, RunDir], list[Comparison]]
FORMATS = dict.fromkeys(
    ("passkey", "many-passkeys", "needle", "prose-needle", "accuracy"), "difference-to-"
)  # how a difference is written; ratios are numbers


def command(recipe: Path, out: Path, arm: str, *, first: bool = True) -> list[str]:
    """What trains and measures one arm; the original at lengths beyond the shortest one in the first arm alone."""
    name, _, seed = arm.partition("@")
    settings = [part for setting in ARMS[name] for part in ("--set", setting)]
    settings += [] if first else ["--set", "measure.original_tokens=1"]
    settings += ["--seed", seed] if seed else []
    return [sys.executable, "-m", "longrope", "extend", "--recipe", f"{recipe}", "--out", f"{out / arm}", *settings]


def run_arms(recipe: Path, out: Path, arms: list[str], gpus: list[str]) -> list[str]:
    """Run the arms, one on each GPU at a time; return those that failed. What each prints goes to OUT/ARM.log."""
    free: Queue[str] = Queue()
    for gpu in gpus:
        free.put(gpu)

    def run(arm: str) -> bool:
        gpu = free.get()
        print(f"{arm}: begins{f' on GPU {gpu}' if gpu else ''}", flush=True)
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
        with (out / f"{arm}.log").open("a") as log:
            words = command(recipe, out, arm, first=arm == arms[0])
            done = subprocess.run(words, env=environment, stdout=log, stderr=log, check=False)
        free.put(gpu)
        print(f"{arm}: {'done' if done.returncode == 0 else f'failed, see {log.name}'}", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(len(gpus)) as pool:
        return [arm for arm, good in zip(arms, pool.map(run, arms), strict=True) if not good]


def compare_arms(out: Path, arms: list[str], reference: str, pair: Pair = pair_runs) -> list[Comparison]:
    """Every arm beside the reference of its seed, one without needles beside that without, where it is among them."""
    found = []
    for arm in arms:
        name, at, seed = arm.partition("@")
        beside = f"{reference}{BARE if name.endswith(BARE) else ''}{at}{seed}"
        if beside in arms and arm != beside:
            found += pair(RunDir(out / arm), RunDir(out / beside))
    return found


def show(out: Path, arms: list[str], found: list[Comparison], reference: str) -> None:
    """A table for each metric: a row for each arm, with its value and its comparison at every length."""
    scores = {arm: {(s.metric, s.context_tokens): s for s in found_scores(RunDir(out / arm))} for arm in arms}
    every = (score for arm in reversed(arms) for score in RunDir(out / arm).read_scores())
    original = (score for score in every if score.method == ORIGINAL)  # the first arm's where several have it
    scores = {label_of(ORIGINAL): {(s.metric, s.context_tokens): s for s in original}, **scores}
    paired = {(c.run, c.metric, c.context_tokens): c for c in found}
    places = sorted({place for own in scores.values() for place in own if not split_depth(place[0])[1]})
    for metric in dict.fromkeys(metric for metric, _ in places):
        lengths = [length for name, length in places if name == metric]
        rows = []
        for arm in scores:
            cells = []
            for length in lengths:
                score, beside = scores[arm].get((metric, length)), paired.get((arm, metric, length))
                cells.append(write_interval(metric, score.value, score.low, score.high) if score else "")
                written = FORMATS.get(metric, "ratio-to-")
                cells.append(write_interval(written, beside.value, beside.low, beside.high) if beside else "")
            rows.append([arm, *cells])
        head = [cell for length in lengths for cell in (format_tokens(length), f"beside {reference}")]
        print_table(metric_label(metric), ["arm", *head], rows)


def main(arguments: list[str]) -> None:
    """Run the arms that are asked for, compare, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("arms", nargs="*", help=f"some of {', '.join(ARMS)}; if left out {', '.join(USUAL)}")
    parser.add_argument("--gpus", default="", help="numbers of GPUs, as CUDA_VISIBLE_DEVICES has them")
    parser.add_argument("--reference", default="yarn", help="what all are compared with, in the tables with the first")
    parser.add_argument("--compare", action="store_true", help="run nothing, compare the arms that are in OUT")
    given = parser.parse_args(arguments)
    there = [path.parent.name for path in sorted(given.out.glob("*/scores.jsonl"))]
    arms = given.arms or ([arm for arm in there if arm.partition("@")[0] in ARMS] if given.compare else USUAL)
    if unknown := [arm for arm in [*arms, *given.reference.split(",")] if arm.partition("@")[0] not in ARMS]:
        parser.error(f"unknown arms: {', '.join(unknown)}")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.compare:
        if missing := [arm for arm in arms if arm not in there]:
            parser.error(f"{given.out} has no scores of {', '.join(missing)}")
    elif failed := run_arms(given.recipe, given.out, arms, given.gpus.split(",")):
        sys.exit(f"failed: {', '.join(failed)}; the same command goes on where they stopped")
    references = given.reference.split(",")
    found = [line for reference in references for line in compare_arms(given.out, arms, reference)]
    if given.compare and not found:
        parser.error(f"none of these arms has {given.reference} of its seed beside it: {', '.join(arms)}")
    (given.out / "arms.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in found))
    beside = [line for line in found if line.reference.partition("@")[0].removesuffix(BARE) == references[0]]
    show(given.out, arms, beside, references[0])
    print(f"report: {write_comparison([RunDir(given.out / arm) for arm in arms], given.out / 'arms.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
