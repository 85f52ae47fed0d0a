"""Write checkpoints that other runtimes open, reopen them, and compare."""

from longrope.exports.hf import ExportReport, dump_report, export_hf

__all__ = ["ExportReport", "dump_report", "export_hf"]
