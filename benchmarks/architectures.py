"""Measures the architectures: what each costs, and what it reaches on one small, equal budget.

    python benchmarks/architectures.py train            # AirSim -> CamVid under AdvEnt, one seed
    python benchmarks/architectures.py cost             # parameters, GMACs, step and latency ratios
    python benchmarks/architectures.py table            # both, as the table of docs/results.md

`train` runs every spec of job_specs/airsim_to_camvid_architectures as `benchmarks/methods.py` does:
packed, trained by `run`, chosen on `val`, fetched by `download-best`, scored on `test`. `cost`
times the same networks in one process and in turns, so that a busy machine slows each of them
alike: the median over rounds of the ratio to DeepLabV2. All write into docs/.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/architectures.py`

import torch  # noqa: E402 - needs the path above

from adapt.batch import Batch  # noqa: E402
from adapt.engine.engine import Engine  # noqa: E402
from adapt.methods import build_method  # noqa: E402
from adapt.models import ARCHITECTURES, build_segmenter  # noqa: E402
from adapt.models.costs import segmenter_cost  # noqa: E402
from adapt.models.segmenter import Segmenter, SegmenterConfig  # noqa: E402
from adapt.spec.loading import load_spec  # noqa: E402
from benchmarks.methods import Task, open_task, picture, run_all, write_block  # noqa: E402
from benchmarks.methods_data import pack_airsim_to_camvid  # noqa: E402
from benchmarks.methods_table import Row  # noqa: E402

TASK, BASE = "airsim_to_camvid_architectures", "deeplab_v2"
SPECS, DOCS = ROOT / "job_specs" / TASK, ROOT / "docs"
TRAINED, MEASURED = DOCS / "results" / f"{TASK}.json", DOCS / "results" / "architecture_costs.json"
SMALL_HW, LARGE_HW = (128, 256), (256, 512)
PAPERS_CLASSES = 19


class Cost(NamedTuple):
    """Parameters, multiply-accumulates on one image, and its latency over DeepLabV2's."""

    parameters: int
    macs: int
    latency: float


class Measured(NamedTuple):
    """What an architecture costs as its job spec has it (128 x 256) and as its paper (256 x 512).

    `step`, on two images of each domain, and latencies are ratios within a round, on one thread.
    """

    small: Cost
    step: float
    paper: Cost


def train(given: argparse.Namespace) -> None:
    """Every spec through the command line; rows and a picture go into docs/."""
    with open_task(TASK, given.out, given.sets) as task:
        pack_airsim_to_camvid(task, given.raw.resolve())
        run_all(task, given.architectures, given.seeds, given.jobs, save_row)
        draw(task, given.seeds[0])


def save_row(row: Row) -> None:
    """Into the file of earlier runs' rows, in its place where it was run again."""
    known = {(one.name, one.seed): one for one in [*read_rows(), row]}
    ordered = [known[key] for key in sorted(known)]
    TRAINED.write_text(json.dumps([row._asdict() for row in ordered], indent=1) + "\n")


def draw(task: Task, seed: int) -> None:
    """One test image as every architecture sees it; needs the files of all, in this folder."""
    trained = [name for name in ARCHITECTURES if (task.out / f"{name}-{seed}").is_dir()]
    if trained != list(ARCHITECTURES):
        print(f"{len(trained)} of {len(ARCHITECTURES)} are trained in {task.out}: no picture")
        return
    picture(task, trained, seed).save(DOCS / "pictures" / f"{TASK}.png", optimize=True)


def read_rows() -> list[Row]:
    """The rows that earlier runs left."""
    return [Row(**row) for row in json.loads(TRAINED.read_text())] if TRAINED.exists() else []


def cost(given: argparse.Namespace) -> None:
    """Parameters, multiply-accumulates and ratios of times; a table goes into a page of docs/.

    Architectures that are not asked for keep what was measured before.
    """
    names = list(dict.fromkeys([BASE, *given.architectures]))
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    small = costs_and_latencies(small_network, names, SMALL_HW, given.rounds)
    paper = costs_and_latencies(paper_network, names, LARGE_HW, given.rounds)
    engines = {name: engine_of(name) for name in names}
    images, labels = torch.randn(2, 3, *SMALL_HW), torch.randint(5, (2, *SMALL_HW))
    source, target = Batch(images, labels, ("s",) * 2), Batch(images.flip(-1), None, ("t",) * 2)
    steps = ratios({n: partial(e.step, source, target) for n, e in engines.items()}, given.rounds)
    found = {name: Measured(small[name], steps[name], paper[name]) for name in names}
    known = {**read_costs(), **found}
    measured = {name: known[name] for name in ARCHITECTURES if name in known}
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    write_block(DOCS / "architectures.md", "architecture_costs", cost_table(measured))
    print(cost_table(measured))


def read_costs() -> dict[str, Measured]:
    """What earlier runs measured."""
    return {
        name: Measured(Cost(*small), step, Cost(*paper))
        for name, (small, step, paper) in json.loads(MEASURED.read_text()).items()
    }


def costs_and_latencies(
    build: Callable[[str], Segmenter], names: list[str], size_hw: tuple[int, int], rounds: int
) -> dict[str, Cost]:
    """By name: what each network costs on one image of this size."""
    with torch.device("meta"):
        costs = {name: segmenter_cost(build(name), size_hw) for name in names}
    networks = {name: build(name).eval() for name in names}
    images = torch.randn(1, 3, *size_hw)
    with torch.inference_mode():
        latencies = ratios({n: partial(one, images) for n, one in networks.items()}, rounds)
    return {n: Cost(one.parameters, one.macs, latencies[n]) for n, one in costs.items()}


def small_network(name: str) -> Segmenter:
    """As the job spec has it, with random weights."""
    job = load_spec(SPECS / f"{name}.yaml")
    return build_segmenter(job.model.model_copy(update={"weights": "none"}), len(job.classes.names))


def paper_network(name: str) -> Segmenter:
    """By default, as the paper has it, with random weights."""
    config: SegmenterConfig = ARCHITECTURES[name].Config(architecture=name, weights="none")
    return build_segmenter(config, PAPERS_CLASSES)


def engine_of(name: str) -> Engine:
    """Method and optimizers as the job spec has them, on the CPU."""
    job, network = load_spec(SPECS / f"{name}.yaml"), small_network(name)
    return Engine(build_method(job.method, network), job.train, job.optim, torch.device("cpu"))


def ratios(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median over rounds of each run's time over the base's, all in turns; a first round warms."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        times_s = {name: seconds(run) for name, run in runs.items()}
        for name, taken_s in times_s.items() if number else ():
            found[name].append(taken_s / times_s[BASE])
    return {name: statistics.median(values) for name, values in found.items()}


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started_s = perf_counter()
    run()
    return perf_counter() - started_s


def cost_table(measured: Mapping[str, Measured]) -> str:
    """The default networks, as Markdown, cheapest first."""
    head = ["architecture", "default encoder", "parameters (M)", "GMACs", "latency / DeepLabV2's"]
    lines = [" | ".join(head), " | ".join([":--", ":--", "--:", "--:", "--:"])]
    for name, one in sorted(measured.items(), key=lambda pair: pair[1].paper.latency):
        encoder = ARCHITECTURES[name].Config.model_fields["encoder"].default
        parameters, macs, latency = one.paper
        cells = [f"`{name}`", f"`{encoder}`", f"{parameters / 1e6:.1f}", f"{macs / 1e9:.1f}"]
        lines.append(" | ".join([*cells, f"{latency:.2f}"]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def table(given: argparse.Namespace) -> None:  # noqa: ARG001 - every command gets them
    """What both commands left in docs/results/, as one table in docs/results.md."""
    text = result_table(read_rows(), read_costs())
    write_block(DOCS / "results.md", TASK, text)
    print(text)


def result_table(rows: list[Row], measured: Mapping[str, Measured]) -> str:
    """Cost and score of each architecture, as Markdown, best first; means over seeds."""
    classes = list(rows[0].test["iou"])
    columns = ["parameters (M)", "GMACs", "step / DeepLabV2's", "mIoU", *classes]
    lines = [" | ".join(["architecture", *columns]), " | ".join([":--", *["--:"] * len(columns)])]
    mine = {name: [row for row in rows if row.name == name] for name in {row.name for row in rows}}
    miou = {name: statistics.mean(row.test["miou"] for row in own) for name, own in mine.items()}
    for name in sorted(mine, key=lambda one: -miou[one]):
        one = measured[name]
        cells = [f"`{name}`", f"{one.small.parameters / 1e6:.1f}", f"{one.small.macs / 1e9:.2f}"]
        cells += [f"{one.step:.1f}", f"{100 * miou[name]:.1f}"]
        for label in classes:
            mean = statistics.mean(row.test["iou"][label] or 0 for row in mine[name])
            cells.append(f"{100 * mean:.1f}")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


COMMANDS = {"train": train, "cost": cost, "table": table}


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--raw", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=2, help="jobs side by side")
    parser.add_argument("--rounds", type=int, default=5, help="of cost")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    given = parser.parse_args()
    COMMANDS[given.command](given)


if __name__ == "__main__":
    main()
