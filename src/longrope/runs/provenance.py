"""What a report shows and no other file holds, written when the run happens: ``rope.json`` and ``provenance.json``."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from longrope import registry
from longrope.errors import RunError
from longrope.rope import RopeSpec, baseline_factors
from longrope.runs.files import on_main, read_json_of_run
from longrope.runs.run_dir import RunDir

LIBRARIES = ("torch", "transformers", "numpy")


def describe_rope(spec: RopeSpec, target_tokens: int) -> dict[str, Any]:
    """The geometry of a RoPE; of each pair the wavelength, and its factors by each formula for a target window."""
    tables = {name: baseline_factors(spec, name, target_tokens).factor_sets[-1] for name in registry.formulas()}
    pairs = [
        {
            "pair": i,
            "wavelength_tokens": float(spec.wavelengths[i]),
            "turns_in_window": float(spec.trained_window / spec.wavelengths[i]),
            **{name: factor_set.lambdas[i] for name, factor_set in tables.items()},
        }
        for i in range(spec.num_pairs)
    ]
    return {
        "head_dim": spec.head_dim,
        "rotary_dim": spec.rotary_dim,
        "theta": spec.theta,
        "trained_window": spec.trained_window,
        "cos_sin_layout": spec.pairing,
        "carried_scaling": spec.native.rope_type if spec.native else "none",
        "attention_factor": spec.attention_factor,
        "pairs_that_turn_fully": spec.critical_pair,
        "fingerprint": spec.fingerprint,
        "target_window": target_tokens,
        "methods": [
            {
                "method": name,
                "attention_factor": factor_set.attention_factor,
                "formula": registry.METHODS[name].attention,
            }
            for name, factor_set in tables.items()
        ],
        "pairs": pairs,
    }


def record_rope(run: RunDir, spec: RopeSpec, target_tokens: int) -> None:
    """Write ``rope.json``."""
    run.write_text(run.rope, json.dumps(describe_rope(spec, target_tokens), indent=1) + "\n")


def record_session(
    run: RunDir,
    *,
    device: str,
    choices: Sequence[str],
    model: str = "",
    weights: str = "",
    base: str = "",
    number_format: str = "",
    one_format: bool = False,
) -> None:
    """Add this session to ``provenance.json``, unless the last one there differs from it in nothing but the time.

    Args:
        run: where.
        device: what the model is on, by its own name.
        choices: the automatic choices with their reasons.
        model: the name that it was loaded by.
        weights: what names its weights.
        base: what names the weights of the original model that it is compared with, where these are others.
        number_format: of its weights in memory, such as ``bfloat16`` or ``4bit``.
        one_format: refuse another number format than an earlier session had.

    Raises:
        RunError: the model of this name had other weights in an earlier session, was compared with others, or had
            another number format.
    """
    named = {"model": model, "weights": weights} if weights else {}
    named |= {"base": base} if base else {}
    named |= {"dtype": number_format} if named else {}
    on_main(partial(_record_session, run, device, choices, named, one_format=one_format))


def _record_session(
    run: RunDir, device: str, choices: Sequence[str], named: dict[str, str], *, one_format: bool
) -> None:
    sessions = read_json_of_run(run.provenance, list) or []
    for before in sessions:
        if named and before.get("model") == named["model"]:
            _check_same_model(run, before, named, one_format=one_format)
    session = {
        "command": describe_command(sys.argv),
        "python": platform.python_version(),
        "longrope": sys.modules["longrope"].__version__,  # a step imports nothing above it, but the package is there
        **{name: str(import_module(name).__version__) for name in LIBRARIES},  # torch's names its build
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        **named,
        "choices": list(choices),
    }
    if not sessions or {**session, "began": sessions[-1].get("began")} != sessions[-1]:
        sessions.append({**session, "began": datetime.now(UTC).isoformat(timespec="seconds")})
        run.write_text(run.provenance, json.dumps(sessions, indent=1) + "\n")


def _check_same_model(run: RunDir, before: Mapping[str, str], now: Mapping[str, str], *, one_format: bool) -> None:
    """Refuse a model that an earlier session had with other weights, beside another, or in another number format."""
    if before.get("weights", "") != now["weights"]:
        raise RunError(
            f"The weights and the RoPE of {now['model']!r} are {now['weights']}, and {run.path} was begun with "
            f"{before.get('weights')}.",
            "A run goes on with those that began it: its trials and samples are of them.",
            "Bring them back, give --trained-window and --rope-table as before, or another directory with --out.",
        )
    if before.get("base", "") != now.get("base", ""):
        raise RunError(
            f"{now['model']!r} is to be compared with {_original(now)}, and in {run.path} it was with "
            f"{_original(before)}.",
            "A run goes on with the original model that began it: its scores are shares of that one's.",
            "Give the same --base, or another directory with --out.",
        )
    if one_format and before.get("dtype", now["dtype"]) != now["dtype"]:
        raise RunError(
            f"{now['model']!r} is in {now['dtype']}, and the scores in {run.path} are of {before['dtype']}.",
            "Scores are looked up where they were measured before, so all in a directory have one number format.",
            f"Give another directory with --out, or --dtype {before['dtype']}.",
        )


def _original(session: Mapping[str, str]) -> str:
    return f"the weights {session['base']}" if "base" in session else "itself without factors"


def describe_command(arguments: Sequence[str]) -> str:
    """The command line of a process, from its arguments; a program is named without its folder."""
    program = Path(arguments[0])
    name = "python -m longrope" if program.name == "__main__.py" else program.name
    return f"{name} {shlex.join(arguments[1:])}".strip()
