"""The table of orders: `stream.sampling` -> the class that builds itself from the settings."""

from typing import TYPE_CHECKING, Literal

from adapt.stream.orders.order import Order
from adapt.stream.orders.papers import PapersOrder
from adapt.stream.orders.rare_classes import RareClassOrder
from adapt.stream.orders.windows import WindowOrder

ORDERS: dict[str, type[Order]] = {
    "windows": WindowOrder,
    "papers": PapersOrder,
    "rare_classes": RareClassOrder,
}

if TYPE_CHECKING:
    Sampling = str
else:
    Sampling = Literal[tuple(ORDERS)]
"""A name of the table."""
