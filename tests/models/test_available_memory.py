"""The memory that is available: what Linux says, and not more than a container may take."""

from pathlib import Path

import pytest

from longrope.models.fitting import available_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"}, 2048 * 1024),
        (
            {
                "proc/meminfo": f"MemAvailable: {2**20} kB\n",
                "sys/fs/cgroup/memory.max": "5000\n",
                "sys/fs/cgroup/memory.current": "2000\n",
            },
            3000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 7 kB\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "2000\n",
            },
            7 * 1024,
        ),
        ({"sys/fs/cgroup/memory.max": "10\n", "sys/fs/cgroup/memory.current": "20\n"}, 0),
    ],
)
def test_available_memory_is_the_least_of_what_is_said(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_without_such_files_all_memory_is_available(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > GIB // 4
    assert 0 < available_memory() <= available_memory(tmp_path)
