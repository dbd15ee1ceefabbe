"""Draws the pictures of the pages: `python docs/pictures/draw.py` writes packed_split.svg,
resume.svg, platforms.svg, check.svg and init.svg beside this file.
"""

import io
import re
from html import escape
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
INK, GREY = "#0f172a", "#64748b"
YELLOW, BLUE, GREEN = ("#fef9c3", "#ca8a04"), ("#dbeafe", "#2563eb"), ("#dcfce7", "#16a34a")
SAVE, STOP = "#2563eb", "#dc2626"
PURPLE, RED, WHITE = ("#f3e8ff", "#9333ea"), ("#fee2e2", "#dc2626"), ("#ffffff", "#475569")

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" \
font-family="Helvetica, Arial, sans-serif" role="img" aria-label="{label}">
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0L10 5L0 10z" fill="#475569"/></marker></defs>
<rect width="{w}" height="{h}" fill="#ffffff"/>
"""


class Drawing:
    """An SVG that grows from top to bottom; lengths in px."""

    def __init__(self, width: int, height: int, label: str) -> None:
        self._parts = [HEAD.format(w=width, h=height, label=escape(label))]

    def box(self, x: int, y: int, w: int, h: int, colours: tuple[str, str], *lines: str) -> None:
        """A rounded box; the first line is its name."""
        fill, stroke = colours
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="1.4"/>\n'
        )
        top = y + h / 2 - 8.5 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.text(x + w / 2, top + 17 * number, line, bold=number == 0, middle=True)

    def text(
        self,
        x: float,
        y: float,
        line: str,
        *,
        bold: bool = False,
        middle: bool = False,
        colour: str = "",
    ) -> None:
        """One line of text, from `x` or around it."""
        size, weight = (13, ' font-weight="bold"') if bold else (12, "")
        anchor = ' text-anchor="middle"' if middle else ""
        fill = colour or (INK if bold else "#334155")
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight}{anchor} fill="{fill}">'
            f"{escape(line)}</text>\n"
        )

    def line(
        self, path: str, *, arrow: bool = True, dashed: bool = False, colour: str = "#475569"
    ) -> None:
        """A path, by default with a head."""
        head = ' marker-end="url(#head)"' if arrow else ""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{head}{dash}/>\n'
        )

    def svg(self) -> str:
        """The whole file."""
        return "".join([*self._parts, "</svg>\n"])


def packed_split() -> str:
    """Raw folders -> shards, index, manifest, in the order of writing."""
    draw = Drawing(900, 300, "pack writes shards first, then the index, then the manifest")
    draw.box(20, 110, 150, 76, YELLOW, "raw folders", "images/*.png", "labels/*.png")
    draw.line("M170 148H246")
    draw.text(208, 138, "pack", middle=True, colour=GREY)
    draw.text(258, 30, "s3://segadapt/gta5/train/", bold=True)
    for number, y in enumerate((46, 110, 174)):
        name = f"shard-{number:05d}.tar"
        draw.box(250, y, 250, 54, BLUE, name, "KEY.img.qoi  KEY.lbl.zst  ...")
    draw.text(375, 250, "tar files, each downloaded whole", middle=True, colour=GREY)
    draw.line("M500 137H556")
    draw.box(560, 94, 150, 88, GREEN, "index.npz", "offset, size, checksum", "pixels of each id")
    draw.line("M710 137H746")
    draw.box(750, 94, 136, 88, PURPLE, "manifest.json", "sha256 and size", "of every file")
    for x, line in ((375, "1. shards"), (635, "2. index"), (818, "3. manifest, last")):
        draw.text(x, 280, line, bold=True, middle=True)
    return draw.svg()


def resume() -> str:
    """A stop and a kill on a time line of steps."""
    draw = Drawing(
        900, 350, "A stop loses no step; after a kill the steps since a save are repeated"
    )
    draw.text(20, 26, "SIGTERM: saved, exit code 75, resumed at the same step", bold=True)
    draw.box(60, 76, 170, 40, GREEN, "steps 1 to 500")
    draw.box(230, 76, 140, 40, GREEN, "501 to 730")
    draw.box(500, 76, 360, 40, GREEN, "steps 731 to ...")
    draw.text(230, 134, "save 500", middle=True, colour=SAVE)
    draw.text(370, 134, "save 730", middle=True, colour=SAVE)
    draw.line("M370 52V72", colour=STOP)
    draw.text(370, 46, "SIGTERM", middle=True, colour=STOP)
    draw.line("M372 96H496", dashed=True)
    draw.text(435, 90, "same command", middle=True, colour=GREY)
    draw.text(20, 190, "kill -9: resumed from the newest save, later steps repeated", bold=True)
    draw.box(60, 232, 170, 40, GREEN, "steps 731 to 1000")
    draw.box(230, 232, 140, 40, RED, "1001 to 1210")
    draw.box(500, 232, 140, 40, RED, "1001 to 1210")
    draw.box(640, 232, 220, 40, GREEN, "steps 1211 to ...")
    draw.text(230, 290, "save 1000", middle=True, colour=SAVE)
    draw.line("M370 210V228", colour=STOP)
    draw.text(370, 204, "kill", middle=True, colour=STOP)
    draw.line("M372 252H496", dashed=True)
    draw.text(435, 246, "same command", middle=True, colour=GREY)
    draw.text(570, 290, "same samples, same numbers", middle=True, colour=GREY)
    draw.line("M60 316H860", colour="#9333ea")
    draw.text(60, 336, "one MLflow run: a metric has one value a step", colour="#9333ea")
    return draw.svg()


def platforms() -> str:
    """One spec and one image; a profile decides the platform."""
    draw = Drawing(900, 340, "A spec and a profile are submitted; all platforms run one image")
    draw.box(20, 60, 140, 56, YELLOW, "job spec", "what to train")
    draw.box(20, 190, 140, 56, YELLOW, "profile", "where, on what")
    draw.line("M160 88H200V140H218")
    draw.line("M160 218H200V168H218")
    draw.box(222, 122, 140, 64, WHITE, "segadapt submit", "checks first")
    rows = ("docker", "Kubernetes", "ModelArts", "SageMaker")
    for number, name in enumerate(rows):
        y = 30 + 68 * number
        draw.line(f"M362 154H384V{y + 24}H408")
        draw.box(412, y, 130, 48, BLUE, name)
        draw.line(f"M542 {y + 24}H568V154H592")
    draw.box(596, 106, 140, 96, GREEN, "one image", "segadapt run", "place: nodes,", "ranks, grace")
    draw.line("M736 134H766V78H786")
    draw.line("M736 174H766V230H786")
    draw.box(790, 50, 96, 56, PURPLE, "MLflow", "metrics")
    draw.box(790, 202, 96, 56, PURPLE, "store", "checkpoints")
    draw.line("M666 202V306H292V190", dashed=True)
    draw.text(479, 326, "jobs, status, logs, stop, download-best", middle=True, colour=GREY)
    return draw.svg()


CHECKED = (
    ("ok", "networks", "deeplab_v2 on resnet18, advent: 16.8 M parameters", ""),
    ("ok", "source", "s3://tests/tiny/train: 22 samples of tiny", ""),
    ("ok", "checkpoint", "s3://tests/runs: written, read back and deleted", ""),
    (
        "no",
        "MLflow",
        "http://127.0.0.1:5000 is unreachable",
        "start the server, or make it reachable from the job",
    ),
    (
        "no",
        "GPU memory",
        "1.8 GB of 1.5 GB: activations 0.05, margin 1.53, ...",
        "lower batch_size or augment.crop_hw, or take a larger GPU",
    ),
)


def check() -> str:
    """The table of `segadapt check` on a terminal, shortened."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    table = Table(show_header=False)
    for mark, what, found, fix in CHECKED:
        fixes = [Text(f"Fix: {fix}", "yellow")] if fix else []
        style = "green" if mark == "ok" else "bold red"
        table.add_row(Text(mark, style), Text(what), Group(Text(found), *fixes))
    console.print(table)
    return terminal_svg(console, "segadapt check SPEC", "check")


def terminal_svg(console: Console, title: str, name: str) -> str:
    """What a console recorded, as a picture that loads nothing from elsewhere."""
    no_downloads = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title=title, code_format=no_downloads, unique_id=name)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


FOUND = (
    ("road", "(128, 64, 128)", "31.20%"),
    ("building", "(70, 70, 70)", "42.75%"),
    ("car", "(0, 0, 142)", "9.05%"),
    ("(ignored)", "(0, 0, 0)", "17.00%"),
)
SAID = (
    "Source town: RAW/town (layout folders), 400 images of 720x1280 pixels, 400 with labels.",
    "Target camera: RAW/camera (layout folders), 320 images of 360x640 pixels, 0 with labels; "
    "other splits: val 80.",
    "Proposed: deeplab_v2 on resnet101, batches of 2 a rank, crops of 352x512: 8.1 GB of 24.0 GB",
    "Next, or all of it with `sh proposed/commands.sh`:",
    "  segadapt pack folders RAW/town proposed/packed/town --name town --size-hw 720 1280 ...",
    "  segadapt pack folders RAW/camera proposed/packed/camera --name camera ... --unlabelled",
    "  segadapt check proposed/town_to_camera.yaml",
    "  segadapt run proposed/town_to_camera.yaml",
)


def init() -> str:
    """The messages of `segadapt init` on a terminal, shortened."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    table = Table("class", "value in labels", "pixels", title="labels of town")
    for row in FOUND:
        table.add_row(*row)
    console.print(table)
    for line in SAID:
        console.print(line, markup=False, highlight=False)
    return terminal_svg(console, "segadapt init RAW/town RAW/camera --out proposed", "init")


PICTURES = {
    "packed_split": packed_split,
    "resume": resume,
    "platforms": platforms,
    "check": check,
    "init": init,
}


def main() -> None:
    """Write every picture."""
    for name, drawn in PICTURES.items():
        (HERE / f"{name}.svg").write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    main()
