"""Draw the picture of README.md from the committed records: ``python results/plots.py`` (needs matplotlib).

The numbers that it shows stand in the picture's description; a test compares them with the records.
"""

import json
from pathlib import Path

import matplotlib as mpl
from tables import LENGTHS, RIVALS, RUN, SEARCHES, passkeys, perplexities

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "longrope", "font.size": 11, "svg.fonttype": "none", "font.family": "sans-serif"})
PICTURE = Path(__file__).parent / "by-length.svg"
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


if __name__ == "__main__":
    draw()
