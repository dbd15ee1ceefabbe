"""A file out of a container image: of the tars that `docker save` writes, and of a real engine."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapt.errors import DataError, JobError
from adapt.models.weight_files import ENDINGS
from adapt.platforms.docker.image_file import copy_from_image
from storage.errors import StoreUnavailable
from tests.docker_engine import DockerEngine

WEIGHTS = "/opt/ml/model/weights.pth"
Files = Mapping[str, bytes | str | None]
"""Content by path in a layer; a text is a link's target, None a folder."""


def layer(files: Files) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, held in files.items():
            member = tarfile.TarInfo(name)
            if held is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(held, str):
                member.type, member.linkname = tarfile.SYMTYPE, held
            else:
                member.size = len(held)
            tar.addfile(member, io.BytesIO(held) if isinstance(held, bytes) else None)
    return content.getvalue()


def saved(path: Path, *layers: bytes, images: int = 1) -> Path:
    """A tar as `docker save` writes it, of these layers, the first first."""
    names = [f"blobs/sha256/{number}" for number in range(len(layers))]
    image = {"Config": "config", "RepoTags": ["town:1"], "Layers": names}
    files = {"manifest.json": json.dumps([image] * images).encode()}
    path.write_bytes(layer(files | dict(zip(names, layers, strict=True))))
    return path


def copied(image: Path | str, folder: Path, path: str = WEIGHTS) -> bytes:
    where = {"DOCKER_HOST": f"unix://{folder}/nobody.sock"}
    return copy_from_image(str(image), path, folder, ENDINGS, where).read_bytes()


def test_the_last_layer_that_has_the_file_counts(tmp_path: Path) -> None:
    first = layer({"opt/ml/model/weights.pth": b"old", "etc/x": b"x"})
    second = layer({"./opt/ml/model/weights.pth": b"new"})
    image = saved(tmp_path / "town.tar", first, gzip.compress(second), layer({"etc/y": b"y"}))
    assert copied(image, tmp_path) == b"new"
    assert copied(image, tmp_path, "opt/ml/model/weights.pth") == b"new"
    packed = tmp_path / "town.tar.gz"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    assert copied(packed, tmp_path) == b"new"


@pytest.mark.parametrize(
    "marker", ["opt/ml/model/.wh.weights.pth", "opt/.wh.ml", "opt/ml/model/.wh..wh..opq"]
)
def test_what_a_later_layer_deletes_is_not_there(marker: str, tmp_path: Path) -> None:
    first = layer({"opt/ml/model/weights.pth": b"old"})
    image = saved(tmp_path / "town.tar", first, layer({marker: b""}))
    with pytest.raises(JobError, match=f"expected a file at {WEIGHTS}, got none there"):
        copied(image, tmp_path)


def test_what_is_there_is_proposed(tmp_path: Path) -> None:
    image = saved(tmp_path / "town.tar", layer({"srv/a.safetensors": b"a", "srv/b": b"b"}))
    with pytest.raises(JobError, match=r"Fix: name one of its files: /srv/a\.safetensors"):
        copied(image, tmp_path)
    with pytest.raises(JobError, match="Fix: name a file of the image"):
        copied(saved(tmp_path / "none.tar", layer({"srv/b": b"b"})), tmp_path)


def test_links_folders_and_other_files_are_refused(tmp_path: Path) -> None:
    image = saved(tmp_path / "town.tar", layer({"srv/best.pth": "step-9.pth", "srv/model": None}))
    with pytest.raises(JobError, match=r"got a link to step-9\.pth\. Fix: name the file itself"):
        copied(image, tmp_path, "/srv/best.pth")
    with pytest.raises(JobError, match="expected a file, got a folder"):
        copied(image, tmp_path, "/srv/model")
    with pytest.raises(JobError, match="expected the path of a file in the image, got its root"):
        copied(image, tmp_path, "/")
    with pytest.raises(JobError, match=r"expected the tar of one image, got 2 \(town:1, town:1\)"):
        copied(saved(tmp_path / "two.tar", layer({}), images=2), tmp_path)
    (tmp_path / "layer.tar").write_bytes(layer({"srv/a.pth": b"a"}))
    (tmp_path / "text.tar").write_text("no tar")
    for wrong in ("layer.tar", "text.tar"):
        with pytest.raises(DataError, match=r"expected the tar of an image, .* docker save IMAGE"):
            copied(tmp_path / wrong, tmp_path)


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="the Docker engine is unreachable"):
        copied("town:1", tmp_path)


@pytest.mark.slow
def test_a_real_engine_gives_the_file_of_an_image(
    docker_engine: DockerEngine, base_image: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\nCOPY weights.pth {WEIGHTS}\n")
    (tmp_path / "weights.pth").write_bytes(os.urandom(3_000_000))
    docker_engine.docker("build", "-q", "--network=host", "-t", "localhost/town:1", tmp_path)
    docker_engine.docker("save", "-o", tmp_path / "town.tar", "localhost/town:1")
    (tmp_path / "out").mkdir()
    environment = {"DOCKER_HOST": docker_engine.uri}
    for image in ("localhost/town:1", str(tmp_path / "town.tar")):
        copy = copy_from_image(image, WEIGHTS, tmp_path / "out", ENDINGS, environment)
        assert copy.read_bytes() == (tmp_path / "weights.pth").read_bytes()
    assert docker_engine.docker("ps", "-aq") == "", "no container is left"
    for image, path, found in (
        ("localhost/town:1", "/absent.pth", "expected a file at /absent.pth, got none there"),
        ("localhost/absent:1", WEIGHTS, "the engine has no such image"),
    ):
        with pytest.raises(JobError, match=found):
            copy_from_image(image, path, tmp_path / "out", ENDINGS, environment)
