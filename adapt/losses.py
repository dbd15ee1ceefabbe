"""The losses of the papers as pure functions: probabilities or logits in, scalar means out.

Half-precision inputs are raised to float32 first (float64 stays): in float16 the epsilon of the
entropy underflows to 0 and its gradient is NaN. Logarithms of class distributions are divided by
log2(K), so entropies lie in [0, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED
from adapt.ranks import num_ranks, sum_over_ranks

EPSILON = 1e-30
BORDER_PX = 7


def class_probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes in at least float32: (B, K, H, W) -> (B, K, H, W)."""
    return F.softmax(at_least_float32(logits), dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the counted pixels: (B, K, H, W), (B, H, W) int64 -> scalar.

    Where every pixel is ignored it is 0 with a gradient of 0, not PyTorch's NaN.
    """
    logits = at_least_float32(logits)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / shared_count((labels != IGNORED).sum())


def bootstrapped_cross_entropy(logits: Tensor, labels: Tensor, hardest_pixels: int) -> Tensor:
    """Mean cross entropy of each image's `hardest_pixels` worst pixels: (B, K, H, W), (B, H, W)
    int64 -> scalar.

    Wu et al., Bridging Category-level and Instance-level Semantic Image Segmentation, 2016, with
    the number fixed as in FRRN (Pohlen et al., CVPR 2017). Ignored pixels are never among them.
    """
    losses = F.cross_entropy(
        at_least_float32(logits), labels, ignore_index=IGNORED, reduction="none"
    ).flatten(start_dim=1)
    kept = min(hardest_pixels, losses.shape[1])
    total = losses.topk(kept, dim=1, sorted=False).values.sum()
    counted = (labels != IGNORED).flatten(start_dim=1).sum(dim=1).clamp(max=kept).sum()
    return total / shared_count(counted)


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
    return (losses * counted).sum() / shared_count(counted.sum())


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
    present = classes_present(labels, logits.shape[1]).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none").mean(dim=1)
    counted = present.any(dim=1)
    return (losses * counted).sum() / shared_count(counted.sum())


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


def shared_count(count: Tensor) -> Tensor:
    """The divisor of a sum over `count` things: their mean number over ranks; 1 for none.

    Gradients are averaged over ranks afterwards, so that ranks which see different numbers of
    ignored pixels train as one rank does on all of them. Alone it is `count` itself.
    """
    if num_ranks() == 1:
        return count.clamp(min=1)
    total = sum_over_ranks(count).double()
    return torch.where(total > 0, total / num_ranks(), 1.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is shorter, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
