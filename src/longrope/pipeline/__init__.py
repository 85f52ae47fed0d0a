"""The steps in order: search, tune, measure, export, in a run directory that is resumed. Read ``extension`` first."""

from longrope.pipeline.callbacks import Callbacks, check_tracker, together, tracking
from longrope.pipeline.estimates import Cost, estimate_stages, search_costs
from longrope.pipeline.exporting import export_again, export_model
from longrope.pipeline.extension import compare, extend, search, tune
from longrope.pipeline.inspection import inspect
from longrope.pipeline.measuring import longest_window, measure_only
from longrope.pipeline.search_end import describe_search
from longrope.pipeline.session import Session
from longrope.pipeline.stages import plan_stages, plan_tasks, run_tasks, with_tuning
from longrope.pipeline.use_costs import report_answer, report_checks

__all__ = [
    "Callbacks",
    "Cost",
    "Session",
    "check_tracker",
    "compare",
    "describe_search",
    "estimate_stages",
    "export_again",
    "export_model",
    "extend",
    "inspect",
    "longest_window",
    "measure_only",
    "plan_stages",
    "plan_tasks",
    "report_answer",
    "report_checks",
    "run_tasks",
    "search",
    "search_costs",
    "together",
    "tracking",
    "tune",
    "with_tuning",
]
