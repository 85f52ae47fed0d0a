"""What runs a model without factors plans the whole sequence: answers, losses with gradients, metrics in any order.

The oracle is a fresh network of transformers that reads the whole planned sequence at once, filled up with any tokens:
attention is causal, so they decide which factors it takes and change nothing before them.
"""

from itertools import permutations
from typing import Any

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import gap
from torch import Tensor

from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.evaluation.metric import Subject
from longrope.evaluation.perplexity import window_losses
from longrope.generation import GenerationSettings, encode_question, generate
from longrope.models import LanguageModel

LISTS = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 5.0, 8.0]}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {"max_position_embeddings": 256}),
    "longrope": ("phi3", LISTS, {"max_position_embeddings": 256, "original_max_position_embeddings": 64}),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 6.0}, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
LENGTHS = (48, 64, 65, 160)


def build(kind: str) -> Any:
    family, rope, changes = KINDS[kind]
    return pico.make_network(family, rope=rope or None, **changes)


def make(kind: str) -> LanguageModel:
    family, rope, changes = KINDS[kind]
    return pico.make_model(family, rope=rope or None, **changes)


def make_tokens(count: int) -> Tensor:
    return (torch.arange(count) * 37 % 320)[None]


def logits_by_hand(kind: str, tokens: Tensor, planned: int) -> Tensor:
    """[N, V] of a fresh network that reads tokens [1, N] as the beginning of so many."""
    filled = torch.cat((tokens, torch.zeros(1, planned - tokens.shape[1], dtype=torch.long)), dim=1)
    with torch.inference_mode():
        return build(kind)(filled, use_cache=False).logits[0, : tokens.shape[1]]  # type: ignore[no-any-return]


def losses_by_hand(kind: str, tokens: Tensor) -> Tensor:
    logits = logits_by_hand(kind, tokens, tokens.shape[1])
    return torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")


@pytest.mark.parametrize("kind", ["plain", "longrope"])
def test_an_answer_across_the_switch_is_of_one_set(kind: str) -> None:
    """Each token is the likeliest after those before it, in a sequence of prompt and longest answer together."""
    model, document, prompt = make(kind), "The river holds the stone 3.", "The"
    model.network.generation_config.eos_token_id = None
    asked = encode_question(model.tokenizer, document, prompt)
    settings = GenerationSettings(max_new_tokens=90 - len(asked))
    written = generate(model, None, document, prompt, settings=settings)
    tokens = torch.tensor([asked])
    for _ in range(written.new_tokens):
        likeliest = logits_by_hand(kind, tokens, 90)[-1].argmax()
        tokens = torch.cat((tokens, likeliest[None, None]), dim=1)
    expected = model.tokenizer.decode(
        tokens[0, len(asked) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert len(asked) < 64 < len(asked) + written.new_tokens
    assert written.text == expected


@every_kind
@pytest.mark.parametrize("recompute", [True, False])
def test_losses_with_a_gradient_are_those_of_the_window(kind: str, recompute: bool) -> None:
    """Whatever was read before; the gradient by the embeddings is that of transformers' own pass."""
    model = make(kind)
    token_losses(model, make_tokens(200))
    for count in LENGTHS:
        tokens = make_tokens(count)
        model.network.get_input_embeddings().weight.requires_grad_(True).grad = None
        weights = np.full((1, count - 1), 1 / (count - 1))
        weighted_loss_with_graph(model, tokens, weights, recompute=recompute).backward()
        fresh = build(kind)
        fresh.get_input_embeddings().weight.requires_grad_(True)
        logits = fresh(tokens, use_cache=False).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).backward()
        gradients = [one.get_input_embeddings().weight.grad for one in (model.network, fresh)]
        assert gap(*gradients) < 1e-3, count


@every_kind
def test_perplexities_do_not_depend_on_what_was_measured_before(kind: str) -> None:
    expected = {count: losses_by_hand(kind, make_tokens(count)) for count in LENGTHS}
    model = make(kind)
    for order in permutations(LENGTHS, 3):
        for count in order:
            found = torch.from_numpy(window_losses(model, None, make_tokens(count).numpy())[0])
            torch.testing.assert_close(found.float(), expected[count], atol=2e-4, rtol=1e-4)


@every_kind
def test_a_metric_reads_with_the_set_of_its_length(kind: str) -> None:
    """Also where it calls the network itself, with shorter sequences, as benchmarks do."""
    model = make(kind)
    subject = Subject(model, None, "none")
    for planned in LENGTHS:
        with subject.reading(planned), torch.inference_mode():
            ours = model.network(make_tokens(40), use_cache=False).logits[0]
        assert gap(ours, logits_by_hand(kind, make_tokens(40), planned)) < 1e-3
