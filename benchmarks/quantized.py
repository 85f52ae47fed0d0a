"""Are factors that are searched with weights of 8 or 4 bits good for the model in its own number format?

Run: python benchmarks/quantized.py MODEL OUT.jsonl --search FOLDER FOLDER --measure FOLDER --to 32k

MODEL is a folder, or a GGUF file, whose dequantized weights are written to a folder first, since bitsandbytes quantizes
those of a folder. A line for each number format: memory of the weights, seconds and peak of loading and the gradient
search, and perplexities of the model as it is at its trained window, and at the target with YaRN's and with the
searched factors; then that of the searched factors with the weights in their own number format.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from longrope.data import Texts, load_texts
from longrope.engine.memory import weight_bytes
from longrope.evaluation import measure
from longrope.lengths import parse_tokens
from longrope.models import LanguageModel, load_model
from longrope.recipe import GradientRecipe, MeasureRecipe, SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.search import find_factors

OWN = "auto"


def main() -> None:
    """Search and measure in each number format, its own first, and append a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--search", type=Path, required=True, nargs="+", help="halves to search and to train on")
    parser.add_argument("--measure", type=Path, required=True)
    parser.add_argument("--to", type=parse_tokens, required=True, help="target window in tokens, such as 32k")
    parser.add_argument("--dtypes", default=f"{OWN},8bit,4bit")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--windows", type=int, default=23)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_folder(asked.model, Path(scratch)) if asked.model.is_file() else asked.model
        whole = load_model(folder)
        texts = load_texts(asked.search, whole.tokenizer, measure=asked.measure)
        settings = SearchRecipe(validation_windows=3, gradient=GradientRecipe(steps=asked.steps))
        for dtype in asked.dtypes.split(","):
            line = {"model": asked.model.stem} | search(folder, dtype, whole, texts, asked.to, settings, asked.windows)
            print(line, flush=True)
            with asked.out.open("a") as out:
                out.write(json.dumps(line) + "\n")


def search(
    folder: Path, dtype: str, whole: LanguageModel, texts: Texts, target: int, settings: SearchRecipe, windows: int
) -> dict[str, Any]:
    """The line of one number format; its weights are freed at the end."""
    begun, before = time.perf_counter(), begin(whole)
    model = load_model(folder, dtype=dtype)
    found = find_factors(model, texts.search, target, settings=settings)
    line = describe(model, dtype, target) | end(model, begun, before)
    yarn = baseline_factors(model.spec, "yarn", target).factor_sets[0]
    for name, read, factors, length in (
        ("original at its own window", model, None, model.spec.trained_window),
        ("yarn", model, yarn, target),
        ("searched", model, found, target),
        ("searched, own number format", whole, found, target),
    ):
        line[name] = perplexity(read, factors, texts, windows, length)
    return line


def save_folder(file: Path, folder: Path) -> Path:
    """The dequantized weights and the tokenizer of a GGUF file, as transformers saves them."""
    model = load_model(file)
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def begin(model: LanguageModel) -> int:
    """Bytes that a GPU holds now; its peak is forgotten."""
    if model.device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(model.device)
    return torch.cuda.memory_allocated(model.device)


def end(model: LanguageModel, begun: float, before: int) -> dict[str, Any]:
    """Seconds since then, loading among them, and a GPU's peak beyond what it held."""
    cuda = model.device.type == "cuda"
    peak = (torch.cuda.max_memory_allocated(model.device) - before) / 2**30 if cuda else None
    return {"search_seconds": round(time.perf_counter() - begun, 1), "search_peak_gib": peak}


def describe(model: LanguageModel, dtype: str, target: int) -> dict[str, Any]:
    """What every line tells."""
    cuda = model.device.type == "cuda"
    return {
        "dtype": model.quantized or str(model.network.dtype),
        "asked": dtype,
        "target_tokens": target,
        "weights_mib": weight_bytes(model) / 2**20,
        "device": torch.cuda.get_device_name(model.device) if cuda else "CPU",
        "torch": torch.__version__,
        "bitsandbytes": version("bitsandbytes"),
    }


def perplexity(
    model: LanguageModel, factors: RescaleFactors | None, texts: Texts, windows: int, length: int
) -> dict[str, float]:
    """Of windows of that length of the measuring text, with its interval."""
    settings = MeasureRecipe(lengths=(length,), metrics=("perplexity",), windows=windows, tail_tokens=0)
    (score,) = measure(model, factors, texts.measure, settings=settings)
    return {"value": score.value, "low": score.low, "high": score.high, "tokens": score.num_tokens}


if __name__ == "__main__":
    main()
