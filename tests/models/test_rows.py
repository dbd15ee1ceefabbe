"""Architectures as rows: a class with its config, its demands and a line that describes it."""

import re
from typing import Any

import pytest

from adapt.engine.sgd import SGDConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.segmenter import Decoder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_is_a_class_that_says_all_about_its_architecture(name: str) -> None:
    row = ARCHITECTURES[name]
    assert issubclass(row, Decoder)
    assert row.Config.model_fields["architecture"].default == name
    assert row.__module__ == f"adapt.models.decoders.{name}"
    assert re.fullmatch(r"[A-Z][\w+ -]+: [^.]{20,70}", row.description())


def test_each_row_describes_itself() -> None:
    assert len({row.description() for row in ARCHITECTURES.values()}) == len(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["unet", None, 3, ["unet"], SGDConfig()])
def test_what_is_no_config_is_refused_by_key(config: Any) -> None:
    with pytest.raises(JobError, match=r"^model: expected "):
        build_segmenter(config)
    with pytest.raises(JobError, match=r"^method: expected "):
        build_method(config, build_segmenter({"architecture": "unet"}))


@pytest.mark.parametrize("number", [0, -1, 256, 19.0, "19", True, None])
def test_classes_that_train_ids_cannot_count_are_refused(number: Any) -> None:
    with pytest.raises(JobError, match=r"^num_classes: expected an integer from 1 to 255, got "):
        build_segmenter({"architecture": "unet"}, number)
