"""The steps in order: search, tune, measure, export, in a run directory that is resumed. Read ``extension`` first."""

from longrope.pipeline.estimates import Cost, check_costs, estimate_stages, estimate_tuning, search_costs
from longrope.pipeline.exporting import export, export_again, export_file
from longrope.pipeline.extension import compare, extend, longest_window, measure_only, measured_lengths, search, tune
from longrope.pipeline.inspection import inspect
from longrope.pipeline.session import Callbacks, Session
from longrope.pipeline.stages import Progress, Task, plan_stages, plan_tasks, run_tasks, with_tuning

__all__ = [
    "Callbacks",
    "Cost",
    "Progress",
    "Session",
    "Task",
    "check_costs",
    "compare",
    "estimate_stages",
    "estimate_tuning",
    "export",
    "export_again",
    "export_file",
    "extend",
    "inspect",
    "longest_window",
    "measure_only",
    "measured_lengths",
    "plan_stages",
    "plan_tasks",
    "run_tasks",
    "search",
    "search_costs",
    "tune",
    "with_tuning",
]
