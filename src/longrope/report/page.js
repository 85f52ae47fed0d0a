(() => {
  "use strict";
  const root = document.documentElement, tip = document.getElementById("tip");
  const isDark = () => getComputedStyle(root).colorScheme === "dark";

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.longropeTheme = root.dataset.theme; } catch (_) { /* no storage here */ }
  });

  /* Where each record stands in a figure: [x, y, row of its data, series]. */
  const pointsOf = (svg) => svg.points ??= [...svg.querySelectorAll(".series")].flatMap((group) =>
    (group.dataset.points || "").split(" ").filter(Boolean).map((text) => [...text.split(",").map(Number), group]));

  const highlight = (svg, key) => svg.querySelectorAll("[data-key]").forEach((part) =>
    part.classList.toggle("dim", key !== null && part.dataset.key !== key));

  let shown = null; /* the figure that the tip is about */
  const hide = (svg) => {
    if (svg === shown) tip.hidden = true;
    highlight(svg, null);
    svg.querySelector(".cursor").style.visibility = "hidden";
  };

  const fill = (table, row) => {
    const names = table.tHead.rows[0].cells, cells = table.tBodies[0].rows[row].cells;
    const title = document.createElement("b"), list = document.createElement("dl");
    title.textContent = cells[0].textContent;
    for (let i = 1; i < cells.length; i++) {
      if (!cells[i].textContent) continue;
      list.append(Object.assign(document.createElement("dt"), { textContent: names[i].textContent }));
      list.append(Object.assign(document.createElement("dd"), { textContent: cells[i].textContent }));
    }
    tip.replaceChildren(title, list);
  };

  const show = (svg, index) => {
    const [x, y, row, group] = pointsOf(svg)[svg.at = index];
    const cursor = svg.querySelector(".cursor"), matrix = svg.getScreenCTM();
    cursor.setAttribute("cx", x);
    cursor.setAttribute("cy", y);
    cursor.style.visibility = "visible";
    fill(svg.closest("figure").querySelector("table"), row);
    highlight(svg, group.dataset.key);
    tip.hidden = false;
    shown = svg;
    const place = new DOMPoint(x, y).matrixTransform(matrix), box = tip.getBoundingClientRect();
    const left = place.x + 18 + box.width > innerWidth - 8 ? place.x - 18 - box.width : place.x + 18;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - 8 - box.width))}px`;
    tip.style.top = `${Math.max(8, Math.min(place.y - box.height - 14, innerHeight - 8 - box.height))}px`;
  };

  const follow = (svg, event) => {
    const key = event.target.closest(".key");
    if (key) { hide(svg); highlight(svg, key.dataset.key); return; }
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = pointsOf(svg).map(([x, y]) => (x - at.x) ** 2 + (y - at.y) ** 2);
    const nearest = far.indexOf(Math.min(...far));
    if (far[nearest] < 45 ** 2) show(svg, nearest); else hide(svg);
  };

  /* Left and right move along a series, up and down go to the next series at about the same place. */
  const move = (svg, event) => {
    const points = pointsOf(svg), at = svg.at ?? 0, groups = [...new Set(points.map((point) => point[3]))];
    const across = (step) => {
      const group = groups[(groups.indexOf(points[at][3]) + step + groups.length) % groups.length];
      const near = points.map((point, i) => [Math.abs(point[0] - points[at][0]), i]).filter(([, i]) => points[i][3] === group);
      return near.sort((a, b) => a[0] - b[0])[0][1];
    };
    const moves = { ArrowRight: () => Math.min(at + 1, points.length - 1), ArrowLeft: () => Math.max(at - 1, 0),
      ArrowDown: () => across(1), ArrowUp: () => across(-1), Home: () => 0, End: () => points.length - 1 };
    if (event.key === "Escape") hide(svg);
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(svg, moves[event.key]());
  };

  document.querySelectorAll("figure svg.fig").forEach((svg) => {
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("aria-describedby", "tip");
    ["pointermove", "pointerdown"].forEach((name) => svg.addEventListener(name, (event) => follow(svg, event)));
    /* A finger that is lifted leaves, too; what it has shown stays until the next touch. */
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(svg); });
    document.addEventListener("pointerdown", (event) => { if (!svg.contains(event.target)) hide(svg); }, true);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible") && pointsOf(svg).length) show(svg, svg.at ?? 0); });
    svg.addEventListener("blur", () => hide(svg));
    svg.addEventListener("keydown", (event) => move(svg, event));
  });

  /* A figure on its own: what the page's style says is written into its elements. */
  const WRITTEN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity", "fill-opacity",
    "paint-order", "font-family", "font-size", "font-weight", "text-anchor", "visibility"];
  const alone = (figure) => {
    const svg = figure.querySelector(".wide svg"), copy = svg.cloneNode(true);
    hide(svg);
    const parts = [...svg.querySelectorAll("*")], copies = [...copy.querySelectorAll("*")];
    parts.forEach((part, i) => {
      const style = getComputedStyle(part);
      WRITTEN.forEach((name) => copies[i].setAttribute(name, style.getPropertyValue(name)));
      ["class", "style", "data-points", "data-key"].forEach((name) => copies[i].removeAttribute(name));
    });
    const [left, top, width, height] = svg.getAttribute("viewBox").split(" ").map(Number), edge = 16;
    const size = [width + 2 * edge, height + 2 * edge];
    const back = copy.insertBefore(document.createElementNS(svg.namespaceURI, "rect"), copy.firstChild);
    const written = { x: left - edge, y: top - edge, width: size[0], height: size[1],
      fill: getComputedStyle(figure).backgroundColor };
    Object.entries(written).forEach(([name, value]) => back.setAttribute(name, value));
    copy.setAttribute("viewBox", [left - edge, top - edge, ...size].join(" "));
    copy.setAttribute("width", size[0]);
    copy.setAttribute("height", size[1]);
    ["class", "tabindex", "aria-describedby"].forEach((name) => copy.removeAttribute(name));
    return [new XMLSerializer().serializeToString(copy), size];
  };

  const save = (blob, name) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const savePng = (text, [width, height], name) => {
    const image = new Image(), canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
    image.onload = () => {
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(blob, name), "image/png");
    };
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  };

  document.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const figure = button.closest("figure"), kind = button.dataset.save, name = `${figure.dataset.name}.${kind}`;
    const [text, size] = alone(figure);
    if (kind === "png") savePng(text, size, name); else save(new Blob([text], { type: "image/svg+xml" }), name);
  }));
})();
