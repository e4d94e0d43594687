"""Memory that a step gives back stays with the process, for the next step wants the same.

The C library hands large blocks back to the system as soon as they are free, and every step pays for getting them again,
page by page: on a CPU a tenth of a ViT-S/16 step (docs/log.md, 2026-11-23). Elsewhere than under glibc nothing happens.
"""

import ctypes
import sys

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""Names of two options of glibc's mallopt: how many blocks may lie outside the heap; when its top is given back."""
LARGEST = 2**31 - 1


def keep_pages() -> bool:
    """Tell the allocator to keep what is freed; whether it listened."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST))
