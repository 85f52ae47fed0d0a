"""Tiny models, texts and recipes, with which benchmarks/gpu.py --pico runs all of its parts on a CPU in minutes.

Models and texts are those of the tests. In commands and recipes each length of the real ones stands for a shorter one,
of the same order; counts of steps, candidates, windows and prompts are small.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
THOUSANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # of tokens
TOKENS = (1344, 1360, 1376, 1408, 1472, 1536, 1792, 2048, 2304, 2560, 3072, 6144, 7168, 7680)  # here
LENGTHS = dict(zip(THOUSANDS, TOKENS, strict=True))
COUNTS = {"warmup_steps": 1, "population": 4, "parents": 2, "mutations": 1, "crossovers": 1, "generations": 1}
COUNTS |= {"steps": 2, "validation_windows": 1, "windows": 3, "needles": 10, "passkeys": 10, "ruler_prompts": 1}
WORDS = (
    (r"(?<![\w.-])([1-9]\d*)([km])(?![\w.-])", lambda m: shorter(int(m[1]) * (1024 if m[2] == "m" else 1), m[0])),
    (r"(?<![\w.-])(4096|8192|32768|65536)(?![\w.-])", lambda m: shorter(int(m[1]) // 1024, m[0])),
    (rf"(?<!\w)({'|'.join(COUNTS)})( ?= ?)\d+", lambda m: f"{m[1]}{m[2]}{COUNTS[m[1]]}"),
    (r"qwen3-0\.6b|llama-3-8b|smollm2-135m", lambda _: "pico"),
    (r"--device cuda --dtype bfloat16", lambda _: ""),
    (r"(recipes/arms\.py \S+ \S+\s+)(?:\\\s+)?([\w@-]+ [\w@-]+)[\w@ -]*(?= --gpus|\s+\\)", lambda m: m[1] + m[2]),
    (
        r"results/evidence-64k/compare/factors-longrope-gradient\.json",
        lambda _: "runs/evidence-64k/searched/factors.json",
    ),
)


def shorter(thousands: int, written: str) -> str:
    """What stands for a length."""
    return f"{LENGTHS[thousands]}" if thousands in LENGTHS else written


def small(text: str) -> str:
    """A command or a recipe with small numbers."""
    for pattern, put in WORDS:
        text = re.sub(pattern, put, text)
    return text


def smaller(part: Any, gpus: int) -> Any:
    """A part with small numbers, on no more GPUs than so many."""
    run = small(part.run)
    if part.name == "tests":
        run = re.sub(r"tests/engine.*-n 4", "tests/engine/test_shrinking_cuda.py -q", run)
    if part.name == "step":
        run = re.sub(r"(trl|trainer)[\w-]*fa4,?|trl,", "", run).replace(",/", "/").rstrip(",")
    return replace(part, run=run, gpus=min(part.gpus, gpus))


def make_inputs(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Write models, texts and recipes, unless they are there; return the paths of models and texts by their names."""
    import pico

    found = {name: folder / place for name, place in names.items()}
    if (folder / "recipes").is_dir():
        return found
    folder.mkdir(parents=True)
    pico.save_gguf(found["smollm2"], pico.make_network(max_position_embeddings=LENGTHS[8], num_hidden_layers=1))
    layers: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32}
    pico.save_pico(found["gemma3"], "gemma3_text", max_position_embeddings=LENGTHS[32], head_dim=16, **layers)
    for i, kind in enumerate(("prose", "manual", "code")):
        for part in ("search", "train", "measure"):
            save(found["evidence"] / part / f"{kind}.npy", 2 * LENGTHS[64], f"{i}{part}")
            place = Path(part) / kind / "joined.npy" if part == "measure" else Path(part) / f"{kind}.npy"
            for name in ("gemma3-2048k", "smollm2-2048k"):
                save(found[name] / place, LENGTHS[4096], f"{i}{part}")
    (found["gemma3-2048k"] / "document.txt").write_text(pico.make_text(2000, 99))
    recipes = folder / "recipes"
    recipes.mkdir()
    for path in (ROOT / "recipes").iterdir():
        if path.is_file():
            text = path.read_text()
            (recipes / path.name).write_text(text if path.suffix == ".py" else small(text))
    return found


def save(path: Path, tokens: int, seed: str) -> None:
    """An array of so many tokens of a text of its own."""
    import pico

    path.parent.mkdir(parents=True, exist_ok=True)
    text = pico.make_text(tokens, sum(map(ord, seed)) * 7 + len(seed))
    np.save(path, np.asarray(pico.make_tokenizer()(text)["input_ids"][:tokens], np.uint16))
