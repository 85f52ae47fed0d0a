"""What an export does with a checkpoint that it has just written: a record of its RoPE, and a table in the card."""

from collections.abc import Callable
from pathlib import Path

import pico

from longrope.checksums import RECORD
from longrope.verification.checking import Verification
from longrope.verification.exported import add_to_card, verify_export
from longrope.verification.verdicts import Finding

DONE = [
    Verification(
        *("a", "transformers", "applied"),
        findings=(Finding(32, "applied", 0.0000123, "short factors"), Finding(128, "applied", 0.5, "scaling")),
        versions={"transformers": "5.24.0", "torch": "2.13.0"},
    ),
    Verification("a", "mlx-lm", "refused", "KeyError: 'longrope'"),
]


def test_the_card_shows_what_clients_did(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Model\n\nText.\n")
    add_to_card(card, DONE)
    text = card.read_text()
    assert text.startswith("# Model\n\nText.\n\n## In other runtimes\n")
    assert text.splitlines()[-2:] == [
        "| transformers (transformers 5.24.0, torch 2.13.0) | applied | 32: 1.2e-05 (short factors); 128: 0.5 |",
        "| mlx-lm | refused |  |",
    ]


def test_a_card_stays_as_it_was_where_no_client_was_asked(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Model\n")
    add_to_card(card, [])
    assert card.read_text() == "# Model\n"


def test_large_models_are_left_out_with_a_message(copied: Callable[[str], Path]) -> None:
    """By their weights and the tokens that would be read."""
    folder, said = copied("single"), list[str]()
    (folder / RECORD).unlink()
    model = pico.make_model("llama", rope_theta=5e5)
    assert verify_export(folder, model, 10**7, said.append) == []
    assert said == ["not opened in transformers, for its size; `longrope verify` does"]
    assert (folder / RECORD).is_file()


def test_a_checkpoint_that_cannot_be_verified_is_exported_with_a_message(copied: Callable[[str], Path]) -> None:
    said = list[str]()
    model = pico.make_model("llama", rope_theta=5e5)
    assert verify_export(copied("single"), model, 64, said.append, clients=["nonsense"]) == []
    assert "'nonsense' was asked for" in said[0]
