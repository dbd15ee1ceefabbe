"""What streaming costs: client CPU time over that of the bare decoding of the same bytes, for our
stream and for other libraries' readers, from a real S3 server (SeaweedFS) on this machine.

    python -m benchmarks.stream measure            # about 10 minutes; --quick: two, rough
    python -m benchmarks.stream chart              # docs/pictures/stream.svg, docs/performance.md

Each reader runs in a process of its own, all of them in turns, over several rounds; its ratio is
the floor's least time over its own least time, both over the same number of samples in the same
process. The peers live in environments that are made on first use (--peers-env) and borrow this
one's packages where their pins allow. What could not be run is in the output with its reason.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/stream.py`

from adapt.data.packed.encodings import EncodingName  # noqa: E402 - needs the path above
from adapt.platforms.local_stack import seaweedfs  # noqa: E402
from benchmarks import stream_data as data  # noqa: E402
from benchmarks.stream_bench import BUCKET, Bench  # noqa: E402
from benchmarks.stream_chart import chart, tables  # noqa: E402
from benchmarks.stream_peers_env import PEERS, ensure  # noqa: E402

DOCS = ROOT / "docs"
RESULTS = DOCS / "results" / "stream.json"
MAIN = [sys.executable, "-m", "benchmarks.stream_ours"]
OURS = {
    "ours, cold": {"batch_size": 1, "cold": True},
    "ours, cold, batch 2": {"batch_size": 2, "cold": True},
    "ours, warm": {"batch_size": 1, "cold": False},
    "ours, warm, batch 2": {"batch_size": 2, "cold": False},
}
"""Cold: every shard from S3. Warm: from an earlier process's cache, verified on first opening."""
PAIRS, PAIR_RAW_HWS = 12, ((1052, 1914), (1024, 2048))


def measure(given: argparse.Namespace) -> None:
    """Everything; the results go into a JSON file, the tables to the terminal."""
    given.out.mkdir(parents=True, exist_ok=True)
    started_s = perf_counter()
    with seaweedfs(given.out.resolve() / "s3") as server:
        server.make_bucket(BUCKET)
        bench = Bench(given, server)
        sources: dict[str, Any] = {
            encoding: make_source(bench, encoding, "main") for encoding in data.MEASURED
        }
        for encoding, source in sources.items():
            source["warm_up"] = make_source(bench, encoding, "warm_up")
        peers = {name: ensure(given.peers_env.resolve(), peer) for name, peer in PEERS.items()}
        convert_all(bench, sources, peers)
        print(f"prepared in {perf_counter() - started_s:.0f} s", flush=True)
        results: dict[str, Any] = {
            "load_average": list(os.getloadavg()),
            "cpus": os.cpu_count(),
            "versions": versions(),
            "data": {encoding: source["described"] for encoding, source in sources.items()},
            "readers": read_rounds(bench, sources, peers),
            "pairs": measure_pairs(bench),
            "threads": {p: single(bench, "threads", source) for p, source in sources.items()},
            "memory": measure_memory(bench, sources["exact"]),
        }
    results["minutes"] = (perf_counter() - started_s) / 60
    target = given.out / "stream.json" if given.quick else RESULTS
    target.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(tables(results).values()))


def versions() -> dict[str, str]:
    """Of what was measured: the peers as they are pinned, and this environment's own."""
    pinned = [package.split("==") for peer in PEERS.values() for package in peer.packages]
    own = ("torch", "numpy", "qoi", "simplejpeg", "zstandard", "boto3", "smart-open", "Pillow")
    return dict(pinned) | {name: version_of(name) for name in own}


def make_source(bench: Bench, encoding: EncodingName, kind: str) -> dict[str, Any]:
    """Raw pictures, packed and uploaded; what readers are given of them."""
    given = bench.given
    count = given.samples if kind == "main" else data.WARM_UP_SAMPLES
    raw = bench.out / bench.named(f"raw_{kind}_{count}")
    data.write_raw(raw, data.pictures(given.images, data.PACKED_HW, 0), count)
    ids = "own_ids" if given.own_ids else "train_ids"
    folder = bench.out / bench.named(f"{kind}_{count}") / ids / encoding
    manifest = data.packed(raw, folder, encoding, own_ids=given.own_ids)
    uri = bench.upload(folder)
    start = f"{folder.relative_to(bench.out)}/train"
    keys = [f"{start}/{shard.name}" for shard in manifest.shards]
    client = bench.server.client()
    signed = [
        client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": key}) for key in keys
    ]
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    pixels = count * data.PACKED_HW[0] * data.PACKED_HW[1]
    return {
        "packed": str(folder / "train"),
        "size_hw": data.PACKED_HW,
        "suffix": "qoi" if encoding == "exact" else "jpg",
        "uri": uri,
        "size_bytes": size_bytes,
        "shards": {"presigned": signed, "s3": [f"s3://{BUCKET}/{key}" for key in keys]},
        "converted": {},
        "described": {
            "samples": count,
            "shards": len(keys),
            "bytes_per_pixel": size_bytes / pixels,
        },
    }


def convert_all(bench: Bench, sources: Mapping[str, Any], peers: Mapping[str, Any]) -> None:
    """The peers' own formats, made of the same bytes by their own writers, in the bucket too."""
    for name, peer in PEERS.items():
        if not peer.converts or "error" in peers[name]:
            continue
        for source in (one for each in sources.values() for one in (each, each["warm_up"])):
            folder = Path(source["packed"]).parent / peer.slug
            given = {"reader": name, "packed": source["packed"], "out": str(folder)}
            if not folder.exists():
                failed = bench.run(peers[name]["command"], "convert", given)
                if "error" in failed:
                    peers[name]["error"] = f"convert: {failed['error']}"
                    break
            source["converted"][name] = bench.upload(folder)


def read_rounds(
    bench: Bench, sources: Mapping[str, Any], peers: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """encoding -> reader -> what `summary` makes of its rounds; readers take turns."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for encoding, source in sources.items():  # fills the cache that the warm ones open
        one_epoch(bench, MAIN, source, {"batch_size": 1, "cold": False}, encoding)
    for number in range(bench.given.rounds):
        for encoding, source in sources.items():
            rounds = found.setdefault(encoding, {})
            for name, settings in OURS.items():
                measured = one_epoch(bench, MAIN, source, settings, encoding)
                rounds.setdefault(name, []).append(measured)
            for name, peer in PEERS.items():
                measured = peers[name]
                if "error" not in measured:
                    settings = {"reader": name, "cold": peer.cold}
                    measured = one_epoch(bench, peers[name]["command"], source, settings, encoding)
                rounds.setdefault(name, []).append(measured)
            print(f"round {number + 1} of {bench.given.rounds}: {encoding}", flush=True)
    return {
        encoding: {name: summary(rounds) for name, rounds in readers.items()}
        for encoding, readers in found.items()
    }


def one_epoch(
    bench: Bench,
    command: list[str],
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    encoding: str,
) -> dict[str, Any]:
    """One reader's epoch in a process of its own."""
    with bench.folder("cold") as cold, bench.folder("warm_up_cache") as warm_up:
        cache = cold if settings["cold"] else str(bench.out / "cache" / encoding)
        given = {**source, **settings, "cache": cache}
        given["warm_up"] = {**source["warm_up"], **settings, "cache": warm_up}
        return bench.run(command, "read", given)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The least CPU times of the rounds and their ratio, or the first error."""
    for one in rounds:
        if "error" in one:
            return {"error": one["error"]}
    cpu_us, floor_us = (min(one[name] for one in rounds) for name in ("cpu_us", "floor_us"))
    least = {name: min(one[name] for one in rounds) for name in ("wall_us", "first_batch_s")}
    ratios = [one["floor_us"] / one["cpu_us"] for one in rounds]
    return (
        {"ratio": floor_us / cpu_us, "cpu_us": cpu_us, "floor_us": floor_us}
        | least
        | {"ratios": ratios}
    )


def single(bench: Bench, name: str, source: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One of the measurements of our stream alone, with the warm cache."""
    encoding = Path(source["uri"]).name
    cache = str(bench.out / "cache" / encoding)
    return bench.run(MAIN, name, {**source, "cache": cache, **more})


def measure_memory(bench: Bench, source: Mapping[str, Any]) -> dict[str, Any]:
    """With a cache for everything, and with one for a quarter of the data."""
    found = {}
    for name, capacity_bytes in (("all fits", None), ("a quarter fits", source["size_bytes"] // 4)):
        with bench.folder("memory") as cache:
            given = {**source, "cache": cache, "capacity_bytes": capacity_bytes}
            found[name] = bench.run(MAIN, "memory", given)
    return found


def measure_pairs(bench: Bench) -> dict[str, Any]:
    """Our time and the papers' a source + target pair, on the same pictures."""
    raws, uris = [], []
    for kind, raw_hw, size_hw in zip(
        ("source", "target"), PAIR_RAW_HWS, ((720, 1280), (512, 1024)), strict=True
    ):
        raw = bench.out / bench.named(f"raw_{kind}")
        scenes = data.pictures(bench.given.images, raw_hw, 10_000, data.OWNERS_NOISE)
        data.write_raw(raw, scenes, PAIRS, png_level=6)
        folder = bench.out / bench.named(f"pair_{kind}") / str(bench.given.own_ids)
        data.packed(raw, folder, "exact", size_hw, own_ids=bench.given.own_ids)
        raws.append(str(raw))
        uris.append(bench.upload(folder))
    given = {"raws": raws, "uris": uris, "pairs": PAIRS, "cache": str(bench.out / "cache")}
    return bench.run(MAIN, "pairs", given)


COMMANDS = {"measure": measure, "chart": lambda _: chart(RESULTS, DOCS)}


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--quick", action="store_true", help="few samples, one round, no docs")
    parser.add_argument("--samples", type=int, help="of each encoding (default: 240; quick: 90)")
    parser.add_argument("--rounds", type=int, help="default: 3; quick: 1")
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of street images to use, at least as large as 1280 x 720 lest they be smooth",
    )
    parser.add_argument("--out", type=Path, default=Path("bench") / "stream")
    parser.add_argument("--peers-env", type=Path, default=Path("bench") / "stream" / "peers")
    parser.add_argument(
        "--own-ids", action="store_true", help="pack the data set's ids, to be mapped when read"
    )
    given = parser.parse_args()
    given.samples = given.samples or (90 if given.quick else 240)
    given.rounds = given.rounds or (1 if given.quick else 3)
    if given.samples % 2 or given.samples <= data.WARM_UP_SAMPLES:
        least = data.WARM_UP_SAMPLES
        parser.error(f"--samples: expected an even number over {least}, got {given.samples}")
    COMMANDS[given.command](given)


if __name__ == "__main__":
    main()
