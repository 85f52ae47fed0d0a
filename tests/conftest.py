"""What all tests share: no network, and pico models and texts that are made once."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may look a name up
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # pico matrices are too small for more, and sums must not depend on free cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that one of two processes is not left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_nano_walk.py")


@pytest.fixture(scope="session")
def pico_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama with its tokenizer as a folder that transformers opens; read it only."""
    import pico

    return pico.save_pico(tmp_path_factory.mktemp("pico") / "llama")


@pytest.fixture(scope="session")
def text_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of text files of different content, to search and to measure on; read them only."""
    import pico

    return pico.save_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written, but not reopened in a process of their own, which takes seconds."""
    from longrope.exports import hf

    monkeypatch.setattr(hf, "_compare", lambda *_: [(0.0, 0.0), (0.0, 0.0)])
