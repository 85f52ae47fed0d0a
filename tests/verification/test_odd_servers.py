"""Servers that answer in no form that is expected are refused in words."""

import json
from typing import Any

import pico
import pytest
from serving import Json, serving

from longrope.verification.running import RefusedError
from longrope.verification.server import ask

MODELS = {"data": [{"id": "m"}]}


def refusal(answer: Any, models: Any = MODELS) -> str:
    """What is said of a server with this answer to prompts, and this list of models."""

    def stand(path: str, _: Json) -> Any:
        return models if path == "models" else answer

    with serving(stand) as address, pytest.raises(RefusedError) as caught:
        ask(address, pico.make_tokenizer(), [[5, 6, 7, 8]], 2, 3)
    return str(caught.value)


ODD: list[Any] = [5, [], [5], None, {}]
LOGPROBS: list[Any] = [
    *(5, [1], {"content": 5}, {"content": [5]}, {"top_logprobs": 7}, {"top_logprobs": [{"a": "much"}]}),
    {"content": [{"top_logprobs": [{"id": "x", "logprob": 1}]}]},
    {"content": [{"top_logprobs": [{"id": "x", "token": "a", "logprob": 1}]}]},
]
CHOICES = [*ODD, *({"choices": x} for x in ODD), *({"choices": [{"logprobs": x}]} for x in LOGPROBS)]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: json.dumps(choice)[:60])
def test_odd_answers_are_refused(choice: Any) -> None:
    said = refusal(choice)
    assert said.startswith(("it answers in another form than OpenAI's (", "/completions answers "))


@pytest.mark.parametrize("models", [{"data": 5}, {"data": "x"}, {"data": [5]}, [], {"data": [{"id": ""}]}])
def test_odd_lists_of_models_are_refused(models: Any) -> None:
    assert refusal({}, models)
