"""The costs of serving: images a second and latencies of `segadapt serve` and `mlflow models serve`
over a bare loop of the same model, on this machine's device.

    python -m benchmarks.serving [--height H] [--width W] [--images N] [--rounds N] [--no-mlflow]

DeepLabV3+ with ResNet-18, random weights, PNG files of noise over large spots, as one client and as
four at the same time send them. The bare loop calls `LoadedModel.predict` on the same files and
writes the same PNG, without HTTP. All take turns in one run, so that they see the same machine; a
round's ratio is to the bare loop just before it. MLflow gets its images as base64 in a data frame,
the form in which its server takes files, and answers the same PNG as base64; it has no batching,
queue or limits. The client is in this process, and shares the cores with the servers.
"""

import argparse
import base64
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import torch
from PIL import Image

import adapt
from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms.local_stack import free_ports
from adapt.use.model import LoadedModel

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = (1, 4)
MODEL = {"architecture": "deeplab_v3_plus", "encoder": "resnet18", "weights": "none"}
START_S = 600
Send = Callable[[bytes], bytes]


class Timed(NamedTuple):
    """A pass over the images by one way: seconds of all, and of each."""

    seconds: float
    each_s: list[float]

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return len(self.each_s) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many per cent of the images do not exceed."""
        return 1000 * float(np.percentile(self.each_s, percent))


def write_model(folder: Path, size_hw: tuple[int, int]) -> Path:
    """A file of random weights that `adapt.load` takes."""
    torch.manual_seed(0)
    segmenter = build_segmenter(MODEL, 19)
    header = FileHeader(
        segmenter.config, 19, segmenter.pixels, LABEL_SPACES["cityscapes19"], size_hw
    )
    write_weights(segmenter.state_dict(), header.entries(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def pictures(count: int, size_hw: tuple[int, int]) -> list[bytes]:
    """PNG files, all different."""
    random = np.random.default_rng(0)
    height, width = size_hw
    files = []
    for _ in range(count):
        spots = Image.fromarray(random.integers(0, 200, (6, 12, 3)).astype(np.uint8))
        smooth = np.asarray(spots.resize((width, height), Image.Resampling.BICUBIC))
        noisy = smooth + random.integers(0, 20, (height, width, 1)).astype(np.uint8)
        files.append(png_of(Image.fromarray(noisy)))
    return files


def png_of(picture: Image.Image) -> bytes:
    """A file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def bare(model: LoadedModel) -> Send:
    """The bare model: a file in, a palette PNG out, in this process."""
    palette = [part for colour in model.classes.colours for part in colour]

    def send(content: bytes) -> bytes:
        result = model.predict(Image.open(io.BytesIO(content)))
        picture = Image.fromarray(result.class_map)
        picture.putpalette(palette)
        return png_of(picture)

    return send


def timed(send: Send, files: Sequence[bytes], clients: int) -> Timed:
    """Send all files, as many at the same time as there are clients."""

    def one(content: bytes) -> float:
        started_s = time.perf_counter()
        send(content)
        return time.perf_counter() - started_s

    with ThreadPoolExecutor(clients) as pool:
        started_s = time.perf_counter()
        each_s = list(pool.map(one, files))
        return Timed(time.perf_counter() - started_s, each_s)


@contextmanager
def process(arguments: Sequence[object], ready_url: str) -> Iterator[None]:
    """A server that answers 200 under a URL; it is stopped at the end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of uvicorn
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, *map(str, arguments)], env=environment, stdout=log, stderr=log
        )
        try:
            _wait(server, ready_url)
            yield
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            server.terminate()
            server.wait(60)


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and server.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{url}: expected a server, got none")


@contextmanager
def ours(weights: Path) -> Iterator[Send]:
    """`segadapt serve`."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ("-m", "adapt", "serve", weights, "--port", port)
    with process(command, f"{url}/ping"), httpx.Client(base_url=url, timeout=60) as client:

        def send(content: bytes) -> bytes:
            headers = {"content-type": "image/png"}
            answer = client.post("/invocations", content=content, headers=headers)
            answer.raise_for_status()
            return answer.content

        yield send


@contextmanager
def mlflows(weights: Path, folder: Path) -> Iterator[Send]:
    """`mlflow models serve` of the same file, as a pyfunc model."""
    import mlflow.pyfunc

    where = folder / "mlflow"
    mlflow.pyfunc.save_model(
        where,
        python_model=ROOT / "benchmarks" / "serving_mlflow.py",
        artifacts={"weights": str(weights)},
        pip_requirements=[],
    )
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ("-m", "mlflow", "models", "serve", "-m", where, "-p", port, "-w", 1)
    with (
        process((*command, "--env-manager", "local"), f"{url}/ping"),
        httpx.Client(base_url=url, timeout=60) as client,
    ):

        def send(content: bytes) -> bytes:
            row = [base64.b64encode(content).decode()]
            values = {"dataframe_split": {"columns": ["image"], "data": [row]}}
            answer = client.post("/invocations", json=values)
            answer.raise_for_status()
            return base64.b64decode(answer.json()["predictions"][0])

        yield send


def row(name: str, clients: int, rounds: Sequence[Timed], bares: Sequence[Timed]) -> str:
    """A line of the table; ratios are medians over the rounds."""
    ratios = [one.images_per_s / base.images_per_s for one, base in zip(rounds, bares, strict=True)]
    whole = Timed(sum(one.seconds for one in rounds), [s for one in rounds for s in one.each_s])
    return (
        f"| {name} | {clients} | {statistics.median(ratios):.2f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {whole.images_per_s:.1f} "
        f"| {whole.percentile_ms(50):.0f} | {whole.percentile_ms(99):.0f} |"
    )


def measured(ways: dict[str, Send], files: Sequence[bytes], rounds: int) -> Iterator[str]:
    """The lines of the table. The first way is the bare loop, which others are compared with."""
    base = next(iter(ways))
    yield "| way | clients | throughput / bare loop | rounds | images a second | p50 ms | p99 ms |"
    yield "| :-- | :-- | :-- | :-- | :-- | :-- | :-- |"
    found: dict[tuple[str, int], list[Timed]] = {}
    for _ in range(rounds):
        alone = timed(ways[base], files, 1)
        found.setdefault((base, 1), []).append(alone)
        for name, send in list(ways.items())[1:]:
            for clients in CLIENTS:
                found.setdefault((name, clients), []).append(timed(send, files, clients))
    for (name, clients), values in found.items():
        yield row(name, clients, values, found[base, 1])


def check_equal(ways: dict[str, Send], content: bytes) -> None:
    """All ways must answer the same pixels, or they are no ways to compare."""
    maps = [np.asarray(Image.open(io.BytesIO(send(content)))) for send in ways.values()]
    for name, found in zip(ways, maps, strict=True):
        if not np.array_equal(found, maps[0]):
            raise RuntimeError(f"{name}: expected the bare model's pixels, got others")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-mlflow", action="store_true")
    given = parser.parse_args()
    size_hw = (given.height, given.width)
    files = pictures(given.images, size_hw)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_model(folder, size_hw)
        ways: dict[str, Send] = {"bare loop": bare(adapt.load(weights))}
        with ours(weights) as ways["`segadapt serve`"]:
            if given.no_mlflow:
                _print(ways, files, given.rounds)
                return
            with mlflows(weights, folder) as ways["`mlflow models serve`"]:
                _print(ways, files, given.rounds)


def _print(ways: dict[str, Send], files: Sequence[bytes], rounds: int) -> None:
    check_equal(ways, files[0])
    print(f"load average before: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    for line in measured(ways, files, rounds):
        print(line, flush=True)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
