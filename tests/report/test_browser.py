"""The report in a real Chromium without a network: errors, requests, sections, hover, keyboard, widths, downloads.

``bash .ci/browser`` installs one on Debian. Without one these tests are skipped, unless LONGROPE_BROWSER is "required".
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from browsing import CHROMIUM, MISSING, OVERFLOWING, WIDTHS, Visit, hover, visiting
from whole_run import DEPTHS, make_whole_run

from longrope.report import write_comparison, write_report
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

if not CHROMIUM and os.environ.get("LONGROPE_BROWSER") != "required":
    pytest.skip(MISSING, allow_module_level=True)

pytestmark = pytest.mark.slow
SECTIONS = {
    "perplexity": "Perplexity by context window",
    "retrieval": "Passkeys and needles",
    "ruler": "RULER",
    "retention": "Short-window retention",
    "harness": "Short-window benchmarks",
    "ratios": "Paired with its baselines",
    "other": "Other measurements",
    "stages": "Stages",
    "factors": "Rescale factors",
    "search": "Search",
    "training": "Training",
    "cost": "Cost",
    "checkpoint": "Checkpoint",
    "provenance": "Provenance",
    "recipe": "Recipe",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine."""
    if not CHROMIUM:
        pytest.fail(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with everything that a page can show."""
    return make_whole_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def page_path(run: RunDir) -> Path:
    return write_report(run)


@pytest.fixture
def visit(browser: Any, page_path: Path) -> Iterator[Visit]:
    """The page of the whole run on a desktop."""
    with visiting(browser, page_path) as opened:
        yield opened


def record(run: RunDir, metric: str, method: str, tokens: int) -> Score:
    """The one record of this description."""
    scores = read_records(run.scores, Score)
    (found,) = (s for s in scores if (s.metric, s.method, s.context_tokens) == (metric, method, tokens))
    return found


def test_every_section_is_there_and_nothing_is_asked_of_the_network(visit: Visit) -> None:
    """And each link of the contents leads to its section."""
    sections = visit.page.locator("section")
    headings = sections.evaluate_all("all => all.map(s => [s.id, s.querySelector('h2').textContent])")
    assert dict(headings) == SECTIONS
    links = visit.page.locator("nav a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.textContent])")
    assert [tuple(link) for link in links] == [(f"#{name}", title) for name, title in SECTIONS.items()]
    for section in set(SECTIONS) - {"other", "cost", "checkpoint", "provenance", "recipe"}:
        assert visit.page.locator(f"#{section} figure .wide svg").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(browser: Any, page_path: Path, width: str, scheme: str) -> None:
    """Wide tables scroll in boxes of their own; the colours are those that the reader prefers."""
    with visiting(browser, page_path, width, scheme) as visit:
        assert visit.page.evaluate(OVERFLOWING) == []
        assert visit.page.locator("details").count() > 10
        visit.page.locator("details").evaluate_all("all => all.forEach(part => part.open = true)")
        assert visit.page.evaluate(OVERFLOWING) == []
        red, *_ = map(int, re.findall(r"\d+", visit.page.evaluate("getComputedStyle(document.body).backgroundColor")))
        assert red < 60 if scheme == "dark" else red > 200
        shown = visit.page.locator("figure svg.fig:visible").count()
        assert shown == visit.page.locator("figure").count()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_label_of_a_figure_leaves_it(browser: Any, page_path: Path, width: str) -> None:
    with visiting(browser, page_path, width) as visit:
        outside = visit.page.locator("figure svg.fig:visible text").evaluate_all(
            """all => all.filter(text => {
              const box = text.getBoundingClientRect(), card = text.closest("figure").getBoundingClientRect();
              return box.left < card.left || box.right > card.right || box.top < card.top || box.bottom > card.bottom;
            }).map(text => text.textContent)"""
        )
        assert outside == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_touch_of_the_pointer_or_a_finger_shows_the_record(
    browser: Any, page_path: Path, run: RunDir, width: str
) -> None:
    """Of a line, of a heat map, and of a row of ratios: the numbers of the very record."""
    with visiting(browser, page_path, width) as visit:
        hover(visit, "Perplexity", "YaRN", 2, width)
        score = record(run, "perplexity", "yarn", 256)
        assert visit.tip().startswith("YaRN")
        for part in (f"tokens {256}", f"value {score.value:.5g}", f"from {score.low:.5g}", f"to {score.high:.5g}"):
            assert part in visit.tip()
        hover(visit, "Needles found by depth and length", "LongRoPE, tuned", len(DEPTHS), width)
        score = record(run, "needle-depth-0.05", "longrope-tuned", 128)
        assert f"depth 5% tokens 128 value {score.value:.5g}" in visit.tip()
        hover(visit, "Ratio of perplexities", "LongRoPE, tuned / NTK, 512", 0, width)
        assert f"value {record(run, 'ratio-to-ntk', 'longrope-tuned', 512).value:.5g}" in visit.tip()
        hover(visit, "Difference of passkeys found", "LongRoPE, tuned / YaRN, 512", 0, width)
        assert "value 0.125 from -0.05 to 0.3" in visit.tip()
        hover(visit, "hellaswag:acc", "NTK", 0, width)
        assert "value 0.314" in visit.tip()
        visit.page.locator("#ratios h2").click()
        assert visit.tip() == ""


def test_the_pointer_finds_a_step_among_hundreds(visit: Visit) -> None:
    """A long training has no markers, and every step of it can be read all the same."""
    hover(visit, "Training", "training loss", 200)
    assert re.search(r"step 200 loss, nats 2\.3", visit.tip())
    visit.page.mouse.move(2, 2)
    assert visit.tip() == ""


def test_the_keyboard_schedules_through_the_records(visit: Visit, run: RunDir) -> None:
    """Focus shows the first, arrows the next and the next series, Escape nothing."""
    drawing = visit.drawing("Perplexity")
    visit.page.keyboard.press("Tab")
    drawing.focus()
    assert visit.tip().startswith("original model tokens 64 ")
    visit.page.keyboard.press("ArrowRight")
    assert f"tokens 128 value {record(run, 'perplexity', 'none', 128).value:.5g}" in visit.tip()
    visit.page.keyboard.press("ArrowDown")
    assert visit.tip().startswith("PI tokens 128 ")
    visit.page.keyboard.press("End")
    assert visit.tip().startswith("LongRoPE, tuned tokens 512 ")
    visit.page.keyboard.press("Escape")
    assert visit.tip() == ""


def test_every_point_of_every_figure_names_a_row_of_its_data(visit: Visit) -> None:
    """In both widths; together they name every row once."""
    named = visit.page.locator("figure .fig").evaluate_all(
        """all => all.map(svg => [
          svg.closest("figure").querySelector("h3").textContent,
          svg.closest("figure").querySelector("table").tBodies[0].rows.length,
          [...svg.querySelectorAll(".series")].flatMap(g => g.dataset.points.split(" ")).map(t => +t.split(",")[2])])"""
    )
    assert len(named) == 2 * visit.page.locator("figure").count()
    for title, rows, points in named:
        assert sorted(points) == list(range(rows)), title


@pytest.mark.parametrize(
    "title", ["Perplexity", "Passkeys found by depth and length", "Short-window retention", "Seconds of each stage"]
)
def test_a_figure_is_saved_as_a_drawing_of_its_own(visit: Visit, title: str) -> None:
    """Parsed without the page: its texts are there, its colours are written out."""
    with visit.page.expect_download() as started:
        visit.figure(title).get_by_role("button", name="SVG").click()
    text = Path(started.value.path()).read_text()
    assert started.value.suggested_filename.endswith(".svg")
    root = ET.fromstring(text)  # noqa: S314  # we made it
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for unfinished in ("var(", "NaN", "class=", "data-"):
        assert unfinished not in text
    drawn = [part.text for part in root.iter("{http://www.w3.org/2000/svg}text")]
    assert drawn == visit.drawing(title).locator("text").all_text_contents()


def test_a_figure_is_saved_as_a_picture_of_twice_its_size(visit: Visit) -> None:
    """A PNG that is not of one colour."""
    with visit.page.expect_download() as started:
        visit.figure("Perplexity").get_by_role("button", name="PNG").click()
    content = Path(started.value.path()).read_bytes()
    assert started.value.suggested_filename == "perplexity.png"
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width == 2 * (960 + 32)
    parts, at = b"", 8
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        parts += content[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    pixels = zlib.decompress(parts)
    assert len(pixels) == height * (1 + 4 * width)
    assert len(set(pixels)) > 50


def test_the_reader_chooses_light_or_dark(browser: Any, page_path: Path) -> None:
    """And finds the choice again on the next visit."""
    with visiting(browser, page_path, scheme="dark") as visit:
        visit.page.get_by_role("button", name="Light or dark").click()
        background = "getComputedStyle(document.querySelector('figure')).backgroundColor"
        assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
        visit.page.reload()
        assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
        visit.page.get_by_role("button", name="Light or dark").click()
        assert visit.page.evaluate(background) == "rgb(27, 30, 36)"


def test_a_page_is_whole_without_its_script(browser: Any, page_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.locator("figure svg.fig:visible").count() == page.locator("figure").count() > 10
    assert page.locator("table:visible").count() > 5
    context.close()


def test_several_runs_share_their_figures(browser: Any, run: RunDir, tmp_path: Path) -> None:
    """A series for each run and method; what both have in common once."""
    other = make_whole_run(tmp_path / "other", better=0.9, trained=False)
    with visiting(browser, write_comparison([run, other], tmp_path / "both.html")) as visit:
        keys = visit.drawing("Perplexity").locator(".series").evaluate_all("all => all.map(g => g.dataset.key)")
        own = [f"LongRoPE, {how} · {name}" for name in ("whole", "other") for how in ("gradient", "tuned")]
        shared = [f"{label} · whole, other" for label in ("original model", "PI", "NTK", "YaRN")]
        assert keys == [*shared, *own]
        hover(visit, "Perplexity", "LongRoPE, tuned · other", 3)
        assert f"tokens 512 value {record(other, 'perplexity', 'longrope-tuned', 512).value:.5g}" in visit.tip()
        words = visit.page.locator(".lead").all_inner_texts()
        assert [("No weight" in text, "were trained" in text) for text in words] == [(False, True), (True, False)]
        assert visit.page.evaluate(OVERFLOWING) == []
        visit.page.set_viewport_size({"width": 390, "height": 844})
        assert visit.page.evaluate(OVERFLOWING) == []


def test_the_names_of_rows_stay_while_a_table_scrolls_on_a_phone(browser: Any, page_path: Path) -> None:
    """Their column stands where it stood, no wider than half of the screen; a shade says that there is more."""
    with visiting(browser, page_path) as visit:
        visit.page.set_viewport_size({"width": 390, "height": 844})
        wide = visit.page.locator("section > .scroll").evaluate_all(
            """all => all.filter(box => box.scrollWidth > box.clientWidth + 40).map(box => {
              const name = box.querySelector("tbody th"), before = name.getBoundingClientRect();
              box.scrollLeft = 40;
              const after = name.getBoundingClientRect(), shade = getComputedStyle(box).backgroundAttachment;
              return [before.left - after.left, after.width, shade];
            })"""
        )
        assert wide
        assert all(moved == 0 and width <= 195 and shade == "local, scroll" for moved, width, shade in wide)


@pytest.mark.parametrize("width", [390, 1280])
def test_where_a_run_was_made_is_shown_whole(browser: Any, page_path: Path, width: int) -> None:
    """No word of a name is broken, so a name of one word has one line; no row hides below the end of its table."""
    with visiting(browser, page_path) as visit:
        visit.page.set_viewport_size({"width": width, "height": 844})
        tables = visit.page.locator(":is(#checkpoint, #provenance) > .scroll").evaluate_all(
            """all => all.map(box => [box.scrollHeight - box.clientHeight, [...box.querySelectorAll("tbody th")].map(
              name => { const range = document.createRange(); range.selectNodeContents(name);
                return [name.textContent, range.getClientRects().length]; })])"""
        )
        assert len(tables) == 3
        assert all(hidden <= 0 for hidden, _ in tables)
        assert all(lines <= len(name.split()) for _, names in tables for name, lines in names)


@pytest.mark.parametrize(
    ("planted", "trouble"),
    [
        ("<img src='http://127.0.0.1:9/a.png'>", "request: http://127.0.0.1:9/a.png"),
        ("<img src='beside.png'>", "beside.png"),
        ("<script>console.warn('odd')</script>", "console: odd"),
        ("<script>missing()</script>", "missing is not defined"),
    ],
)
def test_planted_troubles_are_found(browser: Any, page_path: Path, tmp_path: Path, planted: str, trouble: str) -> None:
    (page := tmp_path / "page.html").write_text(page_path.read_text().replace("</main>", f"{planted}</main>"))
    with pytest.raises(AssertionError), visiting(browser, page) as visit:
        pass
    assert any(trouble in messages for messages in visit.troubles)


def test_a_wide_element_is_found(visit: Visit) -> None:
    visit.page.evaluate("document.querySelector('#search p').style.minWidth = '2000px'")
    assert len(visit.page.evaluate(OVERFLOWING)) > 0


def test_a_page_stays_small(page_path: Path) -> None:
    assert page_path.stat().st_size < 1.5e6
