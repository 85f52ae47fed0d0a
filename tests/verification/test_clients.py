"""Which clients there are, how they are chosen and run, and what is said of one that fails."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from documents import words

from longrope.errors import RecipeError
from longrope.verification import ask_client
from longrope.verification.checking import verify
from longrope.verification.clients import CLIENTS, Client, at_hand, chosen_clients, find_client, kind_of
from longrope.verification.environments import find_python
from longrope.verification.running import SCRIPT, RefusedError, Request, run_script


def test_every_client_has_a_function_and_every_function_a_client() -> None:
    assert {row.interface for row in CLIENTS.values()} == set(ask_client.INTERFACES)


def test_the_script_needs_nothing_of_ours() -> None:
    """It runs in environments without this package."""
    assert "longrope" not in SCRIPT.read_text()
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})"
    done = subprocess.run([sys.executable, "-S", "-P", "-c", code], check=False)
    assert done.returncode == 0


def test_clients_at_hand_open_what_they_are_made_for(tmp_path: Path, exported: dict[str, Path]) -> None:
    names = {client.name for client in at_hand(kind_of(exported["single"]))}
    assert "transformers" in names
    assert not {"transformers-4.57", "vllm", "llama.cpp"} & names
    file = tmp_path / "model.gguf"
    file.touch()
    assert "transformers" not in {client.name for client in at_hand(kind_of(file))}
    if not CLIENTS["llama.cpp"].at_hand:
        with pytest.raises(RecipeError, match="no client that opens one is installed") as caught:
            chosen_clients(file, [])
        assert "--with llama.cpp" in caught.value.remedy


def test_the_docs_say_which_installed_clients_must_be_named() -> None:
    named = " and ".join(f"`{row.name}`" for row in CLIENTS.values() if not row.quick)
    assert f"the installed clients that can open the checkpoint, except {named}, which must be named." in words(
        "docs/verify.md"
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [("absent", "is absent"), ("empty", "is a folder without config.json"), ("text.txt", "is no .gguf file")],
)
def test_what_is_no_checkpoint_is_refused(path: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    with pytest.raises(RecipeError, match=found):
        verify(tmp_path / path)


def test_an_unknown_client_is_refused_with_those_known(exported: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match=r"'lama\.cpp' was asked for") as caught:
        verify(exported["single"], ["transformers", "lama.cpp"])
    assert "llama.cpp" in caught.value.needed
    assert find_client("http://localhost:8000/v1").name == "http://localhost:8000/v1"


def test_prompts_that_are_too_short_are_refused(exported: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="A prompt of 2 tokens"):
        verify(exported["single"], ["transformers"], lengths=[2, 64])


def test_a_client_that_only_a_person_can_install_is_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    absent = Client("vllm", ("folder",), "vllm", "no_such_library")
    with pytest.raises(RecipeError, match="vllm is not installed here") as caught:
        find_python(absent, tmp_path)
    assert "--with http://" in caught.value.remedy


# Processes


def request(path: Path) -> Request:
    return Request(path, [[5, 6, 7, 8]], 2, 3)


@pytest.mark.slow
def test_a_process_of_its_own_answers(exported: dict[str, Path]) -> None:
    answers = run_script(CLIENTS["transformers"], Path(sys.executable), request(exported["single"]))
    assert [len(row) for rows in answers.rows for row in rows] == [3, 3]
    assert set(answers.versions) == {"transformers", "torch"}


@pytest.mark.slow
def test_a_client_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(RefusedError, match=r"^ValueError: .*nonsense"):
        run_script(CLIENTS["transformers"], Path(sys.executable), request(tmp_path))


def test_a_client_that_hangs_is_ended(exported: dict[str, Path]) -> None:
    with pytest.raises(RefusedError, match=r"no answer within 0\.1 s"):
        run_script(CLIENTS["transformers"], Path(sys.executable), request(exported["single"]), seconds=0.1)


def test_a_refusal_is_a_result_with_its_message(exported: dict[str, Path]) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("KeyError: 'longrope'")

    [done] = verify(exported["single"], ["transformers"], run=refuse)  # type: ignore[arg-type]
    assert (done.verdict, done.message, done.findings) == ("refused", "KeyError: 'longrope'", ())


# Environments


def save_wheel(folder: Path, name: str = "tinylibrary") -> Path:
    """A wheel of one module, written by hand."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "NUMBER = 7\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return path


@pytest.mark.slow
def test_an_environment_is_made_once_and_shares_the_rest(tmp_path: Path) -> None:
    client = Client("tiny", ("folder",), "tiny", "tinylibrary", (str(save_wheel(tmp_path)),))
    said: list[str] = []
    python = find_python(client, tmp_path / "made", said.append)
    assert said[-1] == "tiny: tinylibrary 1.0; all else is shared with this environment"
    code = "import tinylibrary, torch, transformers; print(tinylibrary.NUMBER, transformers.__file__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    import transformers

    assert done.stdout.split() == ["7", transformers.__file__]
    assert find_python(client, tmp_path / "made", said.append) == python
    assert len(said) == 2
    absent = Client("tiny", ("folder",), "tiny", "tinylibrary", (str(tmp_path / "absent.whl"),))
    with pytest.raises(RecipeError, match="cannot be installed") as caught:
        find_python(absent, tmp_path / "made", said.append)
    assert "absent.whl" in caught.value.remedy
