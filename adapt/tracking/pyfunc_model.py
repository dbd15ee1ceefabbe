"""A checkpoint as a model of `mlflow.pyfunc`: a few files that name its weights by URI and sha256.

Written by hand: MLflow's own writer needs pandas, which a job does not have. The program that
loads it needs SegAdapt and MLflow (not `mlflow-skinny`); `adapt.use.pyfunc` fetches the weights.
"""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

import adapt

LOADER = "adapt.use.pyfunc"
WEIGHTS_FILE = "weights.json"
EXAMPLE, SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
EXAMPLE_HW = (32, 64)
IMAGES = {"dtype": "uint8", "shape": [-1, -1, -1, 3]}
CLASS_MAPS = {"dtype": "uint8", "shape": [-1, -1, -1]}


def write_pyfunc_model(
    folder: Path,
    uri: str,
    sha256: str,
    header: Mapping[str, str],
    stores: Mapping[str, Any],
) -> None:
    """Write `MLmodel` and what it names: images (B, H, W, 3) uint8 RGB -> train ids (B, H, W).

    uri, sha256: of the weights. header: that of their file, which becomes the model's metadata.
    stores: settings of object stores, without secrets.
    """
    _write_json(folder / WEIGHTS_FILE, {"uri": uri, "sha256": sha256, "stores": dict(stores)})
    _write_json(folder / EXAMPLE, _example())
    _write_json(folder / SERVING_EXAMPLE, {"inputs": _example()})
    (folder / "requirements.txt").write_text(f"mlflow>=3,<4\nsegadapt=={adapt.__version__}\n")
    python = platform.python_version()
    environment = {"python": python, "dependencies": ["-r requirements.txt"]}
    _write_yaml(folder / "python_env.yaml", environment)
    _write_yaml(folder / "MLmodel", _description(python, header))


def facts_of(header: Mapping[str, str]) -> dict[str, str]:
    """The tags that a header gives: the names of the classes, and the lineage of the weights."""
    found = {key.removeprefix("segadapt."): json.loads(text) for key, text in header.items()}
    lineage = dict(found.get("lineage", {}))
    data = lineage.pop("data", {})
    facts = {f"segadapt.{key}": str(value) for key, value in lineage.items()}
    facts |= {f"segadapt.data.{key}": str(value) for key, value in data.items()}
    if "classes" in found:
        facts["segadapt.classes"] = ", ".join(one["name"] for one in found["classes"])
    return facts


def _description(python: str, header: Mapping[str, str]) -> dict[str, Any]:
    loading = {
        "loader_module": LOADER,
        "data": WEIGHTS_FILE,
        "config": {"device": None, "precision": "fp32"},
        "env": {"virtualenv": "python_env.yaml"},
        "python_version": python,
        "streamable": False,
    }
    example = {"artifact_path": EXAMPLE, "serving_input_path": SERVING_EXAMPLE, "type": "ndarray"}
    return {
        "flavors": {"python_function": loading},
        "metadata": {key: json.loads(text) for key, text in header.items()},
        "model_uuid": uuid4().hex,
        "saved_input_example_info": example,
        "signature": {"inputs": _tensor(IMAGES), "outputs": _tensor(CLASS_MAPS), "params": None},
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _tensor(spec: Mapping[str, Any]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": spec}])


def _example() -> list[Any]:
    """One small image (1, h, w, 3): a ramp from black to white."""
    height, width = EXAMPLE_HW
    row = [[255 * x // (width - 1)] * 3 for x in range(width)]
    return [[row] * height]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _write_yaml(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value))
