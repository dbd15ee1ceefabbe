"""The job spec's `checkpoint`: where and how often a run is saved."""

from pydantic import Field

from adapt.config.section import Section


class CheckpointConfig(Section):
    """Where and how often a run is saved."""

    uri: str = Field("runs", description="Folder of all runs: file path or URI of a store.")
    every_minutes: float = Field(10.0, gt=0, description="Longest time between two saves.")
    every_steps: int | None = Field(None, ge=1, description="Also save every so many steps.")
    keep: int = Field(3, ge=1, description="Newest checkpoints kept, beside the best.")
    trained_only: bool = Field(
        False,
        description="Leave out the encoder's frozen weights: those at model.weights_uri, or timm's "
        "of model.encoder. Files of a tenth of the size name them by sha256, and what reads the "
        "files needs them too.",
    )
