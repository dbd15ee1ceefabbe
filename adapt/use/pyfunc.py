"""The loader of `mlflow.pyfunc`: fetches a checkpoint's weights by URI, checks their sha256.

`mlflow.pyfunc.load_model("models:/NAME@best")` calls `_load_pyfunc`, by a name that is MLflow's.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapt.config.validation import validate
from adapt.data.packed.codecs import Pixels
from adapt.errors import DataError
from adapt.use.load import load
from adapt.use.model import LoadedModel
from storage.config import StoreConfig
from storage.stores import Stores


class PyfuncModel:
    """A network as `mlflow.pyfunc` calls it; `model` is that of `adapt.load`."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def predict(self, images: Pixels) -> Pixels:
        """Images (B, H, W, 3) uint8 RGB -> class maps (B, H, W) uint8, train ids.

        The pixels are those of `LoadedModel.predict`. Raises `DataError` for another shape.
        """
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise DataError(
                f"images: expected (B, H, W, 3) uint8, got {pixels.shape} {pixels.dtype}",
                "stack RGB images of one size",
            )
        if not len(pixels):
            return np.zeros(pixels.shape[:3], np.uint8)
        return np.stack([one.class_map for one in self.model.predict(list(pixels))])


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> PyfuncModel:
    """The model that `weights.json` names. model_config: `device` and `precision` of `adapt.load`.

    Raises as `adapt.load`.
    """
    facts = json.loads(Path(data_path).read_text())
    configs = {
        scheme: validate(StoreConfig, values, f"stores.{scheme}")
        for scheme, values in facts["stores"].items()
    }
    stores = Stores(configs, os.environ)
    model = load(facts["uri"], sha256=facts["sha256"], stores=stores, **(model_config or {}))
    return PyfuncModel(model)
