"""Numbers as the page shows them."""

NONE = "–"


def percent(share: float | None, digits: int = 2) -> str:
    """A share in [0, 1] in percent."""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def difference(share: float | None, other: float | None) -> str:
    """The difference of two shares in percentage points, with its sign."""
    return NONE if share is None or other is None else f"{100 * (share - other):+.2f}"


def duration(seconds: float) -> str:
    """`3 h 07 min`, `5 min 12 s`, `8.1 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None) -> str:
    """A metric in four digits."""
    return NONE if value is None else f"{value:.4g}"


def count(value: object) -> str:
    """A number of things, with its thousands apart."""
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)
