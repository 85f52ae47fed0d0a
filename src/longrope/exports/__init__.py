"""Write checkpoints that other runtimes open, reopen them, and compare."""

from longrope.exports.card import Origin, origin_of
from longrope.exports.comparison import ExportReport, dump_report
from longrope.exports.gguf import export_gguf, write_gguf
from longrope.exports.gguf_patch import PatchReport, patch_gguf
from longrope.exports.hf import export_hf
from longrope.exports.short_cost import describe_short
from longrope.exports.upload import upload

__all__ = [
    "ExportReport",
    "Origin",
    "PatchReport",
    "describe_short",
    "dump_report",
    "export_gguf",
    "export_hf",
    "origin_of",
    "patch_gguf",
    "upload",
    "write_gguf",
]
