"""SegAdapt: adversarial domain adaptation for semantic segmentation, as one job in one container."""

__version__ = "0.1.0"
