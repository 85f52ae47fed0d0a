"""How a search alone ends: its loss beside those of the formulas that it looked at, and what to type next."""

import shlex
from collections.abc import Iterable

from longrope import registry
from longrope.labels import label_of
from longrope.models.quantized import QUANTIZED
from longrope.recipe import Recipe
from longrope.runs.records import Trial, made_by_search
from longrope.runs.run_dir import RunDir


def describe_search(run: RunDir, recipe: Recipe) -> list[str]:
    """The lines that follow a search: losses on held-out windows, and the next commands."""
    lines = [describe_losses(run.read_trials(), registry.searches().get(recipe.search.method, recipe.search.method))]
    model, path = shlex.quote(recipe.model), shlex.quote(f"{run.path}")
    function = f" --preprocess {shlex.quote(run.preprocess)}" if run.preprocess else ""
    measured, exported = "", f"{path}{function}"
    loading = f" --trained-window {recipe.trained_window}" * bool(recipe.trained_window)
    loading += f" --rope-table {shlex.quote(recipe.rope_table)}" * bool(recipe.rope_table)
    if recipe.dtype in QUANTIZED:  # an export loads the model in its own number format
        folder = shlex.quote(f"{run.path / 'hf'}")
        measured, exported = f" --dtype {recipe.dtype}", f"--model {model} --factors {path} --out {folder}{loading}"
    return [
        *filter(None, lines),
        f"next: longrope measure {model} --factors {path} --measure-data OTHER-TEXTS{measured}{loading}",
        f"      longrope export {exported}",
    ]


def describe_losses(trials: Iterable[Trial], method: str) -> str:
    """The lowest loss of a search on the held-out windows, and those of the formulas there; empty without any."""
    lowest: dict[str, float] = {}
    own = [trial for trial in trials if trial.method == method]
    for trial, made in zip(own, made_by_search(own), strict=True):
        if trial.kind == "validation":
            origin = trial.origin if trial.origin in registry.starts() and not made else ""
            lowest[origin] = min(trial.loss_nats, lowest.get(origin, trial.loss_nats))
    if not lowest:
        return ""
    found = min(lowest.values())
    formulas = sorted((loss, label_of(name)) for name, loss in lowest.items() if name)
    beside = "".join(f"; {label} {loss:.4f}" for loss, label in formulas)
    return f"loss on held-out windows: {found:.4f} nats a token at the lowest{beside}"
