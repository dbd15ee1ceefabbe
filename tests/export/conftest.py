"""Loaded models with random weights, and one that is exported once for all tests."""

from typing import Any

import pytest
import torch

from adapt.data.label_maps import LABEL_SPACES
from adapt.evaluation.inference import EnsembleMember, predict_batch
from adapt.export.compare import example_images
from adapt.export.export import Exported, export_model
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader
from adapt.models.segmenter import Segmenter
from adapt.use.model import LoadedModel
from storage.stores import Stores
from tests.networks import tiny_model

SPACE = LABEL_SPACES["cityscapes19"]
LINEAGE = {"version": "0.1.0", "step": 7}


def loaded(
    segmenter: Segmenter, size_hw: tuple[int, int] | None = None, **views: Any
) -> LoadedModel:
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, size_hw, views, LINEAGE)
    return LoadedModel(segmenter, header, Stores(), "cpu")


def of_architecture(name: str, size_hw: tuple[int, int] | None = None, **views: Any) -> LoadedModel:
    torch.manual_seed(0)
    return loaded(build_segmenter(tiny_model(name), 19), size_hw, **views)


@pytest.fixture(scope="session")
def mirrored() -> LoadedModel:
    """Of mirrored images too, resized to 64 x 96; it predicts many classes."""
    model = of_architecture("deeplab_v2", (64, 96), flip=True)
    images = torch.from_numpy(example_images((1, 64, 96))).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = predict_batch((EnsembleMember(model.segmenter),), images, (64, 96))
        first = model.segmenter.decoder.get_submodule("heads.0.branches.0")
        first.get_parameter("bias").sub_(logits.mean(dim=(0, 2, 3)))
    return model


@pytest.fixture(scope="session")
def exported(mirrored: LoadedModel) -> Exported:
    return export_model(mirrored)
