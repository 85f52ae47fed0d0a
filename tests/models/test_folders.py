"""What is wrong with a model's folder is said by its name, in one paragraph."""

import shutil
from pathlib import Path
from typing import Any

import pico
import pytest
import torch

from longrope.errors import ModelError
from longrope.models import load_config, load_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 538090408\n"


def test_every_pointer_of_git_lfs_is_named(pico_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_folder, tmp_path / "cloned")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(POINTER)
    with pytest.raises(
        ModelError, match=r"model\.safetensors, tokenizer\.json of .* hold a pointer of Git LFS"
    ) as caught:
        load_model(folder, device="cpu")
    assert "git lfs pull" in caught.value.remedy


def test_a_run_directory_is_refused_with_the_place_of_its_checkpoint(pico_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(pico_folder, run / "hf")
    with pytest.raises(ModelError, match="a checkpoint in the folder hf") as caught:
        load_model(run, device="cpu")
    assert caught.value.remedy == f"Give {str(run / 'hf')!r}."
    load_model(run / "hf", device="cpu")


def test_pickled_weights_are_named_as_such(pico_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    for part in (1, 2):
        torch.save({}, folder / f"pytorch_model-0000{part}-of-00002.bin")
    with pytest.raises(ModelError, match=r"as a pickle alone \(pytorch_model-00001-of-00002\.bin, .*00002") as caught:
        load_model(folder, device="cpu")
    assert "use_safetensors=False" in caught.value.remedy


def test_files_of_pytorch_beside_safetensors_are_no_fault(pico_folder: Path, tmp_path: Path) -> None:
    """Trainers leave their own there."""
    folder = shutil.copytree(pico_folder, tmp_path / "trained")
    torch.save({}, folder / "training_args.bin")
    load_model(folder, device="cpu")


def test_a_folder_without_a_tokenizer_is_refused_for_that(pico_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_folder, tmp_path / "mute", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(ModelError, match=r"The tokenizer of .* is missing: its folder has none of tokenizer\.json"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("model_type", ["internlm2", "baichuan", "openelm"])
def test_a_type_that_exists_as_code_alone_is_refused_for_that(model_type: str, tmp_path: Path) -> None:
    auto_map = {"AutoConfig": f"configuration_{model_type}.Config"}
    folder = pico.write_config(tmp_path / "remote", **pico.BASE, model_type=model_type, auto_map=auto_map)
    with pytest.raises(ModelError, match=f"'{model_type}' of .* exists only as code .* never run"):
        load_config(folder)


def test_code_beside_a_known_type_is_passed_over(tmp_path: Path) -> None:
    """DeepSeek's and Phi-3's folders still hold theirs."""
    auto_map = {"AutoConfig": "configuration_llama.LlamaConfig"}
    folder = pico.write_config(tmp_path / "known", **pico.BASE, model_type="llama", auto_map=auto_map)
    assert load_config(folder).model_type == "llama"


@pytest.mark.parametrize(
    ("quantized", "named"),
    [
        ({"quant_method": "xyz", "bits": 4}, "quantized by 'xyz'"),
        ({"bits": 4}, "quantized by None"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "ImportError: Loading a GPTQ"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "ImportError: Using `bitsandbytes`|first pass of .* fails",
        ),
    ],
    ids=["unknown", "unnamed", "gptq", "bitsandbytes"],
)
def test_quantized_checkpoints_that_cannot_be_read_are_refused(
    quantized: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = pico.save_pico(tmp_path / "quantized", quantization_config=quantized)
    with pytest.raises(ModelError, match=named):
        load_model(folder, device="cpu")
