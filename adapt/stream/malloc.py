"""Makes glibc keep the memory of decoded samples for the next ones.

As it comes, its malloc gives an image's pages back to the system when the image is freed, and has
each page given anew, and zeroed, for the next: up to a fifth of the decoding's own time
(benchmarks/stream.py). Other C libraries are left as they are.
"""

import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of parameters in <malloc.h>."""
KEPT_BYTES, LARGEST_KEPT_BYTES = 512 << 20, 32 << 20
"""So much free memory is kept at the end of the heap; larger blocks come from the system each
time (the most that glibc allows)."""


@cache
def keep_freed_memory() -> bool:
    """Tell malloc, once a process; returns whether it understood."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    return bool(kept and mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES))
