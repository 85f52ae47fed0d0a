"""Extend the context window of a RoPE language model: search rescale factors, measure the result, export a checkpoint.

    model   = longrope.load_model("folder-or-hub-name-or-model.gguf")
    texts   = longrope.load_texts(["books/"], model.tokenizer)
    factors = longrope.find_factors(model, texts.search, target_tokens=65_536)
    scores  = longrope.measure(model, factors, texts.measure)
    longrope.export_hf(model, factors, "extended/")

Names are imported when they are first used, so ``import longrope`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrope.data import Texts, load_texts
    from longrope.errors import LongRopeError
    from longrope.evaluation import measure
    from longrope.exports import export_gguf, export_hf, patch_gguf
    from longrope.generation import GenerationSettings, generate
    from longrope.models import LanguageModel, build_model, build_tokenizer, load_model, read_spec, rescaled
    from longrope.pipeline import Callbacks, compare, extend, inspect
    from longrope.recipe import Recipe, load_recipe
    from longrope.report import write_report
    from longrope.rope import FactorTable, RescaleFactors, RopeSpec, baseline_factors, load_factors
    from longrope.runs.run_dir import RunDir
    from longrope.search import find_factors
    from longrope.tuning import fine_tune
    from longrope.verification.checking import verify

__version__ = "0.1.0"
_HOMES = {
    name: module
    for module, names in {
        "models": "build_model build_tokenizer LanguageModel load_model read_spec rescaled",
        "errors": "LongRopeError",
        "exports": "export_gguf export_hf patch_gguf",
        "rope": "FactorTable RescaleFactors baseline_factors load_factors RopeSpec",
        "generation": "GenerationSettings generate",
        "evaluation": "measure",
        "pipeline": "Callbacks compare extend inspect",
        "report": "write_report",
        "recipe": "Recipe load_recipe",
        "runs.run_dir": "RunDir",
        "search": "find_factors",
        "data": "Texts load_texts",
        "tuning": "fine_tune",
        "verification.checking": "verify",
    }.items()
    for name in names.split()
}
__all__ = [
    "Callbacks",
    "FactorTable",
    "GenerationSettings",
    "LanguageModel",
    "LongRopeError",
    "Recipe",
    "RescaleFactors",
    "RopeSpec",
    "RunDir",
    "Texts",
    "baseline_factors",
    "build_model",
    "build_tokenizer",
    "compare",
    "export_gguf",
    "export_hf",
    "extend",
    "find_factors",
    "fine_tune",
    "generate",
    "inspect",
    "load_factors",
    "load_model",
    "load_recipe",
    "load_texts",
    "measure",
    "patch_gguf",
    "read_spec",
    "rescaled",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'longrope' has no attribute {name!r}")
    return getattr(import_module(f"longrope.{_HOMES[name]}"), name)
