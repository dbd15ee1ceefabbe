"""One reader over one epoch, measured in a process of its own: CPU time a sample beside that of
the bare decoding of the same bytes from memory. The other libraries' readers are here.

    PEERS_ENV/bin/python benchmarks/stream_peers.py read GIVEN.json      # benchmarks/stream.py does
    PEERS_ENV/bin/python benchmarks/stream_peers.py convert GIVEN.json

It runs inside the peers' environments, hence imports nothing of this project. Every reader gets the
same samples from the same S3 server and decodes with the same libraries. Start-up does not count:
epochs over a few samples pay for imports, and the CPU time of the last of them is subtracted from
that of the whole, in which fetching is included and so are children (curl, DataLoader workers).
Peers give arrays in storage order, unchecked and uncollated; that is less work than ours does,
never more.
"""

import json
import os
import resource
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import qoi
import simplejpeg
import zstandard

Given = dict[str, Any]
"""`packed`: folder of the shards; `shards`: URLs or keys of them by name of the way; `cache`: an
empty folder where `cold`; `warm_up`: the same for a few samples; and what single readers need."""
Reader = Callable[[Given], Iterator[int]]
"""Opens on the call; each step of the iterator decodes one batch and gives its samples' number."""

FLOOR_SAMPLES = 64
WARM_UPS = 4
"""litdata's second epoch in a process still costs 0.2 s more than its third."""


class Packed(NamedTuple):
    """Bytes of one sample."""

    image: bytes
    suffix: str
    label: bytes


def decode(sample: Packed, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes -> (H, W, 3) uint8 RGB and (H, W) uint8 ids, by the libraries of the codecs."""
    if sample.suffix == "qoi":
        image = qoi.decode(sample.image, channels=3)
    else:
        image = simplejpeg.decode_jpeg(sample.image, colorspace="RGB")
    raw = zstandard.ZstdDecompressor().decompress(sample.label)
    return image, np.frombuffer(raw, np.uint8).reshape(size_hw)


class PackedFolder:
    """Shards on disk, by index and `pread`."""

    def __init__(self, folder: Path) -> None:
        names = [
            shard["name"] for shard in json.loads((folder / "manifest.json").read_text())["shards"]
        ]
        self.files = [os.open(folder / name, os.O_RDONLY) for name in names]
        with np.load(folder / "index.npz") as arrays:
            self.index = {name: arrays[name] for name in arrays.files}

    def __len__(self) -> int:
        return len(self.index["keys"])

    def __getitem__(self, number: int) -> Packed:
        return Packed(
            self._member(number, "image"),
            str(self.index["suffix"][number]),
            self._member(number, "label"),
        )

    def _member(self, number: int, kind: str) -> bytes:
        file = self.files[int(self.index["shard"][number])]
        length_bytes = int(self.index[f"{kind}_length_bytes"][number])
        return os.pread(file, length_bytes, int(self.index[f"{kind}_offset_bytes"][number]))


def cpu_s() -> float:
    """User and system time of this process, its threads, and its children that have ended."""
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(reader: Reader, given: Given) -> dict[str, float]:
    """One epoch of `reader` between two halves of the floor, over as many samples: microseconds of
    CPU time that a sample more costs, of wall time a sample, and seconds to the first batch."""
    warm_ups = [epoch(reader, warm_up_of(given, number)) for number in range(WARM_UPS)]
    start_up = min(warm_ups[2:], key=lambda one: one.cpu_s)
    samples = PackedFolder(Path(given["packed"]))
    in_memory = [samples[number] for number in range(min(FLOOR_SAMPLES, len(samples)))]
    size_hw = tuple(given["size_hw"])
    floor_s = floor_cpu_s(in_memory, len(samples) // 2, size_hw)
    whole = epoch(reader, given)
    if whole.samples != len(samples):
        raise SystemExit(f"expected {len(samples)} samples, the reader gave {whole.samples}")
    floor_s += floor_cpu_s(in_memory, len(samples) - len(samples) // 2, size_hw)
    return {
        "cpu_us": 1e6 * (whole.cpu_s - start_up.cpu_s) / (whole.samples - start_up.samples),
        "floor_us": 1e6 * floor_s / len(samples),
        "wall_us": 1e6 * whole.wall_s / whole.samples,
        "first_batch_s": whole.first_s,
    }


def warm_up_of(given: Given, number: int) -> Given:
    """The few samples of the warm-up; where the reader is to be cold, an empty folder each time."""
    cache = Path(given["warm_up"]["cache"], str(number if given["cold"] else 0))
    cache.mkdir(parents=True, exist_ok=True)
    return given["warm_up"] | {"cache": str(cache)}


class Epoch(NamedTuple):
    """What one took, from the reader's opening to its first batch, and from its first request to
    its last sample."""

    samples: int
    cpu_s: float
    wall_s: float
    first_s: float


def epoch(reader: Reader, given: Given) -> Epoch:
    """Read everything once."""
    opened_s = perf_counter()
    batches = reader(given)
    started_s, started_cpu_s = perf_counter(), cpu_s()
    samples = next(batches)
    first_s = perf_counter() - opened_s
    samples += sum(batches)
    return Epoch(samples, cpu_s() - started_cpu_s, perf_counter() - started_s, first_s)


def floor_cpu_s(in_memory: list[Packed], count: int, size_hw: tuple[int, int]) -> float:
    """CPU time of decoding `count` samples in this thread, and nothing else."""
    started_s = cpu_s()
    for number in range(count):
        decode(in_memory[number % len(in_memory)], size_hw)
    return cpu_s() - started_s


def webdataset(given: Given) -> Iterator[int]:
    """WebDataset over `pipe:curl`, its own advice for web servers."""
    import webdataset as wds

    urls = [f"pipe:curl -s -f '{url}'" for url in given["shards"]["presigned"]]
    return _webdataset(wds.WebDataset(urls, shardshuffle=False), tuple(given["size_hw"]))


def _webdataset(dataset: Any, size_hw: tuple[int, int]) -> Iterator[int]:
    for sample in dataset:
        suffix = "qoi" if "img.qoi" in sample else "jpg"
        decode(Packed(sample[f"img.{suffix}"], suffix, sample["lbl.zst"]), size_hw)
        yield 1


def smart_open_tarfile(given: Given) -> Iterator[int]:
    """smart_open's streams and the standard library's tar reader."""
    import boto3

    return _smart_open(boto3.client("s3"), given["shards"]["s3"], tuple(given["size_hw"]))


def _smart_open(client: Any, uris: list[str], size_hw: tuple[int, int]) -> Iterator[int]:
    import smart_open

    for uri in uris:
        with (
            smart_open.open(uri, "rb", transport_params={"client": client}) as stream,
            tarfile.open(fileobj=stream, mode="r|") as shard,
        ):
            image, suffix = b"", ""
            for member in shard:
                file = shard.extractfile(member)
                data = file.read() if file else b""
                if member.name.endswith(".lbl.zst"):
                    decode(Packed(image, suffix, data), size_hw)
                    yield 1
                else:
                    image, suffix = data, member.name.rpartition(".")[2]


def mosaicml_streaming(given: Given) -> Iterator[int]:
    """MDS shards of the same bytes; the library's default settings, without a shuffle."""
    import streaming

    dataset = streaming.StreamingDataset(
        remote=given["converted"]["mosaicml-streaming"],
        local=given["cache"],
        batch_size=1,
        shuffle=False,
    )
    return _columns(dataset, given)


def litdata(given: Given) -> Iterator[int]:
    """litdata's chunks of the same bytes. 0.2.76 makes its obstore client without `allow_http`, so
    that http:// endpoints fail; the option is put in here."""
    import litdata as package
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    options = {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "region_name": os.environ["AWS_DEFAULT_REGION"],
    }
    dataset = package.StreamingDataset(
        given["converted"]["litdata"], cache_dir=given["cache"], storage_options=options
    )
    return _columns(dataset, given)


def _columns(dataset: Any, given: Given) -> Iterator[int]:
    size_hw, suffix = tuple(given["size_hw"]), given["suffix"]
    for sample in dataset:
        decode(Packed(bytes(sample["image"]), suffix, bytes(sample["label"])), size_hw)
        yield 1


def dataloader(given: Given) -> Iterator[int]:
    """torch's DataLoader with two worker processes over the shards on disk, uint8 tensors."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(Decoded(Path(given["packed"]), tuple(given["size_hw"])), num_workers=2)  # type: ignore[arg-type]
    return (len(images) for images, _ in loader)


class Decoded:
    """Map-style: number -> image and label as tensors."""

    def __init__(self, folder: Path, size_hw: tuple[int, int]) -> None:
        self.samples, self.size_hw = PackedFolder(folder), size_hw

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        import torch

        image, ids = decode(self.samples[number], self.size_hw)
        return torch.from_numpy(image), torch.from_numpy(ids.copy())


READERS: dict[str, Reader] = {
    "webdataset": webdataset,
    "litdata": litdata,
    "mosaicml-streaming": mosaicml_streaming,
    "smart_open + tarfile": smart_open_tarfile,
    "DataLoader, 2 workers": dataloader,
}


def write_mds(samples: PackedFolder, out: Path) -> None:
    """The samples as MDS shards of 64 MB."""
    import streaming

    columns = {"image": "bytes", "label": "bytes"}
    with streaming.MDSWriter(out=str(out), columns=columns, size_limit=64_000_000) as writer:
        for number in range(len(samples)):
            writer.write({"image": samples[number].image, "label": samples[number].label})


def write_litdata(samples: PackedFolder, out: Path) -> None:
    """The samples as litdata's chunks of 64 MB."""
    from litdata.streaming.cache import Cache

    out.mkdir(parents=True)
    cache = Cache(str(out), chunk_bytes=64_000_000)
    for number in range(len(samples)):
        cache[number] = {"image": samples[number].image, "label": samples[number].label}
    cache.done()
    cache.merge()


WRITERS: dict[str, Callable[[PackedFolder, Path], None]] = {
    "mosaicml-streaming": write_mds,
    "litdata": write_litdata,
}


def main() -> None:
    """`read` prints the measurement as JSON in its last line; `convert` writes a peer's format."""
    command, given = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    if command == "convert":
        WRITERS[given["reader"]](PackedFolder(Path(given["packed"])), Path(given["out"]))
    else:
        print(json.dumps(measure(READERS[given["reader"]], given)))


if __name__ == "__main__":
    main()
