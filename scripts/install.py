"""Install longrope into the environment whose Python runs this, and say before what is downloaded and how large it is.

    python scripts/install.py           the package and its dependencies: what ``make demo`` needs
    python scripts/install.py --dev     the tools and libraries of the tests, too, from scripts/lock.txt

The build of torch: where ``nvidia-smi`` lists no GPU, that for the CPU; else one with CUDA. TORCH in the environment,
such as "torch==2.13.0 --index-url ...", replaces the choice. Standard library alone: nothing is installed yet.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of builds without CUDA
SIZES = {"cpu": "0.2 GB", "cuda": "3 GB"}  # what is downloaded on Linux with an x86-64 processor
REST = {False: "the other libraries: 60 MB", True: "the libraries and tools of the tests: 0.5 GB"}
DISK = {False: {"cpu": 1.2, "cuda": 6}, True: {"cpu": 3.0, "cuda": 8}}  # GB in all


@dataclass(frozen=True)
class Torch:
    """What pip is asked for, and why."""

    arguments: tuple[str, ...]
    reason: str


def choose_torch(*, wanted: str, has_gpu: bool, system: str, index_answers: bool) -> Torch:
    """The build of torch for this machine.

    ``wanted``: what the user asked for, as arguments of pip, or "". ``system``: ``platform.system()``. Outside Linux
    the usual build has no CUDA, so nothing is to be chosen there.
    """
    if wanted:
        return Torch(tuple(shlex.split(wanted)), "as TORCH says")
    if system != "Linux":
        return Torch((TORCH,), f"the usual build for {system}")
    if has_gpu:
        return Torch((TORCH,), "a GPU was found: the build with CUDA")
    if index_answers:
        return Torch((TORCH, "--index-url", CPU_INDEX), "no GPU was found: the CPU build")
    return Torch((TORCH,), f"no GPU was found, but {CPU_INDEX} does not answer: what pip finds, maybe with CUDA")


def finds_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    program = shutil.which("nvidia-smi")
    return bool(program) and b"GPU" in subprocess.run([program, "-L"], capture_output=True, check=False).stdout  # type: ignore[list-item]


def answers(index: str) -> bool:
    """Whether an index of packages can be reached within ten seconds."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10) as page:  # noqa: S310  # an address of our own
            return bool(page.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def found_build(torch: Torch) -> str | None:
    """The file that pip would take, such as ``torch-2.13.0+cpu-cp311-...``; None where this pip cannot say."""
    options = ["--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-"]
    done = run_pip(*options, *torch.arguments, capture=True)
    try:
        return str(json.loads(done.stdout)["install"][0]["download_info"]["url"]).rsplit("/", 1)[-1].replace("%2B", "+")
    except (ValueError, LookupError):
        return None


def kind_of(file: str | None) -> str:
    """``cpu`` or ``cuda``: what a file of torch has; "" where no file is known."""
    if file is None:
        return ""
    return "cuda" if "linux" in file and "+cpu" not in file and "aarch64" not in file else "cpu"


def announce(torch: Torch, file: str | None, *, dev: bool) -> str:
    """What is downloaded, how large it is, and how to choose another build of torch."""
    kind = kind_of(file)
    size = SIZES.get(kind, "0.2 to 3 GB")
    space = f"{DISK[dev][kind]} GB" if kind else f"up to {DISK[dev]['cuda']} GB"
    return (
        f"Installing into {sys.prefix}, {space} in all; nothing outside this folder changes.\n"
        f"  1. {file or TORCH}, {size}: {torch.reason}\n"
        f"  2. {REST[dev]}\n"
        "Another build of torch: make ... TORCH='torch==2.13.0 --index-url https://...'"
    )


def run_pip(*arguments: str, capture: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run ``pip install`` of this Python; its own lines and bars show the progress."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=not capture, capture_output=capture, text=True)


def main(options: list[str]) -> None:
    """Say what comes, then install torch, then the rest."""
    wanted, has_gpu = os.environ.get("TORCH", ""), finds_gpu()
    asked = not wanted and not has_gpu and platform.system() == "Linux"
    torch = choose_torch(
        wanted=wanted, has_gpu=has_gpu, system=platform.system(), index_answers=asked and answers(CPU_INDEX)
    )
    dev = "--dev" in options
    print(announce(torch, found_build(torch), dev=dev), flush=True)
    run_pip(*torch.arguments)
    if dev:
        run_pip("--no-deps", "--require-hashes", "--requirement", str(ROOT / "scripts" / "lock.txt"))
        run_pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    else:
        run_pip("--editable", str(ROOT))
    print("Installed.", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip ended with exit code {error.returncode}; the lines above say why. The next make tries again.")
