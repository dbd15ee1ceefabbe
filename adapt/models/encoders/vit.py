"""Vision transformers of timm behind the contract of `Encoder`: stages of equal strides.

The tokens of four blocks, without class and register tokens, each through the network's last norm
as DINOv2's own dense evaluations take them (those of networks that norm after pooling have none).
Images are padded to whole patches by their last pixels. The table of positions keeps its size and
is resized, bicubically, to each image's grid of patches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapt.batch import PixelFormat
from adapt.errors import JobError
from adapt.models.encoders.encoder import Encoder, LoadReport, no_multiplicity
from adapt.models.encoders.vit_weights import converted
from adapt.models.layers import enlarged

MODULES = ("timm.models.vision_transformer", "timm.models.eva", "timm.models.deit")
"""The files of timm whose networks these are: DINOv2, TIPSv2; DINOv3, PE, EVA-02; DeiT-3."""

LISTED_VITS: tuple[str, ...] = (
    "vit_tiny_patch16_224",
    *(
        f"vit_{size}_patch14_{registers}dinov2"
        for registers in ("", "reg4_")
        for size in ("small", "base", "large", "giant")
    ),
    *(f"vit_{size}_patch14_reg1_tipsv2" for size in ("base", "large", "so400m")),
    *(f"vit_pe_spatial_{size}_patch16_512" for size in ("tiny", "small", "base")),
    "vit_pe_spatial_large_patch14_448",
    *("eva02_small_patch14_336", "eva02_base_patch14_448", "eva02_large_patch14_448"),
    "eva02_large_patch14_clip_336",
    *(f"vit_{size}_patch16_dinov3" for size in ("small", "base", "large", "huge_plus", "7b")),
)
"""Those that `segadapt models` lists; timm's others go the same way."""

STAGE_ENDS: dict[int, tuple[int, ...]] = {24: (7, 11, 15, 23)}
"""Last blocks of the stages by the number of blocks, where papers (Rein, SoMA) have other ones
than quarter points."""

NUM_STAGES = 4


class ViTEncoder(Encoder):
    """A vision transformer of timm with random weights: four stages, reduced by its patch alike.

    `patch_px` is the side in pixels of its patches, the network's own where it is None; `options`
    are timm's own, for tests. Raises `JobError` for a network that takes no images of any size.
    """

    patch_px: int

    def __init__(
        self, name: str, patch_px: int | None = None, drop_path: float | None = None, **options: Any
    ) -> None:
        super().__init__()
        backbone = _create(name, patch_px, {"drop_path_rate": drop_path or 0.0, **options})
        self.name, self.patch_px = name, int(backbone.patch_embed.patch_size[0])
        self.ends = stage_ends(len(backbone.blocks))
        self._taken = sorted(set(self.ends))
        backbone.prune_intermediate_layers(self._taken, prune_norm=False)
        self.backbone: nn.Module = backbone
        self.output_stride = self.patch_px
        self.channels = (int(backbone.embed_dim),) * NUM_STAGES
        self.reductions: tuple[int, ...] = (self.patch_px,) * NUM_STAGES
        pretrained = backbone.default_cfg
        self.pixels = PixelFormat(tuple(pretrained["mean"]), tuple(pretrained["std"]), bgr=False)

    @property
    def multiple_px(self) -> int:
        """Images are padded to whole patches."""
        return self.patch_px

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.backbone.get_submodule("blocks").children())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> four stages (B, C, ceil(H / patch), ceil(W / patch))."""
        backbone: Any = self.backbone
        found = backbone.forward_intermediates(
            enlarged(images, self.patch_px, self.patch_px),
            indices=self._taken,
            norm=True,
            intermediates_only=True,
        )
        return tuple(found[self._taken.index(end)] for end in self.ends)

    def spread(self, units: Sequence[int]) -> None:
        """Multi-grid changes nothing: there are no convolutions to dilate."""

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says, under timm's names or those of the family's own files; the
        classifier is left out, and patch kernels of another side are resized."""
        found = converted(state, self.backbone, self.name)
        self.backbone.load_state_dict(found.tensors, strict=False)
        return LoadReport(len(found.tensors), found.dropped)

    def multiplicities(self) -> dict[str, int]:
        """There are none: the papers' programs train Caffe's networks alone."""
        raise no_multiplicity(self.name)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """The weights that timm's hub has under the name, whatever they were trained on."""
        from adapt.models.encoders.pretrained import imagenet_weights  # imports timm: seconds

        return imagenet_weights(self.name)


def is_vit(name: str) -> bool:
    """True for names of timm's networks that `ViTEncoder` builds."""
    import timm  # seconds that reading a job spec is spared

    bare = name.split(".")[0]
    return timm.is_model(bare) and timm.model_entrypoint(bare).__module__ in MODULES


def stage_ends(num_blocks: int) -> tuple[int, ...]:
    """Numbers of the last blocks of four stages, from 0; some twice where there are fewer than four
    blocks."""
    quarters = tuple(-(-num_blocks * k // NUM_STAGES) - 1 for k in range(1, NUM_STAGES + 1))
    return STAGE_ENDS.get(num_blocks, quarters)


def _create(name: str, patch_px: int | None, options: dict[str, Any]) -> Any:
    """timm's network without classifier. A patch of another side keeps the table of positions."""
    import timm

    from adapt.models.encoders.pretrained import default_weights

    full_name = default_weights(name)
    options = {"num_classes": 0, "dynamic_img_size": True, **options}
    if patch_px is not None:
        with torch.device("meta"):
            own: Any = timm.create_model(full_name, **options).patch_embed
        img_size = tuple(side * patch_px for side in own.grid_size)
        options |= {"patch_size": patch_px, "img_size": img_size}
    try:
        return timm.create_model(full_name, **options)
    except (RuntimeError, TypeError) as error:
        raise JobError(
            f"model.encoder: expected a vision transformer of images of any size, got {name!r}: "
            f"{error}"
        ) from error
