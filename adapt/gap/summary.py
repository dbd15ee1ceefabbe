"""A gap and its advice as plain data, for scripts."""

from typing import Any

from adapt.gap.advice import Advice
from adapt.gap.diagnose import Gap, Pair
from adapt.gap.measures import plain


def summary(gap: Gap, advice: Advice) -> dict[str, Any]:
    """All numbers, without pictures and charts."""
    found: dict[str, Any] = plain(
        {
            "advice": advice,
            "source": gap.source,
            "target": gap.target,
            "encoder": gap.encoder,
            "weights": gap.weights,
            "model": gap.model,
            "images": gap.images,
            "before": gap.before,
            "after": gap.after,
            "missing": gap.missing,
            "label_shares": dict(zip(gap.classes.names, gap.label_shares, strict=True)),
            "near": [_key(pair) for pair in gap.near],
            "far": [_key(pair) for pair in gap.far],
            "lonely": [_key(pair) for pair in gap.lonely],
        }
    )
    return found


def _key(pair: Pair) -> dict[str, Any]:
    return {"key": pair.key, "nearest": pair.other_key, "distance": pair.distance}
