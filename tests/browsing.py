"""A page in a real Chromium: opened without a network, watched for troubles, pointed at."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
MISSING = f"none of {', '.join(NAMES)} is installed: bash .ci/browser"


WIDTHS = {"phone": (390, 844), "desktop": (1440, 900)}
TO_THE_MIDDLE = """(svg, [x, y]) => {
  const place = () => new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
  scrollBy(0, place().y - innerHeight / 2);
  return [place().x, place().y];
}"""
OVERFLOWING = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push("the page");
  for (const part of document.querySelectorAll("main *")) {
    const box = part.getBoundingClientRect();
    if (box.width && box.right > width + 1 && !part.closest(".scroll, pre")) found.push(part.outerHTML.slice(0, 120));
  }
  return found;
}"""


@dataclass
class Visit:
    """A page that is open in a context of its own, and what it has complained of or asked for."""

    context: Any
    page: Any
    troubles: list[str] = field(default_factory=list)

    def note_request(self, url: str) -> None:
        """Allow the page itself and what it has made."""
        if not url.startswith(("data:", "blob:")) and not (url.startswith("file:") and url.endswith(".html")):
            self.troubles.append(f"request: {url}")

    def figure(self, title: str) -> Any:
        """The figure of this title."""
        return self.page.locator("figure").filter(has=self.page.get_by_role("heading", name=title, exact=True))

    def drawing(self, title: str, width: str = "desktop") -> Any:
        """The drawing of a figure that is shown at this width."""
        return self.figure(title).locator(".narrow svg" if width == "phone" else ".wide svg")

    def tip(self) -> str:
        """What the page tells about the record in hand."""
        tip = self.page.locator("#tip")
        return tip.inner_text().replace("\n", " ") if tip.is_visible() else ""


@contextmanager
def visiting(browser: Any, path: Path, width: str = "desktop", scheme: str = "light") -> Iterator[Visit]:
    """Open a page, and close it at the end, when it must have complained of nothing and asked for nothing."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    touch = width == "phone"
    context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=touch, reduced_motion="reduce")
    visit = Visit(context, context.new_page())
    visit.page.on("console", lambda message: visit.troubles.append(f"console: {message.text}"))
    visit.page.on("pageerror", lambda error: visit.troubles.append(f"error: {error}"))
    visit.page.on("request", lambda request: visit.note_request(request.url))
    visit.page.goto(path.as_uri())
    yield visit
    context.close()
    assert visit.troubles == []


def hover(visit: Visit, title: str, key: str, index: int, width: str = "desktop") -> None:
    """Bring the pointer to a point of a series."""
    drawing = visit.drawing(title, width)
    points = drawing.locator(f'.series[data-key="{key}"]').first.get_attribute("data-points")
    x, y, _ = map(float, points.split()[index].split(","))
    place = drawing.evaluate(TO_THE_MIDDLE, [x, y])
    if width == "phone":
        visit.page.touchscreen.tap(*place)
    else:
        visit.page.mouse.move(*place)
