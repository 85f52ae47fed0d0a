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
    "build_model": "models",
    "build_tokenizer": "models",
    "LongRopeError": "errors",
    "export_gguf": "exports",
    "export_hf": "exports",
    "patch_gguf": "exports",
    "FactorTable": "rope",
    "RescaleFactors": "rope",
    "baseline_factors": "rope",
    "load_factors": "rope",
    "GenerationSettings": "generation",
    "generate": "generation",
    "measure": "evaluation",
    "LanguageModel": "models",
    "load_model": "models",
    "read_spec": "models",
    "rescaled": "models",
    "Callbacks": "pipeline",
    "compare": "pipeline",
    "extend": "pipeline",
    "inspect": "pipeline",
    "write_report": "report",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "RopeSpec": "rope",
    "RunDir": "runs.run_dir",
    "find_factors": "search",
    "Texts": "data",
    "load_texts": "data",
    "fine_tune": "tuning",
    "verify": "verification.checking",
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
