"""SegAdapt: adversarial domain adaptation for semantic segmentation, one job, one container."""

__version__ = "0.1.0"
