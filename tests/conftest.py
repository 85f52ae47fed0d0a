"""What all tests share: no network, one thread, no time limits, and pico models and texts that are made once."""

import gc
import os
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from idle import end_process, ended_when_idle

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may look a name up
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if sys.version_info < (3, 12):  # torch.compile asks for setuptools, which refuses a distutils that is there before it
    os.environ["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
os.environ["OMP_NUM_THREADS"] = "1"  # pico matrices are too small for more, and sums must not depend on free cores

gc.disable()  # until all tests are collected: what modules make stays

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # a machine that is busy with other work fails no test
LONGEST = (
    *("test_nano_schedule.py", "test_recipes.py", "test_launches.py", "test_sweep.py"),
    *("test_stages_killed.py", "test_runtimes.py", "test_compiled.py", "test_arms.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then all with slow tests: neither of two processes works alone at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place.get(item.path.name, len(LONGEST)), item.path not in slow))


def pytest_collection_finish() -> None:
    """From here on the collector passes over what the modules and the tests themselves hold."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a test that hangs, unless somebody looks on, with a debugger perhaps."""
    if sys.stdin.isatty():
        return (yield)
    with ended_when_idle(partial(end_process, item.config)):
        return (yield)


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
    """Checkpoints are written, but not opened in processes of their own, which takes seconds."""
    from outcomes import leave_unopened

    leave_unopened(monkeypatch)
