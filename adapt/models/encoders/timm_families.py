"""Needs of several families of timm's backbones, for images of any size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from adapt.models.encoders.encoder import UNDILATED_STRIDE


class Family(NamedTuple):
    """`options` of timm's constructor; images are padded to multiples of `multiple_px`."""

    options: Mapping[str, Any] = {}
    multiple_px: int = 1


_WINDOWS = Family({"strict_img_size": False}, UNDILATED_STRIDE)

FAMILIES: dict[str, Family] = {
    "swin_": _WINDOWS,
    "swinv2_": _WINDOWS,
    "sam2_hiera": Family(multiple_px=UNDILATED_STRIDE),
}
"""By how names begin; other backbones need nothing."""


def family_of(name: str) -> Family:
    """The needs of a backbone, by its name."""
    found = (family for start, family in FAMILIES.items() if name.startswith(start))
    return next(found, Family())
