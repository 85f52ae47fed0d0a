"""The page of a run: what it says of the records, and what it does where some are missing or damaged."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import CAPTIONS, SCORES, captioned, make_run, read_page, score, texts_of
from whole_run import make_steps, make_trials

from longrope.errors import RunError
from longrope.recipe import dump_recipe
from longrope.report import write_report
from longrope.runs.records import TrainStep, append_records
from longrope.runs.run_dir import RunDir


def test_a_page_shows_every_score_with_its_interval(extended: RunDir) -> None:
    path = write_report(extended)
    assert path == extended.path / "report.html"
    tables = read_page(path).tables
    assert (
        tables["Perplexity (95 % interval)"]
        == [  # with equal decimals in each column
            *CAPTIONS["Perplexity (95 % interval)"][:2],
            ("<i>own</i> & co", "", "14.50 (13.06-15.75)"),
        ]
    )
    assert tables["Passkeys found (95 % interval)"] == CAPTIONS["Passkeys found (95 % interval)"]
    assert not list(extended.path.glob("*.partial"))


def test_the_data_of_a_figure_are_its_records(extended: RunDir) -> None:
    """One row a score, with all that a reader needs to judge it; depths and paired ratios, too."""
    tables = captioned(extended)
    header = ("tokens", "value", "from", "to", "windows", "tokens scored", "seconds")
    assert tables["Perplexity: data"] == [
        ("method", *header),
        ("original model", "64", "12.346", "11.25", "13.875", "3", "1,000", "1.5"),
        ("original model", "1,024", "1,234,567", "1,000,000", "2,000,000", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "1,024", "14.5", "13.062", "15.75", "3", "1,000", "1.5"),
    ]
    assert tables["Passkeys found by depth and length: data"] == [
        ("method", "depth", *header),
        ("original model", "5%", "1,024", "0", "0", "0.6", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "5%", "1,024", "1", "0.2", "1", "3", "1,000", "1.5"),
        ("original model", "15%", "1,024", "0", "0", "0.6", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "15%", "1,024", "0.5", "0.1", "0.9", "3", "1,000", "1.5"),
    ]
    ratio = ("<i>own</i> & co / YaRN", "1,024", "0.9125", "0.89062", "0.9375", "3", "1,000", "1.5")
    assert tables["Ratio of perplexities: data"] == [("methods", *header), ratio]


def test_a_page_tells_what_was_run(extended: RunDir) -> None:
    texts = read_page(write_report(extended)).texts
    assert texts["title"] == ["models/<b>bold</b>&co to 1,024 tokens"]
    assert texts["h1"] == ["models/<b>bold</b>&co"]
    assert texts["pre"][-1] == (extended.path / "recipe.toml").read_text()
    assert "were chosen by gradient descent, on books/<search>. It was measured on other parts" in texts["p"][1]


def test_a_page_says_whether_weights_were_trained(extended: RunDir) -> None:
    """By the records of the run, or by those of one of its stages."""
    assert texts_of(extended, "p")[1].endswith("No weight of the model was changed.")
    step = TrainStep(0, 2.0, 100, 100, 1e-5, 1.0, 0.5)
    (stage := extended.path / "stages" / "1-tune").mkdir(parents=True)
    append_records(stage / "train.jsonl", [step])
    assert texts_of(extended, "p")[1].endswith("Its weights were trained, in 1 recorded steps.")
    shutil.rmtree(stage)
    append_records(extended.train, [step, replace(step, step=1)])
    assert texts_of(extended, "p")[1].endswith("Its weights were trained, in 2 recorded steps.")


def test_a_page_does_not_want_what_its_stages_show(extended: RunDir) -> None:
    """Searches and trainings of stages have figures of their own."""

    def wanted() -> list[str]:
        (missing,) = (text for text in texts_of(extended, "p") if text.startswith("Not on this page"))
        return [file for file in ("trials.jsonl", "train.jsonl") if file in missing]

    assert wanted() == ["trials.jsonl", "train.jsonl"]
    (stage := extended.path / "stages" / "1-search").mkdir(parents=True)
    append_records(stage / "trials.jsonl", make_trials(1.0))
    assert wanted() == ["train.jsonl"]
    append_records(stage / "train.jsonl", make_steps(3))
    assert wanted() == []


def test_markup_in_names_is_text(extended: RunDir) -> None:
    """Names of models, methods and files are not ours; a page that runs them would be a hole."""
    source = write_report(extended).read_text(encoding="utf-8")
    for markup in ("<b>", "<i>", "<search>", "&co", "& co"):
        assert markup not in source
    for text in ("&lt;b&gt;bold&lt;/b&gt;&amp;co", "&lt;i&gt;own&lt;/i&gt; &amp; co", "books/&lt;search&gt;"):
        assert text in source


def test_a_run_that_has_measured_nothing_has_a_page(tmp_path: Path) -> None:
    """It says what would fill it."""
    shown = read_page(write_report(make_run(tmp_path, scores=[])))
    assert shown.texts["h2"] == ["Provenance", "Recipe"]
    (missing,) = (text for text in shown.texts["p"] if text.startswith("Not on this page"))
    for needed in (
        "longrope search",
        "train.jsonl",
        "--metrics ruler",
        "ratio-to-none",
        "costs.json",
        "longrope export",
    ):
        assert needed in missing


def test_scores_without_a_recipe_have_a_page(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append_records(run.scores, SCORES)
    shown = read_page(write_report(run))
    assert shown.texts["h1"] == ["model"]
    assert "pre" not in shown.texts


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds neither recipe\.toml nor scores\.jsonl"):
        write_report(RunDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(extended: RunDir) -> None:
    (extended.path / "costs.json").write_text('[{"method": ')
    with pytest.raises(RunError, match=r"costs\.json cannot be read"):
        write_report(extended)


def test_a_report_does_not_mend_what_another_process_writes(extended: RunDir) -> None:
    """The line that is being written is left out, and left alone."""
    whole = captioned(extended)
    with extended.scores.open("a") as file:
        file.write('{"metric": "perpl')
    torn = extended.scores.read_bytes()
    assert captioned(extended) == whole
    assert extended.scores.read_bytes() == torn


def test_the_same_records_give_the_same_bytes(extended: RunDir, tmp_path: Path) -> None:
    """Written again, and in another directory: no clock and no path of the machine is in the page."""
    first = write_report(extended).read_bytes()
    assert write_report(extended).read_bytes() == first
    moved = RunDir(extended.path.rename(tmp_path / "elsewhere"))
    assert write_report(moved).read_bytes() == first
    append_records(moved.scores, [score("pi", 64, "perplexity", 17.0)])
    assert write_report(moved).read_bytes() != first


def test_a_page_loads_nothing_from_elsewhere(extended: RunDir) -> None:
    """No address, no file beside it: it can be sent by mail. Links lead to its own sections."""
    source = write_report(extended).read_text(encoding="utf-8").lower()
    for word in ("http", "//", "src=", "@import", "<link", "<iframe", "<img", "<object", "<embed", "<base", "import("):
        assert word not in source
    assert set(re.findall(r"\w*url\(", source)) <= {"createobjecturl(", "revokeobjecturl("}
    links = re.findall(r"href=.(\S)", source)
    assert set(links) == {"#"}


def test_the_recipe_of_a_page_is_read_back(extended: RunDir) -> None:
    """A report is enough to repeat the run."""
    recipe = extended.recipe()
    assert texts_of(extended, "pre")[-1] == dump_recipe(recipe)


def test_a_run_that_went_on_to_longer_windows_shows_the_longest_everywhere(tmp_path: Path) -> None:
    """Its recipe says 65,536 tokens, its last stage extrapolated to 262,144 and was measured there."""
    run = RunDir(Path(__file__).parents[2] / "results" / "smollm2-64k-tuned")
    texts = read_page(write_report(run, tmp_path / "report.html")).texts
    assert texts["title"][0].endswith(" to 262,144 tokens")
    assert texts["h1"] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert "is read here at up to 262,144 tokens" in " ".join(texts["p"])
    assert "is read here at up to 262,144 tokens" in texts["p"][1]
    assert any("at 262,144 tokens" in text for text in texts["li"])
