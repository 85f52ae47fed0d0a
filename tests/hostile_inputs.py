"""Careless and hostile inputs: files that commands read, what may be wrong with each of them, and bad options."""

import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pico

from longrope.models import read_spec
from longrope.recipe import Recipe, SearchRecipe, dump_recipe
from longrope.rope import RescaleFactors, dump_factors

# What is wrong with a file: the content that takes the place of its own, or what is done with its path.
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda whole: whole[: len(whole) // 2],
    "binary": lambda _: bytes(range(256)) * 4,
    "no UTF-8": lambda whole: whole[:20] + b"\xff\xfe" + whole[20:],
    "nested": lambda _: b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "nested tables": lambda _: b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"\n",
    "5,000 digits": lambda _: b'{"a": ' + b"9" * 5000 + b"}\n",
    "list": lambda _: b"[5]\n",
    "table": lambda _: b'{"a": {"b": []}}\n',
    "null": lambda _: b"null\n",
    "control characters": lambda _: b'{"\\u001b]0;title\\u0007": "\\u001b[31m", "method": "[/red]"}\n',
    "raw control characters": lambda _: b"\x1b]0;title\x07\x1b[31m\n",
}
PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
}
SMALL = ("torn", "nested", "list", "raw control characters", "pipe", "device", "folder")  # for readers that take longer
TEXTS = ("empty", "torn", "binary", "no UTF-8", "raw control characters", *PLACES)


@dataclass(frozen=True)
class Reader:
    """A file that a command reads.

    Attributes:
        name: of the file in the working directory.
        command: arguments of longrope that reach its reader.
        wrong: names of what is tried.
    """

    name: str
    command: str
    wrong: tuple[str, ...] = (*CONTENTS, *PLACES)


MEASURE = "--data texts --lengths 64 --metrics perplexity"
MODEL = f"measure model {MEASURE}"
READERS = (
    Reader("model/config.json", "inspect model"),
    Reader("model/tokenizer.json", MODEL, SMALL),
    Reader("model/tokenizer_config.json", MODEL, SMALL),
    Reader("model/model.safetensors", MODEL, SMALL),
    Reader("model/adapter_config.json", "inspect model", SMALL),
    Reader("model/tuned_on.json", MODEL, SMALL),
    Reader("model.gguf", "inspect model.gguf", (*SMALL, "binary", "empty")),
    Reader("factors.json", f"measure model {MEASURE} --factors factors.json"),
    Reader("recipe.toml", "search --recipe recipe.toml --out run"),
    Reader("old/recipe.toml", "report old"),
    Reader("old/scores.jsonl", "report old"),
    Reader("old/trials.jsonl", "report old"),
    Reader("old/train.jsonl", "report old", SMALL),
    Reader("old/rope.json", "report old"),
    Reader("old/provenance.json", "report old", SMALL),
    Reader("old/costs.json", "report old"),
    Reader("old/scan.json", "report old", SMALL),
    Reader("old/export.json", "report old", SMALL),
    Reader("old/factors.json", "report old", SMALL),
    Reader("old/schedule.txt", "report old", SMALL),
    Reader("old/report.html", "report old", tuple(PLACES)),
    Reader("page.html", "report old --out page.html", tuple(PLACES)),
    Reader("run/.lock", "search --recipe recipe.toml --out run", tuple(PLACES)),
    Reader("run/trials.jsonl", "search --recipe recipe.toml --out run", SMALL),
    Reader("run/provenance.json", "search --recipe recipe.toml --out run", SMALL),
    Reader("text.txt", f"measure model {MEASURE} --data text.txt", TEXTS),
    Reader("tokens.npy", f"measure model {MEASURE} --data tokens.npy", (*SMALL, "binary", "empty")),
    Reader("text.gz", f"measure model {MEASURE} --data text.gz", SMALL),
)
OPTIONS = (
    *(
        "inspect|",
        "inspect|  ",
        f"inspect|{'x' * 5000}",
        f"inspect|{'x/' * 500}",
        "inspect|\x1b[31mred",
        "inspect|a\nb",
    ),
    *("inspect|model|--to|" + "9" * 5000, "inspect|model|--to|9007199254740993", "inspect|model|--to|99999999m"),
    *("inspect|model|--to|-1", "inspect|model|--to|", "inspect|model|--rope-table|[red]x[/nope]", "inspect|/dev/zero"),
    *(
        "inspect|model|--trained-window|" + "9" * 400,
        "inspect|model/config.json",
        "inspect|hf://",
        "inspect|hf://a/b/../c",
    ),
    *(
        "measure|model|--data|",
        "measure|model|--data=",
        "measure|model|--data|/proc/self/mem",
        "measure|model|--data|/dev/zero",
    ),
    *(
        "measure|model|--data|texts|--device|meta",
        "measure|model|--data|texts|--device|cuda:99",
        "measure|model|--data|texts|--out|",
    ),
    *(
        "measure|model|--data|texts|--lengths|,",
        "measure|model|--data|texts|--metrics|,",
        "measure|model|--data|texts|--metrics|",
    ),
    *(
        "measure|model|--data|texts|--metrics|harness:x.yaml",
        "measure|model|--data|texts|--set|measure.windows=" + "9" * 5000,
    ),
    *(
        "measure|model|--data|texts|--set|measure.tail_tokens=-1",
        "measure|model|--data|texts|--factors|",
        "report|",
        "report|/dev",
    ),
    *(
        "measure|model|--data|texts|--dtype|evil",
        "measure|model|--data|texts|--seed|99999999999999999999",
        "report|old|old|--out|texts",
    ),
    *(
        "extend|model|--to|256|--data|texts|--out|file/run",
        "extend|model|--to|256|--data|texts|--out|/dev/null",
        "extend|--recipe|",
    ),
    *("extend|model|--to|256|--data|texts|--out|/proc/run", "extend|model|--to|256|--data|texts|--out|" + "x" * 300),
    *("extend|model|--to|256|--data|texts|--set|stages=" + "[" * 5000, "extend|model|--to|256|--data|texts|--set|=1"),
    *(
        "extend|model|--to|256|--data|texts|--set|search.gradient.learning_rate=1e999",
        "search|model|--to|256|--data|nul",
    ),
    *("export|--model|model|--factors|factors.json|--out|x|--base-model|<script>", "export|old|--to|[red]"),
    *(
        "export|--model|model|--factors|factors.json|--to|gguf|--out|/dev/null",
        "verify|",
        "verify|/dev/zero",
        "generate||--prompt|x",
    ),
    *(
        "generate|model|--prompt|x|--document|/dev/zero",
        "generate|model|--prompt|x|--document|texts",
        "generate|model|--prompt|x|--cache|",
    ),
)


def make_files(folder: Path) -> None:
    """Fill a folder with unharmed files of every kind that a reader reads."""
    pico.save_pico(folder / "model")
    pico.save_texts(folder / "pairs")
    (folder / "pairs").joinpath("search").rename(folder / "texts")
    spec = read_spec(pico.make_network().config)
    factors = dump_factors(RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, spec.fingerprint))
    recipe = Recipe("model", 256, ("texts",), search=SearchRecipe(method="pi"))
    text = next((folder / "texts").rglob("*.txt")).read_bytes()
    contents = {
        "factors.json": factors.encode(),
        "recipe.toml": dump_recipe(recipe).encode(),
        "old/recipe.toml": dump_recipe(recipe).encode(),
        "old/factors.json": factors.encode(),
        "old/scores.jsonl": json.dumps(SCORE).encode() + b"\n",
        "old/trials.jsonl": json.dumps(TRIAL).encode() + b"\n",
        "file": b"",
        "text.txt": text,
        "text.gz": gzip.compress(text),
        "nul": b"\0" * 1000,
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    np.save(folder / "tokens.npy", np.arange(200) % 300)
    pico.save_gguf(folder / "model.gguf", pico.make_network())


SCORE = {
    **dict.fromkeys(("value", "low", "high", "seconds"), 1.5),
    **dict.fromkeys(("context_tokens", "num_tokens", "num_windows"), 64),
    **dict.fromkeys(("method", "model", "texts_fingerprint", "factors_fingerprint"), "pi"),
    "metric": "perplexity",
    "seed": 0,
}
TRIAL = {
    **dict.fromkeys(("method", "model", "texts_fingerprint", "kind", "origin"), "pi"),
    **dict.fromkeys(("step", "start_tokens", "num_tokens", "token_passes"), 1),
    **dict.fromkeys(("attention_factor", "loss_nats", "seconds"), 1.5),
    "lambdas": [1.0, 2.0],
}


def harm(path: Path, wrong: str) -> None:
    """Put what is wrong in the place of a file."""
    content = path.read_bytes() if path.is_file() else b'{"a": 1, "b": 2}\n'
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if wrong in PLACES:
        PLACES[wrong](path)
    else:
        path.write_bytes(CONTENTS[wrong](content))


def damaged_checkpoints(path: Path) -> Iterator[tuple[str, bytes]]:
    """A safetensors file with headers that lie, by what they lie about."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    first = next(name for name in header if name != "__metadata__")
    changes = {
        "a huge header": struct.pack("<Q", 2**62) + content[8:],
        "no tensors": _packed({}, b""),
        "a tensor of another type": _packed({**header, first: {**header[first], "dtype": "EVIL"}}, body),
        "a tensor beyond the end": _packed({**header, first: {**header[first], "data_offsets": [0, 2**50]}}, body),
        "a tensor missing": _packed({k: v for k, v in header.items() if k != first}, body),
        "not finite": content[: 8 + size] + struct.pack("<f", float("nan")) * (len(body) // 4),
    }
    yield from changes.items()


def _packed(header: dict[str, object], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
