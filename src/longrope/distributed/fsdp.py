"""Weights divided among all processes (FSDP2), and reading them whole or in part."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from longrope.distributed.failures import detecting_lost_processes
from longrope.distributed.state import ranks


def divide_weights(network: Any, layers: Iterable[Any]) -> Any:
    """A copy of a network whose layers' weights are divided among all processes (FSDP2); alone the network itself.

    Each process holds its part of every layer, and a layer is whole while it works. Gradients of these weights come
    divided, too, as the mean over the processes. What is no part of a layer is whole everywhere.
    """
    if ranks() == 1:
        return network
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    places = {id(layer): at for at, layer in enumerate(network.modules())}
    wanted = {places[id(layer)] for layer in layers}
    copied = copy.deepcopy(network)
    kind = next(network.parameters()).device.type
    mesh = init_device_mesh(kind, (ranks(),))
    for at, layer in enumerate(copied.modules()):
        if at in wanted:
            fully_shard(layer, mesh=mesh)
    return copied


def have_whole(layer: Any) -> None:
    """Have the weights of a layer whole in every process from now until its part of the backward pass has ended."""
    if hasattr(layer, "unshard"):
        with detecting_lost_processes():
            layer.unshard()


def is_dtensor(x: Tensor) -> bool:
    """Whether each process holds a part of this tensor alone."""
    return hasattr(x, "full_tensor")


def local_tensor(x: Tensor) -> Tensor:
    """This process's part of a divided tensor; any other one unchanged."""
    return x.to_local() if is_dtensor(x) else x  # type: ignore[attr-defined]


def full_tensor(x: Tensor) -> Tensor:
    """All of a divided tensor, in every process; any other one unchanged."""
    if not is_dtensor(x):
        return x
    with detecting_lost_processes():
        return x.full_tensor()  # type: ignore[attr-defined, no-any-return]
