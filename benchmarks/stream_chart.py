"""What benchmarks/stream.py has measured, as tables (Markdown) and as a chart (SVG)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from benchmarks.methods import write_block

Results = Mapping[str, Any]
PAGE, PICTURE = "performance.md", "stream.svg"
OURS_COLD, OURS_WARM = "ours, cold", "ours, warm"
RIVALS = {
    "webdataset": 1.10,
    "mosaicml-streaming": 1.15,
    "smart_open + tarfile": 1.05,
    "litdata": 0.98,
}
"""How many times as much of the floor's speed ours is to reach, cold both."""
FLOOR_GOALS = {OURS_COLD: 0.92, OURS_WARM: 0.97}
PAIR_GOAL, THREADS_GOAL = 15.0, 1.8

INK, MUTED, LINE, PANEL = "#0f172a", "#475569", "#e2e8f0", "#f8fafc"
OURS_FILL, PEER_FILL = "#2563eb", "#94a3b8"
WIDTH, ROW, NAME_WIDTH, BAR_WIDTH = 900, 24, 190, 560
TITLES = {
    "exact": "QOI, lossless (encoding exact)",
    "small": "JPEG 95, 4:4:4 (encoding small)",
}


class Goal(NamedTuple):
    """A ratio that was measured, and what it is to reach; None where it could not be measured."""

    name: str
    value: float | None
    least: float

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.value is None:
            return "not measured"
        return "reached" if self.value >= self.least else "missed"


def goals(results: Results) -> list[Goal]:
    """Every goal, in both encodings where both were measured."""
    found = []
    for encoding, readers in results["readers"].items():
        for name, least in FLOOR_GOALS.items():
            found.append(Goal(f"{encoding}: {name} / floor", readers[name].get("ratio"), least))
        for name, least in RIVALS.items():
            ours, peer = (readers[one].get("ratio") for one in (OURS_COLD, name))
            value = ours / peer if ours and peer else None
            found.append(Goal(f"{encoding}: {OURS_COLD} / {name}", value, least))
        speed_up = results["threads"][encoding].get("stream")
        found.append(Goal(f"{encoding}: threads 1 -> 2, wall time", speed_up, THREADS_GOAL))
    found.append(Goal("papers' path / ours, a pair", pair_ratio(results["pairs"]), PAIR_GOAL))
    return found


def pair_ratio(pairs: Mapping[str, float]) -> float | None:
    """The papers' time a source + target pair over ours."""
    return None if "error" in pairs else pairs["papers_ms"] / pairs["ours_ms"]


def tables(results: Results) -> dict[str, str]:
    """Name of a block of docs/performance.md -> its table."""
    return {
        "stream_goals": goal_table(results),
        "stream_readers": reader_table(results),
        "stream_rest": rest_table(results),
    }


def goal_table(results: Results) -> str:
    """What was asked and what was measured."""
    rows = [
        [one.name, f"{one.least:.2f}", "" if one.value is None else f"{one.value:.2f}", one.verdict]
        for one in goals(results)
    ]
    return markdown(["ratio", "goal", "measured", ""], rows)


def reader_table(results: Results) -> str:
    """Ratio to the floor, CPU time and time to the first batch of every reader, or why not."""
    rows = []
    for encoding, readers in results["readers"].items():
        for name, one in by_ratio(readers):
            if "error" in one:
                rows.append([encoding, name, "", "", "", f"not run: {one['error']}"])
                continue
            spread = f"{min(one['ratios']):.2f} to {max(one['ratios']):.2f}"
            cells = [f"{one['ratio']:.2f}", spread, f"{one['cpu_us'] / 1e3:.2f}"]
            rows.append([encoding, name, *cells, f"{one['first_batch_s']:.2f}"])
    head = ["encoding", "reader", "floor / reader", "rounds", "CPU ms a sample", "first batch (s)"]
    return markdown(head, rows)


def by_ratio(readers: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Best first; those that did not run last."""
    return sorted(readers.items(), key=lambda item: -item[1].get("ratio", 0))


def rest_table(results: Results) -> str:
    """Data, pairs, threads, memory, and how loaded the machine was."""
    pairs, rows = results["pairs"], []
    for encoding, one in results["data"].items():
        text = f"{one['samples']} samples in {one['shards']} shards, "
        rows.append([f"{encoding}: data", f"{text}{one['bytes_per_pixel']:.2f} bytes a pixel"])
    if "error" in pairs:
        rows.append(["CPU time a source + target pair", f"not run: {pairs['error']}"])
    else:
        text = f"papers {pairs['papers_ms']:.1f} ms, ours {pairs['ours_ms']:.1f} ms"
        rows.append(["CPU time a source + target pair", text])
    for encoding, one in results["threads"].items():
        text = f"not run: {one.get('error')}"
        if "error" not in one:
            text = f"decoding {one['decode']:.2f}, stream {one['stream']:.2f}; others took "
            text += f"{100 * one['others_share']:.0f} % of the machine"
        rows.append([f"{encoding}: wall time of 1 thread / 2 threads", text])
    for name, one in results["memory"].items():
        text = f"not run: {one.get('error')}"
        if "error" not in one:
            text = f"{one['growth_mb']:+.0f} MB after the first tenth of {one['samples']} samples, "
            text += f"{one['peak_mb']:.0f} MB at most"
        rows.append([f"memory, cache in which {name}", text])
    rows.append(["load average at the start", f"{results['load_average'][0]:.1f}"])
    rows.append(["cores", str(results["cpus"])])
    return markdown(["", ""], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table, its first column to the left."""
    lines = [head, [":--"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def chart(results_path: Path, docs: Path) -> None:
    """The picture, and the tables where the page has their places (else to the terminal)."""
    results = json.loads(results_path.read_text())
    (docs / "pictures" / PICTURE).write_text(picture(results))
    page = docs / PAGE
    for name, text in tables(results).items():
        if page.exists() and f"<!-- {name} -->\n" in page.read_text():
            write_block(page, name, text)
        else:
            print(text)


def picture(results: Results) -> str:
    """Bars of floor / reader, one panel a encoding, as SVG; 1 is bare decoding."""
    panels, top = [], 8
    for encoding, readers in results["readers"].items():
        panels.append(panel(TITLES[encoding], by_ratio(readers), top))
        top += panel_height(len(readers)) + 12
    height = top + 24
    ratio = pair_ratio(results["pairs"])
    note = (
        "CPU time of bare decoding over that of fetching, reading and decoding; longer is better."
    )
    if ratio:
        note += f" A source + target pair costs the papers' loaders {ratio:.0f} times ours."
    body = "\n".join(panels) + "\n" + text(8, top + 10, note, 12)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="Helvetica, Arial, sans-serif" '
        f'role="img" aria-label="{escape(note)}">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def panel_height(bars: int) -> int:
    """Of a panel with that many bars."""
    return 44 + ROW * bars


def panel(title: str, readers: list[tuple[str, Any]], top: int) -> str:
    """A title, a bar a reader, and the line of bare decoding."""
    height = panel_height(len(readers))
    frame = f'rx="8" fill="{PANEL}" stroke="{LINE}"'
    parts = [f'<rect x="4" y="{top}" width="{WIDTH - 8}" height="{height}" {frame}/>']
    parts.append(text(16, top + 22, title, 14, INK, 'font-weight="bold"'))
    first = top + 34
    for place, (name, one) in enumerate(readers):
        parts.append(bar(name, one, first + ROW * place))
    x = NAME_WIDTH + BAR_WIDTH
    parts.append(
        f'<path d="M{x} {first - 4}V{first + ROW * len(readers)}" fill="none" '
        f'stroke="{MUTED}" stroke-width="1.2" stroke-dasharray="4 3"/>'
    )
    parts.append(text(x, top + 22, "bare decoding", 11, MUTED, 'text-anchor="middle"'))
    return "\n".join(parts)


def bar(name: str, one: Mapping[str, Any], top: int) -> str:
    """A reader's name, bar and ratio, or why there is none."""
    label = text(NAME_WIDTH - 8, top + 14, name, 12, INK, 'text-anchor="end"')
    if "error" in one:
        return label + text(NAME_WIDTH + 4, top + 14, f"not run: {one['error'][:80]}", 11)
    fill, width = (OURS_FILL if name.startswith("ours") else PEER_FILL), BAR_WIDTH * one["ratio"]
    shape = f'x="{NAME_WIDTH}" y="{top + 3}" width="{width:.1f}" height="{ROW - 9}"'
    value = text(NAME_WIDTH + width + 6, top + 14, f"{one['ratio']:.2f}", 12, INK)
    return f'{label}<rect {shape} rx="2.5" fill="{fill}"/>{value}'


def text(x: float, y: float, content: str, size: float, fill: str = MUTED, more: str = "") -> str:
    """An SVG text."""
    start = f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{fill}"'
    return (
        f"{start} {more}>{escape(content)}</text>" if more else f"{start}>{escape(content)}</text>"
    )
