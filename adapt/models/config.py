"""Keys of every architecture, the job spec's `model`, and those that some share."""

from typing import ClassVar, Literal

from pydantic import Field

from adapt.config.section import Section
from adapt.models.adapters.config import AdapterConfig

MAIN_ALONE = {"main": 1.0}


class SegmenterConfig(Section):
    """Keys of every architecture.

    `described` names the fields that change what given weights compute without changing their names
    or shapes, or that identify the weights; a file of weights stores them.
    """

    described: ClassVar[tuple[str, ...]] = ("architecture", "encoder", "adapters")

    architecture: str = Field(description="A row of ARCHITECTURES.")
    encoder: str = Field(
        "resnet101",
        description="caffe_resnet101 or caffe_vgg16 for the networks of the papers' programs "
        "(caffe_resnet50 and caffe_resnet14 are smaller), else a timm backbone or vision "
        "transformer (vit_base_patch14_dinov2); a tag picks among its weights: resnet101.tv_in1k.",
    )
    output_stride: Literal[8, 16, 32] = Field(
        8, description="Input pixels per pixel of the deepest stage, a side (DeepLabV2: 8)."
    )
    weights: Literal["imagenet", "none"] = Field(
        "imagenet",
        description="The encoder's weights without weights_uri: timm's, or random. caffe_* has "
        "them from files alone.",
    )
    weights_uri: str | None = Field(
        None,
        description="A file of safetensors or torch.save with the encoder's weights, in any store.",
    )
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256 that the file at weights_uri must have.",
    )
    start_uri: str | None = Field(
        None,
        description="A file of safetensors or torch.save with weights of this whole network to "
        "start from, such as an earlier run's best; goes before weights and weights_uri.",
    )
    accept_license: str | None = Field(
        None,
        description="The licence of the encoder's pretrained weights, in timm's word, where they "
        "are gated or not for commercial use (DINOv3: dinov3-license); segadapt models --encoder "
        "NAME names it.",
    )
    frozen_encoder: bool = Field(
        False,
        description="The encoder keeps its weights and stays in evaluation mode: no gradients, no "
        "state of the optimizer; the head alone learns.",
    )
    drop_path: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Stochastic depth: chance that the encoder's last block is left out for an "
        "image in training, falling to 0 at the first (of timm's encoders and mit_*); null: the "
        "encoder's own.",
    )
    norm: Literal["train", "frozen_affine", "frozen"] = Field(
        "frozen_affine",
        description="The encoder's batch norm. train: ordinary; frozen_affine: gamma and beta "
        "fixed, running statistics updated (the papers' programs); frozen: all fixed (tiny batch). "
        "Layer norms train as all else does.",
    )
    adapters: AdapterConfig | None = Field(
        None,
        description="Low-rank adapters of a vision transformer, whose own weights are frozen; "
        "null: none. They learn with frozen_encoder too, which keeps it in evaluation mode.",
    )


def without_weights(model: SegmenterConfig) -> SegmenterConfig:
    """The same network with random weights."""
    none = {"weights": "none", "weights_uri": None, "start_uri": None}
    return model.model_copy(update=none)


class AuxiliaryConfig(SegmenterConfig):
    """Keys of architectures with auxiliary heads, `aux_names`."""

    described: ClassVar[tuple[str, ...]] = (*SegmenterConfig.described, "aux")
    aux_names: ClassVar[tuple[str, ...]] = ("aux",)

    aux: bool = Field(
        True, description="An auxiliary head, which adaptation at two levels needs too."
    )
    weight_aux: float = Field(0.4, ge=0, description="Weight of the auxiliary cross entropy.")

    def heads(self) -> dict[str, float]:
        """Weight of the cross entropy of each head, main head first."""
        names = self.aux_names if self.aux else ()
        return {**MAIN_ALONE, **dict.fromkeys(names, self.weight_aux)}


class PyramidConfig(AuxiliaryConfig):
    """Keys of architectures that join stages down to 1/32, with auxiliary heads at 1/8 and 1/16."""

    aux_names: ClassVar[tuple[str, ...]] = ("aux_8", "aux_16")

    output_stride: Literal[32] = Field(32, description="Reads stages down to 1/32.")


class EqualStridesConfig(SegmenterConfig):
    """Keys of architectures on the stages of one stride of a vision transformer."""

    output_stride: Literal[14, 16] | None = Field(  # type: ignore[assignment]  # no pyramid's
        None,
        description="Side in pixels of the encoder's patches; another one than its own resizes "
        "their kernels; null: its own.",
    )


class ScratchConfig(AuxiliaryConfig):
    """Keys of networks that their papers train from scratch, encoder and all."""

    weights: Literal["none"] = Field(
        "none", description="Random; other weights come from weights_uri alone."
    )
    norm: Literal["train", "frozen_affine", "frozen"] = Field(
        "train", description="The encoder's batch norm; train: ordinary (the paper)."
    )
