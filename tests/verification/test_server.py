"""OpenAI-compatible servers, as a stand-in: what is asked, and the verdicts on what they answer."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import Json, Refusal, Stand, serving

import longrope
from longrope.models import LanguageModel
from longrope.rope import NativeScaling
from longrope.verification import server
from longrope.verification.checking import Verification, verify
from longrope.verification.truth import Truth
from longrope.verification.turnings import ORIGINAL, usual_faults

DEMO = Path(__file__).parents[2] / "results" / "demo"


def check(folder: Path, stand: Callable[[str, Json], Json]) -> Verification:
    with serving(stand) as address:
        [done] = verify(folder, [address], device="cpu")
    return done


@pytest.mark.parametrize(
    "given",
    [{"newer": True}, {}, {"most": 5}, {"texts": True}, {"texts": True, "most": 5}],
    ids=["ids", "older", "five", "texts", "five of texts"],
)
def test_log_probabilities_of_every_form_are_read(given: dict[str, Any], exported: dict[str, Path]) -> None:
    done = check(exported["single"], Stand(exported["single"], **given))
    assert done.verdict == "applied"
    assert max(finding.difference_nats for finding in done.findings) < 1e-4
    assert done.message == "model the-model" + (", prompts sent as text" if "texts" in given else "")


@pytest.mark.parametrize("layout", ["single", "two"])
def test_a_server_that_ignores_the_scaling_is_found(layout: str, exported: dict[str, Path]) -> None:
    done = check(exported[layout], Stand(exported[layout], scaled=False))
    assert done.verdict == "original"
    assert done.findings[-1].as_ == "original"


def test_a_server_may_read_less_with_the_long_list(exported: dict[str, Path]) -> None:
    done = check(exported["two"], Stand(exported["two"], newer=True))
    assert done.verdict == "applied"


def test_a_refusal_is_quoted(exported: dict[str, Path]) -> None:
    done = check(exported["single"], Stand(exported["single"], window=100))
    assert done.verdict == "refused"
    assert "maximum context length is 100 tokens" in done.message


def test_an_absent_server_is_refused(exported: dict[str, Path]) -> None:
    with serving(lambda *_: {}) as address:
        pass
    [done] = verify(exported["single"], [address], device="cpu")
    assert (done.verdict, "Connection" in done.message) == ("refused", True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(lambda *_: {}, "it lists no model"), (lambda *_: [1], "answers [1]")],
    ids=["no model", "no table"],
)
def test_an_answer_of_another_form_is_refused(
    answer: Callable[[str, Json], Json], message: str, exported: dict[str, Path]
) -> None:
    done = check(exported["single"], answer)
    assert done.verdict == "refused"
    assert message in done.message


def test_the_key_is_sent(monkeypatch: pytest.MonkeyPatch, exported: dict[str, Path]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    headers: list[dict[str, str]] = []
    with serving(lambda *_: {}, headers) as address:
        verify(exported["single"], [address], device="cpu")
    assert [sent["Authorization"] for sent in headers] == ["Bearer a-key"]


# Passkeys


@pytest.fixture(scope="module")
def bundled() -> tuple[LanguageModel, Truth]:
    """The bundled model, and its RoPE with the demo's factors."""
    model = longrope.load_model("nano", device="cpu")
    factors = longrope.load_factors(DEMO / "factors.json").factor_sets[-1]
    native = NativeScaling("longrope", factors.lambdas, factors.attention_factor)
    stated = replace(model.spec, trained_window=2048, native=native)
    return model, Truth(stated, model.spec, 256, "test")


def reader(reach: int, *, chat: bool = False, blind: bool = False) -> Callable[[str, Json], Json]:
    """A server without log-probabilities that finds passkeys in prompts of so many characters."""

    def answer(path: str, posted: Json) -> Json:
        if path == "models":
            return {"data": [{"id": "the-model"}]}
        if chat != (path == "chat/completions"):
            raise Refusal(404)
        prompt = posted["messages"][0]["content"] if chat else posted["prompt"]
        text = ""
        if isinstance(prompt, str) and len(prompt) <= reach and not blind:
            text = " ".join(re.findall(r"\d{5}", prompt)[:1])
        return {"choices": [{"message": {"content": text}}]} if chat else {"choices": [{"text": text}]}

    return answer


@pytest.mark.parametrize(
    ("given", "verdict", "message"),
    [
        ({"reach": 10**6}, "applied", "of 5 passkeys it finds 5 within 256 tokens and 5 within 1,024"),
        ({"reach": 10**6, "chat": True}, "applied", "finds 5 within 256 tokens and 5 within 1,024"),
        ({"reach": 1500}, "original", "finds 5 within 256 tokens and 0 within 1,024"),
        ({"reach": 10**6, "blind": True}, "unclear", "finds 0 within 256 tokens and 0 within 1,024"),
    ],
    ids=["all", "chat", "near ones", "none"],
)
def test_passkeys_decide_without_log_probabilities(
    given: dict[str, Any], verdict: str, message: str, bundled: tuple[LanguageModel, Truth]
) -> None:
    model, truth = bundled
    prompt = [list(range(100, 140))]
    with serving(reader(**given)) as address:
        with pytest.raises(server.NoLogProbabilitiesError):
            server.ask(address, model.tokenizer, prompt, 4, 20)
        original = usual_faults(truth, 2048)[ORIGINAL]
        done = server.ask_passkeys(address, model, truth, original)
    assert done[0] == verdict
    assert message in done[1]


def test_a_window_without_space_for_passkeys_is_unclear(exported: dict[str, Path]) -> None:
    done = check(exported["single"], reader(10**6))
    assert done.verdict == "unclear"
    assert "A passkey prompt of 64 tokens" in done.message
