"""docker, for real: a set in SeaweedFS predicted by two containers, as uid 1000 with a read-only
root."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

import adapt
from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms.predict_jobs import Asked, prepare_prediction
from tests.networks import tiny_model
from tests.platforms.test_docker_engine import Stack, stack  # noqa: F401 - a fixture
from tests.servers import BUCKET, stores_of
from tests.use.conftest import write_images

pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.xdist_group("engine")]


def test_slices_of_a_set_are_predicted_and_one_is_again_alone(
    stack: Stack,  # noqa: F811
    tmp_path: Path,
) -> None:
    segmenter = build_segmenter({**tiny_model("deeplab_v2")}, 19)
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (32, 48))
    weights = tmp_path / "weights.safetensors"
    write_weights(segmenter.state_dict(), header.entries(), weights)
    write_images(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    uri, stores = f"s3://{BUCKET}/set-{uuid4().hex[:8]}", stores_of(stack.s3)
    store = stores.open(uri)
    for file in (weights, *sorted((tmp_path / "photos").iterdir())):
        store.put(str(file.relative_to(tmp_path)), file.read_bytes())
    asked = Asked(
        f"{uri}/weights.safetensors", [f"{uri}/photos"], f"{uri}/seen", ["--write", "ids"], 2, "0/1"
    )
    plan = prepare_prediction(asked, stack.profile(), stores)
    jobs = [stack.client.submit(request) for request in plan.requests.values()]
    assert [stack.ended(job).exit_code for job in jobs] == [0, 0], [
        list(stack.client.logs(job, follow=False)) for job in jobs
    ]
    model = adapt.load(weights, device="cpu")
    for path in sorted((tmp_path / "photos").iterdir()):
        (tmp_path / "seen.png").write_bytes(store.get(f"seen/ids/{path.name}"))
        written = np.array(Image.open(tmp_path / "seen.png"))
        assert np.array_equal(written, model.predict(path).class_map)
    store.delete("seen/ids/2.png")
    plan = prepare_prediction(asked._replace(num_slices=None, part="1/2"), stack.profile(), stores)
    ((name, request),) = plan.requests.items()
    assert name.endswith("-1") and stack.client.submit(request) == name
    assert stack.ended(name).exit_code == 0 and store.exists("seen/ids/2.png")
