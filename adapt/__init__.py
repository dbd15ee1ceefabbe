"""SegAdapt: adversarial domain adaptation for semantic segmentation, one job, one container.

The names below are the public interface; each is imported when it is first used, so that
`import adapt` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapt.methods import build_method
    from adapt.models import build_segmenter
    from adapt.places import find_place
    from adapt.spec.loading import load_spec
    from adapt.trainer.run import run_job
    from adapt.trainer.score import evaluate_checkpoint
    from adapt.use.load import load

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "build_method",
    "build_segmenter",
    "evaluate_checkpoint",
    "find_place",
    "load",
    "load_spec",
    "run_job",
]

_MODULES = {
    "build_method": "adapt.methods",
    "build_segmenter": "adapt.models",
    "evaluate_checkpoint": "adapt.trainer.score",
    "find_place": "adapt.places",
    "load": "adapt.use.load",
    "load_spec": "adapt.spec.loading",
    "run_job": "adapt.trainer.run",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
