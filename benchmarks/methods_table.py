"""The table of `benchmarks/methods.py`: what each job reached, over its seeds."""

import statistics
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One job's result: its test figures, what it took, and how its checkpoint was chosen."""

    name: str
    seed: int
    test: dict[str, Any]
    minutes: float
    chosen: str = ""


def table(rows: list[Row]) -> str:
    """Mean and spread over seeds by job, in percent, as Markdown; gains are paired by seed.

    Only rows of one `checkpoint` compare; rows of older results do not say it.
    """
    classes, says_chosen = list(rows[0].test["iou"]), any(row.chosen for row in rows)
    head = ["job", "mIoU", "gain over source only", *classes, "minutes"]
    head += ["checkpoint"] if says_chosen else []
    lines = [" | ".join(head), " | ".join([":--", *["--:"] * (len(head) - 1)])]
    base = {row.seed: row.test["miou"] for row in rows if row.name == "source_only"}
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        gains = [row.test["miou"] - base[row.seed] for row in mine if row.seed in base]
        cells = [name, spread([row.test["miou"] for row in mine])]
        cells.append("" if name in ("start", "source_only") else spread(gains, "+"))
        for label in classes:
            cells.append(
                f"{100 * statistics.mean(row.test['iou'][label] or 0 for row in mine):.1f}"
            )
        cells.append(f"{statistics.mean(row.minutes for row in mine):.1f}")
        if says_chosen:
            cells.append("; ".join(dict.fromkeys(row.chosen for row in mine)))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def spread(values: list[float], sign: str = "") -> str:
    """`mean ± standard deviation` of shares, in percent."""
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):{sign}.1f} ± {100 * deviation:.1f}"
