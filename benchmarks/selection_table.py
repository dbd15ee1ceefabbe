"""What benchmarks/selection.py has measured, as a table (Markdown) and as a picture (SVG)."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from math import isfinite
from operator import attrgetter
from statistics import mean
from typing import NamedTuple
from xml.sax.saxutils import escape

from scipy.stats import spearmanr

from adapt.evaluation.label_free import LABEL_FREE_SCORES

AGREEMENT = "ensemble_agreement"
SCORES = (AGREEMENT, *LABEL_FREE_SCORES)
LOWER = {name for name, row in LABEL_FREE_SCORES.items() if row.lower}

LAST, ANY = "the last checkpoint", "any checkpoint"
INK, MUTED, LINE, FILL, WORST = "#0f172a", "#475569", "#e2e8f0", "#2563eb", "#94a3b8"
ROW, NAME_WIDTH, PANEL, GAP, TOP = 24, 210, 300, 40, 60


class Point(NamedTuple):
    """A checkpoint: its run, its true mIoU in [0, 1], its scores (None: no number), and those that
    are other among all runs of its seed."""

    run: str
    method: str
    seed: int
    step: int
    miou: float
    scores: Mapping[str, float | None]
    among: Mapping[str, float | None]


class Result(NamedTuple):
    """Of a score: mean rank correlation, mean and greatest regret in points of mIoU, over groups of
    checkpoints; None where no group has any."""

    correlation: float | None
    regret: float | None
    worst: float | None


def goodness(point: Point, score: str, among: bool) -> float:
    """The score with its sign turned so that greater is better; no number counts least."""
    value = point.among.get(score) if among and score in point.among else point.scores.get(score)
    if value is None or not isfinite(value):
        return float("-inf")
    return -value if score in LOWER else value


def correlation(points: list[Point], score: str, among: bool = False) -> float | None:
    """Spearman's rank correlation of a score with the true mIoU; None where either is the same for
    all, or fewer than three have it."""
    known = [(goodness(one, score, among), one.miou) for one in points]
    known = [pair for pair in known if isfinite(pair[0])]
    if len(known) < 3 or any(len(set(values)) == 1 for values in zip(*known, strict=True)):
        return None
    return float(spearmanr(*zip(*known, strict=True)).statistic)


def regret(points: list[Point], score: str, among: bool = False) -> float | None:
    """Points of mIoU between the best checkpoint and the one that the score chooses, of equal ones
    the last; None where no checkpoint has the score."""
    chosen = max(points, key=lambda one: (goodness(one, score, among), one.step))
    if not isfinite(goodness(chosen, score, among)):
        return None
    return 100 * (max(one.miou for one in points) - chosen.miou)


def last_regret(points: list[Point]) -> float:
    """The same of the last checkpoint."""
    return 100 * (max(one.miou for one in points) - max(points, key=attrgetter("step")).miou)


def any_regret(points: list[Point]) -> float:
    """The same of any checkpoint, on average."""
    return 100 * (max(one.miou for one in points) - mean(one.miou for one in points))


def groups_of(points: list[Point], key: str) -> list[list[Point]]:
    """The points of each run, or of each seed."""
    of = attrgetter(key)
    return [list(group) for _, group in groupby(sorted(points, key=of), key=of)]


def runs_of(points: list[Point]) -> list[list[Point]]:
    """The points of each run that leaves a choice."""
    return [run for run in groups_of(points, "run") if len(run) > 1]


def result(
    groups: list[list[Point]],
    correlated: Callable[[list[Point]], float | None],
    regretted: Callable[[list[Point]], float | None],
) -> Result:
    """Means over groups."""
    ranks = [one for one in map(correlated, groups) if one is not None]
    lost = [one for one in map(regretted, groups) if one is not None]
    return Result(
        mean(ranks) if ranks else None, mean(lost) if lost else None, max(lost) if lost else None
    )


def results(points: list[Point]) -> dict[str, tuple[Result, Result]]:
    """Of each score, best first by what it costs among methods: within runs, and among all
    checkpoints of a seed."""
    runs, seeds = runs_of(points), groups_of(points, "seed")
    found = {
        name: (
            result(runs, partial(correlation, score=name), partial(regret, score=name)),
            result(
                seeds,
                partial(correlation, score=name, among=True),
                partial(regret, score=name, among=True),
            ),
        )
        for name in SCORES
    }
    return dict(sorted(found.items(), key=lambda one: _or_last(one[1][1].regret)))


def _or_last(value: float | None) -> float:
    return float("inf") if value is None else value


def baselines(points: list[Point]) -> dict[str, tuple[Result, Result]]:
    """What choosing costs without a score."""
    runs, seeds = runs_of(points), groups_of(points, "seed")
    none, nothing = Result(None, None, None), lambda _: None
    return {
        LAST: (result(runs, nothing, last_regret), none),
        ANY: (result(runs, nothing, any_regret), result(seeds, nothing, any_regret)),
    }


def table(points: list[Point]) -> str:
    """A row for each score, after it the baselines."""
    head = ["chosen by", "Spearman in a run", "points lost in a run", "worst"]
    head += ["Spearman among methods", "points lost among methods", "worst"]
    lines = [head, [":--", *["--:"] * (len(head) - 1)]]
    for name, pair in (results(points) | baselines(points)).items():
        cells = [cell for one in pair for cell in _cells(one)]
        lines.append([f"`{name}`" if name in SCORES else name, *cells])
    counts = f"{len(points)} checkpoints of {len(groups_of(points, 'run'))} runs, "
    counts += f"{len(groups_of(points, 'method'))} methods, {len(groups_of(points, 'seed'))} seeds."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{counts}\n"


def _cells(one: Result) -> list[str]:
    rank = "" if one.correlation is None else f"{one.correlation:+.2f}"
    return [rank, *("" if value is None else f"{value:.1f}" for value in one[1:])]


def bars(points: list[Point]) -> str:
    """Two panels among all checkpoints of a seed: rank correlation, and points lost."""
    rows = [(name, pair[1]) for name, pair in results(points).items()]
    rows += [(ANY, baselines(points)[ANY][1])]
    most = max(1.0, *(one.worst or 0.0 for _, one in rows))
    height, width = TOP + ROW * len(rows) + 30, NAME_WIDTH + 2 * PANEL + GAP + 60
    middle, left = NAME_WIDTH + PANEL / 2, NAME_WIDTH + PANEL + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(NAME_WIDTH, 24, "Spearman with the true mIoU, -1 to +1", MUTED),
        _text(left, 24, "points of mIoU lost: mean (blue), worst seed (grey)", MUTED),
        f'<line x1="{middle}" y1="{TOP - 16}" x2="{middle}" y2="{height - 24}" stroke="{LINE}"/>',
    ]
    for number, (name, one) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(_text(0, y, name, INK))
        if one.correlation is not None:
            end = middle + one.correlation * PANEL / 2
            parts.append(_bar(min(middle, end), y, abs(end - middle), FILL))
            parts.append(_text(NAME_WIDTH + PANEL - 30, y, f"{one.correlation:+.2f}", MUTED))
        if one.regret is not None and one.worst is not None:
            scale = (PANEL - 40) / most
            parts.append(_bar(left, y, one.worst * scale, WORST))
            parts.append(_bar(left, y, one.regret * scale, FILL))
            parts.append(_text(left + one.worst * scale + 6, y, f"{one.regret:.1f}", MUTED))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(x: float, y: float, width: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y - 11}" width="{width:.1f}" height="14" fill="{fill}"/>'


def _text(x: float, y: float, text: str, fill: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="{fill}">{escape(text)}</text>'
