"""Documents, prompts and factor tables of tests of generation."""

import pico

from longrope.generation import GenerationSettings
from longrope.models import LanguageModel
from longrope.rope import FactorTable, RescaleFactors

DOCUMENT, PROMPT = pico.make_text(150), "What does the river hold?"


SHORT = GenerationSettings(max_new_tokens=12)


END = 0  # the pico tokenizer's end of text


WORDS = "Ünïcödé: 雨が降る 🜂🌧 ¡fin!"


def make_table(model: LanguageModel, windows: tuple[int, ...] = (128, 512, 2048)) -> FactorTable:
    """Sets that differ, so that the wrong one gives another answer."""
    return FactorTable(
        tuple(
            RescaleFactors(
                tuple(1.0 + at + pair for pair in range(model.spec.num_pairs)),
                window,
                model.spec.fingerprint,
                start_tokens=3,
                attention_factor=1 + at / 10,
            )
            for at, window in enumerate(windows)
        )
    )
