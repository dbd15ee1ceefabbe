"""glibc keeps freed memory: decoding anew takes no new pages."""

import subprocess
import sys

import pytest

from adapt.stream.malloc import keep_freed_memory

PROGRAM = """
import resource, threading
import numpy as np
from adapt.stream.malloc import keep_freed_memory

if {kept}:
    keep_freed_memory()

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(3_000_000, np.uint8) for _ in range(4)]
        del arrays
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

taken = []
for _ in range(2):
    thread = threading.Thread(target=pages)
    thread.start()
    thread.join()
print(taken[-1])
"""


def test_freed_arrays_are_used_again_in_threads() -> None:
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    pages = [
        int(subprocess.check_output([sys.executable, "-c", PROGRAM.format(kept=kept)]))
        for kept in (True, False)
    ]
    assert pages[0] < pages[1] / 3
