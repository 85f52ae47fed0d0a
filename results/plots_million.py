"""Pictures of the runs to 2,097,152 tokens: perplexity and needles by length, and needles by depth and length."""

import json
from dataclasses import replace
from pathlib import Path

from tables_cells import ROOT
from tables_million import LAST, RUNS, TUNED, UNTRAINED

from longrope.labels import split_depth
from longrope.lengths import format_tokens
from longrope.metrics import PROSE
from longrope.report.charts.heat import Cell, HeatMap, HeatMaps, draw_heat
from longrope.report.charts.lines import draw_lines
from longrope.report.charts.svg import standalone
from longrope.report.contents import Contents, read_run
from longrope.report.palette import figure_style
from longrope.report.parts import WIDE, ways_of
from longrope.report.scores import length_chart
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

RUN = "gemma3-2048k"
HEIGHT = 340.0


def million_pictures(folder: Path = ROOT / "results") -> dict[Path, str]:
    """The pictures that the records allow, by their files; none without records of the trained model."""
    runs = [read_run(RunDir(folder / name)) for name in (RUN, UNTRAINED) if (folder / name / "scores.jsonl").exists()]
    own = [score for run in runs for score in run.scores if score.method == TUNED]
    if not own:
        return {}
    further = folder / f"{RUN}-lengths"  # the same weights, measured without their run
    if (further / "scores.jsonl").exists():
        by, of = own[0].chosen_by, own[0].factors_method
        found = (replace(s, method=TUNED, chosen_by=by, factors_method=of) for s in read_run(RunDir(further)).scores)
        apart = replace(runs[0], scores=tuple(found))
        runs, own = [apart, *runs], [*apart.scores, *own]
    once = {(s.method, s.metric, s.context_tokens): s for run in runs for s in run.scores}  # the original is in both
    both = replace(runs[0], scores=tuple(once.values()))
    return {folder / "2048k-by-length.svg": by_length(both), folder / "2048k-depths.svg": by_depth(own)}


def by_length(run: Contents) -> str:
    """The same last tokens read with more and more context, and the needles found."""
    ways = {metric: ways_of([run], metric) for metric in (LAST[RUN], PROSE)}
    shown = {
        metric: {way.label: [[s.context_tokens, round(s.value, 3)] for s in way.scores] for way in found}
        for metric, found in ways.items()
    }
    title = f"{RUNS[RUN]}: perplexity of the same last 32,767 tokens, and needles in prose"
    root = draw_lines([length_chart(found) for found in ways.values() if found], WIDE, HEIGHT, title=title)
    return standalone(root, figure_style(), json.dumps(shown))


def by_depth(scores: list[Score]) -> str:
    """The share of needles that the trained model finds at each depth of each length."""
    cells: dict[tuple[str, str], Cell] = {}
    for score in sorted(scores, key=lambda score: (score.context_tokens, score.metric)):
        task, depth = split_depth(score.metric)
        if task == PROSE and depth:
            place = f"{float(depth):.0%}", format_tokens(score.context_tokens)
            cells[place] = Cell(score.value, len(cells), score.num_windows)
    rows = tuple(sorted({row for row, _ in cells}, key=lambda row: float(row[:-1])))
    columns = tuple(dict.fromkeys(column for _, column in cells))
    heat = HeatMaps(rows, columns, "depth", "tokens read at once", (HeatMap(RUNS[RUN], cells),))
    root = draw_heat(heat, WIDE, description="Needles in prose found, in percent, by depth and length")
    shown = {f"{row} of {column}": round(cell.share, 3) for (row, column), cell in cells.items()}
    return standalone(root, figure_style(), json.dumps(shown))
