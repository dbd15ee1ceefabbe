"""What `segadapt gap` finds between pairs of packed datasets: the table of docs/gap.md.

    python benchmarks/gap.py camvid=packed/camvid town=packed/town --pairs camvid,camvid:test \\
        town,camvid --size-hw 128 176

Each pair is source,target, either with a split behind a colon. Nothing of a label is used but that
there are some. The encoder is EfficientNet-Lite0 with the weights of its package.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/gap.py`

from adapt.gap.diagnose import Gap, diagnose  # noqa: E402 - needs the path above
from adapt.places import find_place  # noqa: E402
from adapt.spec.job_spec import JobSpec  # noqa: E402
from adapt.spec.loading import parse_spec  # noqa: E402

HEAD = (
    "| pair | colour | lightness | sharpness | texture | detail | spectra | low | A-distance | "
    "kernel | halves |"
)


def job_of(uris: dict[str, str], pair: str, size_hw: list[int]) -> JobSpec:
    """The spec of a pair, `source,target`."""
    sides = [side.partition(":") for side in pair.split(",")]
    domains = [
        {"dataset": name, "uri": uris[name], "split": split or "train", "size_hw": size_hw}
        for name, _, split in sides
    ]
    ids = {name: list(range(128)) for name in uris}
    more = {name: list(range(128, 255)) for name in uris}
    classes = [
        {"name": "low", "colour": [255, 255, 255], "ids": ids},
        {"name": "high", "colour": [0, 0, 0], "ids": more},
    ]
    values = {
        "classes": classes,
        "source": domains[0],
        "target": domains[1],
        "model": {"architecture": "bisenet", "encoder": "tf_efficientnet_lite0"},
        "method": {"name": "dacs"},
        "checkpoint": {"uri": "runs"},
    }
    return parse_spec(values, "gap")


def line(pair: str, gap: Gap) -> str:
    """A row of the table; the distances are of the deepest stage."""
    images, deepest = gap.images, gap.before.layers[-1]
    cells = [
        f"{images.colour:.1f}",
        f"{images.lightness:.1f}",
        f"{images.sharpness:.2f}",
        f"{images.texture:.3f}",
        f"{images.detail:.3f}",
        f"{images.spectrum:.2f}",
        f"{images.low_frequencies:.0%}",
        f"{deepest.a_distance:.2f}",
        f"{deepest.kernel:.2f}",
        f"{deepest.halves[1]:.2f}",
    ]
    return f"| {pair.replace(',', ' -> ')} | {' | '.join(cells)} |"


def main() -> None:
    """Compare each pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="+", metavar="NAME=URI", help="packed datasets")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="SOURCE,TARGET")
    parser.add_argument("--size-hw", nargs=2, type=int, required=True, metavar=("H", "W"))
    parser.add_argument("--count", type=int, default=60, help="images of each domain")
    given = parser.parse_args()
    uris = dict(one.split("=", 1) for one in given.data)
    place = find_place(os.environ)
    print(HEAD)
    print("| --- |" + " ---: |" * (HEAD.count("|") - 2))
    for pair in given.pairs:
        gap = diagnose(job_of(uris, pair, given.size_hw), place, count=given.count)
        print(line(pair, gap), flush=True)


if __name__ == "__main__":
    main()
