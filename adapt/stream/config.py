"""The job spec's words on streams: how samples are drawn, fetched and decoded, and from where."""

from typing import Literal

from pydantic import Field

from adapt.config.section import Section
from adapt.data.packed.packed_split import SplitConfig
from adapt.stream.augment import AugmentConfig
from adapt.stream.order import Sampling

TRIES = {"error": 1, "skip": 100}
"""`stream.on_bad_sample` -> how many samples in a row are tried for a draw."""


class StreamConfig(Section):
    """How samples are drawn, fetched and decoded; what does not say otherwise changes the speed
    alone, never the samples."""

    threads: int | None = Field(
        None,
        ge=1,
        description="Decoding threads a rank; none: the node's cores shared among its ranks, 2 to "
        "16.",
    )
    prefetch_batches: int = Field(
        3, ge=1, description="Batches kept ready ahead of the training step."
    )
    decoded_mb: int = Field(
        256,
        ge=1,
        description="Limit of what the batches kept ready take in memory, in 10^6 bytes a domain "
        "and rank; the next one is decoded whatever its size.",
    )
    sampling: Sampling = Field(
        "windows",
        description="The order of the samples. windows: each once an epoch, shuffled within "
        "window_shards shards. papers: as the loaders of AdaptSegNet and ADVENT, the list "
        "ceil(schedule x batch_size / samples) times, shuffled once as a whole, so that samples "
        "recur before others were seen. rare_classes: each draw of a labelled domain picks a "
        "class, rare ones more often, then a sample that shows it (DAFormer, CVPR 2022); the "
        "target goes by windows. Under papers and rare_classes any draw may want any shard: give "
        "the node a disk for the whole data set, or samples are fetched one by one.",
    )
    rare_class_temperature: float = Field(
        0.01,
        gt=0,
        description="sampling: rare_classes. Lower is more often the rarest (DAFormer's figure).",
    )
    rare_class_min_pixels: int = Field(
        3000,
        ge=0,
        description="sampling: rare_classes. A sample shows a class by more pixels than this, and "
        "random crops (augment.crop_hw) are drawn again, up to ten times, until more than half of "
        "it is inside (DAFormer's figure).",
    )
    window_shards: int = Field(
        16,
        ge=1,
        description="Shards whose samples are shuffled together (sampling: windows); another "
        "number is another order.",
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error",
        description="What a training sample that cannot be decoded, or whose label is of another "
        "size than its image, does: error ends the job; skip takes the sample of the next draw "
        "instead, names it once in a warning and counts it.",
    )
    cache_gb: float | None = Field(
        None,
        gt=0,
        description="Limit of the node's shard cache in 10^9 bytes; none: what the disk gives. "
        "Shards that do not fit are fetched again in each epoch.",
    )
    memory_gb: float = Field(
        1.5,
        gt=0,
        description="Memory a rank may fill with shards the cache has no room for, in 10^9 bytes; "
        "those of the window in use are held in any case.",
    )


class DomainConfig(SplitConfig):
    """A domain to train on."""

    batch_size: int = Field(1, ge=1, description="Samples of this domain a step, over all ranks.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes of the samples.")
