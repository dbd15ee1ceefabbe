"""The losses of the papers as pure functions: probabilities or logits in, scalar means out.

Half-precision inputs are raised to float32 first (float64 stays): in float16 the epsilon of the
entropy underflows to 0 and its gradient is NaN. Logarithms of class distributions are divided by
log2(K), so entropies lie in [0, 1].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED
from adapt.counts import shared_mean

EPSILON = 1e-30
BORDER_PX = 7
ROUNDING = 1e-9
"""A share of a whole number of pixels is no pixel more."""


def class_probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes in at least float32: (B, K, H, W) -> (B, K, H, W)."""
    return F.softmax(at_least_float32(logits), dim=1)


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the counted pixels: (B, K, h, w), (B, H, W) int64 -> scalar.

    With `class_weights` (K,) a pixel counts by its class's weight, in the sum and in its divisor.
    Labels of another size are brought to the logits' by their nearest pixels. Where every pixel is
    ignored it is 0 with a gradient of 0, not PyTorch's NaN.
    """
    size_hw = (logits.shape[-2], logits.shape[-1])
    total = _pixel_losses(logits, labels, class_weights, "sum")
    return shared_mean(
        total,
        labels,
        lambda part: _weighted_pixels(resized_labels(part, size_hw), class_weights).sum(),
    )


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over all pixels of weight times cross entropy: (B, K, H, W), (B, H, W) int64, (B, H, W)
    -> scalar.

    Ignored pixels lose nothing but count in the mean, as in the programs of DACS and its heirs.
    """
    losses = F.cross_entropy(
        at_least_float32(logits), labels, ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).mean()


def bootstrapped_cross_entropy(
    logits: Tensor, labels: Tensor, hardest_pixels: int, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of each image's `hardest_pixels` worst pixels: (B, K, h, w), (B, H, W)
    int64 -> scalar.

    Wu et al., Bridging Category-level and Instance-level Semantic Image Segmentation, 2016, with
    the number fixed as in FRRN (Pohlen et al., CVPR 2017). Ignored pixels are never among them.
    """
    most = min(hardest_pixels, logits.shape[-2] * logits.shape[-1])
    return _of_hardest(logits, labels, most, lambda counted: counted.clamp(max=most), class_weights)


def hardest_cross_entropy(
    logits: Tensor, labels: Tensor, share: float, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of the `share` in (0, 1] of each image's counted pixels whose weighted
    loss is greatest, rounded up to whole pixels: (B, K, h, w), (B, H, W) int64 -> scalar.

    Online hard example mining (Shrivastava et al., CVPR 2016), on pixels. It is taken image by
    image, so that it is the same for any number of ranks and of parts of a batch. With
    `class_weights` the divisor is `kept / counted` of the sum of an image's weights.
    """

    def kept(counted: Tensor) -> Tensor:
        return (counted.double() * share - ROUNDING).ceil().to(counted.dtype)

    most = math.ceil(logits.shape[-2] * logits.shape[-1] * share - ROUNDING)
    return _of_hardest(logits, labels, most, kept, class_weights)


def _of_hardest(
    logits: Tensor,
    labels: Tensor,
    most: int,
    kept: Callable[[Tensor], Tensor],
    class_weights: Tensor | None,
) -> Tensor:
    """The mean over each image's worst `kept(counted)` pixels, at most `most`."""
    size_hw = (logits.shape[-2], logits.shape[-1])

    def counted(part: Tensor) -> Tensor:
        return (resized_labels(part, size_hw) != IGNORED).flatten(start_dim=1).sum(dim=1)

    def divisor(part: Tensor) -> Tensor:
        pixels = counted(part)
        if class_weights is None:
            return kept(pixels).sum()
        small = resized_labels(part, size_hw).flatten(start_dim=1)
        sums = _weighted_pixels(small, class_weights).sum(dim=1)
        return (sums * kept(pixels) / pixels.clamp(min=1)).sum()

    losses = _pixel_losses(logits, labels, class_weights, "none").flatten(start_dim=1)
    worst = losses.topk(most, dim=1).values
    ranks = torch.arange(most, device=worst.device)
    among = ranks < kept(counted(labels))[:, None]
    return shared_mean(torch.where(among, worst, 0.0).sum(), labels, divisor)


def _pixel_losses(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, reduction: str
) -> Tensor:
    logits = at_least_float32(logits)
    small = resized_labels(labels, (logits.shape[-2], logits.shape[-1]))
    weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits, small, weights, ignore_index=IGNORED, reduction=reduction)


def _weighted_pixels(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """How much each pixel counts: its class's weight, by default 1; 0 for ignored ones.

    In float64, whose sums are the same for any parts of a batch.
    """
    if class_weights is None:
        return labels != IGNORED
    table = torch.zeros(IGNORED + 1, dtype=torch.float64, device=class_weights.device)
    table[: len(class_weights)] = class_weights
    return table[labels]


def resized_labels(labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, H, W) train ids -> (B, h, w), each pixel its nearest one's."""
    if labels.shape[-2:] == size_hw:
        return labels
    return F.interpolate(labels[:, None].float(), size=size_hw, mode="nearest")[:, 0].long()


def balanced_weights(label_pixels: Tensor) -> Tensor:
    """(N, K) pixels of each class in each image -> (K,) class weights, by which all classes weigh
    the same: pixels of an average class / pixels of the class. 1 for a class without any.
    """
    totals = label_pixels.double().sum(dim=0)
    present = totals > 0
    average = totals.sum() / present.sum().clamp(min=1)
    return torch.where(present, average / totals.clamp(min=1), 1.0).float()


def border_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (gamma 2, alpha 0.25) of borders: mean over counted pixels, summed over maps.

    (B, N, h, w), labels (B, H, W) -> scalar. Lin et al., Focal Loss ..., ICCV 2017, as DFN (Yu et
    al., CVPR 2018) uses it. Logits are brought to the labels' size.
    """
    from torchvision.ops import sigmoid_focal_loss  # seconds that reading a job spec is spared

    size_hw = (labels.shape[-2], labels.shape[-1])
    resized = F.interpolate(at_least_float32(logits), size=size_hw, mode="bilinear")
    counted = (labels != IGNORED)[:, None]
    borders = label_borders(labels)[:, None].to(resized).expand_as(resized)
    losses = sigmoid_focal_loss(resized, borders, alpha=0.25, gamma=2)
    total = (losses * counted).sum()
    return shared_mean(total, labels, lambda part: (part != IGNORED).sum())


def label_borders(labels: Tensor) -> Tensor:
    """(B, H, W) train ids -> bool (B, H, W): within 3 pixels of two neighbours that differ.

    Pairs with an ignored pixel are no border.
    """
    borders = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (1, 2):
        length = labels.shape[dim] - 1
        before, after = labels.narrow(dim, 0, length), labels.narrow(dim, 1, length)
        differ = (before != after) & (before != IGNORED) & (after != IGNORED)
        borders.narrow(dim, 0, length).logical_or_(differ)
        borders.narrow(dim, 1, length).logical_or_(differ)
    widened = F.max_pool2d(borders[:, None].float(), BORDER_PX, 1, BORDER_PX // 2)
    return widened[:, 0].bool()


def presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of which classes an image has: (B, K), (B, H, W) int64 -> scalar.

    EncNet's semantic encoding loss (Zhang et al., CVPR 2018). An image whose pixels are all ignored
    says nothing, and does not count.
    """
    logits = at_least_float32(logits)
    num_classes = logits.shape[1]
    present = classes_present(labels, num_classes).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none").mean(dim=1)
    total = (losses * present.any(dim=1)).sum()
    return shared_mean(
        total, labels, lambda part: classes_present(part, num_classes).any(dim=1).sum()
    )


def classes_present(labels: Tensor, num_classes: int) -> Tensor:
    """(B, H, W) train ids -> bool (B, K): which classes an image has; ignored pixels are none."""
    present = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
    classes = labels.masked_fill(labels == IGNORED, num_classes).flatten(start_dim=1)
    return present.scatter_(1, classes, True)[:, :num_classes]


def adversarial_vanilla(logits: Tensor, domain: int) -> Tensor:
    """Binary cross entropy of logits (B, 1, h, w) against one domain everywhere -> scalar.

    A GAN's original objective (Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014).
    """
    logits = at_least_float32(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def adversarial_least_squares(logits: Tensor, domain: int) -> Tensor:
    """Mean squared distance of raw output (B, 1, h, w) from one domain's number -> scalar.

    Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017.
    """
    logits = at_least_float32(logits)
    return F.mse_loss(logits, torch.full_like(logits, domain))


def weighted_self_information(probabilities: Tensor) -> Tensor:
    """-p log2 p / log2 K, elementwise: (B, K, H, W) -> (B, K, H, W).

    Its sum over K is the normalised entropy. Vu et al., ADVENT, CVPR 2019: what its discriminators
    see.
    """
    probabilities = at_least_float32(probabilities)
    num_classes = probabilities.shape[1]
    return -probabilities * torch.log2(probabilities + EPSILON) / math.log2(num_classes)


def entropy_loss(probabilities: Tensor, ranking: float | None = None) -> Tensor:
    """Mean over pixels of the normalised entropy: (B, K, H, W) -> scalar in [0, 1].

    Vu et al., ADVENT, CVPR 2019, Eq. 3: the direct loss of MinEnt. The paper writes a sum over
    pixels; its program, and hence its weight of 0.001, takes the mean. `ranking`, a share of the
    pixels in (0, 1], takes it over those of highest entropy alone, image by image (the paper's
    entropy ranking, 0.3; in no released program).
    """
    entropies = weighted_self_information(probabilities).sum(dim=1).flatten(start_dim=1)
    if ranking is None:
        return entropies.mean()
    kept = max(1, round(ranking * entropies.shape[1]))
    return entropies.topk(kept, dim=1, sorted=False).values.mean()


def class_prior_loss(probabilities: Tensor, class_ratios: Tensor, mu: float) -> Tensor:
    """How far each class falls short of `mu` times its share: (B, K, H, W), (K,) -> scalar.

    sum over c of max(0, mu p_s(c) - E_c), where E_c is the mean of the predicted probability over
    an image's pixels; the mean over images. Vu et al., ADVENT, CVPR 2019, Eq. 8; in no released
    program.
    """
    predicted = at_least_float32(probabilities).mean(dim=(2, 3))
    return (mu * class_ratios.to(predicted) - predicted).clamp(min=0).sum(dim=1).mean()


def confusion_loss(logits: Tensor) -> Tensor:
    """1/2 (L_D + L_Dinv) for one domain's logits (B, 1, h, w) -> scalar, least at log 2.

    Hoffman et al., FCNs in the Wild, 2016: the mean of the losses with right and swapped labels, so
    that the classifier's best is to be undecided.
    """
    return (adversarial_vanilla(logits, 0) + adversarial_vanilla(logits, 1)) / 2


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is shorter, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
