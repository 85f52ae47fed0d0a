"""Pictures of the runs to 2,097,152 tokens: perplexity and needles by length, and needles by depth and length."""

import json
from dataclasses import replace
from pathlib import Path

from tables_cells import ROOT
from tables_million import GEMMA, LAST, RUNS, TUNED, UNTRAINED, YARN

from longrope.labels import split_depth
from longrope.lengths import format_tokens
from longrope.metrics import PROSE
from longrope.report.charts.heat import Cell, HeatMap, HeatMaps, draw_heat
from longrope.report.charts.lines import draw_lines
from longrope.report.charts.svg import standalone
from longrope.report.contents import Contents, read_run
from longrope.report.palette import figure_style, style_of
from longrope.report.parts import WIDE, Way, ways_of
from longrope.report.scores import length_chart
from longrope.runs.run_dir import RunDir

HEIGHT = 340.0


def million_pictures(folder: Path = ROOT / "results") -> dict[Path, str]:
    """The pictures that the records allow, by their files; none without records of the trained model."""
    trained = {name: contents_of(folder, name) for name in (GEMMA, YARN)}
    if not trained[GEMMA]:
        return {}
    runs = [run for found in trained.values() for run in found] + contents_of(folder, UNTRAINED)
    once = {(s.source, s.metric, s.context_tokens): s for run in runs for s in run.scores}  # the original is in several
    both = replace(runs[0], scores=tuple(once.values()))
    return {folder / "2048k-by-length.svg": by_length(both), folder / "2048k-depths.svg": by_depth(trained)}


def contents_of(folder: Path, name: str) -> list[Contents]:
    """A run, and before it its weights where they were measured without it, under the same name in figures."""
    if not (folder / name / "scores.jsonl").exists():
        return []
    run, further = read_run(RunDir(folder / name)), folder / f"{name}-lengths"
    own = [score for score in run.scores if score.method == TUNED]
    if not own or not (further / "scores.jsonl").exists():
        return [run]
    by, of = own[0].chosen_by, own[0].factors_method
    found = (replace(s, method=TUNED, chosen_by=by, factors_method=of) for s in read_run(RunDir(further)).scores)
    return [replace(run, scores=tuple(found)), run]


def by_length(run: Contents) -> str:
    """The same last tokens read with more and more context, and the needles found."""
    ways = {metric: told_apart(ways_of([run], metric)) for metric in (LAST[GEMMA], PROSE)}
    shown = {
        metric: {way.label: [[s.context_tokens, round(s.value, 3)] for s in way.scores] for way in found}
        for metric, found in ways.items()
    }
    title = f"{RUNS[GEMMA]}: perplexity of the same last 32,767 tokens, and needles in prose"
    root = draw_lines([length_chart(found) for found in ways.values() if found], WIDE, HEIGHT, title=title)
    return standalone(root, figure_style(), json.dumps(shown))


def told_apart(ways: list[Way]) -> list[Way]:
    """The same, a further training in a colour of its own."""
    trained = [way for way in ways if way.scores[0].method == TUNED]
    return [replace(way, style=style_of(TUNED, 2)) if way in trained[1:] else way for way in ways]


def by_depth(trained: dict[str, list[Contents]]) -> str:
    """The share of needles that each training finds at each depth of each length."""
    maps: list[HeatMap] = []
    for name, runs in trained.items():
        scores = [s for run in runs for s in run.scores if s.method == TUNED]
        cells: dict[tuple[str, str], Cell] = {}
        for score in sorted(scores, key=lambda score: (score.context_tokens, score.metric)):
            task, depth = split_depth(score.metric)
            if task == PROSE and depth:
                place = f"{float(depth):.0%}", format_tokens(score.context_tokens)
                cells[place] = Cell(score.value, len(cells), score.num_windows)
        maps += [HeatMap(RUNS[name], cells)] if cells else []
    places = [place for one in maps for place in one.cells]
    rows = tuple(sorted({row for row, _ in places}, key=lambda row: float(row[:-1])))
    columns = tuple(dict.fromkeys(column for _, column in places))
    heat = HeatMaps(rows, columns, "depth", "tokens read at once", tuple(maps))
    root = draw_heat(heat, WIDE, description="Needles in prose found, in percent, by depth and length")
    shown = {m.title: {f"{row} of {at}": round(cell.share, 3) for (row, at), cell in m.cells.items()} for m in maps}
    return standalone(root, figure_style(), json.dumps(shown))
