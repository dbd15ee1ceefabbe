"""The section of a teacher that is another network than the job's: trained before, or in the same
job by a self-training method."""

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from adapt.config.section import Section, one_of
from adapt.config.validation import Mistake
from adapt.methods.dacs import DACS
from adapt.methods.daformer import DAFormer
from adapt.methods.masktwins import MaskTwins
from adapt.methods.method import Method
from adapt.methods.mic import MIC
from adapt.methods.vfm_uda import VFMUDA, VFMUDAConfig
from adapt.models.config import SegmenterConfig

if TYPE_CHECKING:
    ModelSection = SegmenterConfig
else:
    from adapt.models import ModelSection

TRAINERS: dict[str, type[Method]] = {
    "dacs": DACS,
    "daformer": DAFormer,
    "mic": MIC,
    "masktwins": MaskTwins,
    "vfm_uda": VFMUDA,
}
"""The methods that a teacher can be trained by: those with a moving average."""

TRAINED_BY = "method.teacher.trained_by."


class TeacherNetworkConfig(Section):
    """The teacher: another network, trained before or in this job."""

    model: ModelSection = Field(description="Its network, with the keys of the job's model.")
    uri: str | None = Field(
        None,
        min_length=1,
        description="Its trained weights, frozen: a run beside this one by its name, the URI of a "
        "run, a checkpoint or a file of weights, or models:/NAME@best of MLflow. null: it is "
        "trained in this job.",
    )
    trained_by: one_of((row.Config for row in TRAINERS.values()), "name") | None = Field(  # type: ignore[valid-type]
        None,
        description="The self-training method that trains it, whose moving average teaches; null "
        "without uri: vfm_uda.",
    )
    lr_factor: float = Field(
        1.0, gt=0, description="Its learning rates over those of the job, which are the student's."
    )

    @model_validator(mode="after")
    def _one_way(self) -> "TeacherNetworkConfig":
        if self.uri is not None and self.trained_by is not None:
            raise Mistake(
                "trained_by: expected null for a teacher that was trained before, got a section",
                fix="leave out trained_by, or uri",
            )
        if self.uri is None and self.trained_by is None:
            object.__setattr__(self, "trained_by", VFMUDAConfig())
        return self


def teacher_of(config: Any) -> TeacherNetworkConfig | None:
    """The section of a method's teacher that is a network of its own; None where it has none."""
    section = getattr(config, "teacher", None)
    return section if isinstance(section, TeacherNetworkConfig) else None
