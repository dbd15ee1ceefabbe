"""The numbers by which the advice is given, each with its reason, in one table."""

from typing import NamedTuple


class Threshold(NamedTuple):
    """A row of `THRESHOLDS`. `guess`: no published figure stands behind the number, only the pairs
    of domains in docs/gap.md."""

    value: float
    meaning: str
    reason: str
    guess: bool


THRESHOLDS = {
    "close": Threshold(
        0.8,
        "kernel distance of the deepest stage up to which the domains count as alike",
        "two drives of one camera lie below it, a game or another country above; the A-distance "
        "is near 2 for both, so it does not decide",
        True,
    ),
    "entropy": Threshold(
        1.5,
        "entropy on the target over that on the source up to which a network is as sure on both",
        "entropy rises where a network does not know the domain; self-training lowers it too, so "
        "both this and the distance must agree",
        True,
    ),
    "viewpoint_places": Threshold(
        0.15,
        "bits by which the classes' places in the picture may differ",
        "a class that moves by an eighth of the height, road or sky, costs about so much",
        True,
    ),
    "viewpoint_detail": Threshold(
        0.05,
        "bits by which the detail by row may differ, where no network says where the classes are",
        "above what splits of one dataset show, and below a drone against a car",
        True,
    ),
    "colour": Threshold(
        20.0,
        "Delta E of the mean colours from which light and colour come first",
        "about 2 is just noticeable (CIE 1976); ten times that is another exposure or camera",
        True,
    ),
    "rare": Threshold(
        0.0005,
        "share of the source's labels below which a class counts as nearly missing",
        "train has 0.23 % of Cityscapes' pixels and is learned by few methods; a quarter of that",
        True,
    ),
    "confident": Threshold(
        0.5,
        "share of confident target pixels that self-training needs",
        "DACS and DAFormer weigh their loss by the share of pixels above 0.968: at less than half "
        "of them above 0.9 little is left",
        True,
    ),
    "classes": Threshold(
        0.1,
        "bits by which the class shares may differ before rare classes are drawn more often",
        "rare-class sampling is DAFormer's answer to it (CVPR 2022)",
        True,
    ),
    "fda_band": Threshold(
        0.1,
        "log10 amplitude by which a band of frequencies counts as different, for FDA's beta",
        "a quarter more or less amplitude",
        True,
    ),
    "fda_share": Threshold(
        0.6,
        "share of the difference of spectra at FDA's frequencies that makes it a matter of style",
        "FDA exchanges amplitudes up to beta = 0.09 and nothing else (CVPR 2020)",
        True,
    ),
    "label_share": Threshold(
        1 / 16,
        "share of the target's images to label",
        "1/16 of Cityscapes' labels is worth +3 to +6 over the best adaptation (CVPRW 2025, "
        "arXiv 2504.18190)",
        False,
    ),
}
"""By what they decide."""
FEWEST_LABELS, MOST_LABELS = 20, 200
"""Images that it is advised to label, at least and at most: an hour and a half each as Cityscapes
was labelled (CVPR 2016)."""
