"""What an export will take, from the passes that it makes: over short texts, over probes, and in clients at hand."""

from collections.abc import Callable
from typing import NamedTuple

from longrope.data import Tokens
from longrope.engine.memory import free_memory, weight_bytes
from longrope.errors import TextsError
from longrope.evaluation.metric import Reading
from longrope.exports.comparison import PROBE_TOKENS
from longrope.exports.short_cost import MOST_TOKENS, WINDOWS
from longrope.models import LanguageModel
from longrope.pipeline.estimates import Cost
from longrope.pipeline.session import Session
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors
from longrope.verification.checking import POSITIONS
from longrope.verification.clients import FILE, FOLDER
from longrope.verification.exported import quick_clients

FLOAT32 = 4  # bytes
LAYOUTS = 3  # that each short window is read in: without factors, with one list and with two
PROBES = 6  # passes over a probe: on either side the checkpoint's own, ours, and ours with angles in float32
DROPPING = 2  # passes over each measuring window: with start tokens and without them
FAULTS = 3  # that a client's answer is compared with: no scaling, that of the original, no attention factor
KINDS = {"hf": FOLDER, "gguf": FILE}  # of the checkpoint, by the name of its format
LARGER_MACHINE = "Take a machine with more memory."
SEARCH_ALONE = "Take a machine with more memory, or find factors alone with `longrope search`, which exports nothing."


class ExportTexts(NamedTuple):
    """The windows that an export reads.

    Attributes:
        short: [W, N] of held-out text, read in each layout; None without text.
        measured: [W, N], read with start tokens and without them; None where none are dropped.
    """

    short: Tokens | None = None
    measured: Tokens | None = None


NO_TEXTS = ExportTexts()


def texts_of(session: Session, factors: RescaleFactors | None, to: str) -> ExportTexts:
    """The windows that an export of a run reads; where its factors are not known yet, all that it may read."""
    recipe, text = session.recipe, session.texts.measure
    drops = recipe.export.drop_start_tokens and (factors is None or factors.start_tokens > 0)
    measured = text.windows(recipe.target_tokens, recipe.measure.windows) if drops else None
    return ExportTexts(short_windows(session) if to == "hf" else None, measured)


def short_windows(session: Session) -> Tokens | None:
    """Held-out windows of the trained window, or of as many tokens as short texts have; None without text."""
    length = min(session.model.spec.trained_window, MOST_TOKENS)
    try:
        return session.texts.measure.windows(length, WINDOWS)
    except TextsError:
        return None


def export_readings(model: LanguageModel, read: ExportTexts, clients: int, lists: int) -> list[Reading]:
    """What an export reads of a model and of its checkpoint, at most.

    Args:
        model: to be exported.
        read: the windows that it reads.
        clients: how many open the checkpoint.
        lists: of factors in the checkpoint, one or two.
    """
    readings = [Reading("probe", PROBE_TOKENS, PROBES)]
    if read.short is not None:
        readings.append(Reading("short texts", read.short.shape[1], LAYOUTS * len(read.short)))
    if read.measured is not None:
        readings.append(Reading("start tokens", read.measured.shape[1], DROPPING * len(read.measured)))
    window, passes = model.spec.trained_window, clients * (1 + lists + FAULTS)  # a client's own, and ours
    lengths = (max(POSITIONS, window // 2), window, max(window + POSITIONS, 2 * window)) if clients else ()
    return readings + [Reading("prompt", length, passes) for length in lengths]


def estimate_export(
    model: LanguageModel,
    passes: Callable[[int], float],
    loading_seconds: float,
    read: ExportTexts = NO_TEXTS,
    *,
    lists: int = 1,
    kind: str = FOLDER,
    remedy: str = LARGER_MACHINE,
) -> Cost:
    """What writing a checkpoint, opening it again and comparing it will take.

    Args:
        model: to be exported.
        passes: gives the seconds of a pass by its tokens.
        loading_seconds: that the model took to load. Writing takes about as long, and so does opening, which is done
            for the comparison, and where clients open the checkpoint once more and once in each of them.
        read: the windows that the export reads.
        lists: of factors in the checkpoint, one or two.
        kind: of the checkpoint, a folder or a GGUF file.
        remedy: what to do where the reopened model, in float32, does not fit into memory beside this one.
    """
    clients = len(quick_clients(model, kind, model.spec.trained_window))
    opened = 1 + (1 + clients if clients else 0)
    readings = export_readings(model, read, clients, lists)
    seconds = (1 + opened) * loading_seconds + sum(reading.passes * passes(reading.tokens) for reading in readings)
    weights = sum(weight.numel() for weight in model.network.parameters())
    needed = weight_bytes(model) + FLOAT32 * weights
    return Cost("export, open again and compare", seconds, needed, free_memory(model), remedy)


def estimate_run_export(
    session: Session,
    passes: Callable[[int], float],
    factors: RescaleFactors | None = None,
    *,
    to: str = "hf",
    remedy: str = LARGER_MACHINE,
) -> Cost:
    """What an export of a run will take.

    Args:
        session: of the run.
        passes: as of ``estimate_export``.
        factors: of the checkpoint; None where they are not found yet: then it is the most that they can take.
        to: the name of the format.
        remedy: as of ``estimate_export``.
    """
    read, lists = texts_of(session, factors, to), count_lists(session.recipe.export)
    return estimate_export(
        session.model, passes, session.loading_seconds, read, lists=lists, kind=KINDS.get(to, to), remedy=remedy
    )


def count_lists(settings: ExportRecipe) -> int:
    """The lists of factors that a checkpoint holds."""
    return 2 if settings.factor_sets == "two" else 1
