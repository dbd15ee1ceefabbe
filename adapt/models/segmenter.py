"""The segmentation network: encoder, an architecture's decoder, each head's logits at input size.

An architecture is a file with a config (a `SegmenterConfig`) and a `Decoder`, which is its row in
`ARCHITECTURES`. Its decoder sees images as well as features, so that networks with an image path of
their own (BiSeNet, ICNet) fit, and returns logits of any size; the segmenter alone resizes them to
the input's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from adapt.batch import PixelFormat, Prediction
from adapt.errors import JobError
from adapt.models.adapters import attach
from adapt.models.base_weights import Base, frozen_names
from adapt.models.config import MAIN_ALONE, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import enlarged, laid_out_for_step, resize
from adapt.models.pixel_loss import LossConfig, PixelLoss
from adapt.models.weights import misfit

Stages = tuple[Tensor, ...]
"""Output of an encoder: (B, C, h, w) each, shallow to deep."""

Heads = tuple[list[Tensor], dict[str, Tensor]]
"""Output of a decoder: logits (B, K, h, w) by head, main head first; side outputs by name."""

WeightedLosses = dict[str, tuple[float, Tensor]]
"""Weight and scalar of each loss by name."""


class Decoder(nn.Module, ABC):
    """Stages -> logits: an architecture. Constructed as `Decoder(config, encoder, num_classes)`.

    `Config` is its section of the job spec, `demands` are those on its encoder, and its docstring's
    first line describes it in lists. `heads` has the weight of each head's cross entropy by name,
    main head first. `align_corners`: how the segmenter resizes the logits.
    """

    Config: ClassVar[type[SegmenterConfig]]
    demands: ClassVar[Demands] = Demands()
    align_corners: ClassVar[bool] = False

    def __init__(self, heads: Mapping[str, float] = MAIN_ALONE) -> None:
        super().__init__()
        self.head_names, self.head_weights = tuple(heads), tuple(heads.values())
        self.pixel_loss = PixelLoss()

    @classmethod
    def description(cls) -> str:
        """The first line of the architecture's docstring, without its full stop."""
        return (cls.__doc__ or "").partition("\n")[0].removesuffix(".")

    @abstractmethod
    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Images (B, 3, H, W) and stages -> logits (B, K, h, w) by head, side outputs."""

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """Weight and loss by name: `head_loss` for each head, unless a paper has more."""
        named = zip(self.head_names, self.head_weights, prediction.logits, strict=True)
        return {name: (weight, self.head_loss(logits, labels)) for name, weight, logits in named}

    def head_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """One head's loss, (B, K, h, w), (B, H, W) -> scalar: the job's, unless a paper has
        another.
        """
        loss: Tensor = self.pixel_loss(logits, labels)
        return loss


class DeepestStagesDecoder(Decoder):
    """`main` on the deepest stage and, unless it is None, `aux` on the one before it."""

    main: nn.Module
    aux: nn.Module | None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits, auxiliary ones] at the encoder's output stride."""
        logits = [self.main(features[-1])]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}


class NormMode(NamedTuple):
    """A row of `NORMS`: what the encoder's batch norm learns in training."""

    affine_trains: bool
    statistics_move: bool


NORMS = {
    "train": NormMode(affine_trains=True, statistics_move=True),
    "frozen_affine": NormMode(affine_trains=False, statistics_move=True),
    "frozen": NormMode(affine_trains=False, statistics_move=False),
}
"""By the spec's `model.norm`."""


class Segmenter(nn.Module):
    """A whole segmentation network. Any input size; a batch of 1 trains."""

    def __init__(
        self, config: SegmenterConfig, encoder: Encoder, decoder: Decoder, num_classes: int
    ) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.encoder, self.decoder = encoder, decoder
        self.base: Base | None = None
        for norm in encoder.norms():
            norm.requires_grad_(NORMS[config.norm].affine_trains)
        if config.frozen_encoder:
            encoder.requires_grad_(False)

    @property
    def pixels(self) -> PixelFormat:
        """How uint8 RGB becomes this network's input."""
        return self.encoder.pixels

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the heads, aligned with `Prediction.logits`: `main` first."""
        return self.decoder.head_names

    @property
    def align_corners(self) -> bool:
        """How the architecture resizes logits."""
        return self.decoder.align_corners

    def forward(
        self, images: Tensor, size_hw: tuple[int, int] | None = None, *, main_alone: bool = False
    ) -> Prediction:
        """(B, 3, H, W) -> each head's logits (B, K, H, W) in at least float32, stages, side
        outputs.

        `size_hw`: another size of the logits, resized once from the decoder's own. Sides shorter
        than the encoder's deepest reduction are padded to it, and to whole patches of a ViT, by
        their last pixels, and logits and side outputs cut back. `main_alone`: only the main head's
        logits, at the decoder's own size, which `resize` brings to `size_hw`.
        """
        given_hw = (images.shape[-2], images.shape[-1])
        images = enlarged(images, self.encoder.smallest_side_px, self.encoder.multiple_px)
        images = laid_out_for_step(images)
        features = self._stages(images)
        heads, extra = self.decoder(images, features)
        if main_alone:
            heads, extra = heads[:1], {}
        padded_hw = (images.shape[-2], images.shape[-1])
        if self._cuts(padded_hw, given_hw, size_hw):
            heads = [self._cut_back(head, padded_hw, given_hw) for head in heads]
            extra = {
                name: self._cut_back(one, padded_hw, given_hw) if one.ndim == images.ndim else one
                for name, one in extra.items()
            }
        if main_alone:
            return Prediction(tuple(heads), features, extra)
        size_hw = size_hw or given_hw
        logits = tuple(resize(head, size_hw, self.align_corners) for head in heads)
        return Prediction(logits, features, extra)

    def require_learning_encoder(self, term: str) -> None:
        """Raise `JobError` where no parameter of the encoder learns, which is all that `term` of a
        method reaches."""
        if self.config.frozen_encoder and not self._encoder_learns:
            raise JobError(
                f"model.frozen_encoder: expected false with {term}, which moves the encoder alone, "
                "got true",
                fix="remove it, or choose another method",
            )

    @property
    def _encoder_learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def _stages(self, images: Tensor) -> Stages:
        """The encoder's; nothing is kept for gradients where none of its parameters learns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._encoder_learns):
            stages: Stages = self.encoder(images)
        return stages

    def _cuts(
        self,
        padded_hw: tuple[int, int],
        given_hw: tuple[int, int],
        size_hw: tuple[int, int] | None,
    ) -> bool:
        """True for padded images; for a ViT's, of which an exported program cannot know whether it
        pads them, also where that would change how often logits of another size are resized."""
        if self.encoder.multiple_px > 1 and torch.compiler.is_exporting():
            return True
        resized = size_hw is not None and self.encoder.multiple_px > 1 and size_hw != given_hw
        return resized or padded_hw != given_hw

    def _cut_back(
        self, maps: Tensor, padded_hw: tuple[int, int], given_hw: tuple[int, int]
    ) -> Tensor:
        """Maps of any size of a padded image -> those of the image that was given, at its size."""
        whole = resize(maps, padded_hw, self.align_corners)
        if torch.compiler.is_exporting():  # views would bind programs to sizes that are cut
            rows, columns = torch.arange(given_hw[0]), torch.arange(given_hw[1])
            return whole[:, :, rows][:, :, :, columns]
        return whole[..., : given_hw[0], : given_hw[1]]

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """The architecture's supervised losses on labels (B, H, W): name -> (weight, scalar)."""
        return self.decoder.segmentation_losses(prediction, labels)

    def set_loss(self, config: LossConfig, label_pixels: Tensor | None = None) -> None:
        """Count pixels as the spec's `loss` says; `label_pixels` (N, K) of the source.

        Raises `JobError` for weights of another number of classes.
        """
        self.decoder.pixel_loss.configure(config, self.num_classes, label_pixels)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of `encoder` and `head`, which learn at different rates."""
        parts: dict[str, nn.Module] = {"encoder": self.encoder, "head": self.decoder}
        return {
            name: [parameter for parameter in part.parameters() if parameter.requires_grad]
            for name, part in parts.items()
        }

    def encoder_parameters_by_multiplicity(self) -> dict[int, list[nn.Parameter]]:
        """The trainable `encoder` parameters by how often the papers' optimizer lists each.

        Raises `JobError` for an encoder that no program of theirs trains.
        """
        grouped: dict[int, list[nn.Parameter]] = {}
        multiplicities = self.encoder.multiplicities()
        for name, parameter in self.encoder.named_parameters():
            if parameter.requires_grad:
                grouped.setdefault(multiplicities[name], []).append(parameter)
        return grouped

    def start_adapters(self) -> None:
        """Start the adapters that have no values yet, from the encoder's weights."""
        attach.start(self.encoder)

    def leave_out(self, base: Base) -> None:
        """Note the base, the encoder's frozen weights, that checkpoints leave out."""
        self.base, self.encoder.left_out = base, frozen_names(self.encoder)

    def merge_adapters(self) -> None:
        """Make it a network without adapters that computes the same, for use after training."""
        attach.merge(self.encoder)
        self.config = self.config.model_copy(update={"adapters": None})

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Copy a whole network's weights; of one without adapters, from which they may start.

        Raises `JobError` for another number of classes, else naming the first keys that misfit.
        """
        self._check_classes(state)
        state = {**self._adapters_that_wait(state), **state}
        differences = misfit(self.state_dict(), state)
        if differences:
            raise JobError(
                f"model: expected weights of {self.config.architecture} on {self.config.encoder} "
                f"with {self.num_classes} classes, got others ({differences})",
                "set model.architecture and model.encoder to those of the weights; tensors of a "
                "paper's program get their names here by import-checkpoint",
            )
        self.load_state_dict(state, strict=False)

    def train(self, mode: bool = True) -> "Segmenter":
        """As usual, but frozen norms, and a frozen encoder as a whole, stay in evaluation."""
        super().train(mode)
        if self.config.frozen_encoder:
            self.encoder.eval()
            return self
        for norm in self.encoder.norms():
            norm.train(mode and NORMS[self.config.norm].statistics_move)
        return self

    def _adapters_that_wait(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of adapters, 0 as before their start, where a state has none of any."""
        own = attach.own_tensors(self)
        if own.keys() & state.keys():
            return {}
        return {name: torch.zeros_like(tensor) for name, tensor in own.items()}

    def _check_classes(self, state: Mapping[str, Tensor]) -> None:
        """A head's tensor that differs in its first size alone was made for other classes."""
        for key, own in self.state_dict().items():
            found = state.get(key)
            if not key.startswith("decoder.") or found is None or found.shape == own.shape:
                continue
            if own.shape[:1] == (self.num_classes,) and found.shape[1:] == own.shape[1:]:
                raise JobError(
                    f"model: expected weights for {self.num_classes} classes, got "
                    f"{found.shape[0]} ({key})"
                )
