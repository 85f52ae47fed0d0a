"""Export to a folder that plain transformers opens: weights, tokenizer, and the factors as native ``longrope`` keys.

The folder is reopened by plain transformers in a process of its own, and its logits are compared with ours on both
sides of the native switch.
"""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from huggingface_hub.errors import StrictDataclassError

from longrope.data import Tokens
from longrope.errors import ExportError
from longrope.exports.card import Origin, format_card, origin_of_model
from longrope.exports.comparison import Arrays, ExportReport, check_agreement, compare_logits, make_report
from longrope.exports.licences import NOTICE_FILE, inherited, notice_of
from longrope.exports.lists import NativeLists, native_lists, stated_lists
from longrope.exports.mlx import write_for_mlx
from longrope.exports.number_formats import choose_dtype, rounded
from longrope.exports.portable import make_portable
from longrope.exports.short_cost import measure_short
from longrope.exports.targets import check_folder, check_not_source, remove_earlier
from longrope.exports.unfinished import unfinished_folder
from longrope.models import (
    LanguageModel,
    check_not_quantized,
    choose_table,
    config_entries,
    load_config,
    read_tables,
    save_model,
    with_entries,
)
from longrope.recipe import ExportRecipe
from longrope.rope import FactorTable, RescaleFactors, as_one
from longrope.rope.hf_config import write_longrope
from longrope.runs.records import Score

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REOPEN = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, probe, out, device = sys.argv[1:]
own_code = dict(trust_remote_code=False)
AutoTokenizer.from_pretrained(folder, **own_code)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **own_code).to(device).eval()
inputs = {k: torch.from_numpy(v).to(device) for k, v in np.load(probe).items()}
given = dict(input_ids=inputs["tokens"], attention_mask=torch.ones_like(inputs["tokens"]), use_cache=False)
sides = [k for k in inputs if k != "tokens"]
with torch.inference_mode():
    np.savez(out, **{k: model(position_ids=inputs[k], **given).logits.cpu().numpy() for k in sides})
"""


def export_hf(  # noqa: PLR0913  # what a checkpoint depends on are its arguments
    model: LanguageModel,
    factors: RescaleFactors | FactorTable,
    folder: str | Path,
    *,
    settings: ExportRecipe | None = None,
    windows: Tokens | None = None,
    short_windows: Tokens | None = None,
    origin: Origin | None = None,
    scores: Sequence[Score] = (),
    dtype: str = "",
    reopen: Callable[[Path, str, Arrays], Arrays] | None = None,
) -> ExportReport:
    """Write a checkpoint with its model card, reopen it in plain transformers, and compare.

    Args:
        model: the model, as it was loaded, or tuned.
        factors: one set of factors.
        folder: where to write, once all is checked. An earlier export there is replaced; files of other kinds stay.
        settings: one or two factor sets, whether start tokens may be dropped, the size of the files.
        windows: [W, N] measuring windows, needed to measure what dropping start tokens changes.
        short_windows: [W, N] held-out windows of no more than the trained window, for what short texts cost.
        origin: of the weights, for the card; by default what the model was loaded from.
        scores: what was measured, for the card.
        dtype: of the weights, f32, f16 or bf16; if empty, the base model's where it holds them to the bit.
        reopen: reads the checkpoint again for the comparison (see ``reopen_alone``, which does it by default).

    Raises:
        ExportError: the factors have start tokens, the reopened checkpoint gives other logits, or the folder is that of
            the model, of its base, or of a model that is no export.
    """
    settings, folder, factors = settings or ExportRecipe(), Path(folder), as_one(factors)
    check_not_source(folder, origin_of_model(model).base_model)
    check_folder(folder)
    check_not_quantized(model, "An export")
    number_format, reason = choose_dtype(model, dtype)
    model = rounded(model, number_format) if dtype else model
    lists = native_lists(model, factors, settings, windows)
    with unfinished_folder(folder, remove_earlier) as unfinished:
        with _stating(model, lists):
            save_model(model, unfinished, settings.max_shard_size, number_format)
        make_portable(unfinished, model.spec.trained_window, factors.target_window, number_format)
        write_for_mlx(unfinished, stated_lists(model.spec, lists), two_lists=lists.factor_sets == "two")
        read = partial(reopen or reopen_alone, unfinished, str(model.device))
        report = make_report(lists, compare_logits(model, lists, read))
        report = replace(report, weights=f"{number_format} ({reason})")
        if short_windows is not None:
            report = replace(report, short_cost=measure_short(model, lists, short_windows))
        check_agreement(report, folder, model.network.config.model_type)
        origin = origin or origin_of_model(model)
        card = format_card(model, factors, report, origin, scores)
        (unfinished / "README.md").write_bytes(card.encode(errors="backslashreplace"))
        stated = inherited(origin.base_model, origin.on_hub, model.network.config.model_type)
        if notice := notice_of(stated):
            (unfinished / NOTICE_FILE).write_text(f"{notice}\n", encoding="utf-8")
    return report


def check_stated(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise LongRopeError if the config of a model cannot state factors, or states other ones when it is read again.

    Nothing but the config is written, into a folder for the moment.
    """
    lists = native_lists(model, factors, ExportRecipe(), None)
    with tempfile.TemporaryDirectory() as folder:
        with _stating(model, lists):
            model.network.config.save_pretrained(folder)
        again = choose_table(read_tables(load_config(folder)), model.table.name).geometry
    wanted = model.spec.plain_frequencies / np.asarray(stated_lists(model.spec, lists).long)
    read = again.frequencies_at(factors.target_window)[: len(wanted)]  # after them there may be pairs that stand still
    if again.native is None or len(read) != len(wanted) or not np.allclose(read, wanted, rtol=1e-5, atol=0):
        raise ExportError(
            f"The config of the model type {model.network.config.model_type!r} does not keep factors that are stated.",
            "Read again, it must give the same angles.",
            "Run it with `longrope.rescaled` instead.",
        )
    if again.trained_window != factors.target_window:
        raise ExportError(
            f"The config of the model type {model.network.config.model_type!r} does not keep its window: of "
            f"{factors.target_window:,} tokens {again.trained_window:,} are left.",
            "Read again, it must be the one that was stated.",
            "Run it with `longrope.rescaled` instead.",
        )


@contextmanager
def _stating(model: LanguageModel, lists: NativeLists) -> Iterator[None]:
    """Have a model's config state factors inside a ``with`` block."""
    config, layer_type = model.network.config, model.table.layer_type
    if layer_type is None and len(model.tables) > 1:
        raise ExportError(
            f"The model has {len(model.tables)} rotary tables, and its config states one set of RoPE parameters.",
            "Factors of one table alone cannot be stated there.",
            "Run it with `longrope.rescaled` instead.",
        )
    changed = write_longrope(config_entries(config, layer_type), model.spec, stated_lists(model.spec, lists))
    changed = with_entries(config, changed, layer_type)
    if layer_type is not None:
        changed.pop("head_dim", None)  # it may differ by layer type, and stays
    changed = {name: value for name, value in changed.items() if getattr(config, name) != value}
    before = {name: getattr(config, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(config, name, value)
        yield
    except (StrictDataclassError, RuntimeError) as error:  # Gemma-4 has no one head_dim that longrope is checked by
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ExportError(
            f"The config of the model type {config.model_type!r} cannot state these factors: {reason}.",
            "The config of the model type must support native longrope.",
            "Run it with `longrope.rescaled` instead.",
        ) from None
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def reopen_alone(folder: Path, device: str, probe: Arrays, script: str = REOPEN) -> Arrays:
    """The logits [1, N, V] of a checkpoint for each array of positions of a probe, by a process of plain transformers.

    Raises:
        ExportError: the process ends with an error, whose last words are given.
        OSError: there was no space for its answer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "probe.npz"), Path(scratch, "logits.npz")
        np.savez(asked, **probe)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle
        command = [sys.executable, "-c", script, str(folder), str(asked), str(answered), device]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            *_, said = "", *done.stderr.strip().splitlines()
            if any(os.strerror(number) in said for number in NO_SPACE):
                raise OSError(said.removeprefix("OSError: "))
            raise ExportError(
                f"Plain transformers cannot reopen the checkpoint (exit code {done.returncode}): {said[:300]}",
                "The checkpoint must open in a process that knows only transformers.",
                "This model type may not support native longrope; run it with `longrope.rescaled` instead.",
            )
        return dict(np.load(answered))
