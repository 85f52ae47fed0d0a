"""Decoding of models with recurrent layers, by transformers' own cache, against a whole pass for each token."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from attending import HYBRIDS, RECURRENT_GEMMA, TOKENS, as_model, make_network
from long_passes import make_factors
from torch import Tensor

from longrope.engine.decoding import decode, prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.errors import ModelError
from longrope.models import LanguageModel, rescaled

PROMPT = TOKENS[0, :21].tolist()
every_hybrid = pytest.mark.parametrize("family", HYBRIDS)


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], LanguageModel]:
    """Models that are made once and never changed, with the rotary tables of their configs."""
    made: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        if family not in made:
            made[family] = as_model(make_network(family))
        return made[family]

    return get


@contextmanager
def running(model: LanguageModel, *, factors: bool) -> Iterator[None]:
    """Rescaled or as it is."""
    with rescaled(model, make_factors(model) if factors else None):
        yield


def whole_logits(model: LanguageModel, tokens: list[int]) -> Tensor:
    """[V] of what follows, by transformers' eager attention over all tokens, without a cache."""
    with torch.inference_mode():
        return model.network(torch.tensor([tokens]), use_cache=False).logits[0, -1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("factors", [False, True], ids=["original", "rescaled"])
@every_hybrid
def test_each_token_is_that_of_a_whole_pass(
    family: str, factors: bool, model_of: Callable[[str], LanguageModel]
) -> None:
    """Greedy answers of 12 tokens, whose logits are those of a pass over all tokens before."""
    model, seen = model_of(family), list[Tensor]()

    def choose(logits: Tensor) -> int:
        seen.append(logits)
        return int(logits.argmax())

    with running(model, factors=factors):
        cache = KeyValueCache(model, 40)
        written = list(decode(model, read_prompt(model, PROMPT, cache), cache, choose, 12))
        assert len(written) == 12
        for count, logits in enumerate(seen):
            expected = whole_logits(model, PROMPT + written[:count])
            torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
            assert int(expected.argmax()) == written[count]
    assert cache.tokens == len(PROMPT) + 11
    assert cache.num_bytes > 0


@every_hybrid
def test_factors_move_the_logits_of_a_cache(family: str, model_of: Callable[[str], LanguageModel]) -> None:
    """So that the test above would notice factors that do not reach them."""
    model, found = model_of(family), list[Tensor]()
    for factors in (False, True):
        with running(model, factors=factors):
            found.append(read_prompt(model, PROMPT, KeyValueCache(model, 40)))
    assert (found[0] - found[1]).abs().max() > 0.02 * found[0].std()


@every_hybrid
def test_a_text_goes_on_in_several_ways(family: str, model_of: Callable[[str], LanguageModel]) -> None:
    """From the place that was kept, as questions follow a text one after the other."""
    model = model_of(family)
    cache = KeyValueCache(model, 48)
    read_prompt(model, PROMPT, cache)
    for question in ([5, 9, 7], [11], list(range(40, 52)), [5, 9, 7]):
        cache.rewind(len(PROMPT))
        logits = read_prompt(model, question, cache)
        for token in (8, 30):
            logits = prefill(model, torch.tensor([[token]]), cache)[0]
        expected = whole_logits(model, [*PROMPT, *question, 8, 30])
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    with pytest.raises(ModelError, match="is to go back to 5, where nothing was kept"):
        cache.rewind(5)


@pytest.mark.parametrize("setting", ["eight_bit", "offload"])
def test_settings_for_keys_alone_are_refused(setting: str, model_of: Callable[[str], LanguageModel]) -> None:
    with pytest.raises(ModelError, match="'lfm2' has recurrent layers"):
        KeyValueCache(model_of("lfm2"), 40, **{setting: True})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_family_that_forgets_its_states_is_refused_with_the_difference(dtype: torch.dtype) -> None:
    """RecurrentGemma keeps states in its modules, and reads a second piece without those of the first."""
    model = as_model(make_network("recurrent_gemma", dtype=dtype, **RECURRENT_GEMMA))
    with pytest.raises(ModelError, match=r"does not go on right from a cache: its logits are off by 0\.\d+ of"):
        read_prompt(model, PROMPT, KeyValueCache(model, 40))
