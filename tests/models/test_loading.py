"""Loading a model, or refusing it; devices and number formats."""

import json
import shutil
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from rotary_oracles import gap, get_logits, get_rotary
from transformers import AutoConfig

from longrope.errors import ModelError
from longrope.models import (
    LanguageModel,
    choose_device,
    choose_dtype,
    hub,
    load_config,
    load_model,
    read_spec,
    save_model,
)


def test_unknown_model_type_is_refused(tmp_path: Path) -> None:
    """A model type that transformers does not know is refused, not taken as Llama."""
    folder = pico.write_config(tmp_path / "odd", **{**pico.BASE, "model_type": "quiltnet"})
    with pytest.raises(ModelError, match="quiltnet"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "damage",
    [
        {"hidden_size": 33},
        {"hidden_size": "many"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
    ],
    ids=["odd-size", "no-number", "no-factor", "no-theta"],
)
def test_damaged_config_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    """What transformers cannot accept reaches the user as an error of ours, not as a traceback."""
    folder = pico.write_config(tmp_path / "damaged", **{**pico.BASE, "model_type": "llama", **damage})
    with pytest.raises(ModelError):
        read_spec(load_config(folder))


def test_pickled_weights_are_refused(pico_folder: Path, tmp_path: Path) -> None:
    """A folder whose weights are only a pickle is refused without opening it."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((pico_folder / name).read_bytes())
    opened = tmp_path / "opened"
    torch.save(Trap(opened), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(folder, device="cpu")
    assert not opened.exists()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        """Let the unpickler open it."""
        return open, (str(self.path), "w")


def test_code_of_a_model_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code beside the weights is refused even if someone sits at the terminal and would say yes."""
    ran = tmp_path / "ran"
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    folder = pico.write_config(tmp_path / "odd", **{**pico.BASE, "model_type": "odd", "auto_map": auto_map})
    (folder / "odd.py").write_text(
        f"from transformers import PreTrainedConfig\nopen({str(ran)!r}, 'w')\n"
        "class OddConfig(PreTrainedConfig):\n    model_type = 'odd'\n"
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError):
        load_model(folder, device="cpu")
    assert not ran.exists()


@pytest.mark.parametrize("damage", ["pointer", "cut off", "empty"])
def test_damaged_weights_are_refused(damage: str, pico_folder: Path, tmp_path: Path) -> None:
    """Half of the file, and nothing: no traceback of safetensors; a pointer of Git LFS is named as one."""
    folder = shutil.copytree(pico_folder, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 538090408\n"
    weights.write_bytes({"pointer": pointer, "cut off": weights.read_bytes()[:20_000], "empty": b""}[damage])
    named = r"model\.safetensors of .* holds a pointer of Git LFS" if damage == "pointer" else "SafetensorError"
    with pytest.raises(ModelError, match=named) as caught:
        load_model(folder, device="cpu")
    assert str(folder) in caught.value.found
    assert "Check the name" not in caught.value.remedy, "the folder is here"


def test_a_missing_tokenizer_is_named(pico_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_folder, tmp_path / "mute", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(ModelError, match=f"The tokenizer of '{folder}'"):
        load_model(folder, device="cpu")


def test_the_cause_of_a_failed_loading_is_kept(pico_folder: Path, tmp_path: Path) -> None:
    """The type of a foreign exception stands in the message, the exception itself is the cause."""
    folder = shutil.copytree(pico_folder, tmp_path / "odd")
    (folder / "config.json").write_text(json.dumps({**pico.BASE, "model_type": "llama", "hidden_size": "many"}))
    with pytest.raises(ModelError) as caught:
        load_model(folder, device="cpu")
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in caught.value.found


def test_a_config_that_lacks_a_number_is_refused() -> None:
    """A bare KeyError or TypeError of ours reaches the user as an error that names the model type."""
    config = pico.make_config("llama")
    config.rope_parameters.update(rope_type="llama3", factor=8.0)
    with pytest.raises(ModelError, match=r"'llama' states no rope_parameters\['low_freq_factor'\]"):
        read_spec(config)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A path that is not there is told as one."""
    with pytest.raises(ModelError, match="no such file or folder") as caught:
        load_model(tmp_path / "nothing", device="cpu")
    assert "nothing" in caught.value.found


def test_a_gguf_file_that_is_not_there_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if its folder and name could be an owner and a repository. A place on the hub is downloaded."""
    asked: list[tuple[str, ...]] = []

    def download(*names: str, **_: object) -> str:
        asked.append(names)
        return "here.gguf"

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: asked.append(("config",)))
    with pytest.raises(ModelError, match=r"There is no file 'data/model\.gguf'.*hf://OWNER/NAME/PATH"):
        load_model("data/model.gguf", device="cpu")
    assert asked == []
    assert hub.at_hand("hf://owner/name/model.gguf") == Path("here.gguf")
    assert asked == [("owner/name", "model.gguf")]


def test_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    """Neither a safetensors file nor one that only is called .gguf is loaded."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match=r"no \.gguf"):
        load_model(weights, device="cpu")
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"text" * 64)
    with pytest.raises(ModelError, match="fake"):
        load_model(fake, device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_device_that_is_not_there_is_refused(device: str) -> None:
    """Asking for a GPU that is not there is an error, not a slow run."""
    with pytest.raises(ModelError, match=device):
        choose_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_device_is_chosen_with_its_reason() -> None:
    """A CPU where no GPU is."""
    assert choose_device("auto") == ("cpu", "no GPU is here")


def test_dtype_is_chosen_with_its_reason() -> None:
    """float32 on a CPU, bfloat16 on a GPU, and what was asked for anywhere."""
    assert choose_dtype("auto", "cpu")[0] is torch.float32
    assert choose_dtype("auto", "cuda")[0] is torch.bfloat16
    assert choose_dtype("float16", "cpu") == (torch.float16, "as asked")


@pytest.mark.parametrize(("dtype", "nearest"), [("fp16", "float16"), ("bf16", "bfloat16"), ("nn", ""), ("", "")])
def test_an_unknown_dtype_is_refused_with_the_nearest(dtype: str, nearest: str, pico_folder: Path) -> None:
    """Neither an AttributeError of torch nor one of its modules as a number format."""
    with pytest.raises(ModelError, match="Known: auto, float32, bfloat16, float16") as caught:
        load_model(pico_folder, device="cpu", dtype=dtype)
    assert repr(dtype) in caught.value.found
    assert nearest in caught.value.remedy


def test_loaded_in_bfloat16(pico_folder: Path, llama: LanguageModel) -> None:
    """The weights are bfloat16, the network's own frequencies stay float32, and the logits are those of float32."""
    model = load_model(pico_folder, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    assert get_rotary(model.network).inv_freq.dtype == torch.float32
    assert model.spec == llama.spec
    assert model.choices == ("device cpu (as asked)", "torch.bfloat16 (as asked)")
    assert 0 < gap(get_logits(model.network), get_logits(llama.network)) < 0.2


def test_loaded_network_is_ready_to_run(llama: LanguageModel) -> None:
    """No dropout, no gradients for the weights, and a tokenizer that gives back its text."""
    assert not llama.network.training
    assert not any(p.requires_grad for p in llama.network.parameters())
    assert llama.tokenizer.decode(llama.tokenizer("The river turns.")["input_ids"]) == "The river turns."
    assert llama.device == torch.device("cpu")


def test_saved_model_reopens_with_the_same_logits(llama: LanguageModel, tmp_path: Path) -> None:
    """Config, weights and tokenizer survive save_model; the weights are safetensors alone."""
    save_model(llama, tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))
    assert torch.equal(get_logits(again.network), get_logits(llama.network))
    assert again.spec == llama.spec
    assert again.tokenizer.get_vocab() == llama.tokenizer.get_vocab()
