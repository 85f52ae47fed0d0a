"""Train weights by plain next-token losses: a tiny model from nothing, or a large one at the length of its factors."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from longrope import distributed
from longrope.data import TextSketch, TokenText, check_part, decode_pieces, fingerprint, sketch_documents
from longrope.engine.kv_cache import decoder_layers
from longrope.models import LanguageModel, check_not_quantized, rescaled
from longrope.models.tuned_on import write_tuned_on
from longrope.models.weights import name_weights
from longrope.recipe import TuneRecipe
from longrope.rope import FactorTable, RescaleFactors, as_one
from longrope.runs.identity import TUNED, hash_inputs, tuned_name
from longrope.runs.records import TrainStep
from longrope.runs.run_dir import RunDir
from longrope.runs.train_log import TrainLog
from longrope.tuning.adapters import Weights, adapted, choose_matrices, chosen_weights, trained_weights
from longrope.tuning.batches import Batches
from longrope.tuning.progress import Checkpoint, check_tensors
from longrope.tuning.samples import SampleBuilder
from longrope.tuning.training import Training, check_batch, in_float32

# A training of a version without these settings is resumed where they have their defaults.
UNNAMED_BY_DEFAULT = (
    "prefer_documents",
    "isolate_documents",
    "skipped_positions",
    "parameters",
    "short_share",
    "needle_weight",
    "needle_kinds",
    "lora_rank",
    "lora_alpha",
    "lora_also",
    "recompute_layers",
    "offload",
)


def fine_tune(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    text: TokenText,
    *,
    settings: TuneRecipe | None = None,
    run: RunDir | None = None,
    seed: int = 0,
    on_step: Callable[[TrainStep], None] = lambda _: None,
) -> LanguageModel:
    """Train the weights of a model in place, with rescaled RoPE.

    The weights are float32 while they are trained and then get their number format back. In a run directory the
    training goes on from its last checkpoint, on a CPU to the same bits as without a break, and a finished one is only
    read. An interrupt (Ctrl-C) leaves a checkpoint of its own, unless it comes in the moment when the weights change.
    After an error the model holds the weights of the last whole step; load it again before another try.

    Args:
        model: what is trained; dropout is off.
        factors: installed during the training alone; None leaves the RoPE of the model unchanged.
        text: the part of some texts to tune on.
        settings: of the training; by default the paper's.
        run: where ``train.jsonl`` and the checkpoint go; one training fits into it.
        seed: decides the windows and their order.
        on_step: called after every step.

    Returns:
        The network that was given, in eval mode and without gradients, in a model that knows what it was tuned on. Its
        name says that it was, so that no score or trial of the weights before is taken for one of theirs.

    Raises:
        TextsError: the text is shorter than a window.
        FactorsError: the factors belong to another geometry.
        RunError: the run directory holds another training.
        LongRopeError: the loss or its gradient is not finite.
    """
    check_not_quantized(model, "A training")
    check_part(text, "tune")
    settings, factors = settings or TuneRecipe(), as_one(factors) if factors else None
    batches = cut_batches(model, factors, text, settings, seed)
    log, tuned = TrainLog(run.train if run else None), replace(model, tuned_on=_sketch(model, batches, settings))
    folder = run.adapters if run and distributed.is_main() else None
    with adapted(model.network, settings, seed, folder, model.name.partition(TUNED)[0]) as weights:
        made_of = _identify(model, weights, factors, text, settings, seed)
        checkpoint = Checkpoint(run.tuning if run else None, made_of)
        begun_at, tensors = checkpoint.read()
        model.network.requires_grad_(False).eval()
        with in_float32(model, weights):
            worker = model
            if not settings.trains_few:  # with all weights trained, the processes divide the layers
                divided = distributed.divide_weights(model.network, decoder_layers(model.network))
                worker = replace(model, network=divided)
            own = weights if worker.network is model.network else trained_weights(worker.network)
            with rescaled(worker, factors):
                training = Training(worker, own, batches, settings)
                check_tensors(checkpoint.path, tensors, own)
                training.restore(begun_at, tensors)
                tensors.clear()  # they take as much memory as the weights and moments
                log.begin(begun_at)
                _train(training, log, checkpoint, on_step)
            for name, weight in weights.items():
                if own is not weights:
                    weight.data.copy_(distributed.full_tensor(own[name].detach()))
        if begun_at < settings.steps:
            checkpoint.save(settings.steps, {f"weight/{name}": weight for name, weight in weights.items()})
    if folder and settings.trains_few:
        write_tuned_on(folder, tuned.tuned_on)
    return replace(tuned, name=tuned_name(model.name, hash_inputs(made_of)))


def cut_batches(
    model: LanguageModel, factors: RescaleFactors | None, text: TokenText, settings: TuneRecipe, seed: int
) -> Batches:
    """The windows that ``fine_tune`` reads."""
    length = settings.window_tokens or (factors.target_window if factors else model.spec.trained_window)
    return Batches.cut(text, length, settings.batch_windows, seed, prefer_documents=settings.prefer_documents)


def _sketch(model: LanguageModel, batches: Batches, settings: TuneRecipe) -> TextSketch:
    """A sketch of what a training reads and of what the weights were tuned on before."""
    read = batches.read_documents(settings.steps)
    pieces = ([piece for tokens in document for piece in decode_pieces(model.tokenizer, tokens)] for document in read)
    return model.tuned_on.merged(sketch_documents(pieces))


def check_training(model: LanguageModel, text: TokenText, settings: TuneRecipe) -> None:
    """Raise what ``fine_tune`` would raise at once, without a pass: for whoever has other work to do before it.

    Raises:
        RecipeError: the processes cannot divide the batch, no weight has a name that is asked for, or adapters cannot
            be made.
        TextsError: the text is shorter than a window, or a window too short for its needles.
    """
    check_batch(settings)
    chosen_weights(model.network, settings.parameters)
    if settings.lora_rank:
        choose_matrices(model.network, settings)
    batches = cut_batches(model, None, text, settings, seed=0)
    check_not_quantized(model, "A training")
    next(SampleBuilder(batches, settings, model.spec.trained_window, model.tokenizer).read(range(1)))


def _train(training: Training, log: TrainLog, checkpoint: Checkpoint, on_step: Callable[[TrainStep], None]) -> None:
    """Take the steps that are left, with a checkpoint every so often and at an interrupt."""
    settings, logged = training.settings, training.done
    try:
        while training.done < settings.steps:
            record = training.step()
            log.add(record)
            logged = training.done
            if training.done % settings.checkpoint_every == 0 and training.done < settings.steps:
                log.flush()
                checkpoint.save(training.done, training.tensors)
            on_step(record)
    except KeyboardInterrupt:
        whole = training.settled and logged == training.done
        if whole and distributed.ranks() == 1:  # the others may be anywhere
            log.flush()
            checkpoint.save(training.done, training.tensors)
        raise
    finally:
        log.flush()


def _identify(
    model: LanguageModel,
    weights: Weights,
    factors: RescaleFactors | None,
    text: TokenText,
    settings: TuneRecipe,
    seed: int,
) -> dict[str, str]:
    """What a training is resumed by; of the weights that it starts from, names, formats and shapes."""
    shapes = [(name, str(weight.dtype), *weight.shape) for name, weight in weights.items()]
    given = {
        key: value
        for key, value in asdict(settings).items()
        if key not in UNNAMED_BY_DEFAULT or value != getattr(TuneRecipe, key)
    }
    return {
        "model": model.name,
        "weights": hash_inputs(shapes),
        "content": name_weights(model, in_any_format=True),
        "factors": factors.fingerprint if factors else "none",
        "text": f"{fingerprint(text.tokens)}, opened by {text.bos}{_identify_documents(text, settings)}",
        "seed": str(seed),
        **{f"tune.{key}": str(value) for key, value in given.items()},
    }


def _identify_documents(text: TokenText, settings: TuneRecipe) -> str:
    """The documents of a text, where the training depends on them."""
    if not (settings.prefer_documents or settings.isolate_documents):
        return ""
    return f", documents {fingerprint(np.diff(text.documents, prepend=0).astype(np.int32))}"
