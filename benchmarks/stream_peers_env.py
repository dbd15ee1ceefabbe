"""The environments that the other libraries' readers live in, made on first use.

Each is a virtual environment with the packages that a peer pins, before this project's own on the
path: so torch and the decoders are there without another download, and mosaicml-streaming has its
older NumPy.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

SCRIPT = Path(__file__).with_name("stream_peers.py")


class Peer(NamedTuple):
    """Its environment's name and pinned packages; whether it reads a format of its own, and from
    S3 (else from the shards on disk)."""

    environment: str
    packages: tuple[str, ...] = ()
    converts: bool = False
    cold: bool = True

    @property
    def slug(self) -> str:
        """Folder of its converted data."""
        return f"for_{self.environment}"


PEERS = {
    "webdataset": Peer("webdataset", ("webdataset==1.0.2",)),
    "litdata": Peer("litdata", ("litdata==0.2.76",), converts=True),
    "mosaicml-streaming": Peer("mosaicml", ("mosaicml-streaming==0.13.0",), converts=True),
    "smart_open + tarfile": Peer("smart_open"),
    "DataLoader, 2 workers": Peer("torch", cold=False),
}
"""Reader of stream_peers.py -> where it runs; smart_open and torch are this project's own."""


def ensure(folder: Path, peer: Peer) -> dict[str, Any]:
    """`{"command": how stream_peers.py is run there}`, or `{"error": why it cannot be}`."""
    if not peer.packages:
        return {"command": [sys.executable, str(SCRIPT)]}
    home = folder / peer.environment
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"installing {', '.join(peer.packages)}", flush=True)
        failure = _made(home, python, peer.packages)
        if failure:
            return {"error": f"pip install {' '.join(peer.packages)}: {failure}"}
        (home / "complete").touch()
    return {"command": [str(python), str(SCRIPT)]}


def _made(home: Path, python: Path, packages: tuple[str, ...]) -> str:
    """Make the environment; what went wrong, or nothing."""
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", *packages],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        lend(home)
    return ""


def lend(home: Path) -> None:
    """This environment's packages, behind those of the environment in `home`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = home / "lib" / version / "site-packages" / "lent.pth"
    path.write_text(sysconfig.get_path("purelib") + "\n")
