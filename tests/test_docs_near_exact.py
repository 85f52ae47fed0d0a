"""What docs/results.md says of methods that read near tokens exactly is in the record of the bundled model."""

from documents import scores, words

from longrope.registry import METHODS

TEXT = words("docs/results.md")
FAR = 4096


def test_the_numbers_of_the_bundled_model_are_recorded() -> None:
    """Shares, passkeys and which intervals part the methods."""
    made = scores("nano-4k")
    ratio = made["dca", "ratio-to-yarn", FAR]
    assert f"DCA reads these windows with {ratio['value']:.3f} of YaRN's perplexity" in TEXT
    assert ratio["high"] < 1
    assert made["longrope-gradient", "ratio-to-yarn", FAR]["low"] > ratio["high"]
    found = {
        method: round(made[method, "passkey", FAR]["value"] * 20)
        for method in ("dca", "yarn", "longrope-gradient", "self-extend")
    }
    keys = f"It finds {found['dca']} of 20 passkeys, where YaRN finds {found['yarn']} and the searched factors"
    assert f"{keys} {found['longrope-gradient']};" in TEXT
    assert (found["self-extend"], {made[name, "passkey", FAR]["num_windows"] for name in found}) == (0, {20})
    near = made["dca", "perplexity", 256]
    assert near["low"] < made["none", "perplexity", 256]["value"] < near["high"]


def test_every_method_of_attention_has_a_row() -> None:
    """In the table of baselines, with its name where that is not the label in small letters, and its temperature."""
    rows = [row for row in METHODS.values() if row.kind == "attention"]
    assert rows
    assert all(f"| {row.label} (`{row.name}`) | none; see below | {row.attention} |" in TEXT for row in rows)
