"""What was read of some texts, and what was left out and why."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from longrope.lengths import counted

SHOWN = 3  # names of files in a message


@dataclass
class TextsReport:
    """What ``load_texts`` has read, and what it has left out.

    Attributes:
        files: those that were read: a text file is one document, a file of records has one in each row.
        skipped: files inside of folders that were not, with the reason.
        rows_skipped: how many rows of files of records, data sets and iterables were not, by the source and the reason.
        hidden: how many files were left out because their name, or a folder's on the way to them, begins with a dot.
        bytes_read: of the text, as UTF-8.
        documents: in each split; one that a split cuts counts in both.
        tokens: in each split.
        left_over: tokens of each source that a mix with weights has no use for.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    rows_skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    hidden: int = 0
    bytes_read: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    left_over: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line of what was read, and one for each reason to skip files or rows, with the first few names."""
        parts = (
            f"{name} {counted(count, 'document')}, {self.tokens[name]:,} tokens"
            for name, count in self.documents.items()
        )
        files = f"{counted(len(self.files), 'file')}, "
        named = files if self.files or not self.bytes_read else ""  # data sets and iterables have none
        lines = [f"read {named}{format_bytes(self.bytes_read)}: {'; '.join(parts)}"]
        for reason in dict.fromkeys(reason for _, reason in self.skipped):
            names = [str(path) for path, why in self.skipped if why == reason]
            more = ", ..." if len(names) > SHOWN else ""
            lines.append(f"skipped {len(names):,} ({reason}): {', '.join(names[:SHOWN])}{more}")
        for (source, reason), count in self.rows_skipped.items():
            lines.append(f"skipped {counted(count, 'row')} of {source} ({reason})")
        lines += [f"left over {count:,} tokens of {source}" for source, count in self.left_over.items() if count]
        return [*lines, f"skipped {self.hidden:,} (hidden files)"] if self.hidden else lines


def format_bytes(count: int) -> str:
    """A number of bytes with a unit: 512 bytes, 3.1 kB, 1.2 GB."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.3g} {units[0]}"
