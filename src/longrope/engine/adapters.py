"""Families whose modules need help to call our attention, or to go on by one token, by model type.

Their own forwards run; what they call, or what they are given, is replaced while they do.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Attention = Callable[..., tuple[Tensor, None]]  # ours, as transformers calls it
Adapter = Callable[[nn.Module, Attention], Callable[..., Any]]


class Offsets:
    """Stands in for a cache of transformers where attention modules ask it how many tokens came before.

    Args:
        before: how many, or [n] for each of the module's n tokens by how much its position exceeds its place.
    """

    def __init__(self, before: Any) -> None:
        """Answer with this."""
        self._before = before

    def get_seq_length(self, *_: Any) -> Any:
        """How many tokens came before."""
        return self._before

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep nothing, for our attention does."""
        return key, value


def call_torch_attention(module: Any, attention: Attention) -> Callable[..., Any]:
    """A forward whose calls of torch's ``scaled_dot_product_attention`` come to our attention (Falcon's)."""
    forward, config = module.forward, copy.copy(module.config)
    config._attn_implementation = "sdpa"  # noqa: SLF001  # by which the module chooses torch's function

    class Redirect(TorchFunctionMode):
        def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is functional.scaled_dot_product_attention:
                return attention(module, *args[:3], None)[0].transpose(1, 2)
            return function(*args, **(kwargs or {}))

    def run(*args: Any, **kwargs: Any) -> Any:
        with _attribute(module, "config", config), Redirect():
            return forward(*args, **kwargs)

    return run


def call_own_method(module: nn.Module, attention: Attention) -> Callable[..., Any]:
    """A forward whose calls of the module's own method come to our attention (GPT-NeoX-Japanese's ``_attn``)."""
    forward = module.forward

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, None]:
        return attention(module, query, key, value, None)[0].transpose(1, 2), None

    def run(*args: Any, **kwargs: Any) -> Any:
        with _attribute(module, "_attn", attend):
            return forward(*args, **kwargs)

    return run


def know_positions(module: nn.Module, _: Attention, *, before: Callable[[Tensor], Any]) -> Callable[..., Any]:
    """A forward that asks us where its tokens stand, which it needs for its attention's temperature (Llama-4's)."""
    forward = module.forward
    name = "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"  # before 5.24

    def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get(name) is None:
            kwargs[name] = Offsets(before(hidden_states))
        return forward(hidden_states, *args, **kwargs)

    return run


def limit_time_steps(module: Any, _: Attention) -> Callable[..., Any]:
    """A forward by which single tokens have the least time step that others have (Zamba2's).

    transformers limits them where it reads several tokens, and not where it goes on by one. A step is softplus(x + b)
    with the last columns x of what the module's first projection gives, so its limit is one of x.
    """
    forward, project = module.forward, module.in_proj.forward
    least = module.time_step_limit[0]

    def limited(hidden: Tensor) -> Tensor:
        projected: Tensor = project(hidden)
        steps = projected[..., -module.num_heads :]
        limit = (math.log(math.expm1(least)) - module.dt_bias).to(steps.dtype)
        return torch.cat((projected[..., : -module.num_heads], torch.maximum(steps, limit)), dim=-1)

    def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.shape[1] > 1 or not least:
            return forward(hidden_states, *args, **kwargs)
        with _attribute(module.in_proj, "forward", limited):
            return forward(hidden_states, *args, **kwargs)

    return run


def adapt(network: Any, attention: Attention, before: Callable[[Tensor], Any]) -> dict[Any, Callable[..., Any]]:
    """Other forwards of the modules of a network that need help.

    Args:
        network: of any family.
        attention: ours.
        before: hidden states of the module at work -> what ``Offsets`` is to answer.
    """
    rows: dict[str, tuple[str, Adapter]] = {
        "falcon": ("FalconAttention", call_torch_attention),
        "gpt_neox_japanese": ("GPTNeoXJapaneseAttention", call_own_method),
        "llama4_text": ("Llama4TextAttention", partial(know_positions, before=before)),
        "zamba2": ("Zamba2MambaMixer", limit_time_steps),
    }
    name, adapter = rows.get(network.config.model_type, (None, None))
    if adapter is None:
        return {}
    return {module: adapter(module, attention) for module in network.modules() if type(module).__name__ == name}


@contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Give one instance another attribute in this block alone."""
    own, before = name in module.__dict__, getattr(module, name)
    module.__dict__[name] = value
    try:
        yield
    finally:
        if own:
            module.__dict__[name] = before
        else:
            del module.__dict__[name]
