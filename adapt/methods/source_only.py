"""Source only: supervised training on the source, the baseline of every adaptation."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.methods.method import Method, Term, weighted


class SourceOnlyConfig(Section):
    """Nothing to choose."""

    name: Literal["source_only"] = Field(
        "source_only", description="Supervised training on the source."
    )


class SourceOnly(Method):
    """The architecture's own losses on labelled source images."""

    Config: ClassVar[type[Section]] = SourceOnlyConfig
    needs_target: ClassVar[bool] = False

    def losses(self, source: Batch, target: Batch | None = None) -> Iterator[Term]:  # noqa: ARG002
        """One term: the segmentation losses."""
        assert source.labels is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
