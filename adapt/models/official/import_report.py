"""The result of an import, key by key, and its table."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class ImportReport:
    """The result for every key.

    `mapped` the file's names -> ours; `kept` our names that the file does not fill; `refused` the
    file's names that are left out -> why; `use` the job spec's key for the file `written`.
    """

    what: str
    use: str
    mapped: dict[str, str]
    kept: tuple[str, ...]
    refused: dict[str, str]
    written: Path

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "written": str(self.written)}


def report_table(report: ImportReport, shown: int = 4) -> Table:
    """How many keys were mapped, kept and refused, and the first of each."""
    table = Table("", "keys", "first of them", title=f"{report.what}: {report.written}")
    mapped = [f"{old} -> {new}" for old, new in report.mapped.items()]
    refused = [f"{key}: {why}" for key, why in report.refused.items()]
    for name, rows in (("mapped", mapped), ("kept fresh", report.kept), ("refused", refused)):
        more = [f"... and {len(rows) - shown} more"] if len(rows) > shown else []
        table.add_row(name, str(len(rows)), "\n".join([*rows[:shown], *more]))
    table.caption = f"use it as {report.use}"
    return table
