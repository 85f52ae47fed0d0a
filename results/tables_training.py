"""Tables of what training adds: SmolLM2-135M tuned at 64k and 256k, and what a training step costs."""

import statistics
from dataclasses import replace

from tables_cells import ORIGINAL, MixedTextsError, Records, Row, percent_with_interval, table, with_share

from longrope.runs.records import Score

LAST = 65536


def tuned_table(records: Records) -> str:
    """The original model, tuned with all weights, and tuned with adapters, on the text of the windows of 64k."""
    runs = {
        ORIGINAL: ("smollm2-64k-tuned", "none"),
        "all weights tuned at 64k": ("smollm2-64k-tuned", "longrope-tuned"),
        "adapters of rank 32 (LoRA) tuned at 64k": ("smollm2-64k-lora", "longrope-tuned"),
    }
    original = records.scores("smollm2-64k-tuned", "none")["perplexity", 8192]
    lengths = [2048 * 2**i for i in range(6)]
    rows: list[Row] = []
    for label, (run, method) in runs.items():
        found = records.scores(run, method)
        cells = [with_share(found["perplexity", length], original) for length in lengths]
        rows.append([label, *cells, percent_with_interval(found["passkey", LAST])])
    names = [f"{length // 1024}k" for length in lengths]
    return table(["perplexity (share of the original's at 8k)", *names, "passkeys 64k"], rows)


def further_table(records: Records) -> str:
    """The tuned model on the text of the windows of 256k: after a second search, and after a few steps there."""
    runs = {
        "tuned at 64k, second search": ("smollm2-64k-tuned", "longrope-tuned", (2**17, 2**18)),
        "and 8 steps in windows of 256k": ("smollm2-256k-tuned", "longrope-tuned-256k", (8192, 2**16, 2**18)),
    }
    original = _original_of(records.scores("smollm2-256k-tuned", "longrope-tuned-256k"), 8192)
    lengths = (8192, 2**16, 2**17, 2**18)
    rows: list[Row] = [[ORIGINAL, with_share(original, original), *[""] * 6]]
    for label, (run, method, measured) in runs.items():
        found = {at: score for at, score in records.scores(run, method).items() if at[1] in measured}
        values = [found.get(("perplexity", length)) for length in lengths]
        keys = [found.get(("passkey", length)) for length in lengths[1:]]
        cells = [with_share(score, original) if score else "" for score in values]
        rows.append([label, *cells, *(percent_with_interval(score) if score else "" for score in keys)])
    names = [f"{length // 1024}k" for length in lengths]
    head = ["perplexity (share of the original's at 8k)", *names]
    return table([*head, *(f"passkeys {name}" for name in names[1:])], rows)


def _original_of(scores: dict[tuple[str, int], Score], length: int) -> Score:
    """The original's perplexity where a record has another model's and the paired ratio of the two."""
    tuned, paired = scores["perplexity", length], scores["ratio-to-none", length]
    if tuned.texts_fingerprint != paired.texts_fingerprint:
        raise MixedTextsError(
            f"The perplexity at {length:,} tokens and its ratio to the original's are of different texts.",
            "The original's perplexity follows from the two on one text alone.",
            "Measure both in one run.",
        )
    return replace(tuned, value=tuned.value / paired.value, method="none")


def two_train_table(records: Records) -> str:
    """The same training by one GPU and by two: the losses of its steps, and what a step costs."""
    lines = records.benchmark("h200x2-train")
    rows = []
    for run in dict.fromkeys(line["run"] for line in lines):
        steps = [line for line in lines if line["run"] == run]
        seconds = statistics.median(line["seconds"] for line in steps[1:])
        row = [f"{steps[0]['trained']}", f"{steps[0]['processes']}", f"{seconds:.2f}", f"{steps[-1]['memory_gib']:.1f}"]
        rows.append([*row, *(f"{line['loss_nats']:.4f}" for line in steps)])
    head = ["trained", "GPUs", "seconds a step", "GiB on each"]
    return table([*head, *(f"loss {line['step']}" for line in lines if line["run"] == lines[0]["run"])], rows)
