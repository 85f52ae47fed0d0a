"""``verify``: open a checkpoint in clients, and compare their log-probabilities with ours around the original window.

Shape legend: N = tokens of a prompt, K = last positions of it, V = vocabulary.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.checksums import check_files
from longrope.data import encode, opening_tokens
from longrope.engine.passes import last_log_probabilities
from longrope.errors import ExportError, RecipeError
from longrope.evaluation.prompts.words import WORDS
from longrope.models import LanguageModel, load_model, read_gguf_file, rescaled
from longrope.verification import server
from longrope.verification.clients import FILE, SERVERS, Client, chosen_clients, kind_of
from longrope.verification.environments import cache_folder, find_python
from longrope.verification.running import Answers, RefusedError, Request, run_script
from longrope.verification.truth import Truth, read_truth
from longrope.verification.turnings import ORIGINAL as ORIGINAL_MODEL
from longrope.verification.turnings import WHOLE, Turning, accepted, probe_lengths, rarer_faults, usual_faults
from longrope.verification.verdicts import APPLIED, ORIGINAL, OTHER, REFUSED, UNCLEAR, Finding, judge

__all__ = ["APPLIED", "Verification", "format_row", "verify"]

POSITIONS, TOP = 4, 20
WHOLE_TYPES = ("F32", "F16", "BF16", "F64")  # of tensors of GGUF files that are not quantized
QUANTIZED_NATS = 1.0  # for quantized weights; 0.62 was seen of 8-bit weights, whose inputs llama.cpp rounds to 8 bits
UNSCALED = (ORIGINAL_MODEL, "no scaling")  # begin the names of what ignores a scaling


@dataclass(frozen=True)
class Verification:
    """What one client did with a checkpoint.

    Attributes:
        checkpoint: its path.
        client: the client's name.
        verdict: ``applied``, ``original`` (the scaling is ignored), ``other scaling``, ``unclear`` (the candidates are
            too much alike) or ``refused``.
        message: why it refused, in the client's words; or what else is to be said.
        findings: at each length, shortest first; none of a client that refused.
        versions: names and versions of the client's libraries.
        truth: where what is to be applied was read.
    """

    checkpoint: str
    client: str
    verdict: str
    message: str = ""
    findings: tuple[Finding, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    truth: str = ""


def format_row(done: Verification) -> tuple[str, str, str]:
    """Client with versions, verdict, and the differences by length, as tables show them."""
    versions = ", ".join(f"{name} {number}" for name, number in done.versions.items())
    named = [_as_said(finding) for finding in done.findings]
    return f"{done.client} ({versions})" if versions else done.client, done.verdict, "; ".join(named)


def _as_said(finding: Finding) -> str:
    """The difference at one length, and what the client did there where that is not the whole scaling."""
    what = "" if finding.as_ in ("", WHOLE) else f" ({finding.as_})"
    verdict = "" if finding.verdict == APPLIED else f" {finding.verdict}"
    return f"{finding.tokens:,}:{verdict} {finding.difference_nats:.2g}{what}"


@dataclass(frozen=True)
class _Probes:
    """A loaded checkpoint, and the prompts that clients are asked."""

    path: Path
    model: LanguageModel
    truth: Truth
    prompts: tuple[list[int], ...]
    quantized: bool = False

    def tolerance(self, client: Client) -> float:
        """The largest difference of a log-probability in nats that number formats explain."""
        return QUANTIZED_NATS if self.quantized else client.tolerance_nats

    def compute(self, prompt: list[int], turnings: Mapping[str, Turning]) -> dict[str, NDArray[np.floating]]:
        """Our log-probabilities [K, V] at the end of a prompt, for each of these."""
        made = {}
        for name, turning in turnings.items():
            with rescaled(self.model, turning.as_factors(self.model.spec, len(prompt))):
                made[name] = last_log_probabilities(self.model, np.asarray([prompt]), POSITIONS).numpy()
        return made


def verify(
    path: str | Path,
    clients: Sequence[str] = (),
    *,
    reference: str | Path | None = None,
    lengths: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "float32",
    run: Callable[[Client, Path, Request], Answers] = run_script,
    on_message: Callable[[str], None] = lambda _: None,
    on_loaded: Callable[[LanguageModel, Mapping[str, Sequence[int]], float], None] = lambda *_: None,
) -> list[Verification]:
    """Open a checkpoint in clients, each in a process of its own, and say whether each applies the RoPE scaling.

    Args:
        path: a Hugging Face folder or a GGUF file, ours or anybody's.
        clients: names (see ``verification.clients``) or addresses of OpenAI-compatible servers; those at hand if empty.
        reference: another checkpoint, or the record of one, that states what is to be applied; by default the record
            beside the checkpoint, and without one its own config.
        lengths: of the prompts in tokens; by default one below, at and above the original window.
        device: where our passes and those of transformers run.
        dtype: of both.
        run: asks a client by its script, in a process of its own.
        on_message: called with what is installed and done.
        on_loaded: called before anything is asked, with the checkpoint, the tokens of each pass that it and each
            client will make, by the client's name, and the seconds that it took to load.

    Raises:
        RecipeError: no checkpoint is there, a client is unknown or cannot be installed, or a length is too short.
        ModelError: the checkpoint cannot be loaded.
        ExportError: nothing states a scaling, or a record cannot be read.
    """
    path = Path(path)
    kind_of(path)
    if reference is None and (hashed := check_files(path, ExportError, whole=True)):
        on_message(f"{hashed} files of {path} are those that were exported, by their SHA-256")
    chosen = chosen_clients(path, clients)
    began = time.perf_counter()
    probes = _prepare(path, Path(reference) if reference else None, lengths, device, dtype)
    passes = {client.name: _passes(probes, client) for client in chosen}
    on_loaded(probes.model, passes, time.perf_counter() - began)
    local = [client for client in chosen if not client.name.startswith(SERVERS)]
    pythons = {client.name: find_python(client, cache_folder(), on_message) for client in local}
    done = []
    for client in chosen:
        counts = ", ".join(f"{len(prompt):,}" for prompt in probes.prompts)
        on_message(f"open {path} in {client.name}; prompts of {counts} tokens")
        done.append(
            _verify(probes, client, partial(run, client, python) if (python := pythons.get(client.name)) else None)
        )
    return done


def _prepare(path: Path, reference: Path | None, lengths: Sequence[int], device: str, dtype: str) -> _Probes:
    model = load_model(path, device=device, dtype=dtype)
    truth = read_truth(path, model, reference)
    wanted = sorted(set(lengths or probe_lengths(truth, POSITIONS)))
    if wanted[0] < POSITIONS:
        raise RecipeError(
            f"A prompt of {wanted[0]} tokens was asked for.", f"At least {POSITIONS} are needed.", "Correct --lengths."
        )
    prompts = tuple(_prompt(model.tokenizer, length) for length in wanted)
    return _Probes(path, model, truth, prompts, is_quantized(path))


def is_quantized(path: Path) -> bool:
    """Whether a checkpoint is a GGUF file with quantized weights."""
    if kind_of(path) != FILE:
        return False
    return any(tensor.type_name not in WHOLE_TYPES for tensor in read_gguf_file(path).tensors)


def _prompt(tokenizer: Any, length: int) -> list[int]:
    """Token ids of a list of words that does not repeat itself, after the token that opens every text."""
    rng, tokens = np.random.default_rng(0), opening_tokens(tokenizer)
    while len(tokens) < length:
        tokens += encode(tokenizer, f"The {rng.choice(WORDS)} and the {rng.choice(WORDS)} are {rng.choice(WORDS)}.\n")
    return tokens[:length]


def _verify(probes: _Probes, client: Client, run: Callable[[Request], Answers] | None) -> Verification:
    made = partial(Verification, str(probes.path), client.name, truth=probes.truth.source)
    message = ""
    try:
        if run:
            number_format = str(probes.model.network.dtype).removeprefix("torch.")
            device = probes.model.device.type
            answers = run(Request(probes.path, probes.prompts, POSITIONS, TOP, device, number_format))
        else:
            answers, message = server.ask(client.name, probes.model.tokenizer, probes.prompts, POSITIONS, TOP)
    except RefusedError as error:
        return made(REFUSED, str(error), versions=error.versions)
    except server.NoLogProbabilitiesError:
        original = usual_faults(probes.truth, probes.truth.window_tokens)[ORIGINAL_MODEL]
        verdict, message = server.ask_passkeys(client.name, probes.model, probes.truth, original)
        return made(verdict, message)
    findings = tuple(
        _judge(probes, client, prompt, rows) for prompt, rows in zip(probes.prompts, answers.rows, strict=True)
    )
    return made(_overall(findings), message, findings, answers.versions)


def _passes(probes: _Probes, client: Client) -> list[int]:
    """The tokens of each pass that judging a client takes, its own among them."""
    tokens: list[int] = []
    for length in map(len, probes.prompts):
        right = accepted(probes.truth, length, client)
        tokens += [length] * (1 + len(right) + len(_apart(usual_faults(probes.truth, length), right)))
    return tokens


def _judge(probes: _Probes, client: Client, prompt: list[int], rows: Any) -> Finding:
    tokens = len(prompt)
    right = accepted(probes.truth, tokens, client)
    faults = _apart(usual_faults(probes.truth, tokens), right)
    return judge(
        tokens,
        rows,
        accepted=probes.compute(prompt, right),
        faults=probes.compute(prompt, faults),
        more_faults=lambda: probes.compute(prompt, _apart(rarer_faults(probes.truth, tokens), {**right, **faults})),
        tolerance=probes.tolerance(client),
        originals=UNSCALED,
    )


def _apart(turnings: Mapping[str, Turning], others: Mapping[str, Turning]) -> dict[str, Turning]:
    """Those that differ from all others and from each other."""
    kept: dict[str, Turning] = {}
    for name, turning in turnings.items():
        if not any(turning.equals(other) for other in (*others.values(), *kept.values())):
            kept[name] = turning
    return kept


def _overall(findings: Sequence[Finding]) -> str:
    """The verdict on a client: ``applied`` where it holds at every length, else what it did where it does not."""
    wrong = {finding.verdict for finding in findings} - {APPLIED}
    return next((verdict for verdict in (OTHER, ORIGINAL, UNCLEAR) if verdict in wrong), APPLIED)
