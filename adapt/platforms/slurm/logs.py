"""The log of a batch job: a file in the profile's folder, to which its restarts append."""

from collections.abc import Iterator
from shlex import quote

from adapt.platforms.slurm.shell import Shell

CHUNK_BYTES = 4_000_000


class JobLog:
    """The log of a job, each line once; its position is a number of bytes."""

    def __init__(self, shell: Shell, path: str) -> None:
        self._shell, self._path, self._offset, self._rest = shell, path, 0, b""

    def new_lines(self, is_last: bool) -> Iterator[str]:
        """The lines after those that were given before; the last without its end only where no
        more will come."""
        while chunk := self._read():
            self._offset += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
        if is_last and self._rest:
            rest, self._rest = self._rest, b""
            yield rest.decode(errors="replace")

    def _read(self) -> bytes:
        """A job that has not begun has no log."""
        path = quote(self._path)
        program = f"test -r {path} || exit 0\n"
        program += f"tail -c +{self._offset + 1} {path} | head -c {CHUNK_BYTES}\n"
        return self._shell.run(program).output
