"""Adaptation methods: one row a method."""

from typing import Any

from adapt.methods.adaptsegnet import AdaptSegNet
from adapt.methods.advent import AdvEnt
from adapt.methods.method import Method
from adapt.methods.minent import MinEnt
from adapt.methods.source_only import SourceOnly
from adapt.models.segmenter import Segmenter

METHODS: dict[str, type[Method]] = {
    "source_only": SourceOnly,
    "adaptsegnet": AdaptSegNet,
    "minent": MinEnt,
    "advent": AdvEnt,
}


def build_method(config: Any, segmenter: Segmenter) -> Method:
    """The method whose config this is, around the segmentation network.

    Raises `JobError` where the config asks for more heads than the network has.
    """
    return METHODS[config.name](config, segmenter)
