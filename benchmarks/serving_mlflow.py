"""The model of `benchmarks.serving` as `mlflow models serve` runs it: MLflow executes this file."""

import base64
import io
from typing import Any

import mlflow.models
import mlflow.pyfunc
from PIL import Image

import adapt


class Segmenter(mlflow.pyfunc.PythonModel):
    """A data frame with a column `image` of PNG files as base64 -> class maps in the same form."""

    def load_context(self, context: Any) -> None:
        """Load the weights once."""
        self._model = adapt.load(context.artifacts["weights"])

    def predict(self, context: Any, model_input: Any) -> list[str]:  # noqa: ARG002 - as MLflow calls it
        """Compute each image."""
        return [self._answer(text) for text in model_input["image"]]

    def _answer(self, text: str) -> str:
        result = self._model.predict(Image.open(io.BytesIO(base64.b64decode(text))))
        picture = Image.fromarray(result.class_map)
        picture.putpalette([part for colour in self._model.classes.colours for part in colour])
        file = io.BytesIO()
        picture.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


mlflow.models.set_model(Segmenter())
