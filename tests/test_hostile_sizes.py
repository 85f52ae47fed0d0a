"""Numbers and files that would take minutes or all memory: refused at once."""

import json
from pathlib import Path
from typing import get_type_hints

import pytest
from hostile_inputs import SCORE, TRIAL

from longrope.errors import RecipeError, RunError
from longrope.recipe import MeasureRecipe
from longrope.report.contents import MOST_LINES, MOST_NAMES, read_run
from longrope.runs.run_dir import RunDir
from longrope.settings import checked

PROMPTS = get_type_hints(MeasureRecipe, include_extras=True)


def write(folder: Path, **lines: list[dict[str, object]]) -> RunDir:
    """A run directory that holds scores, and other records."""
    for name, rows in {"scores": [SCORE], **lines}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunDir(folder)


@pytest.mark.parametrize("name", ["passkeys", "needles", "needles_per_text", "ruler_prompts"])
def test_prompts_that_no_machine_can_hold_are_refused(name: str) -> None:
    assert checked(PROMPTS[name], 100_000, name) == 100_000
    with pytest.raises(RecipeError, match=f"{name} = 1000000000000"):
        checked(PROMPTS[name], 10**12, name)


@pytest.mark.parametrize(("name", "first"), [("method", "m"), ("metric", "perplexity-last-"), ("context_tokens", 100)])
def test_a_page_of_more_names_than_it_can_show_is_refused(name: str, first: str | int, tmp_path: Path) -> None:
    rows = [SCORE | {name: first + i if isinstance(first, int) else f"{first}{i}"} for i in range(1, MOST_NAMES + 1)]
    assert len(read_run(write(tmp_path, scores=rows)).scores) == MOST_NAMES
    with pytest.raises(RunError, match=f"{MOST_NAMES + 1} values of {name}"):
        read_run(write(tmp_path, scores=[*rows, SCORE]))


def test_a_file_of_more_lines_than_a_page_can_show_is_refused_unread(tmp_path: Path) -> None:
    run = write(tmp_path, trials=[TRIAL])
    assert len(read_run(run).trials) == 1
    run.trials.write_text("{}\n" * (MOST_LINES + 1))
    with pytest.raises(RunError, match=r"trials\.jsonl has 100,001 lines"):
        read_run(run)
