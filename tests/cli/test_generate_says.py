"""What `longrope generate` says before it answers: whether the model's chat template is used."""

import re
import threading
from pathlib import Path
from typing import Any

import pico
import pytest
from commands import Command, report_at_once

from longrope.cli.console import reading
from longrope.models import LanguageModel, load_model
from longrope.pipeline.progress import Reminder


@pytest.mark.parametrize(
    ("template", "said"),
    [("{{ messages }}", "asked in the model's chat template"), (None, "no chat template: the model continues the")],
)
def test_a_chat_template_is_named(template: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = pico.make_model()
    model.tokenizer.chat_template = template
    with reading(model):
        pass
    assert said in " ".join(capsys.readouterr().err.split())


def test_where_there_is_no_terminal_reading_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report_at_once(monkeypatch)
    with reading(pico.make_model()) as on_read:
        on_read(65_536, 100_000)
    assert capsys.readouterr().err.splitlines()[1:] == ["read: 65,536 of 100,000 tokens"]


def test_quiet_leaves_the_answer_alone(
    command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report_at_once(monkeypatch)
    (tmp_path / "book.txt").write_text("a b c")
    given = ("generate", pico_folder, "--document", tmp_path / "book.txt", "--prompt", "What?")
    loud = command(*given, "--max-new-tokens", "4")
    quiet = command("-q", *given, "--max-new-tokens", "4")
    assert (loud.code, quiet.code, quiet.err) == (0, 0, "")
    assert quiet.out == loud.out
    assert "read: " in loud.err
    assert ", wrote " in loud.err


def test_a_model_that_loads_for_long_is_heard_of(
    command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the answer is printed once it has begun, wherever stderr goes."""
    report_at_once(monkeypatch)
    looked, look = threading.Event(), Reminder.look

    def look_and_say_so(reminder: Reminder) -> None:
        look(reminder)
        looked.set()

    def load_slowly(*given: Any, **options: Any) -> LanguageModel:
        looked.wait()
        return load_model(*given, **options)

    monkeypatch.setattr(Reminder, "look", look_and_say_so)
    monkeypatch.setattr("longrope.models.load_model", load_slowly)
    Path("book.txt").write_text("a b c")
    result = command("generate", pico_folder, "--document", "book.txt", "--prompt", "What?", "--max-new-tokens", "4")
    assert result.code == 0, result.err
    first, second, *_ = result.err.splitlines()
    assert first == f"load {pico_folder}"
    assert re.match(r"still working, \d+ s after: load ", second)
