"""The log of a managed job, which SkyPilot streams from the job's present machines: a stream that
breaks off is begun again, without the lines that were shown."""

from collections import Counter
from collections.abc import Iterator

from adapt.platforms.sky.program import Sky


class JobLog:
    """The log of a job by SkyPilot's number, each line once."""

    def __init__(self, sky: Sky, number: str) -> None:
        self._sky, self._number = sky, number
        self._shown: Counter[str] = Counter()

    def new_lines(self, follow: bool) -> Iterator[str]:
        """The lines after those that were given before; with `follow` until SkyPilot ends the
        stream. A stream begins with the start of the job that runs now, so lines are skipped only
        as long as they are known."""
        known = Counter(self._shown)
        words = ["--follow"] if follow else ["--no-follow"]
        for line in self._sky.lines("jobs", "logs", *words, "--tail", "0", self._number):
            if known[line]:
                known[line] -= 1
                continue
            known.clear()
            self._shown[line] += 1
            yield line
