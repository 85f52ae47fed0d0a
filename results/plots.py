"""Draw the picture of README.md from the committed records: ``python results/plots.py`` (needs matplotlib).

The numbers that it shows stand in the picture's description; a test compares them with the records.
"""

import json
from pathlib import Path

import matplotlib as mpl
from tables import LENGTHS, RIVALS, SEARCHES, perplexities

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "longrope", "font.size": 11, "svg.fonttype": "none", "font.family": "sans-serif"})
RUN = "smollm2-64k-text"
PICTURE = Path(__file__).parent / "perplexity.svg"
STYLES = {
    "none": ("#999999", ":"),
    "pi": ("#c49c94", "--"),
    "ntk": ("#e0a13c", "--"),
    "dynamic-ntk": ("#b5651d", "-."),
    "yarn": ("#3c78d8", "--"),
    "longrope-gradient": ("#2e8b57", "-"),
    "longrope-evolution": ("#7b2d8b", "-"),
}


def curves() -> dict[str, list[float]]:
    """Perplexity of every method at every length."""
    return {method: [round(value, 2) for value in perplexities(RUN, method)] for method in STYLES}


def draw() -> None:
    """Write the picture."""
    from matplotlib import pyplot as plt  # after the backend is chosen

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for method, values in curves().items():
        color, line = STYLES[method]
        label = {**RIVALS, **SEARCHES}[method]
        axes.plot(LENGTHS, values, line, color=color, marker="o", markersize=4, linewidth=2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(LENGTHS, [f"{length // 1024}k" for length in LENGTHS])
    axes.set_ylim(15, 3000)
    axes.set_yticks([20, 30, 50, 100, 300, 1000], ["20", "30", "50", "100", "300", "1000"])
    axes.minorticks_off()
    axes.set_xlabel("tokens read at once")
    axes.set_ylabel("perplexity")
    axes.set_title("SmolLM2-135M, trained on 8k tokens, no weight changed", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None, "Description": json.dumps(curves())})


if __name__ == "__main__":
    draw()
