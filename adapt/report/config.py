"""The job spec's `report`: the page that a run leaves at its end."""

from pydantic import Field

from adapt.config.section import Section


class ReportConfig(Section):
    """The page `report.html` that a run leaves beside its checkpoints and in MLflow."""

    enabled: bool = Field(True, description="Write the report at the end of the run.")
    baseline: str | None = Field(
        None,
        min_length=1,
        description="The run that the IoU of classes is compared with: the name of a run beside "
        "this one, or the URI of its folder; null: the run's own first evaluation.",
    )
    worst: int = Field(
        4, ge=0, description="Validation images of the lowest mIoU to show, of the labelled split."
    )
    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one node an hour, for the run's price; null: that of the profile by "
        "which it was submitted, else not shown.",
    )
    currency: str = Field("USD", min_length=1, description="Currency of the price.")
