"""Architectures as rows: a class with its config, its demands and a line that describes it."""

import re

import pytest

from adapt.models import ARCHITECTURES
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
