"""Export to a folder that plain transformers opens: weights, tokenizer, and the factors as native ``longrope`` keys.

The folder is reopened by plain transformers in a process of its own, and its logits are compared with ours on both
sides of the native switch.
"""

import copy
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray

from longrope.errors import ExportError
from longrope.factors import RescaleFactors
from longrope.forward import token_losses
from longrope.models import LanguageModel, rescaled, save_model
from longrope.recipe import ExportRecipe, format_tokens
from longrope.rope import extension_ratio
from longrope.texts import Tokens

PROBE_TOKENS = 64  # spread over all positions, so that a wrong factor of the slowest pair shows
FARTHEST_PROBE = 2**15  # farther out the float32 angles of native longrope are too rough to compare
COMPARED_SHARE = 0.9  # of the probed positions: a few are chaotic, where float32 angles alone change the logits a lot
TOLERANCE = 0.01  # of the standard deviation of the logits
ROUNDINGS = 10  # native longrope rounds its frequencies, too, and more coarsely
REOPEN = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, probe, out, device = sys.argv[1:]
AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
inputs = {k: torch.from_numpy(v).to(device) for k, v in np.load(probe).items()}
given = dict(input_ids=inputs["tokens"], attention_mask=torch.ones_like(inputs["tokens"]), use_cache=False)
sides = [k for k in inputs if k != "tokens"]
with torch.inference_mode():
    np.savez(out, **{k: model(position_ids=inputs[k], **given).logits.cpu().numpy() for k in sides})
"""


@dataclass(frozen=True)
class ExportReport:
    """How a reopened checkpoint compares with the model that was exported.

    Attributes:
        tiers: ``single`` or ``two``.
        target_window: what its config states, in tokens.
        switch_tokens: the length above which native longrope takes its long list.
        difference_short, difference_long: how far the logits are from ours below and above the switch, weights in
            float32: at each of 63 probed positions the largest difference over the vocabulary, of these the 90 %
            quantile over the positions, as a share of the logits' standard deviation. So a position or two where
            rounding is chaotic neither fail the check nor blind it.
        rounding: the same number, the larger of the two sides, for what float32 angles alone change in ours (native
            longrope has them).
        start_tokens_dropped: start tokens that the checkpoint does not carry.
        loss_change_nats: what dropping them changed in the mean loss per token on the measuring windows.
        transformers: the version that reopened it.
    """

    tiers: str
    target_window: int
    switch_tokens: int
    difference_short: float
    difference_long: float
    rounding: float
    start_tokens_dropped: int
    loss_change_nats: float
    transformers: str


def export_hf(
    model: LanguageModel,
    factors: RescaleFactors,
    folder: str | Path,
    *,
    settings: ExportRecipe | None = None,
    windows: Tokens | None = None,
) -> ExportReport:
    """Write a checkpoint, reopen it in plain transformers, and compare.

    Args:
        model: the model, as it was loaded.
        factors: one tier of factors.
        folder: where to write.
        settings: one or two tiers, and whether start tokens may be dropped.
        windows: [W, N] measuring windows, needed to tell what dropping start tokens changes.

    Raises:
        ExportError: the factors have start tokens, or the reopened checkpoint gives other logits.
    """
    settings, folder = settings or ExportRecipe(), Path(folder)
    factors.check_spec(model.spec)
    dropped, change = factors.start_tokens, 0.0
    if dropped:
        factors, change = _without_start_tokens(model, factors, settings, windows)
    folder.mkdir(parents=True, exist_ok=True)
    short = _short_tier(model, factors, settings.tiers)
    _save(model, factors, short, folder)
    switch = _switch_tokens(model)
    card = _card(model, factors, settings.tiers, switch, dropped, change)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (below, rounding_below), (above, rounding_above) = _compare(model, factors, short, folder, switch)
    report = ExportReport(
        tiers=settings.tiers,
        target_window=factors.target_window,
        switch_tokens=switch,
        difference_short=below,
        difference_long=above,
        rounding=max(rounding_below, rounding_above),
        start_tokens_dropped=dropped,
        loss_change_nats=change,
        transformers=version("transformers"),
    )
    tolerance = max(TOLERANCE, ROUNDINGS * report.rounding)
    if not (below <= tolerance and above <= tolerance):  # so that NaN fails, too
        raise ExportError(
            f"The checkpoint in {folder} gives other logits than ours when plain transformers "
            f"{report.transformers} reopens it (by {below:.3g} and {above:.3g} of their standard deviation, "
            "below and above the switch).",
            f"At most {tolerance:.3g} is rounding.",
            f"This model type ({model.network.config.model_type}) may not support native longrope; "
            "run it with `longrope.rescaled` instead.",
        )
    return report


def dump_report(report: ExportReport) -> str:
    """The JSON text of a report."""
    return json.dumps(asdict(report), indent=1) + "\n"


def _without_start_tokens(
    model: LanguageModel, factors: RescaleFactors, settings: ExportRecipe, windows: Tokens | None
) -> tuple[RescaleFactors, float]:
    if not settings.drop_start_tokens or windows is None:
        raise ExportError(
            f"The factors leave the first {factors.start_tokens} tokens alone (start tokens).",
            "Native longrope, in transformers and every other runtime, cannot express that.",
            "Export with --drop-start-tokens and texts to measure on; the difference is measured and written down.",
        )
    plain = replace(factors, start_tokens=0)
    losses = []
    for tier in (factors, plain):
        with rescaled(model, tier):
            rows = [token_losses(model, row[None]).double() for row in windows]
        losses.append(torch.cat(rows).mean().item())
    return plain, losses[1] - losses[0]


def _short_tier(model: LanguageModel, factors: RescaleFactors, tiers: str) -> RescaleFactors:
    """What native longrope does at or below its switch; its one attention factor serves both lists."""
    if tiers == "single":
        return factors
    if model.spec.carried and model.spec.carried.rope_type == "longrope":
        raise ExportError(
            "The model carries longrope lists of its own, and two tiers were asked for.",
            "A checkpoint holds two lists; the model's short one would be lost.",
            "Export a single tier.",
        )
    return replace(factors, lambdas=tuple([1.0] * model.spec.num_pairs))


def _switch_tokens(model: LanguageModel) -> int:
    return model.spec.trained_window


def _save(model: LanguageModel, factors: RescaleFactors, short: RescaleFactors, folder: Path) -> None:
    """Save the model with the config changed for this moment only."""
    spec, config = model.spec, model.network.config
    carried = spec.carried.lambdas if spec.carried else [1.0] * spec.num_pairs
    native = {
        "rope_type": "longrope",
        "rope_theta": spec.theta,
        "factor": extension_ratio(spec, factors.target_window),
        "attention_factor": factors.attention_factor * spec.attention_factor,
        "short_factor": [a * b for a, b in zip(short.lambdas, carried, strict=True)],
        "long_factor": [a * b for a, b in zip(factors.lambdas, carried, strict=True)],
        "original_max_position_embeddings": _switch_tokens(model),
    }
    if "partial_rotary_factor" in config.rope_parameters:
        native["partial_rotary_factor"] = config.rope_parameters["partial_rotary_factor"]
    changed = {"rope_parameters": native, "max_position_embeddings": factors.target_window}
    if hasattr(config, "original_max_position_embeddings"):
        changed["original_max_position_embeddings"] = _switch_tokens(model)
    if hasattr(config, "head_dim"):  # transformers checks the lists against it, also where the config left it out
        changed["head_dim"] = spec.head_dim
    before = {name: getattr(config, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(config, name, value)
        save_model(model, folder)
    except StrictDataclassError as error:
        raise ExportError(
            f"The config of the model type {config.model_type!r} cannot state these factors: {error}.",
            "Native longrope must be among what the model type can say.",
            "Run it with `longrope.rescaled` instead.",
        ) from None
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _compare(
    model: LanguageModel, factors: RescaleFactors, short: RescaleFactors, folder: Path, switch: int
) -> list[tuple[float, float]]:
    """Logit differences below and above the switch, and what float32 angles alone make of ours there."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.network.config.vocab_size, (1, PROBE_TOKENS))
    ends = {"short": switch, "long": max(factors.target_window, switch + 1)}
    positions = {side: _spread(end)[None] for side, end in ends.items()}
    theirs = _reopen(folder, {"tokens": tokens, **positions}, str(model.device))
    single = LanguageModel(copy.deepcopy(model.network).float(), model.tokenizer, model.spec, model.name)
    given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}

    def logits(tier: RescaleFactors, side: str, precision: torch.dtype) -> NDArray[np.float32]:
        inputs = {**given, "position_ids": positions[side]}
        with rescaled(single, tier, precision=precision), torch.inference_mode():
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            output = single.network(**tensors, use_cache=False).logits
        return np.asarray(output.cpu().numpy(), dtype=np.float32)

    differences = []
    for side, tier in {"short": short, "long": factors}.items():
        ours, rounded = (logits(tier, side, precision) for precision in (torch.float64, torch.float32))
        differences.append((logit_difference(ours, theirs[side]), logit_difference(ours, rounded)))
    return differences


def logit_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """How far logits are from ours: the 90 % quantile over the positions of the largest difference at each.

    Args:
        ours: [1, PROBE_TOKENS, vocabulary]; the last position only selects the list and is left out.
        theirs: of the same shape.

    Returns:
        A share of the standard deviation of ours.
    """
    largest = np.abs(ours - theirs)[0, :-1].max(axis=-1)
    return float(np.quantile(largest, COMPARED_SHARE) / ours.std())


def _spread(end: int) -> NDArray[np.int64]:
    """Positions up to FARTHEST_PROBE, and the last one, which selects the list and whose logits are not compared."""
    compared = np.linspace(0, max(0, min(end - 1, FARTHEST_PROBE) - 1), PROBE_TOKENS - 1)
    return np.append(compared.round(), end - 1).astype(np.int64)


def _reopen(folder: Path, probe: dict[str, NDArray[Any]], device: str) -> dict[str, NDArray[np.float32]]:
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "probe.npz"), Path(scratch, "logits.npz")
        np.savez(asked, **probe)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle
        command = [sys.executable, "-c", REOPEN, str(folder), str(asked), str(answered), device]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(
                f"Plain transformers cannot reopen {folder}: {done.stderr.strip().splitlines()[-1][:300]}",
                "The checkpoint must open in a process that knows only transformers.",
                "This model type may not support native longrope; run it with `longrope.rescaled` instead.",
            )
        return dict(np.load(answered))


def _card(model: LanguageModel, factors: RescaleFactors, tiers: str, switch: int, dropped: int, change: float) -> str:
    window, trained = format_tokens(factors.target_window), format_tokens(model.spec.trained_window)
    below = {
        "single": f"The same factors serve every length, so no runtime can switch them wrongly; texts below {trained} "
        "tokens are read with them too.",
        "two": f"Up to {switch} tokens the original frequencies are used. A runtime that keeps its cache while a "
        f"sequence grows past {switch} tokens gives wrong answers; choose the window at the start.",
    }[tiers]
    lost = f"\n{dropped} start tokens of the search were dropped: {change:+.4f} nats per token.\n" if dropped else ""
    return f"""---
base_model: {Path(model.name).name}
library_name: transformers
tags: [longrope, long-context]
---
# {Path(model.name).stem}, context window {window}

The weights of `{Path(model.name).name}` with the rotary position embedding rescaled from {trained} to {window} tokens
(LongRoPE, arXiv 2402.13753) by longrope. Method: {factors.method}; attention factor {factors.attention_factor:.4f}.
The factors stand in `config.json` under `rope_parameters`.

{below}
{lost}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this-folder")
tokenizer = AutoTokenizer.from_pretrained("this-folder")
```
"""
