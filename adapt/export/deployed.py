"""`DeployedNetwork`: a loaded model as one graph, from the bytes of images to classes.

Inputs are what a deployer holds: `images` (B, H, W, 3) uint8 RGB, as every decoder returns them,
and `size_hw`, the wanted size of the outputs, since logits are resized once, from the decoder's own
size (`adapt.evaluation.inference`). The normalisation is inside, so no program has to repeat it.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.evaluation.inference import WHOLE_IMAGE, InferenceConfig
from adapt.models.file_header import FileHeader
from adapt.models.segmenter import Segmenter

if TYPE_CHECKING:
    from adapt.use.model import LoadedModel

INPUTS = ("images", "size_hw")
OUTPUTS = ("class_map", "confidence", "logits")
"""(B, h, w) uint8 train ids, (B, h, w) float32 probabilities of these, (B, K, h, w) float32."""

Outputs = tuple[Tensor, Tensor, Tensor]


class DeployedNetwork(nn.Module):
    """A segmenter from bytes to `OUTPUTS`; `flip` averages with the mirrored image.

    Sides shorter than `smallest_side_px` are the caller's to enlarge.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, segmenter: Segmenter, flip: bool = False) -> None:
        super().__init__()
        self.segmenter, self.flip, self.bgr = segmenter, flip, segmenter.pixels.bgr
        self.smallest_side_px = segmenter.encoder.smallest_side_px
        self.register_buffer("mean", torch.tensor(segmenter.pixels.mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(segmenter.pixels.std).view(3, 1, 1))

    def forward(self, images: Tensor, size_hw: Tensor) -> Outputs:
        """(B, H, W, 3) uint8, (2,) int64 -> `OUTPUTS`; sides of `size_hw` are 2 or more."""
        for side in images.shape[1:3]:
            torch._check(side >= self.smallest_side_px)
        height, width = size_hw.tolist()
        torch._check(height > 1)
        torch._check(width > 1)
        logits = self._logits(self._normalised(images), (height, width))
        top = logits.max(dim=1)
        confidence = 1 / (logits - top.values[:, None]).exp().sum(dim=1)
        return top.indices.to(torch.uint8), confidence, logits

    def _normalised(self, images: Tensor) -> Tensor:
        """As `adapt.stream.feed.normalise`, whose cached constants no graph can hold."""
        planes = images.permute(0, 3, 1, 2)
        ordered = planes.flip(1).float() if self.bgr else planes.float() / 255
        return ((ordered - self.mean) / self.deviation).contiguous()

    def _logits(self, images: Tensor, size_hw: tuple[int, int]) -> Tensor:
        logits = self.segmenter(images, size_hw).logits[0].float()
        if not self.flip:
            return logits
        mirrored = self.segmenter(images.flip(-1), size_hw).logits[0].float().flip(-1)
        return (logits + mirrored) * 0.5


def deployed(model: "LoadedModel", whole_image: bool = False) -> DeployedNetwork:
    """The network of a loaded model on the CPU; `whole_image` leaves out its other views.

    Raises `JobError` for views of several scales or windows, which one graph does not have.
    """
    views = exported_views(model, whole_image)
    if views.scales != (1.0,) or views.window_hw is not None:
        found = {"scales": list(views.scales), "window_hw": views.window_hw}
        raise JobError(
            f"model: expected views of the whole image at scale 1, got {found}",
            "give --whole-image to export one pass over the whole image",
        )
    return DeployedNetwork(model.segmenter.eval().cpu(), views.flip).eval()


def exported_views(model: "LoadedModel", whole_image: bool) -> InferenceConfig:
    """The views that the graph averages."""
    return WHOLE_IMAGE if whole_image else model.views


def header_of_model(model: "LoadedModel", views: InferenceConfig) -> FileHeader:
    """All that the exported file states of its network, as a file of weights does."""
    return FileHeader(
        model.segmenter.config,
        model.classes.num_classes,
        model.segmenter.pixels,
        model.classes,
        model.size_hw,
        views.model_dump(mode="json"),
        model.lineage,
    )
