"""Draw the pictures of README.md from the committed records: ``python results/plots.py`` (needs matplotlib).

The numbers that a picture shows stand in its description; a test compares them with the records.
"""

import json
from pathlib import Path

import matplotlib as mpl
from tables import LENGTHS, RIVALS, RUN, SEARCHES, WAYS, curve_of, passkeys, perplexities

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "longrope", "font.size": 11, "svg.fonttype": "none", "font.family": "sans-serif"})
PICTURE, GROWTH = (Path(__file__).parent / name for name in ("by-length.svg", "long-pass.svg"))
WAY_STYLES = {
    "ours": ("#2e8b57", "-"),
    "plain": ("#3c78d8", "--"),
    "chunked": ("#e0a13c", "--"),
    "kernel cuDNN": ("#999999", ":"),
}
STYLES = {
    "none": ("#999999", ":"),
    "pi": ("#c49c94", "--"),
    "ntk": ("#e0a13c", "--"),
    "dynamic-ntk": ("#b5651d", "-."),
    "yarn": ("#3c78d8", "--"),
    "longrope-gradient": ("#2e8b57", "-"),
    "longrope-evolution": ("#7b2d8b", "-"),
}


def curves() -> dict[str, dict[str, list[float]]]:
    """Perplexity and the share of passkeys of every method at every length."""
    measures = {"perplexity": perplexities, "passkey": passkeys}
    return {
        metric: {method: [round(value, 2) for value in values(RUN, method)] for method in STYLES}
        for metric, values in measures.items()
    }


def draw() -> None:
    """Write the picture."""
    from matplotlib import pyplot as plt  # after the backend is chosen

    shown = curves()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for method, (color, line) in STYLES.items():
        label = {**RIVALS, **SEARCHES}[method]
        style = {"color": color, "linestyle": line, "marker": "o", "markersize": 4, "linewidth": 2}
        left.plot(LENGTHS, shown["perplexity"][method], **style, label=label)
        right.plot(LENGTHS, shown["passkey"][method], **style)
    left.set_yscale("log")
    left.set_ylim(15, 3000)
    left.set_yticks([20, 30, 50, 100, 300, 1000], ["20", "30", "50", "100", "300", "1000"])
    left.set_title("perplexity", loc="left")
    right.set_ylim(-0.04, 1.04)
    right.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    right.set_title("passkeys found", loc="left")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(LENGTHS, [f"{length // 1024}k" for length in LENGTHS])
        axes.minorticks_off()
        axes.set_xlabel("tokens read at once")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("SmolLM2-135M, trained on 8k tokens, no weight changed", x=0.01, ha="left")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None, "Description": json.dumps(curves())})


def growth() -> dict[str, dict[str, list[list[float]]]]:
    """[tokens, value] of every way of a pass: seconds, and GiB at the peak."""
    return {
        key: {way: [[line["tokens"], round(line[key], 3)] for line in curve_of(way)] for way in WAYS}
        for key in ("seconds", "peak_gib")
    }


def draw_growth() -> None:
    """Write the picture of time and memory against length."""
    from matplotlib import pyplot as plt  # after the backend is chosen

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = {"seconds": "seconds of a pass", "peak_gib": "GiB at the peak"}
    for axes, (key, ways) in zip(panels, growth().items(), strict=True):
        for way, points in ways.items():
            if key == "peak_gib" and way.startswith("kernel"):
                continue
            color, line = WAY_STYLES[way]
            style = {"color": color, "linestyle": line, "marker": "o", "markersize": 4, "linewidth": 2}
            axes.plot(*zip(*points, strict=True), **style, label=WAYS[way] if key == "seconds" else None)
        ticks = sorted({tokens for points in ways.values() for tokens, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [f"{tokens >> 20}M" if tokens >= 2**20 else f"{tokens >> 10}k" for tokens in ticks])
        axes.minorticks_off()
        axes.set_xlabel("tokens read at once")
        axes.set_title(titles[key], loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    panels[1].set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    figure.suptitle("SmolLM2-135M on one H200: the loss of every token", x=0.01, ha="left")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(GROWTH, metadata={"Date": None, "Description": json.dumps(growth())})


if __name__ == "__main__":
    draw()
    draw_growth()
