"""Every command line of the README runs, in its order, with a pico model and small numbers for its names."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pico
import pytest
from commands import Command
from documents import DOCS
from serving import Stand, serving

README = DOCS["README.md"]
EVOLUTION = {"population": 2, "parents": 2, "mutations": 2, "crossovers": 1, "generations": 1, "windows": 1}
SEARCH = (
    *("search.gradient.steps=1", "search.gradient.scan_windows=1", "search.validation_windows=1"),
    *(f"search.evolution.{name}={number}" for name, number in EVOLUTION.items()),
    "export.drop_start_tokens=true",
)
MEASURE = ("measure.windows=1", "measure.passkeys=2", "measure.tail_tokens=0")
SMALL = {  # settings that make a command short
    "extend": (*SEARCH, *MEASURE, "measure.metrics=perplexity"),
    "search": SEARCH,
    "tune": ("tune.steps=1", "tune.warmup_steps=0", "tune.batch_windows=1", "export.drop_start_tokens=true"),
    "measure": MEASURE,
    "compare": (*SEARCH, *MEASURE, "measure.metrics=perplexity", "measure.scan_passes=4"),
}
OUT = {"extend": "extended", "search": "found", "tune": "tuned", "compare": "compared"}


def usage(line: str) -> list[str]:
    """A command without the words that describe it: names in capitals, options, and what follows these."""
    words = line.split()[1:]
    taken = words[:1]
    for before, word in pairwise(words):
        if not (word.startswith("--") or before.startswith("--") or re.match(r"[A-Z]", word)):
            break
        taken.append(word)
    return taken


def variants(words: list[str]) -> Iterator[list[str]]:
    """A command for each of several values, as in ``--to hf|gguf``."""
    chosen = next((word for word in words if "|" in word), "")
    for one in chosen.split("|"):
        yield [one if word == chosen else word for word in words]


def command_lines() -> list[list[str]]:
    """All commands of longrope in blocks of the README."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("longrope ")]
    return [words for line in lines for words in variants(usage(line))]


def test_commands_are_read_without_their_descriptions() -> None:
    assert (
        usage("longrope tune  MODEL --factors F --to 64k  train the weights")
        == "tune MODEL --factors F --to 64k".split()
    )
    assert list(variants(["export", "--to", "a|b"])) == [["export", "--to", "a"], ["export", "--to", "b"]]
    assert len({words[0] for words in command_lines()}) >= 12


@pytest.mark.slow
@pytest.mark.usefixtures("unopened")
def test_every_command_runs(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models and texts are small, what is sent is kept back, and the client is a server in this process."""
    sent: list[str] = []

    def upload(path: Path, repo: str, **_: object) -> str:
        sent.append(f"{path} {repo}")
        return repo

    monkeypatch.setattr("longrope.exports.upload", upload)
    Path("document.txt").write_text(pico.make_text(60))
    names = {"MODEL": str(pico_folder), "64k": "512", "8k,64k": "256,512", "books/": str(text_folders[0])}
    names |= {"other-books/": str(text_folders[1]), "PATH…": str(text_folders[0]), "P": "What?", "RUN": "found"}
    names |= {"PATH": "found/hf", "RUN...": "extended", "OWNER/NAME": "owner/name"}
    for words in command_lines():
        factors = {"--factors": "found", "--document": "document.txt"}
        given = [
            factors[before] if word == "F" else names.get(word, word)
            for before, word in zip(["", *words], words, strict=False)
        ]
        given += [part for text in SMALL.get(words[0], ()) for part in ("--set", text)]
        if out := OUT.get(words[0]):
            given += ["--out", f"{out}-again" if Path(out).exists() else out]
        given += ["--drop-start-tokens"] if words[0] == "export" else []
        given += ["--factors", "found", "--max-new-tokens", "4"] if words[0] == "generate" else []
        if words[0] == "verify":
            with serving(Stand(Path("found/hf").resolve(), newer=True)) as address:
                result = command(*(address if word == "CLIENT" else word for word in given))
        else:
            result = command(*given)
        assert result.code == 0, (words, result.err)
    assert sent == ["found owner/name"]
