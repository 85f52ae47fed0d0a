"""Whether the weights of a model fit into memory, seen from its config before they are downloaded or read."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from longrope.errors import ModelError
from longrope.models.parts import as_registered

GIB = 2**30


def check_fits(source: str | Path, config: Any, dtype: torch.dtype, place: str, *, free: int | None = None) -> None:
    """Refuse a model whose weights alone are larger than the memory that is available.

    Weights are read into the memory of the CPU, and go from there to a GPU.

    Args:
        source: the model, for the error.
        config: of the part that is loaded.
        dtype: that its weights will have.
        place: the device.
        free: bytes that are available; by default those of this machine.

    Raises:
        ModelError: naming the size in other number formats, if it fits there.
    """
    with torch.device("meta"):
        count = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(as_registered(config)).parameters())
    if free is None:
        free = min(available_memory(), torch.cuda.mem_get_info(place)[0] if place.startswith("cuda") else 2**63)
    if count * dtype.itemsize <= free:
        return
    name = str(dtype).removeprefix("torch.")
    narrow = f"Take --dtype bfloat16 ({2 * count / GIB:,.1f} GiB), or t" if 2 * count <= free else "T"
    raise ModelError(
        f"The {count:,} weights of {str(source)!r} take {count * dtype.itemsize / GIB:,.1f} GiB in {name}.",
        f"They must fit into the {free / GIB:,.1f} GiB that are available.",
        f"{narrow}ake a smaller model, or a machine with more memory.",
    )


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine's memory that processes can still take: within the limit of a container, where there is one.

    Linux says what is available, in ``/proc/meminfo``, and the limit of a control group (of version 2). Elsewhere all
    memory of the machine is taken for available.
    """
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    group = root / "sys/fs/cgroup"
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    within = int(limit) - int(used) if limit.isdecimal() and used.isdecimal() else whole
    return max(0, min(1024 * int(said[1]) if said else whole, within))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
