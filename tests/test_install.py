"""Installing and releasing: the build of torch, the ranges of the dependencies, their lock, and the built files."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import check_dist
import install
import oldest
import pytest
import release
from packaging.requirements import Requirement
from packaging.version import Version

import longrope
from longrope.__main__ import main

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTED = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
REQUIRED = [Requirement(line) for line in LISTED if not line.startswith("longrope[")]
METADATA = "longrope-9.dist-info/METADATA"


# The build of torch


@pytest.mark.parametrize(
    ("has_gpu", "system", "index_answers", "from_cpu_index"),
    [
        (False, "Linux", True, True),
        (True, "Linux", True, False),
        (False, "Linux", False, False),
        (False, "Darwin", True, False),
    ],
)
def test_the_cpu_build_is_taken_where_there_is_no_gpu(
    *, has_gpu: bool, system: str, index_answers: bool, from_cpu_index: bool
) -> None:
    torch = install.choose_torch(wanted="", has_gpu=has_gpu, system=system, index_answers=index_answers)
    assert torch.arguments[0] == install.TORCH
    assert ("--index-url" in torch.arguments) is from_cpu_index
    assert "does not answer" in torch.reason or index_answers


def test_another_build_can_be_asked_for() -> None:
    wanted = "torch==2.12.0 --index-url https://index.example/cu130"
    torch = install.choose_torch(wanted=wanted, has_gpu=False, system="Linux", index_answers=True)
    assert list(torch.arguments) == wanted.split()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", "0.2 GB"),
        ("torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl", "3 GB"),
        ("torch-2.13.0-cp312-cp312-manylinux_2_28_aarch64.whl", "0.2 GB"),
        ("torch-2.13.0-cp312-none-macosx_11_0_arm64.whl", "0.2 GB"),
        (None, "0.2 to 3 GB"),
    ],
)
@pytest.mark.parametrize("dev", [False, True])
def test_the_sizes_are_said_first(file: str | None, said: str, *, dev: bool) -> None:
    """What is downloaded, what the disk holds in the end, and how another build is chosen."""
    text = install.announce(install.Torch((install.TORCH,), "a reason"), file, dev=dev)
    assert f", {said}: a reason" in text
    assert "TORCH=" in text
    assert ("tests: 0.5 GB" in text) is dev
    assert all(len(line) <= 120 for line in text.splitlines()[1:])


def test_the_torch_that_is_installed_is_within_its_range() -> None:
    (needed,) = (one for one in REQUIRED if one.name == "torch")
    assert Version(install.TORCH.split("==")[1]) in needed.specifier


# Ranges and lock


def test_every_dependency_has_two_bounds() -> None:
    for one in REQUIRED:
        signs = {part.operator for part in one.specifier}
        assert signs == {">=", "<"}, one


def test_the_oldest_set_is_the_lower_ends() -> None:
    """Worked out by packaging; torch is chosen apart, and the tools of development have no oldest set."""
    pinned = dict(line.split("==") for line in oldest.oldest(PROJECT))
    tools = {Requirement(line).name for line in PROJECT["optional-dependencies"]["dev"][1:]}
    ends = {one.name: next(x.version for x in one.specifier if x.operator == ">=") for one in REQUIRED}
    assert pinned == {name: end for name, end in ends.items() if name not in tools | {"torch"}}


def test_the_lock_meets_the_ranges_and_has_hashes() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", (ROOT / "scripts" / "lock.txt").read_text(), flags=re.MULTILINE)[1:]
    locked = {line.split("==")[0]: re.split(r"[=; \\]+", line)[1] for line in entries}
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not any(name.startswith(("torch", "nvidia-", "cuda-")) for name in locked)
    for one in REQUIRED:
        name = one.name.lower().replace("_", "-")
        if name not in {"torch", "fa3-fwd", "flash-attn-4"}:
            assert Version(locked[name]) in one.specifier, one


# Built files


def build(folder: Path, *, lacks: str = "", also: str = "", needs: str = "numpy<3,>=2") -> list[str]:
    """Write a wheel and an sdist of a package of two files, and return what is wrong with them."""
    files = {"longrope/__init__.py", "longrope/page.css"}
    info = {
        METADATA: f"Metadata-Version: 2.4\nName: longrope\nVersion: 9\nRequires-Dist: {needs}\n",
        "longrope-9.dist-info/entry_points.txt": "[console_scripts]\nlongrope = longrope:main\n",
        "longrope-9.dist-info/licenses/LICENSE": "",
    }
    with zipfile.ZipFile(folder / "longrope-9.whl", "w") as wheel:
        for name in (files - {lacks}) | {also} - {""}:
            wheel.writestr(name, "")
        for name, text in info.items():
            wheel.writestr(name, text)
    with tarfile.open(folder / "longrope-9.tar.gz", "w:gz") as sdist:
        for name in ({f"src/{name}" for name in files - {lacks}} | check_dist.WITH_SDIST | {also}) - {""}:
            sdist.addfile(tarfile.TarInfo(f"longrope-9/{name}"))
    wrong = check_dist.check_wheel(folder / "longrope-9.whl", files, "9")
    return wrong + check_dist.check_sdist(folder / "longrope-9.tar.gz", files, "9")


def test_whole_files_pass(tmp_path: Path) -> None:
    assert build(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lacks": "longrope/page.css"}, ["lacks longrope/page.css", "lacks src/longrope/page.css"]),
        ({"also": "secret.txt"}, ["has secret.txt", "has secret.txt"]),
        ({"needs": "numpy>=2"}, ["no lower or no upper bound: numpy>=2"]),
        ({"needs": "numpy"}, ["no lower or no upper bound: numpy"]),
    ],
)
def test_spoiled_files_are_named(tmp_path: Path, change: dict[str, str], said: list[str]) -> None:
    found = build(tmp_path, **change)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_a_command_of_a_module_that_is_not_there_is_found() -> None:
    """As is a package without it."""
    files = {"longrope/cli/__init__.py", "longrope/__main__.py"}
    for points, there in (
        ("longrope = longrope.cli:main", True),
        ("longrope = longrope.gone:main", False),
        ("", False),
    ):
        assert check_dist._has_command(f"[console_scripts]\n{points}\n", files) is there


def test_another_version_is_found(tmp_path: Path) -> None:
    build(tmp_path)
    assert check_dist.check_wheel(tmp_path / "longrope-9.whl", set(), "10") == [
        "longrope-9.whl has no metadata of version 10"
    ]


def test_a_release_needs_its_version_in_every_file(tmp_path: Path) -> None:
    """The changelog has no date for this version yet."""
    wrong = release.check_versions(ROOT, longrope.__version__)
    assert wrong in ([], [f"CHANGELOG.md names no version, not {longrope.__version__}"])
    assert len(release.check_versions(ROOT, "77.0")) == len(release.NAMED)


def test_the_scripts_for_shells_are_sound() -> None:
    for path in [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run", ROOT / ".ci" / "browser"]:
        subprocess.run(["bash", "-n", path], check=True)  # noqa: S607


# What the page on installing says


def test_every_extra_is_named() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(PROJECT["optional-dependencies"])


def test_windows_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the locks of run directories cannot be imported."""
    with pytest.raises(SystemExit) as ended:
        main("nt")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "WSL" in said
    assert said.count("\n") == 1
