"""The fuzzer's runs: a short one over fixed seeds, and a long one over new seeds, `make fuzz`, for
as many seconds as `FUZZ_S` says (600).
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.packed import fuzz
from tests.data.packed.guarded import READERS, Outcome
from tests.data.packed.handmade import same

LONG_S = int(os.environ.get("FUZZ_S", "600"))


def run(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.data.packed.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.slow
def test_fixed_seeds_find_nothing() -> None:
    result = run("--first", "0", "--cases", "600", timeout_s=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 findings" in result.stdout and "1200 readings" in result.stdout
    assert "'read': " in result.stdout and "'DataError': " in result.stdout


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.fuzz
def test_new_seeds_find_nothing() -> None:
    result = run("--seconds", str(LONG_S), timeout_s=LONG_S + 120)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_one_seed_is_replayed() -> None:
    result = run("--seed", "7", timeout_s=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("damaged: ") and "seeds from 7, " in result.stdout
    assert "2 readings" in result.stdout


def test_equal_seeds_write_equal_bytes(tmp_path: Path) -> None:
    for seed in range(30):
        contents = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            fuzz.write_case(folder, seed)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            contents.append([path.read_bytes() for path in files])
        assert contents[0] == contents[1]


@pytest.mark.parametrize("ended", ["KeyError", "MemoryError", "SystemExit", "", "large"])
def test_other_ends_are_findings(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(reader: object, folder: str) -> Outcome:
        return Outcome("read" if ended == "large" else ended, "why")

    monkeypatch.setattr(fuzz, "outcome_of", bad)
    monkeypatch.setattr(fuzz, "MOST_BYTES", -1 if ended == "large" else fuzz.MOST_BYTES)
    findings, _ = fuzz.fuzz(first=5, num_cases=2, seconds=60)
    reader = next(iter(READERS))
    assert [(one.seed, one.reader) for one in findings] == [(5, reader), (6, reader)]
    assert findings[0].ended == ("0 MiB" if ended == "large" else ended)


def test_a_crash_is_a_finding_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash_at_six(folder: Path, seed: int) -> tuple[str, ...]:
        if seed == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        fuzz.write_split(folder, [fuzz.piece("a")], text=same)
        return ()

    monkeypatch.setattr(fuzz, "write_case", crash_at_six)
    findings, ends = fuzz.fuzz(first=5, num_cases=4, seconds=60)
    assert [(one.seed, one.ended) for one in findings] == [(6, "SIGKILL")]
    assert ends["read"] == 4  # of the two after it; those before it died with it
