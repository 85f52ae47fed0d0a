"""Checksums of exports: hashed by another tool, compared when a checkpoint is opened, damage and lies refused."""

import hashlib
import json
from pathlib import Path

import pico
import pytest

from longrope.checksums import QUICK_BYTES, RECORD, check_files, describe_files, record_path
from longrope.errors import ExportError, ModelError
from longrope.models import load_model, read_spec
from longrope.verification.checking import verify
from longrope.verification.truth import write_record

WEIGHTS = "model.safetensors"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder with the record of an export."""
    folder = pico.save_pico(tmp_path / "model")
    write_record(folder, read_spec(pico.make_network().config), pico.WINDOW)
    return folder


def flip_byte(path: Path, at: int = -100) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_the_record_has_the_sha256_of_weights_and_tokenizer(exported: Path) -> None:
    listed = json.loads((exported / RECORD).read_text())["files"]
    assert sorted(listed) == [WEIGHTS, "tokenizer.json"]
    for name, known in listed.items():
        content = (exported / name).read_bytes()
        assert known == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert check_files(exported, ExportError, whole=True) == 2


def test_one_changed_bit_is_found_when_a_checkpoint_is_opened_or_verified(exported: Path) -> None:
    load_model(exported, device="cpu")
    flip_byte(exported / WEIGHTS)
    with pytest.raises(ModelError, match=r"not as it was exported: model.safetensors has other content"):
        load_model(exported, device="cpu")
    with pytest.raises(ExportError, match="has other content"):
        verify(exported, ["transformers"], device="cpu")
    (exported / RECORD).unlink()
    load_model(exported, device="cpu")


def test_of_large_checkpoints_the_sizes_alone_are_compared_when_they_are_opened(exported: Path) -> None:
    content = json.loads((exported / RECORD).read_text())
    content["files"]["more.safetensors"] = {"bytes": QUICK_BYTES + 1, "sha256": "0" * 64}
    (exported / RECORD).write_text(json.dumps(content))
    with (exported / "more.safetensors").open("wb") as file:
        file.truncate(QUICK_BYTES + 1)  # it takes no space
    flip_byte(exported / WEIGHTS)
    assert check_files(exported, ModelError, whole=False) == 0
    (exported / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json has 2 bytes, not [\d,]+\."):
        check_files(exported, ModelError, whole=False)
    (exported / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        check_files(exported, ModelError, whole=False)


def test_config_and_card_may_be_edited(exported: Path) -> None:
    for name in ("config.json", "README.md"):
        with (exported / name).open("a") as file:
            file.write("\n")
    assert check_files(exported, ExportError, whole=True) == 2


def test_a_gguf_file_has_its_record_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    pico.save_gguf(path, pico.make_network())
    record = record_path(path)
    record.write_text(json.dumps({"files": describe_files(path)}))
    assert record.name == "a.longrope.json"
    assert check_files(path, ModelError, whole=False) == 1
    flip_byte(path)
    with pytest.raises(ModelError, match="has other content"):
        load_model(path, device="cpu")
    renamed = path.rename(tmp_path / "b.gguf")
    record.rename(record_path(renamed))  # it says nothing of a file of that name
    assert check_files(renamed, ModelError, whole=True) == 0


def test_records_of_earlier_versions_are_read_as_before(exported: Path) -> None:
    content = json.loads((exported / RECORD).read_text())
    del content["files"]
    (exported / RECORD).write_text(json.dumps(content))
    flip_byte(exported / WEIGHTS)
    assert check_files(exported, ModelError, whole=True) == 0


@pytest.mark.parametrize(
    "files",
    [
        *([1], "x", 5, {"a": 1}, {"a": {"bytes": 1}}, {"a": {"bytes": "1", "sha256": ""}}),
        {"../config.json": {"bytes": 1, "sha256": ""}},
        {"/dev/zero": {"bytes": 1, "sha256": ""}},
        {"": {"bytes": 1, "sha256": ""}},
    ],
)
def test_a_damaged_record_is_refused(exported: Path, files: object) -> None:
    (exported / RECORD).write_text(json.dumps({"files": files}))
    with pytest.raises(ModelError, match=r"longrope.json cannot be read \("):
        check_files(exported, ModelError, whole=True)
    (exported / RECORD).write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"longrope.json cannot be read \("):
        check_files(exported, ModelError, whole=True)


def test_a_listed_pipe_is_not_opened(exported: Path) -> None:
    (exported / "tokenizer.json").unlink()
    (exported / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=r"tokenizer.json is no regular file"):
        check_files(exported, ModelError, whole=True)
