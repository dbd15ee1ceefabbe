"""docker, for real: a model that an engine of the tests' own serves, as uid 1000 on a read-only
root."""

import io
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import Image

import adapt
from adapt.config.validation import validate
from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms.deploy import wait_until_ready
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.endpoint import Deployment
from adapt.platforms.local_stack import free_ports
from tests.docker_engine import DockerEngine, site_packages
from tests.networks import tiny_model
from tests.platforms.test_docker_engine import DOCKER, PATIENCE_S, SITE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]


def write_model(folder: Path) -> None:
    segmenter = build_segmenter({**tiny_model("deeplab_v2")}, 19)
    lineage = {"version": adapt.__version__, "step": 7}
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (48, 96), {}, lineage)
    write_weights(segmenter.state_dict(), header.entries(), folder / "weights.safetensors")


def test_a_model_that_is_deployed_answers_as_an_ordinary_user_on_a_read_only_root(
    docker_engine: DockerEngine, job_image: str, tmp_path: Path
) -> None:
    write_model(tmp_path)
    tmp_path.chmod(0o755)  # pytest's folders are closed to others
    (port,) = free_ports(1)
    values = {
        "platform": "docker",
        "image": job_image,
        "engine_uri": docker_engine.uri,
        "gpus": 0,
        "network": "host",
        "mounts": [{"source": site_packages(), "target": SITE}],
        "environment": {"OMP_NUM_THREADS": "1"},
        "serve": {"port": port, "arguments": ["--queue", "4"]},
    }
    profile = validate(DockerProfile, values)
    serving = DOCKER.serving
    assert serving is not None
    name = f"town-{uuid4().hex[:8]}"
    request = serving.request(Deployment(name, str(tmp_path), "best"), profile)
    client = serving.connect(profile, {})
    assert client.deploy(request) == name
    try:
        ready = wait_until_ready(client, name, lambda *_: None, PATIENCE_S)
    except JobError:
        pytest.fail("\n".join(client.logs(name, follow=False)))
    pixels = np.zeros((24, 32, 3), np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "png")
    headers = {"Content-Type": "image/png"}
    answer = httpx.post(f"{ready.url}/invocations", content=image.getvalue(), headers=headers)
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (32, 24)
    look = "import os; print(os.getuid(), os.access('/', os.W_OK), os.access('/opt/ml', os.W_OK))"
    assert docker_engine.docker("exec", name, "python", "-c", look) == "1000 False False"
    assert name in [one.endpoint for one in client.endpoints()]
    assert name not in [one.job for one in DOCKER.connect(profile, {}).jobs()]
    client.undeploy(name)
    with pytest.raises(JobError, match="NAME: expected an endpoint of this engine, got none"):
        client.status(name)
