"""Adaptation methods: one row a method."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adapt.config.section import one_of
from adapt.config.validation import validate
from adapt.methods.adaptsegnet import AdaptSegNet
from adapt.methods.advent import AdvEnt
from adapt.methods.class_balanced_self_training import ClassBalancedSelfTraining
from adapt.methods.dacs import DACS
from adapt.methods.daformer import DAFormer
from adapt.methods.distil import Distil
from adapt.methods.fcns_in_the_wild import FCNsInTheWild
from adapt.methods.fda import FDA
from adapt.methods.intra_da import IntraDA
from adapt.methods.labeller import LabellingConfig
from adapt.methods.masktwins import MaskTwins
from adapt.methods.method import AddOn, Method
from adapt.methods.mic import MIC
from adapt.methods.minent import MinEnt
from adapt.methods.source_only import SourceOnly
from adapt.methods.vfm_uda import VFMUDA
from adapt.models.segmenter import Segmenter

METHODS: dict[str, type[Method]] = {
    "source_only": SourceOnly,
    "fcns_in_the_wild": FCNsInTheWild,
    "adaptsegnet": AdaptSegNet,
    "minent": MinEnt,
    "advent": AdvEnt,
    "fda": FDA,
    "dacs": DACS,
    "daformer": DAFormer,
    "mic": MIC,
    "masktwins": MaskTwins,
    "vfm_uda": VFMUDA,
    "distil": Distil,
    "class_balanced_self_training": ClassBalancedSelfTraining,
    "intra_da": IntraDA,
}

MethodSection: Any = one_of((row.Config for row in METHODS.values()), "name")
"""The job spec's `method`: the config of one of `METHODS`."""


def check_size(config: Any, key: str, size_hw: tuple[int, int]) -> None:
    """Raise `JobError` for images, whose size `key` sets, that do not fit this method's config."""
    METHODS[config.name].check_size(config, key, size_hw)


def labelling_of(config: Any) -> LabellingConfig | None:
    """The labelling stage of a method's config; None where it has none."""
    section: LabellingConfig | None = None
    if METHODS[config.name].labeller is not None:
        section = config.pseudo_labels
    return section


def build_method(
    config: Any,
    segmenter: Segmenter,
    add_ons: Mapping[str, AddOn] = MappingProxyType({}),
    teacher: Segmenter | None = None,
) -> Method:
    """The method whose config this is, around the segmentation network.

    `config` may be plain values, such as `{"name": "advent"}`; `add_ons` by the name of their
    section, `teacher` for methods whose config has a network of its own, by default a random one.
    Raises `JobError` for values that do
    not make a config, and where they need more heads than the network has.
    """
    if not isinstance(config, tuple(row.Config for row in METHODS.values())):
        values = dict(config) if isinstance(config, Mapping) else config
        config = validate(MethodSection, values, "method")
    given: dict[str, Any] = {} if teacher is None else {"teacher": teacher}
    method = METHODS[config.name](config, segmenter, **given)
    method.add_ons.update(add_ons)
    return method
