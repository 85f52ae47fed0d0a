"""Loading, reading and rescaling, by pico models of many families, against oracles that share no code with models.py.

These are geometries written by hand, transformers' own rotary modules, angles formed with numpy, and differences.
"""

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from longrope.errors import FactorsError, ModelError
from longrope.factors import RescaleFactors, unscaled
from longrope.models import (
    LanguageModel,
    check_moves_logits,
    choose_device,
    choose_dtype,
    find_rotary,
    load_config,
    load_model,
    read_spec,
    rescaled,
    save_model,
)
from longrope.rope import RopeSpec

GEOMETRIES = {  # head_dim, rotary_dim, theta, trained_window, pairing: by hand from pico.BASE and pico.FAMILIES
    "llama": (8, 8, 1e4, 64, "half"),
    "mistral": (8, 8, 1e5, 64, "half"),
    "qwen2": (8, 8, 1e6, 64, "half"),
    "qwen3": (16, 16, 1e4, 64, "half"),  # head_dim is not hidden / heads
    "phi3": (8, 8, 1e4, 64, "half"),
    "gemma2": (16, 16, 1e4, 64, "half"),
    "olmo2": (8, 8, 5e5, 64, "half"),
    "stablelm": (16, 8, 1e4, 64, "half"),  # half of the head is rotated
    "gpt_neox": (16, 4, 1e4, 64, "half"),  # a quarter
    "cohere": (8, 8, 5e5, 64, "interleaved"),
}
TOKENS = torch.randint(1, 320, (2, 48), generator=torch.Generator().manual_seed(7))
ROUNDING = 2e-5  # float32, as a share of the logits' standard deviation
every_family = pytest.mark.parametrize("family", GEOMETRIES)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(scope="module", params=GEOMETRIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, LanguageModel]:
    """Each family, written to the disk and loaded as a user would."""
    folder = pico.save_pico(tmp_path_factory.mktemp("family") / request.param, request.param)
    return request.param, load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def llama(pico_folder: Path) -> LanguageModel:
    return load_model(pico_folder, device="cpu")


def make_factors(spec: RopeSpec, first: float = 1.5, last: float = 4.0, **fields: Any) -> RescaleFactors:
    """Factors that rise linearly over the pairs."""
    lambdas = tuple(np.linspace(first, last, spec.num_pairs).tolist())
    return RescaleFactors(lambdas, 4 * spec.trained_window, spec.fingerprint, **fields)


def get_logits(network: Any, tokens: Tensor = TOKENS, **inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(tokens, use_cache=False, **inputs).logits.clone()  # type: ignore[no-any-return]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the standard deviation."""
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().std()).item()


def get_rotary(network: Any) -> Any:
    """The rotary module where transformers keeps it."""
    return network.base_model.rotary_emb


def make_by_hand(family: str, inv_freq: NDArray[np.float64], attention_scaling: float = 1.0, **changes: Any) -> Any:
    """The network of a family whose own rotary module is set to these frequencies and this scaling."""
    network = pico.make_network(family, **changes)
    rotary = get_rotary(network)
    assert rotary.inv_freq.shape == inv_freq.shape
    rotary.inv_freq.copy_(torch.from_numpy(inv_freq))
    rotary.attention_scaling = attention_scaling
    return network


def form_angles(
    geometry: tuple[int, int, float, int, str], positions: NDArray[np.int64], lambdas: tuple[float, ...], start: int = 0
) -> NDArray[np.longdouble]:
    """[N, rotary_dim] angles of rescaled RoPE in extended precision, entry by entry from the definition."""
    _, width, theta, _, pairing = geometry
    angles = np.zeros((len(positions), width), dtype=np.longdouble)
    for row, n in enumerate(positions.tolist()):
        for i, stretch in enumerate(lambdas):
            angle = np.longdouble(n) / np.longdouble(theta) ** (np.longdouble(2 * i) / width)
            if n >= start:
                angle /= np.longdouble(stretch)
            for entry in (i, i + width // 2) if pairing == "half" else (2 * i, 2 * i + 1):
                angles[row, entry] = angle
    return angles


def write_config(folder: Path, **content: Any) -> Path:
    """A folder that holds only this config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


# Reading the geometry


def test_geometry_of_every_family_is_read(loaded: tuple[str, LanguageModel]) -> None:
    """What load_model reads from the disk is what was written by hand, and what the network's own module turns by."""
    family, model = loaded
    spec = model.spec
    assert (spec.head_dim, spec.rotary_dim, spec.theta, spec.trained_window, spec.pairing) == GEOMETRIES[family]
    assert spec.carried is None
    assert spec.attention_factor == get_rotary(model.network).attention_scaling == 1
    np.testing.assert_allclose(spec.frequencies, get_rotary(model.network).inv_freq.numpy(), rtol=1e-6)


def test_phi3_with_partial_rotary_is_read() -> None:
    """Phi-4-mini rotates three quarters of a head."""
    spec = read_spec(pico.make_config("phi3", hidden_size=64, rope={"partial_rotary_factor": 0.75}))
    assert (spec.head_dim, spec.rotary_dim, spec.num_pairs) == (16, 12, 6)


LEGACY = {
    "llama-linear": (
        {"model_type": "llama", "rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        (8, 8, 5e4, 64, "linear", [2.0] * 4),
    ),
    "pythia": (
        {"model_type": "gpt_neox", "hidden_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 20000},
        (16, 8, 2e4, 64, None, None),
    ),
    "phi3-longrope": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
        },
        (8, 8, 1e4, 256, "longrope", [1.0, 2.0, 3.0, 4.0]),
    ),
    "qwen2-yarn": (
        {
            "model_type": "qwen2",
            "rope_theta": 1e6,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        # 64 tokens hold 64 f / 2 pi turns of the pairs f = 1e6 ** (-i / 4): 10.2, 0.32, 0.010, 0.0003. The ramp's ends
        # are the pairs that turn 32 times (before the first) and once (0.67, rounded up to 1).
        (8, 8, 1e6, 256, "yarn", [1.0, 4.0, 4.0, 4.0]),
    ),
}


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_config_is_read(name: str, tmp_path: Path) -> None:
    """config.json of the years before rope_parameters: rope_theta and rope_scaling at the top, rotary_pct."""
    content, (head_dim, rotary_dim, theta, window, kind, lambdas) = LEGACY[name]
    spec = read_spec(load_config(write_config(tmp_path / name, **{**pico.BASE, **content})))
    assert (spec.head_dim, spec.rotary_dim, spec.theta, spec.trained_window) == (head_dim, rotary_dim, theta, window)
    assert (spec.carried.rope_type if spec.carried else None) == kind
    assert (list(spec.carried.lambdas) if spec.carried else None) == lambdas


REFUSED = {
    "gpt2": "no rotary position embedding",
    "bloom": "no rotary position embedding",
    "gemma3_text": "for each layer type",
    "olmo3": "for each layer type",
    "deepseek_v3": "multi-head latent attention",
    "llama4_text": "rotary module of another kind",
    "gpt_oss": "other angles than its config states",
    "granite_swa": "2 rotary modules",
}


@pytest.mark.parametrize("family", REFUSED)
def test_other_architectures_are_refused_by_name_and_reason(family: str) -> None:
    """No RoPE, several of them, or one of another kind: each is named, never taken as Llama."""
    with pytest.raises(ModelError) as caught:
        read_spec(pico.make_config(family))
    assert repr(family) in caught.value.found
    assert REFUSED[family] in caught.value.found
    assert "Llama, Mistral" in caught.value.remedy


def test_unknown_scaling_is_refused() -> None:
    """A scaling that we do not know is named, not dropped."""
    config = pico.make_config("llama")
    config.rope_parameters["rope_type"] = "proportional"
    with pytest.raises(ModelError, match="'proportional'"):
        read_spec(config)


@pytest.mark.parametrize(("name", "length"), [("long_factor", 3), ("short_factor", 5)])
def test_longrope_lists_of_the_wrong_length_are_refused(name: str, length: int) -> None:
    """transformers only warns, and fails at the first forward pass."""
    config = pico.make_config("llama")
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, name: [2.0] * length}
    config.rope_parameters.update(rope_type="longrope", original_max_position_embeddings=64, **lists)
    with pytest.raises(ModelError, match="4 entries"):
        read_spec(config)


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("pair", [0, 15, 31])
def test_module_with_other_frequencies_than_its_config_is_refused(
    theta: float, pair: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotary module whose fast, middle or slow pair differs from the config is not taken for the config's.

    The slowest pair matters most for extension, and moves least over few positions.
    """
    native = LlamaRotaryEmbedding.compute_default_rope_parameters

    def detuned(*arguments: Any, **settings: Any) -> tuple[Tensor, float]:
        inv_freq, scaling = native(*arguments, **settings)
        inv_freq[pair] /= 2
        return inv_freq, scaling

    config = pico.make_config("llama", head_dim=64, rope={"rope_theta": theta})
    assert read_spec(config).num_pairs == 32
    monkeypatch.setattr(LlamaRotaryEmbedding, "compute_default_rope_parameters", staticmethod(detuned))
    with pytest.raises(ModelError, match="other angles"):
        read_spec(config)


# Loading


def test_unknown_model_type_is_refused(tmp_path: Path) -> None:
    """A model type that transformers does not know is refused, not taken as Llama."""
    folder = write_config(tmp_path / "odd", **{**pico.BASE, "model_type": "quiltnet"})
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
    folder = write_config(tmp_path / "damaged", **{**pico.BASE, "model_type": "llama", **damage})
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
    folder = write_config(tmp_path / "odd", **{**pico.BASE, "model_type": "odd", "auto_map": auto_map})
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
    """A pointer of Git LFS, half of the file, and nothing: no traceback of safetensors."""
    folder = shutil.copytree(pico_folder, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 538090408\n"
    weights.write_bytes({"pointer": pointer, "cut off": weights.read_bytes()[:20_000], "empty": b""}[damage])
    with pytest.raises(ModelError, match="SafetensorError") as caught:
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
    with pytest.raises(ModelError, match=r"'llama' cannot be read: KeyError: 'low_freq_factor'"):
        read_spec(config)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A path that is not there is told as one."""
    with pytest.raises(ModelError, match="no such file or folder") as caught:
        load_model(tmp_path / "nothing", device="cpu")
    assert "nothing" in caught.value.found


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


def test_device_is_chosen_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU where no GPU is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
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


# Models that carry a scaling

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LISTS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 5.0, 8.0]}
LONGROPE = {"rope_type": "longrope", **LISTS, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 64}
CARRIED: dict[
    str, tuple[str, dict[str, Any], dict[str, Any], float, int]
] = {  # family, rope, changes, attention, window
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, {"max_position_embeddings": 256}, 1.0, 256),
    "yarn": ("llama", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-stretched-config": ("llama", YARN, {"max_position_embeddings": 256}, 0.1 * math.log(4) + 1, 256),
    "yarn-betas": ("qwen3", {**YARN, "beta_fast": 2.0, "beta_slow": 0.1}, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-untruncated": ("qwen3", {**YARN, "truncate": False}, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-attention": ("llama", {**YARN, "attention_factor": 1.3}, {}, 1.3, 256),
    "yarn-mscales": (
        "llama",
        {**YARN, "mscale": 2.0, "mscale_all_dim": 0.5},
        {},
        (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        256,
    ),
    "yarn-partial": ("stablelm", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-interleaved": ("cohere", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "llama3": ("qwen3", LLAMA3, {"max_position_embeddings": 256}, 1.0, 256),
    "longrope": (
        "llama",
        LONGROPE,
        {"max_position_embeddings": 256},
        math.sqrt(1 + math.log(4) / math.log(64)),
        256,
    ),
    "longrope-attention": (
        "llama",
        {**LONGROPE, "attention_factor": 1.25},
        {"max_position_embeddings": 256},
        1.25,
        256,
    ),
    "longrope-phi3": (
        "phi3",
        LONGROPE,
        {"max_position_embeddings": 256, "original_max_position_embeddings": 64},
        math.sqrt(1 + math.log(4) / math.log(64)),
        256,
    ),
}
every_carried = pytest.mark.parametrize("name", CARRIED)


def make_carrying(name: str) -> LanguageModel:
    family, rope, changes, _, _ = CARRIED[name]
    return pico.make_model(family, rope=rope, **changes)


def get_inv_freq(model: LanguageModel) -> NDArray[np.float64]:
    """[P] what the network's own module turns by, beyond its switch if it has one."""
    rotary = get_rotary(model.network)
    if model.network.config.rope_parameters["rope_type"] == "longrope":
        rotary(torch.zeros(1), torch.tensor([[model.network.config.max_position_embeddings - 1]]))
    return rotary.inv_freq.double().numpy().copy()  # type: ignore[no-any-return]


@every_carried
def test_carried_scaling_is_read_as_what_it_is(name: str) -> None:
    """Frequencies and attention factor are those of the live module, the window is what the model serves."""
    model = make_carrying(name)
    spec, (family, rope, _, attention, window) = model.spec, CARRIED[name]
    assert spec.carried is not None
    assert spec.carried.rope_type == rope["rope_type"]
    assert (spec.head_dim, spec.rotary_dim, spec.theta) == GEOMETRIES[family][:3]
    assert spec.trained_window == window
    np.testing.assert_allclose(spec.frequencies, get_inv_freq(model), rtol=1e-6)
    assert spec.attention_factor == pytest.approx(attention, rel=1e-12)
    assert get_rotary(model.network).attention_scaling == pytest.approx(attention, rel=1e-12)


@every_carried
@both_dtypes
def test_identity_leaves_a_carried_scaling_bit_identical(name: str, dtype: torch.dtype) -> None:
    """All-ones is the model as it is, on both sides of a native switch."""
    family, rope, changes, _, window = CARRIED[name]
    model = pico.make_model(family, dtype=dtype, rope=rope, **changes)
    ones = RescaleFactors((1.0,) * model.spec.num_pairs, window, model.spec.fingerprint)
    far = torch.arange(100, 148).expand(2, -1)
    for inputs in ({}, {"position_ids": far}, {}):
        before = get_logits(model.network, **inputs)
        with rescaled(model, ones):
            assert torch.equal(get_logits(model.network, **inputs), before)


@every_carried
def test_factors_multiply_a_carried_scaling(name: str) -> None:
    """Lambda 2 on a model that carries a scaling is the module whose frequencies are halved once more."""
    family, _, _, attention, window = CARRIED[name]
    model = make_carrying(name)
    by_hand = make_by_hand(family, get_inv_freq(model) / 2, 1.1 * attention)
    twos = RescaleFactors((2.0,) * model.spec.num_pairs, window, model.spec.fingerprint, attention_factor=1.1)
    before = get_logits(model.network)
    with rescaled(model, twos):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(by_hand)) < ROUNDING
    assert gap(ours, before) > 0.1


def test_dynamic_scaling_is_plain_within_its_window() -> None:
    """Dynamic NTK has no frequencies of its own: the spec is plain, and all-ones leaves the growing module alone."""
    model = pico.make_model("llama", rope={"rope_type": "dynamic", "factor": 2.0})
    assert model.spec.carried is None
    assert model.spec.trained_window == 64
    ones = make_factors(model.spec, 1, 1)
    long = torch.arange(1, 97)[None]
    fresh = get_logits(pico.make_network("llama", rope={"rope_type": "dynamic", "factor": 2.0}), long)
    with rescaled(model, ones):
        assert torch.equal(get_logits(model.network, long), fresh)


# Rescaling


@every_family
@both_dtypes
def test_identity_is_bit_identical(family: str, dtype: torch.dtype) -> None:
    """All lambda = 1 changes no bit of the logits; start tokens of all-ones change nothing either."""
    model = pico.make_model(family, dtype=dtype)
    before = get_logits(model.network)
    for start in (0, 8):
        with rescaled(model, make_factors(model.spec, 1, 1, start_tokens=start)) as module:
            assert get_rotary(model.network) is module
            assert torch.equal(get_logits(model.network), before)


@every_family
def test_the_own_rope_comes_back_inside_other_factors(family: str) -> None:
    """To the bit, for the length of a block, and the other factors are in force again after it."""
    model = pico.make_model(family)
    before = get_logits(model.network)
    with rescaled(model, make_factors(model.spec, attention_factor=1.2, start_tokens=3)):
        changed = get_logits(model.network)
        with rescaled(model, unscaled(model.spec)):
            assert torch.equal(get_logits(model.network), before)
        assert torch.equal(get_logits(model.network), changed)
    assert not torch.equal(changed, before)


@every_family
def test_identity_by_our_own_angles(family: str) -> None:
    """Learnable all-ones go through our own cos and sin, and give the network's logits to rounding."""
    model = pico.make_model(family)
    with rescaled(model, make_factors(model.spec, 1, 1), learnable=True):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(model.network)) < ROUNDING


def test_factors_equal_a_module_made_by_hand(loaded: tuple[str, LanguageModel]) -> None:
    """In every family rescaled logits are those of the network's own module with divided frequencies."""
    family, model = loaded
    factors = make_factors(model.spec, attention_factor=1.2)
    head_dim, width, theta, _, _ = GEOMETRIES[family]
    frequencies = np.array([theta ** (-2 * i / width) / stretch for i, stretch in enumerate(factors.lambdas)])
    before = get_logits(model.network)
    with rescaled(model, factors):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(make_by_hand(family, frequencies, 1.2))) < ROUNDING
    assert gap(ours, before) > 0.1, "the factors must move the logits"
    assert head_dim >= width


@every_family
def test_factors_in_bfloat16(family: str) -> None:
    """Rescaled bfloat16 logits are those of float32 to bfloat16's rounding, nearer than the change itself."""
    model, single = pico.make_model(family, dtype=torch.bfloat16), pico.make_model(family)
    single.network.load_state_dict({name: value.float() for name, value in model.network.state_dict().items()})
    factors = make_factors(model.spec, attention_factor=1.2)
    with rescaled(model, factors), rescaled(single, factors):
        ours, reference = get_logits(model.network), get_logits(single.network)
    typical = (ours.float() - reference).abs().mean()
    assert typical < 0.05 * reference.std()
    assert typical < 0.5 * (get_logits(single.network) - reference).abs().mean()


@every_family
def test_attention_factor_alone(family: str) -> None:
    """All-ones with an attention factor are no identity: cos and sin are multiplied by it."""
    model = pico.make_model(family)
    with rescaled(model, make_factors(model.spec, 1, 1, attention_factor=1.5)):
        ours = get_logits(model.network)
    before = get_logits(model.network)
    get_rotary(model.network).attention_scaling = 1.5
    assert gap(ours, get_logits(model.network)) < ROUNDING
    assert gap(ours, before) > 0.05


def test_without_factors_the_model_stays(llama: LanguageModel) -> None:
    """None means the model as it is."""
    native = get_rotary(llama.network)
    with rescaled(llama, None) as module:
        assert module is None
        assert get_rotary(llama.network) is native


@every_family
def test_the_very_same_module_is_back_after_the_block(family: str) -> None:
    """Module and logits are the same after the block, after an exception inside it, and after nested blocks."""
    model = pico.make_model(family)
    native, before = get_rotary(model.network), get_logits(model.network)
    names = [name for name, _ in model.network.named_modules()]
    with rescaled(model, make_factors(model.spec)) as outer:
        changed = get_logits(model.network)
        with rescaled(model, make_factors(model.spec, 2, 8)):
            assert not torch.equal(get_logits(model.network), changed)
        assert get_rotary(model.network) is outer
        assert torch.equal(get_logits(model.network), changed)
    assert get_rotary(model.network) is native
    assert torch.equal(get_logits(model.network), before)
    with pytest.raises(RuntimeError, match="inside"), rescaled(model, make_factors(model.spec)):
        raise RuntimeError("inside")
    assert get_rotary(model.network) is native
    assert torch.equal(get_logits(model.network), before)
    assert [name for name, _ in model.network.named_modules()] == names
    assert not torch.equal(changed, before)


def test_inner_block_replaces_the_outer_one(llama: LanguageModel) -> None:
    """Factors are relative to the model's own frequencies, so the inner block holds alone: also when it is all-ones."""
    inner, before = make_factors(llama.spec, 2, 8), get_logits(llama.network)
    with rescaled(llama, inner):
        alone = get_logits(llama.network)
    with rescaled(llama, make_factors(llama.spec)):
        with rescaled(llama, inner):
            assert torch.equal(get_logits(llama.network), alone)
        with rescaled(llama, make_factors(llama.spec, 1, 1)):
            assert torch.equal(get_logits(llama.network), before)


@pytest.mark.parametrize(
    "other",
    [
        RopeSpec(8, 8, 2e4, 64),  # another theta
        RopeSpec(8, 8, 1e4, 128),  # another window
        RopeSpec(16, 16, 1e4, 64),  # another number of pairs
        RopeSpec(8, 8, 1e4, 64, "interleaved"),
    ],
    ids=["theta", "window", "pairs", "pairing"],
)
def test_factors_for_another_geometry_are_refused(llama: LanguageModel, other: RopeSpec) -> None:
    """Factors of another model are refused before anything is changed."""
    native = get_rotary(llama.network)
    with pytest.raises(FactorsError, match="geometry"), rescaled(llama, make_factors(other)):
        pass
    assert get_rotary(llama.network) is native


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "cohere"])
@pytest.mark.parametrize("start", [0, 1, 16])
def test_angles_below_and_above_the_start_tokens(family: str, start: int) -> None:
    """cos and sin are the definition's, entry by entry: plain before n-hat, divided by lambda from it on."""
    model = pico.make_model(family, dtype=torch.float64)
    factors = make_factors(model.spec, start_tokens=start, attention_factor=1.3)
    positions = np.array([0, 1, start, max(0, start - 1), start + 1, 15, 16, 17, 63, 64, 1000])
    angles = form_angles(GEOMETRIES[family], positions, factors.lambdas, start)
    with rescaled(model, factors) as module:
        assert module is not None
        cos, sin = module(torch.zeros(1, dtype=torch.float64), torch.from_numpy(positions)[None])
    np.testing.assert_allclose(cos[0].detach().numpy(), (1.3 * np.cos(angles)).astype(float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sin[0].detach().numpy(), (1.3 * np.sin(angles)).astype(float), rtol=0, atol=1e-12)


def test_start_tokens_reach_the_logits(llama: LanguageModel) -> None:
    """A sequence within the start tokens sees the original RoPE; tokens after them see another one."""
    before = get_logits(llama.network)
    with rescaled(llama, make_factors(llama.spec, start_tokens=48)):
        assert gap(get_logits(llama.network), before) < ROUNDING
    with rescaled(llama, make_factors(llama.spec, start_tokens=20)):
        ours = get_logits(llama.network)
    assert gap(ours[:, :20], before[:, :20]) < ROUNDING
    assert gap(ours[:, 20:], before[:, 20:]) > 0.1


def test_cache_gives_the_same_logits_as_the_whole_pass(llama: LanguageModel) -> None:
    """With a cache the keys keep their angles: token by token equals the whole sequence, across n-hat."""
    with rescaled(llama, make_factors(llama.spec, start_tokens=10, attention_factor=1.1)), torch.inference_mode():
        whole = llama.network(TOKENS, use_cache=False).logits
        first = llama.network(TOKENS[:, :6], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for at in range(6, 14):
            step = llama.network(TOKENS[:, at : at + 1], past_key_values=cache, use_cache=True)
            pieces.append(step.logits)
    assert gap(torch.cat(pieces, dim=1), whole[:, :14]) < ROUNDING


@pytest.mark.parametrize("family", ["llama", "cohere"])
@pytest.mark.parametrize("stretch", [1.1, 30.0])
def test_angles_at_two_million_tokens(family: str, stretch: float) -> None:
    """Near position 2 ** 21 our float32 cos and sin are right to float32's rounding; the stock module's are not."""
    model = pico.make_model(family)
    lambdas = (stretch,) * model.spec.num_pairs
    factors = RescaleFactors(lambdas, 2**21, model.spec.fingerprint)
    positions = np.arange(2**21 - 64, 2**21)
    angles = form_angles(GEOMETRIES[family], positions, lambdas)
    ids = torch.from_numpy(positions)[None]
    with rescaled(model, factors, learnable=True) as module, torch.no_grad():
        assert module is not None
        ours = module(torch.zeros(1), ids)
    by_hand = make_by_hand(family, np.array([model.spec.theta ** (-i / 4) / lambdas[i] for i in range(4)]))
    stock = get_rotary(by_hand)(torch.zeros(1), ids)
    for values, stock_values, exact in zip(ours, stock, (np.cos(angles), np.sin(angles)), strict=True):
        assert values.dtype == torch.float32
        assert np.abs(values[0].numpy() - exact.astype(float)).max() < 1e-6
        assert np.abs(stock_values[0].numpy() - exact.astype(float)).max() > 1e-3


def test_angles_survive_a_network_cast_to_bfloat16() -> None:
    """`network.to(bfloat16)` rounds the network's own frequencies (bug 6 of PEERS.md), never ours."""
    model = pico.make_model("llama")
    model.network.to(torch.bfloat16)
    assert get_rotary(model.network).inv_freq.dtype == torch.bfloat16
    factors = make_factors(model.spec)
    positions = np.arange(100_000, 100_064)
    exact = np.cos(form_angles(GEOMETRIES["llama"], positions, factors.lambdas)).astype(float)
    with rescaled(model, factors) as module, torch.no_grad():
        assert module is not None
        cos, _ = module(torch.zeros(1, dtype=torch.bfloat16), torch.from_numpy(positions)[None])
    assert cos.dtype == torch.bfloat16
    assert torch.equal(cos[0], torch.from_numpy(exact).to(torch.bfloat16))


# Learnable factors


def compute_loss(model: LanguageModel) -> Tensor:
    logits = model.network(TOKENS, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


@pytest.mark.parametrize("family", ["llama", "stablelm", "cohere"])
@pytest.mark.parametrize("start", [0, 12])
def test_gradients_are_those_of_central_differences(family: str, start: int) -> None:
    """d loss / d lambda and d loss / d attention factor equal five-point differences of the loss.

    The networks run in float64, but Llama and Cohere take their norms in float32, hence the tolerance. The small theta
    makes every pair turn within 48 tokens.
    """
    model = pico.make_model(family, dtype=torch.float64, rope={"rope_theta": 50.0})
    factors = make_factors(model.spec, 4, 8, start_tokens=start, attention_factor=1.1)
    with rescaled(model, factors, learnable=True) as module:
        assert module is not None
        compute_loss(model).backward()
        parameters = [module.lambdas, module.attention_factor]
        given = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).numpy()
        measured = [differentiate(model, p.data.view(-1)[i : i + 1]) for p in parameters for i in range(p.numel())]
    assert len(given) == model.spec.num_pairs + 1
    assert np.abs(measured).min() > 5e-5, "each factor must matter, or the comparison is empty"
    np.testing.assert_allclose(given, measured, rtol=1e-3, atol=2e-6)
    assert not any(p.grad is not None for p in model.network.parameters())


def differentiate(model: LanguageModel, entry: Tensor, step: float = 0.01) -> float:
    """d loss / d entry by the five-point rule; the entry has its value again afterwards."""
    value, losses = entry.clone(), {}
    for k in (-2, -1, 1, 2):
        entry.copy_(value + k * step)
        with torch.no_grad():
            losses[k] = compute_loss(model).item()
    entry.copy_(value)
    return (losses[-2] - 8 * losses[-1] + 8 * losses[1] - losses[2]) / (12 * step)


def test_factors_get_no_gradient_unless_learnable(llama: LanguageModel) -> None:
    """Without ``learnable`` a pass in grad mode builds no graph."""
    with rescaled(llama, make_factors(llama.spec)):
        assert not compute_loss(llama).requires_grad
    with rescaled(llama, make_factors(llama.spec), learnable=True) as module:
        assert module is not None
        assert module.lambdas.dtype == torch.float64
        assert compute_loss(llama).requires_grad


# Parity with the longrope of transformers


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "stablelm", "cohere"])
@pytest.mark.parametrize("attention", [None, 1.3], ids=["default-attention", "given-attention"])
def test_native_longrope_is_the_same_on_both_sides_of_its_switch(family: str, attention: float | None) -> None:
    """The same weights under a native longrope config give our logits: short list up to 64 tokens, long list beyond."""
    model = pico.make_model(family)
    pairs = model.spec.num_pairs
    lists = {"short_factor": np.linspace(1, 1.5, pairs).tolist(), "long_factor": np.linspace(1, 6, pairs).tolist()}
    changes: dict[str, Any] = {"max_position_embeddings": 256}
    if family == "phi3":
        changes["original_max_position_embeddings"] = 64
    rope = {"rope_type": "longrope", **lists, "original_max_position_embeddings": 64, "factor": 4.0}
    native = pico.make_network(
        family, rope={**rope, **({"attention_factor": attention} if attention else {})}, **changes
    )
    native.load_state_dict(model.network.state_dict())
    ours_attention = attention or math.sqrt(1 + math.log(4) / math.log(64))
    sides = {"short_factor": (16, 64), "long_factor": (65, 160)}
    logits: dict[str, Tensor] = {}
    for name, lengths in sides.items():
        tier = RescaleFactors(tuple(lists[name]), 256, model.spec.fingerprint, attention_factor=ours_attention)
        for length in lengths:
            tokens = torch.arange(7, 7 + length)[None]
            with rescaled(model, tier):
                ours = get_logits(model.network, tokens)
            assert gap(ours, get_logits(native, tokens)) < ROUNDING, (name, length)
            logits[name] = ours[:, :16]
    assert gap(logits["short_factor"], logits["long_factor"]) > 0.05, "the switch must matter"


# Hooks that do nothing


def bypass(attention: Any, rotary: Any) -> Callable[..., Any]:
    """An attention whose position embeddings come from somewhere else than the module that the model holds."""
    native = attention.forward

    def forward(hidden_states: Tensor, *_: Any, **inputs: Any) -> Any:
        inputs["position_embeddings"] = rotary(hidden_states, torch.arange(hidden_states.shape[1])[None])
        return native(hidden_states, **inputs)

    return forward


def test_dead_hook_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that stopped calling the module we exchange (bug 1 of PEERS.md) is refused, not searched on."""
    model = pico.make_model("llama")
    check_moves_logits(model)
    elsewhere = copy.deepcopy(get_rotary(model.network))
    for layer in model.network.model.layers:
        monkeypatch.setattr(layer.self_attn, "forward", bypass(layer.self_attn, elsewhere))
    with pytest.raises(ModelError, match="does not reach the logits"):
        check_moves_logits(model)


def test_loading_notices_a_dead_hook(pico_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load_model itself refuses such a model."""
    native = LlamaAttention.forward

    def forward(self: Any, hidden_states: Tensor, *_: Any, **inputs: Any) -> Any:
        rotary = LlamaRotaryEmbedding(self.config)
        inputs["position_embeddings"] = rotary(hidden_states, torch.arange(hidden_states.shape[1])[None])
        return native(self, hidden_states, **inputs)

    load_model(pico_folder, device="cpu")
    monkeypatch.setattr(LlamaAttention, "forward", forward)
    with pytest.raises(ModelError, match="does not reach the logits"):
        load_model(pico_folder, device="cpu")


def test_two_rotary_modules_are_refused() -> None:
    """A network with a second rotary module is not half rescaled."""
    model = pico.make_model("llama")
    parent, name, module = find_rotary(model.network, "llama")
    assert (parent, name, module) == (model.network.model, "rotary_emb", get_rotary(model.network))
    model.network.second = copy.deepcopy(module)
    with pytest.raises(ModelError, match="2 rotary modules"), rescaled(model, make_factors(model.spec)):
        pass


# GGUF files


def test_gguf_file_loads_as_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    """Logits, tokenizer and geometry are the source's; saved as safetensors it reopens with the same logits."""
    source = pico.make_network("llama", rope={"rope_theta": 5e4})
    model = load_model(pico.save_gguf(tmp_path / "pico.gguf", source), device="cpu")
    assert gap(get_logits(model.network), get_logits(source)) < 1e-6
    assert model.spec == RopeSpec(head_dim=8, rotary_dim=8, theta=5e4, trained_window=64)
    text = pico.make_text(60, seed=3)
    assert model.tokenizer(text)["input_ids"] == pico.make_tokenizer()(text)["input_ids"]
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved", device="cpu")
    assert list((tmp_path / "saved").glob("*.safetensors"))
    assert torch.equal(get_logits(again.network), get_logits(model.network))
    assert again.spec == model.spec


def describe_linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def describe_yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)


def describe_yarn_betas(writer: GGUFWriter) -> None:
    describe_yarn(writer)
    writer.add_rope_scaling_yarn_beta_fast(0.375)
    writer.add_rope_scaling_yarn_beta_slow(0.0078125)


def describe_none(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)


DIVISORS = np.array([1.0, 1.5, 4.0, 8.0], dtype=np.float32)
YARN_32 = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
GGUF_SCALINGS: dict[str, tuple[Any, dict[str, NDArray[np.float32]], dict[str, Any] | None]] = {
    "none": (describe_none, {}, None),
    "linear": (describe_linear, {}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": (describe_yarn, {}, YARN_32),
    "yarn-betas": (describe_yarn_betas, {}, {**YARN_32, "beta_fast": 0.375, "beta_slow": 0.0078125}),
    "rope_freqs": (
        lambda _: None,
        {"rope_freqs": DIVISORS},
        {
            "rope_type": "longrope",
            "short_factor": DIVISORS.tolist(),
            "long_factor": DIVISORS.tolist(),
            "attention_factor": 1.0,
        },
    ),
}


@pytest.mark.parametrize("name", GGUF_SCALINGS)
def test_scaling_of_a_gguf_file_is_read_as_what_it_is(name: str, tmp_path: Path) -> None:
    """What transformers drops is kept: the loaded model gives the logits of the config that the file stands for."""
    describe, tensors, rope = GGUF_SCALINGS[name]
    plain = pico.make_network("llama", max_position_embeddings=128)
    path = pico.save_gguf(tmp_path / "pico.gguf", plain, describe, **tensors)
    model = load_model(path, device="cpu")
    meant = pico.make_model("llama", max_position_embeddings=128, rope=rope)
    assert gap(get_logits(model.network), get_logits(meant.network)) < ROUNDING
    np.testing.assert_allclose(model.spec.frequencies, get_inv_freq(meant), rtol=1e-6)
    assert model.spec.attention_factor == pytest.approx(get_rotary(meant.network).attention_scaling)
    assert model.spec.trained_window == 128
    if rope:
        assert gap(get_logits(model.network), get_logits(plain)) > 0.05, "the scaling must matter"
    else:
        assert model.spec.carried is None


def test_unknown_scaling_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    """A scaling that we cannot read is named, not dropped."""
    network = pico.make_network("llama")
    path = pico.save_gguf(
        tmp_path / "pico.gguf", network, lambda writer: writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    )
    with pytest.raises(ModelError, match="longrope"):
        load_model(path, device="cpu")


def test_factor_lists_of_a_gguf_file_are_not_dropped(tmp_path: Path) -> None:
    """llama.cpp writes long and short factors as tensors, without a scaling type: they are read or refused."""
    short, long = np.array([1, 1, 1, 1.5], np.float32), np.array([1, 2, 4, 8], np.float32)

    def describe(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_attn_factors(1.2)
        writer.add_rope_scaling_orig_ctx_len(32)

    path = pico.save_gguf(
        tmp_path / "pico.gguf", pico.make_network("llama"), describe, rope_factors_long=long, rope_factors_short=short
    )
    try:
        spec = read_spec(load_config(path))
    except ModelError as error:
        assert "rope_factors" in str(error) or "longrope" in str(error)  # noqa: PT017
        return
    assert spec.carried is not None, "the file's factors were dropped"
    assert list(spec.carried.lambdas) == long.tolist()
    assert spec.attention_factor == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("architecture", "theta", "rotary_dim"),
    [("llama", 7e4, 8), ("qwen2", 7e4, 8), ("starcoder2", 7e4, 8), ("stablelm", 1e4, 4), ("phi3", 1e4, 6)],
)
def test_geometry_of_a_gguf_file_is_never_defaulted(
    architecture: str, theta: float, rotary_dim: int, tmp_path: Path
) -> None:
    """What a file states is read or refused; transformers drops the base of some, and the rotated share of others."""
    writer = GGUFWriter(tmp_path / "pico.gguf", architecture)
    pico.describe_shape(writer, pico.make_config("llama"))
    writer.add_rope_dimension_count(rotary_dim)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(33_000)  # room for the padding token that Phi3Config presumes
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    pico.close_gguf(writer)
    try:
        spec = read_spec(load_config(tmp_path / "pico.gguf"))
    except ModelError as error:
        assert "rope" in str(error)  # noqa: PT017
        return
    assert (spec.theta, spec.rotary_dim) == (theta, rotary_dim)
