"""What longrope makes of a tiny model of every causal model type, from reading its config to its exported checkpoint.

Run: python tests/sweep.py            # the table of docs/models.md
     python tests/sweep.py write      # and write it there
     python tests/sweep.py llama phi  # the steps of these families
"""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import families
import numpy as np
import pico
import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

import longrope
from longrope.engine import memory
from longrope.engine.decoding import prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.errors import LongRopeError
from longrope.models import LanguageModel, load_model, rescaled
from longrope.pipeline.inspection import inspect
from longrope.rope import RescaleFactors

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
TILE = 7  # tokens: does not divide the window
TOKENS = torch.randint(1, families.VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(3))
LONG = torch.randint(1, families.VOCABULARY, (1, 100), generator=torch.Generator().manual_seed(4))
TARGET = 256
ROUNDING = 2e-3  # of the standard deviation; a router's choices flip by less, so a few positions may differ
MOVED = 0.01
SHARE = 0.9
TEXT = """# Model types

This page lists how longrope works with every causal model type of transformers {transformers} (torch {torch}). Each
was built as a tiny model from its own config class. `python tests/sweep.py write` writes this page, and
`tests/models/test_sweep.py` compares it with what happens.

Of {rope} model types with RoPE, {works} work, {partly} work except for single steps, {refused} are refused, and {fails}
fail. {without} have no RoPE and are refused for that reason; {unbuilt} could not be built.

A model type works if all of these steps do:

* load: its config and its weights load, as every command loads them;
* unit factors: factors of 1 leave the logits the same to the bit;
* factors: other factors change the logits;
* search: the loss and its gradient by each factor are those of transformers' own logits, with and without
  recomputation;
* long pass: losses in tiles are those of transformers' own logits;
* generate: a prompt read into the cache and tokens decoded one by one give the logits of one pass;
* export: the checkpoint, reopened by plain transformers, gives our logits.

| model type | outcome | because |
|---|---|---|
{rows}

## Without RoPE

{names}.

## Not built

{errors}
"""


class WrongNumbersError(AssertionError):
    """A step gave numbers that are not those of transformers."""


@dataclass
class Outcome:
    """What a family's steps came to.

    Attributes:
        family: the model type.
        refused: step to the first sentence of our error.
        failed: step to anything else that went wrong.
        unbuilt: why no tiny network could be made; then there are no steps.
        rope: whether transformers' source of it names rotary embeddings and uses them.
    """

    family: str
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unbuilt: str = ""
    rope: bool = True

    @property
    def verdict(self) -> str:
        """In one word or two."""
        if self.unbuilt:
            return "not built"
        if self.failed:
            return "fails"
        if not self.refused:
            return "works"
        if "load" not in self.refused:
            return "partly"
        return "refused" if self.rope else "no RoPE"


def try_family(family: str, folder: Path) -> Outcome:
    """Build a family and take it through every step."""
    outcome = Outcome(family, rope=families.has_rope(family))
    try:
        network = families.build_network(family) if outcome.rope else None
    except Exception as error:  # noqa: BLE001  # whatever transformers raises
        outcome.unbuilt = _first_line(error)
        return outcome
    with _noting(outcome, "load"):
        model = load(family, network, folder)
    if "load" not in outcome.refused | outcome.failed:
        for name, step in STEPS.items():
            with _noting(outcome, name):
                step(model)
    return outcome


def load(family: str, network: Any, folder: Path) -> LanguageModel:
    """Read the config of a saved network, then load all of it; of a family without RoPE the config alone."""
    if network is None:
        families.make_default(family).save_pretrained(folder)
        inspect(str(folder))
        raise WrongNumbersError("the config of a family without RoPE is read as if it had one")
    network.save_pretrained(folder)
    families.make_config(family).save_pretrained(
        folder
    )  # of a network that is a part of a larger one, the whole config
    pico.make_tokenizer().save_pretrained(folder)
    inspect(str(folder))
    model = load_model(folder, device="cpu", dtype="float32")
    with torch.inference_mode():
        _compare(model.network(TOKENS, use_cache=False).logits, network(TOKENS, use_cache=False).logits)
    return model


def _keep(model: LanguageModel) -> None:
    """All-ones change no bit; by our own angles they change rounding alone."""
    before = _logits(model)
    with rescaled(model, _factors(model, 1, 1, 1)):
        if not torch.equal(_logits(model), before):
            raise WrongNumbersError("factors of one change the logits")
    with rescaled(model, _factors(model, 1, 1, 1), learnable=True):
        _compare(_logits(model), before)


def _move(model: LanguageModel) -> None:
    before = _logits(model)
    with rescaled(model, _factors(model)):
        moved = _difference(_logits(model), before)
    if not moved > MOVED:
        raise WrongNumbersError(f"factors move the logits by {moved:.2g} of their standard deviation")


def _search(model: LanguageModel) -> None:
    """The loss and its slope along every factor are those of transformers' own logits."""
    weights = np.full((2, TOKENS.shape[1] - 1), 1 / (2 * (TOKENS.shape[1] - 1)))
    find = partial(weighted_loss_with_graph, model, TOKENS, weights)
    found = [_slope(model, partial(find, recompute=recompute)) for recompute in (None, True)]
    wanted = _slope(model, lambda: _losses(model.network, TOKENS).mean())
    for ours in found:
        if not abs(ours[0] - wanted[0]) < 1e-4 * max(1, abs(wanted[0])):
            raise WrongNumbersError(f"the loss is {ours[0]:.6f}, by whole logits {wanted[0]:.6f}")
        off = ((ours[1] - wanted[1]).norm() / wanted[1].norm()).item()
        if not off < 0.01:
            raise WrongNumbersError(f"the gradient is off by {off:.2g} of its length")


def _slope(model: LanguageModel, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    with rescaled(model, _factors(model), learnable=True) as module, torch.enable_grad():
        assert module is not None
        value = loss()
        slopes = torch.autograd.grad(value, [module.lambdas, module.attention_factor])
    return value.item(), torch.cat([slope.flatten() for slope in slopes])


def check_tiles(model: LanguageModel) -> None:
    """Losses of tiles that do not divide the window are those of whole logits."""
    with rescaled(model, _factors(model)), _tiled():
        ours = token_losses(model, TOKENS)
        with torch.inference_mode():
            wanted = _losses(model.network, TOKENS)
    off = (ours - wanted).abs().flatten().quantile(SHARE).item()
    if not off < 1e-3:
        raise WrongNumbersError(f"losses in tiles are off by {off:.2g} nats")


def _cache(model: LanguageModel) -> None:
    """A prompt read in tiles and tokens read one by one give the logits of a pass over all."""
    ids, prompt = TOKENS[0].tolist(), 40
    with rescaled(model, _factors(model)), torch.inference_mode():
        wanted = model.network(TOKENS[:1], use_cache=False).logits[0, prompt - 1 :]
        with _tiled():
            cache = KeyValueCache(model, len(ids))
            rows = [read_prompt(model, ids[:prompt], cache)]
            rows += [prefill(model, np.asarray([[token]]), cache)[0] for token in ids[prompt:]]
    _compare(torch.stack(rows)[None], wanted[None])


def _export(model: LanguageModel) -> None:
    """The checkpoint, reopened by plain transformers, gives our logits at every position of a longer text."""
    factors = _factors(model)
    with TemporaryDirectory() as folder:
        longrope.export_hf(model, factors, folder, reopen=reopen_here)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with rescaled(model, factors), torch.inference_mode():
        _compare(plain(LONG, use_cache=False).logits, model.network(LONG, use_cache=False).logits)


STEPS: dict[str, Callable[[LanguageModel], None]] = {
    "unit factors": _keep,
    "factors": _move,
    "search": _search,
    "long pass": check_tiles,
    "generate": _cache,
    "export": _export,
}


def _factors(model: LanguageModel, low: float = 1.5, high: float = 4.0, attention: float = 1.1) -> RescaleFactors:
    lambdas = tuple(np.linspace(low, high, model.spec.num_pairs).tolist())
    return RescaleFactors(lambdas, TARGET, model.spec.fingerprint, attention_factor=attention)


def _logits(model: LanguageModel) -> Tensor:
    with torch.inference_mode():
        return model.network(TOKENS, use_cache=False).logits  # type: ignore[no-any-return]


def _losses(network: Any, tokens: Tensor) -> Tensor:
    """[B, N - 1] nats by transformers' own attention and whole logits."""
    logits = network(tokens, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none")


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The 90 % quantile over positions of the largest difference, as a share of the standard deviation."""
    largest = (ours - theirs).abs().amax(-1).flatten()
    return (largest.quantile(SHARE) / theirs.std()).item()


def _compare(ours: Tensor, theirs: Tensor) -> None:
    off = _difference(ours, theirs)
    if not off < ROUNDING:  # so that NaN fails, too
        raise WrongNumbersError(f"logits are off by {off:.2g} of their standard deviation")


def _tiled() -> Any:
    return mock.patch.object(memory, "MOST_TILE_TOKENS", TILE)


def reopen_here(folder: Path, device: str, probe: dict[str, Any]) -> dict[str, Any]:
    """As the fresh process of an export does, without the seconds that it takes to start."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network, tokens = network.to(device).eval(), torch.from_numpy(probe["tokens"])
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
    with torch.inference_mode():
        sides = [side for side in probe if side != "tokens"]
        return {side: network(position_ids=torch.from_numpy(probe[side]), **given).logits.numpy() for side in sides}


@contextmanager
def _noting(outcome: Outcome, step: str) -> Iterator[None]:
    try:
        yield
    except LongRopeError as error:
        outcome.refused[step] = _in_table(outcome.family, error.found)
    except WrongNumbersError as error:
        outcome.failed[step] = str(error)
    except Exception as error:  # noqa: BLE001  # a traceback is what the sweep looks for
        outcome.failed[step] = _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _in_table(family: str, found: str) -> str:
    """What our error found, without what the row says already and what differs from run to run."""
    said = re.sub(r"'/[^']*'", "the model", " ".join(found.split())).replace("|", "/")
    return said.replace(f"The model type {family!r} ", "").rstrip(".")


def describe(outcome: Outcome) -> tuple[str, str]:
    """The outcome of a family in the table, and the reasons."""
    reasons: dict[str, list[str]] = {}
    for step, reason in (outcome.failed | outcome.refused).items():
        reasons.setdefault(reason, []).append(step)
    if outcome.unbuilt or [*reasons.values()] == [["load"]]:
        return outcome.verdict, outcome.unbuilt or next(iter(reasons))
    return outcome.verdict, "; ".join(f"{', '.join(steps)}: {reason}" for reason, steps in reasons.items())


def render(outcomes: Sequence[Outcome]) -> str:
    """The text of docs/models.md."""
    rope = [outcome for outcome in outcomes if outcome.rope and not outcome.unbuilt]
    without = [outcome.family for outcome in outcomes if outcome.verdict == "no RoPE"]
    unbuilt = [f"* {outcome.family}: {outcome.unbuilt}" for outcome in outcomes if outcome.unbuilt]
    count = Counter(outcome.verdict for outcome in rope)
    return TEXT.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        rope=len(rope),
        **{verdict: count[verdict] for verdict in ("works", "partly", "refused", "fails")},
        without=len(without),
        unbuilt=len(unbuilt),
        rows="\n".join(f"| {outcome.family} | {' | '.join(describe(outcome))} |" for outcome in rope),
        names=", ".join(without),
        errors="\n".join(unbuilt),
    )


def main(wanted: list[str]) -> None:
    """Print what the steps of these families come to; with ``write`` write the page of all of them."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    outcomes = []
    for family in [family for family in wanted if family != "write"] or families.TYPES:
        with TemporaryDirectory() as folder:
            outcomes.append(try_family(family, Path(folder)))
        print(f"{family:26} {': '.join(describe(outcomes[-1]))}", flush=True)  # noqa: T201
    print(dict(Counter(outcome.verdict for outcome in outcomes)))  # noqa: T201
    if "write" in wanted:
        PAGE.write_text(render(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
