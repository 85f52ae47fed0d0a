"""The page and the model card use the field's words, not those that earlier versions made up."""

import json
import re
from pathlib import Path

import pytest
from handmade import read_page
from whole_run import make_whole_run

from longrope.report import write_report
from longrope.runs.run_dir import RunDir

RESULTS = Path(__file__).parents[2] / "results"
OLD = re.compile(
    r"\b(doors?|rooms?|walk(s|ed)?|rivals?|told|carried on|carry \d+k?|recover(ed)?|as it is|turn(ed)? fully|whole turn"
    r"|factor_sets?|closed forms?|embedded (model|default))\b|(?<![\w-])keys?(?![\w-])",
    re.IGNORECASE,
)
SHOWN = ("title", "h1", "h2", "h3", "p", "li", "th", "td", "caption", "summary", "text")  # not <pre>: it is the recipe
TEMPLATE = Path(__file__).parents[2] / "src" / "longrope" / "exports" / "card.md.j2"


def old_words(path: Path) -> set[str]:
    """Every old word on a page, with what stands around it."""
    texts = [text for tag, own in read_page(path).texts.items() if tag in SHOWN for text in own]
    assert sum(map(len, texts)) > 1000
    return {text[max(0, found.start() - 40) : found.end() + 40] for text in texts for found in OLD.finditer(text)}


def test_a_page_with_everything_has_no_old_word(tmp_path: Path) -> None:
    run = make_whole_run(tmp_path)
    (session,) = json.loads(run.provenance.read_text())
    run.provenance.write_text(json.dumps([{**session, "command": "longrope extend"}]))  # not that of these tests
    assert old_words(write_report(run)) == set()


@pytest.mark.parametrize("name", ["smollm2-64k", "smollm2-64k-tuned", "nano-16k/yarn"])
def test_pages_of_published_runs_have_no_old_word(name: str, tmp_path: Path) -> None:
    """Records of earlier versions hold some in their fields; the page has others instead."""
    assert old_words(write_report(RunDir(RESULTS / name), tmp_path / "report.html")) == set()


def test_the_model_card_has_no_old_word() -> None:
    """Of its template what is shown: neither tags of the template nor what the user types."""
    shown = re.sub(r"\{[%{].*?[%}]\}|`[^`]*`", "", TEMPLATE.read_text(), flags=re.DOTALL)
    assert "rotary position embedding" in shown
    assert [found[0] for found in OLD.finditer(shown.replace("keys that other runtimes read", ""))] == []
