"""What `longrope generate` says before it answers: whether the model's chat template is used."""

from typing import Any

import pico
import pytest

from longrope.cli.console import reading


@pytest.mark.parametrize(
    ("template", "said"),
    [("{{ messages }}", "asked in the model's chat template"), (None, "no chat template: the model goes on with the")],
)
def test_a_chat_template_is_named(template: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = pico.make_model()
    model.tokenizer.chat_template = template
    with reading(model):
        pass
    assert said in " ".join(capsys.readouterr().err.split())
