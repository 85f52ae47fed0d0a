"""Language models: load one, read the geometry of its RoPE or refuse it, run it with rescaled RoPE, save it.

Everything goes through transformers' own classes. The rotary module of a loaded instance is swapped for ours inside
``rescaled`` and put back at its end; no class is patched and no modelling code is forked.

Shape legend: B = batch, N = positions, P = rotated pairs.
"""

import copy
import difflib
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from longrope.errors import ModelError, converting_errors
from longrope.factors import RescaleFactors
from longrope.rope import Carried, Lambdas, RopeSpec, llama3_lambdas, pi_lambdas, yarn_lambdas
from longrope.weights import check_complete, check_finite, check_gguf_complete

EMBEDDED, ASSETS = "nano", Path(__file__).parent / "assets"  # the name of the model that comes with the package
PROBE_POSITIONS = 64
ADAPTER = "adapter_config.json"
GGUF_SCALING = ("type", "factor", "original_context_length")
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
LAYOUTS: dict[Literal["half", "interleaved"], Any] = {
    "half": lambda angles: torch.cat((angles, angles), dim=-1),
    "interleaved": lambda angles: angles.repeat_interleave(2, dim=-1),
}


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model: transformers' network and tokenizer, the geometry of its RoPE, and the name it was loaded by.

    ``choices`` are the automatic choices of its loading, with their reasons. ``compiled``: without gradients losses go
    through torch.compile, and layers where one process has a window whole.
    """

    network: Any
    tokenizer: Any
    spec: RopeSpec
    name: str
    choices: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    @property
    def end_tokens(self) -> set[int]:
        """The tokens that end an answer, by the model's generation config and by its tokenizer."""
        stated = self.network.generation_config.eos_token_id
        listed = stated if isinstance(stated, list) else [stated]
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}


def choose_device(device: str = "auto") -> tuple[str, str]:
    """Return the device and the reason for it; raise ModelError for a GPU that is not there."""
    if device == "auto":
        return ("cuda", "a GPU is here") if torch.cuda.is_available() else ("cpu", "no GPU is here")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        needed = "No GPU is here." if device.startswith("cuda") else "There is none of that name."
        raise ModelError(f"The device {device!r} was asked for ({reason}).", needed, "Try cpu.") from None
    return device, "as asked"


def choose_dtype(dtype: str, device: str) -> tuple[torch.dtype, str]:
    """Return the number format of the weights and the reason for it; raise ModelError for an unknown one."""
    if dtype == "auto":
        return (torch.float32, "a CPU") if device == "cpu" else (torch.bfloat16, "a GPU")
    if dtype not in DTYPES:
        nearest = difflib.get_close_matches(str(dtype), DTYPES, n=1, cutoff=0.0)[0]
        raise ModelError(f"The dtype {dtype!r} was asked for.", f"Known: auto, {', '.join(DTYPES)}.", f"Try {nearest}.")
    return DTYPES[dtype], "as asked"


def describe_device(model: LanguageModel) -> str:
    """What the model is on: the GPU's name, or the processor's architecture and how many threads are used."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def load_model(
    source: str | Path, *, device: str = "auto", dtype: str = "auto", compiled: bool = False
) -> LanguageModel:
    """Load a causal language model and check that its RoPE is one that we can rescale.

    Args:
        source: a hub name, a folder with safetensors weights, a GGUF file (which is dequantized), or ``nano``, which
            comes with the package. Pickled weights and code that comes with a model are never loaded.
        device: ``cpu``, ``cuda``, or ``auto``.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``float64``, or ``auto``.
        compiled: run it through torch.compile (see ``LanguageModel``).

    Raises:
        ModelError: the model cannot be loaded, has no RoPE, or has one that a single table of factors cannot describe;
            its weights are incomplete, unexpected or not finite, or are those of an adapter.
    """
    place, place_reason = choose_device(device)
    number_format, format_reason = choose_dtype(dtype, place)
    location = _locate(source)
    config = load_config(source)
    spec = read_spec(config)
    with _loading(source):
        network = _load_network(source, config, number_format).to(place)
    with _loading(source, "tokenizer of"):
        tokenizer = AutoTokenizer.from_pretrained(**location, trust_remote_code=False)
    check_finite(source, network)
    choices = (f"device {place} ({place_reason})", f"{number_format} ({format_reason})")
    model = LanguageModel(network, tokenizer, spec, str(source), choices, compiled)
    check_moves_logits(model)
    return model


def _load_network(source: str | Path, config: Any, dtype: torch.dtype) -> Any:
    """Load the weights into transformers' own class, ready to run on the CPU; refuse incomplete ones."""
    location = _locate(source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **location,
        config=config,
        dtype=dtype,
        use_safetensors=None if "gguf_file" in location else True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report, by name
    )
    network, report = loaded
    _refuse_adapter(source, here=hasattr(network, "peft_config"))
    check_complete(source, report)
    if "gguf_file" in location:
        check_gguf_complete(Path(source), network)
    if quantizer := getattr(network, "hf_quantizer", None):
        quantizer.remove_quantization_config(network)
    return network.requires_grad_(False).eval()


def _refuse_adapter(source: str | Path, *, here: bool) -> None:
    if here:
        raise ModelError(
            f"{str(source)!r} holds a PEFT adapter ({ADAPTER}).",
            "A whole model is needed.",
            "Merge the adapter into its base model with peft's merge_and_unload, and give the folder saved from it.",
        )


def load_config(source: str | Path) -> Any:
    """Load a model's config alone, with the RoPE scaling that a GGUF file declares (raises ModelError)."""
    location = _locate(source)
    with _loading(source):
        config = AutoConfig.from_pretrained(**location, trust_remote_code=False)
        if "gguf_file" in location and hasattr(config, "rope_parameters"):
            config.rope_parameters = {**config.rope_parameters, **_read_gguf_rope(Path(source), _head_dim(config))}
    return config


def silence_loading() -> None:
    """Turn off the progress bars and warnings that transformers prints while it loads."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def save_model(model: LanguageModel, folder: Path) -> None:
    """Write config, safetensors weights and tokenizer, as transformers opens them."""
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _locate(source: str | Path) -> dict[str, str]:
    path = Path(source)
    if source == EMBEDDED:
        return {"pretrained_model_name_or_path": str(ASSETS / EMBEDDED)}
    if path.is_file() and path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_file():
        raise ModelError(f"{path} is a file, but no .gguf.", "A folder or a GGUF file is needed.", "Give its folder.")
    _refuse_adapter(source, here=(path / ADAPTER).is_file())
    return {"pretrained_model_name_or_path": str(source)}


def _loading(source: str | Path, part: str = "model") -> AbstractContextManager[None]:
    """Convert what other libraries raise while a part of a model is loaded (raises ModelError)."""
    path = Path(source)
    local = path.exists() or source == EMBEDDED
    kind = "folder" if path.is_dir() else "GGUF file" if local else "hub name (no such file or folder is here)"
    return converting_errors(
        ModelError,
        f"The {part} {str(source)!r}, taken as a {kind}, cannot be loaded",
        "Needed: a causal language model that transformers knows, with safetensors weights, or a GGUF file, "
        "and its tokenizer.",
        "Check its files; LONGROPE_DEBUG=1 shows the traceback."
        if local
        else "Check the name, or download the model first and give its folder.",
    )


def _read_gguf_rope(path: Path, head_dim: int) -> dict[str, Any]:
    """Read what a GGUF file states of its RoPE in metadata and tensors, in transformers' words.

    transformers drops most of it: the scaling, the base of some architectures, the rotated share of others.
    """
    from gguf import GGUFReader  # an extra that only GGUF files need

    reader = GGUFReader(str(path))
    arch = reader.get_field("general.architecture").contents()  # type: ignore[union-attr]  # transformers has read it
    stated = {name.removeprefix(f"{arch}."): field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: tensor.data.astype(np.float64).tolist() for tensor in reader.tensors if "rope" in tensor.name
    }
    geometry: dict[str, Any] = {}
    if "rope.freq_base" in stated:
        geometry["rope_theta"] = float(stated["rope.freq_base"])
    if stated.get("rope.dimension_count", head_dim) != head_dim:
        geometry["partial_rotary_factor"] = stated["rope.dimension_count"] / head_dim
    return geometry | _gguf_scaling(path, stated, tensors)


def _gguf_scaling(path: Path, stated: dict[str, Any], tensors: dict[str, list[float]]) -> dict[str, Any]:
    window = stated.get("context_length")
    original = stated.get("rope.scaling.original_context_length", window)
    if "rope_freqs.weight" in tensors:
        both = dict.fromkeys(("short_factor", "long_factor"), tensors["rope_freqs.weight"])
        return {"rope_type": "longrope", **both, "attention_factor": 1.0, "original_max_position_embeddings": window}
    if "rope_factors_long.weight" in tensors:
        lists = {f"{name}_factor": tensors[f"rope_factors_{name}.weight"] for name in ("short", "long")}
        attention = (
            {"attention_factor": stated["rope.scaling.attn_factor"]} if "rope.scaling.attn_factor" in stated else {}
        )
        return {"rope_type": "longrope", **lists, **attention, "original_max_position_embeddings": original}
    kind = stated.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(stated["rope.scaling.factor"])}
    betas = {name: f"rope.scaling.yarn_{name}" for name in ("beta_fast", "beta_slow")}
    understood = {"rope.scaling.finetuned", *betas.values(), *(f"rope.scaling.{name}" for name in GGUF_SCALING)}
    if kind == "yarn" and not {key for key in stated if key.startswith("rope.scaling.")} - understood:
        given = {name: float(stated[key]) for name, key in betas.items() if key in stated}
        factor = float(stated["rope.scaling.factor"])
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **given}
    raise ModelError(
        f"{path} carries the RoPE scaling {kind!r} with {', '.join(sorted(key for key in stated if 'rope' in key))}.",
        "From GGUF files none, linear, yarn with its betas, and factor tensors can be read.",
        "Load the model's original safetensors folder instead.",
    )


def read_spec(config: Any) -> RopeSpec:
    """Read the rotary geometry that a config states, and check it against the model's own rotary module.

    The module is built alone on the CPU, asked for its cos and sin, and compared with our formulas. So partial rotary,
    the pairing and every carried scaling are seen, not assumed.

    Raises:
        ModelError: no RoPE, several of them, or one whose angles do not follow from the config.
    """
    model_type = getattr(config, "model_type", "?")
    with converting_errors(
        ModelError,
        f"The rotary embedding of the model type {model_type!r} cannot be read",
        "Needed: a config that states one, with all numbers that its kind takes.",
        "Correct the config, or report this model type; LONGROPE_DEBUG=1 shows the traceback.",
    ):
        return _read_spec(config, model_type)


def _read_spec(config: Any, model_type: str) -> RopeSpec:
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or any(isinstance(value, dict) for value in parameters.values()):
        reason = (
            "has RoPE parameters for each layer type, which one table cannot describe"
            if parameters
            else "states no rope_parameters: it has no rotary position embedding, or one of its own kind"
        )
        raise _refusal(model_type, reason)
    if getattr(config, "qk_rope_head_dim", None):
        raise _refusal(model_type, "has multi-head latent attention (qk_rope_head_dim)")
    for name in ("rope_theta", "rope_type"):
        if name not in parameters:
            raise _refusal(model_type, f"states no rope_parameters[{name!r}]")
    head_dim = _head_dim(config)
    partial = parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None) or 1.0)
    plain = RopeSpec(
        head_dim=head_dim,
        rotary_dim=int(head_dim * partial),
        theta=float(parameters["rope_theta"]),
        trained_window=_trained_window(config, parameters),
    )
    return _checked_against_module(config, model_type, plain, _carried_lambdas(model_type, config, parameters, plain))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _refusal(model_type: str, reason: str) -> ModelError:
    return ModelError(
        f"The model type {model_type!r} {reason}.",
        "Needed: one rotary embedding that all rotary layers share.",
        "Llama, Mistral, Qwen2, Qwen3, Phi-3, Gemma-2, OLMo-2, StableLM, GPT-NeoX and their like are supported.",
    )


def _trained_window(config: Any, parameters: dict[str, Any]) -> int:
    """The window that the model serves as it is, a carried YaRN scaling included."""
    window = int(config.max_position_embeddings)
    if parameters["rope_type"] == "yarn" and parameters.get("factor"):
        window = max(window, round(parameters["original_max_position_embeddings"] * parameters["factor"]))
    return window


def _carried_lambdas(model_type: str, config: Any, parameters: dict[str, Any], plain: RopeSpec) -> Lambdas | None:
    """[P] factors of the scaling in the config (the longest tier), None for plain RoPE."""
    kind, pairs = parameters["rope_type"], plain.num_pairs
    if kind in ("default", "dynamic"):
        return None
    if kind == "linear":
        return pi_lambdas(pairs, parameters["factor"])
    original: Any = getattr(config, "original_max_position_embeddings", None)
    original = original or parameters.get("original_max_position_embeddings")
    if kind == "longrope":
        if len(parameters["long_factor"]) != pairs or len(parameters["short_factor"]) != pairs:
            raise _refusal(model_type, f"carries longrope lists that do not have {pairs} entries")
        return np.asarray(parameters["long_factor"], dtype=np.float64)
    if kind == "yarn":
        ratio = parameters.get("factor") or config.max_position_embeddings / original
        return yarn_lambdas(
            plain.theta,
            pairs,
            original,
            ratio,
            beta_fast=parameters.get("beta_fast") or 32.0,
            beta_slow=parameters.get("beta_slow") or 1.0,
            truncate=parameters.get("truncate", True),
        )
    if kind == "llama3":
        return llama3_lambdas(
            plain.frequencies,
            parameters["factor"],
            original,
            low_turns=parameters["low_freq_factor"],
            high_turns=parameters["high_freq_factor"],
        )
    raise _refusal(model_type, f"carries the RoPE scaling {kind!r}")


def _checked_against_module(config: Any, model_type: str, plain: RopeSpec, lambdas: Lambdas | None) -> RopeSpec:
    """Add the pairing and the carried scaling to a spec, as the model's own rotary module shows them."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(_shallow(config))
    _, _, module = find_rotary(skeleton, model_type)
    rotary = type(module)(config=copy.deepcopy(config))
    positions = torch.arange(PROBE_POSITIONS)[None]
    if config.rope_parameters["rope_type"] == "longrope":  # one far position selects the long list
        original = config.rope_parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        positions = torch.cat((positions, torch.tensor([[original]])), dim=1)
    try:
        cos, sin = rotary(torch.zeros(1, positions.shape[1], plain.head_dim), positions)
        scaling = float(rotary.attention_scaling)
    except Exception as error:
        raise _refusal(model_type, f"has a rotary module of another kind ({type(error).__name__}: {error})") from error
    carried = None
    if lambdas is not None:
        carried = Carried(config.rope_parameters["rope_type"], tuple(lambdas.tolist()), scaling)
    same_frequencies = _same_frequencies(rotary, plain, carried)
    for pairing, layout in LAYOUTS.items():
        spec = RopeSpec(plain.head_dim, plain.rotary_dim, plain.theta, plain.trained_window, pairing, carried)
        angles = positions[:, :PROBE_POSITIONS, None].double() * torch.from_numpy(spec.frequencies)
        expected = torch.stack((layout(angles).cos(), layout(angles).sin())) * spec.attention_factor
        given = torch.stack((cos, sin))[:, :, :PROBE_POSITIONS]
        if given.shape == expected.shape and torch.allclose(given.double(), expected, atol=1e-4) and same_frequencies:
            return spec
    raise _refusal(model_type, "computes other angles than its config states")


def _same_frequencies(rotary: Any, plain: RopeSpec, carried: Carried | None) -> bool:
    """Whether the module's own buffer holds the stated frequencies (the slowest hardly show in 64 positions)."""
    stated = replace(plain, carried=carried).frequencies
    return rotary.inv_freq.shape == stated.shape and np.allclose(rotary.inv_freq.double(), stated, rtol=1e-4, atol=0)


def _shallow(config: Any) -> Any:
    """The config with few layers, enough to find the rotary module."""
    small = copy.deepcopy(config)
    if isinstance(getattr(small, "num_hidden_layers", None), int) and not getattr(small, "layer_types", None):
        small.num_hidden_layers = min(2, small.num_hidden_layers)
    return small


def find_rotary(network: Any, model_type: str) -> tuple[Any, str, Any]:
    """Find the one rotary module of a network: its parent, its name there, and itself (raises ModelError)."""
    sites = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if "inv_freq" in child._buffers or isinstance(child, RescaledRotary)  # noqa: SLF001
    ]
    if len(sites) != 1:
        raise _refusal(model_type, f"has {len(sites)} rotary modules")
    return sites[0]


class RescaledRotary(nn.Module):
    """Our rotary module: angles in float64, start tokens, attention factor, optionally learnable lambdas.

    With factors that change nothing it hands over to the model's own module, so logits stay bit-identical.
    """

    def __init__(
        self,
        native: Any,
        spec: RopeSpec,
        factors: RescaleFactors,
        *,
        learnable: bool = False,
        precision: torch.dtype = torch.float64,
    ) -> None:
        """Take the place of ``native`` with these factors; with ``learnable`` they become float64 parameters."""
        super().__init__()
        self._precision = precision
        self._native = (native,)  # in a tuple, so that it is no submodule
        self._spec = spec
        self._start_tokens = factors.start_tokens
        self._identity = factors.is_identity and not learnable
        self.lambdas = nn.Parameter(torch.tensor(factors.lambdas, dtype=torch.float64), requires_grad=learnable)
        self.attention_factor = nn.Parameter(
            torch.tensor(factors.attention_factor, dtype=torch.float64), requires_grad=learnable
        )

    @property
    def native(self) -> Any:
        """The model's own rotary module."""
        return self._native[0]

    def forward(self, x: Tensor, position_ids: Tensor, **extra: Any) -> tuple[Tensor, Tensor]:
        """Return cos and sin ([B, N, rotary_dim], the dtype of x) for position_ids [B, N].

        The angles are n * f / lambda in float64: at n = 2 ** 21 float32 would be off by up to 0.06 rad.
        """
        if self._identity:
            return self.native(x, position_ids, **extra)  # type: ignore[no-any-return]
        frequencies = torch.from_numpy(self._spec.frequencies).to(x.device)
        positions = position_ids[..., None].to(self._precision)
        rescaled = frequencies / self.lambdas.to(x.device)
        angles = positions * torch.where(positions < self._start_tokens, frequencies, rescaled).to(self._precision)
        scale = self.attention_factor.to(x.device) * self._spec.attention_factor
        layout = LAYOUTS[self._spec.pairing]
        return layout(angles.cos() * scale).to(x.dtype), layout(angles.sin() * scale).to(x.dtype)


@contextmanager
def rescaled(
    model: LanguageModel,
    factors: RescaleFactors | None,
    *,
    learnable: bool = False,
    precision: torch.dtype = torch.float64,
) -> Iterator[RescaledRotary | None]:
    """Run a model with rescaled RoPE inside a ``with`` block.

    The rotary module of this one instance is exchanged for ours; at the end of the block, an exception included, the
    very same module is back. With ``factors=None`` the model stays as it is.

    Args:
        model: the model to change.
        factors: made for this model's geometry (raises FactorsError otherwise).
        learnable: make lambdas and attention factor parameters with gradients.
        precision: of the angles; float32 shows what other runtimes lose far out.

    Yields:
        The module that is installed.
    """
    if factors is None:
        yield None
        return
    factors.check_spec(model.spec)
    parent, name, before = find_rotary(model.network, model.network.config.model_type)
    native = before.native if isinstance(before, RescaledRotary) else before
    module = RescaledRotary(native, model.spec, factors, learnable=learnable, precision=precision).to(model.device)
    setattr(parent, name, module)
    try:
        yield module
    finally:
        setattr(parent, name, before)


def check_moves_logits(model: LanguageModel) -> None:
    """Raise ModelError if a first pass fails or its logits are not finite, or if factors do not reach the logits.

    They do not where the library has stopped calling the rotary module that the model holds.
    """
    tokens = torch.arange(16, device=model.device)[None] % model.network.config.vocab_size
    far = tuple(np.linspace(2, 4, model.spec.num_pairs).tolist())
    factors = RescaleFactors(far, model.spec.trained_window, model.spec.fingerprint)
    with (
        converting_errors(
            ModelError,
            f"The first pass of {model.name!r} fails",
            "A model that transformers can run on this device is needed.",
            "Try it in plain transformers; LONGROPE_DEBUG=1 shows the traceback.",
        ),
        torch.inference_mode(),
    ):
        before = model.network(tokens, use_cache=False).logits
        with rescaled(model, factors):
            after = model.network(tokens, use_cache=False).logits
    if not before.float().logsumexp(-1).isfinite().all():
        raise ModelError(
            f"The logits of {model.name!r} are not finite in {before.dtype}.",
            "Every loss of such a model would be NaN or infinite; all must be finite numbers.",
            "Try another --dtype: float32, or bfloat16, which has its range.",
        )
    if torch.equal(before, after):
        raise ModelError(
            f"Rescaled RoPE does not reach the logits of {model.name!r}.",
            f"transformers {transformers.__version__} must call the rotary module that the model holds.",
            "Use another version of transformers, and please report this model type.",
        )
