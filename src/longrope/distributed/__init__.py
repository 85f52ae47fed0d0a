"""Many processes: which of them share a sequence, and which takes which window or candidate. Nothing else knows ranks.

    torchrun --nproc-per-node 8 -m longrope extend MODEL --to 2048k --data books/

Without torchrun there is one process, and torch.distributed is not called. The processes of a launch stand in rows.
Those of a row hold parts of the same sequence (``Shard``); the rows take windows and candidates in turn
(``map_ranks``). All of them take the same steps, for what decides them comes from the main process, which alone writes
files (``on_main``).
"""

from longrope.distributed.collectives import map_ranks, on_main, scatter, total
from longrope.distributed.context_parallel import Shard, shard
from longrope.distributed.failures import claim_report
from longrope.distributed.fsdp import divide_weights, full_tensor, have_whole, is_dtensor, local_tensor
from longrope.distributed.launch import launched
from longrope.distributed.state import DistributedState, beside, choices, entered, is_main, ranks, row, workers

__all__ = [
    "DistributedState",
    "Shard",
    "beside",
    "choices",
    "claim_report",
    "divide_weights",
    "entered",
    "full_tensor",
    "have_whole",
    "is_dtensor",
    "is_main",
    "launched",
    "local_tensor",
    "map_ranks",
    "on_main",
    "ranks",
    "row",
    "scatter",
    "shard",
    "total",
    "workers",
]
