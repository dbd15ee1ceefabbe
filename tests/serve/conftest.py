"""A small network's file, and servers of it on loopback: `running` in a thread of this process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import adapt
from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.serve.limits import Limits
from adapt.serve.server import Server
from adapt.use.model import LoadedModel
from storage.stores import Stores
from tests.commands import start
from tests.launch.rank_scripts import wait_until
from tests.networks import ByColour, network, tiny_model

SPACE = LABEL_SPACES["cityscapes19"]
SIZE_HW = (48, 96)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights whose classes vary over an image."""
    path = tmp_path_factory.mktemp("served") / "weights.safetensors"
    torch.manual_seed(3)
    segmenter = build_segmenter({**tiny_model("deeplab_v2")}, 19)
    lineage = {"version": adapt.__version__, "step": 7}
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, SIZE_HW, {}, lineage)
    write_weights(segmenter.state_dict(), header.entries(), path)
    return path


class Pointwise(LoadedModel):
    """Computes each pixel alone, so that batches change no bits; notes the sizes of batches."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        segmenter = network(ByColour(19), 19)
        header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE)
        super().__init__(segmenter, header, Stores(), "cpu")
        self.passes: list[int] = []

    def predict_prepared(self, images: Any, *options: Any, **more: Any) -> Any:
        self.passes.append(len(images))
        return super().predict_prepared(images, *options, **more)


@contextmanager
def running(
    load: Callable[[], LoadedModel], *, warm: bool = True, **options: Any
) -> Iterator[tuple[httpx.Client, Server]]:
    """A server in a thread of its own, and a client of it; `options` are those of `Server`, and
    fields of `Limits`."""
    limits = {name: options.pop(name) for name in list(options) if name in vars(Limits())}
    server = Server(_on_one_thread(load), port=0, limits=Limits(**limits), **options)
    thread = threading.Thread(target=_served, args=(server,))
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            if warm:
                wait_until(lambda: server.service.batcher.ready, timeout_s=60)
            yield client, server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()


def _served(server: Server) -> None:
    try:
        server.serve_until_stopped()
    except Exception:  # noqa: BLE001 - tests read it from the batcher
        assert server.service.batcher.failure is not None


def _on_one_thread(load: Callable[[], LoadedModel]) -> Callable[[], LoadedModel]:
    def loaded() -> LoadedModel:
        torch.set_num_threads(1)  # per thread; the last bits may depend on it
        return load()

    return loaded


@pytest.fixture(scope="session")
def model(weights: Path) -> LoadedModel:
    return adapt.load(weights, device="cpu")


@pytest.fixture(scope="module")
def client(weights: Path) -> Iterator[httpx.Client]:
    """A client of a server of `weights` with the default limits, but fewer pixels."""
    load = lambda: adapt.load(weights, device="cpu")  # noqa: E731
    with running(load, max_pixels=100_000) as (client, _):
        yield client


class Process:
    """`segadapt serve` as a process of its own; `lines` are those of its log."""

    def __init__(self, *arguments: object, folder: Path, **environment: str) -> None:
        self.lines: list[str] = []
        self.process = start("serve", *arguments, folder=folder, environment=environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    @property
    def url(self) -> str:
        wait_until(lambda: self.says("serving "), timeout_s=60)
        return self.lines[0].split()[-1]

    def ready(self) -> str:
        """Wait for the warm-up; the address."""
        wait_until(lambda: self.says("ready: ") or self.process.poll() is not None, timeout_s=120)
        assert self.process.poll() is None, self.lines
        return self.url

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code."""
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join(10)
