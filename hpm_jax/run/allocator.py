"""Makes glibc keep freed memory in runs on CPUs.

XLA allocates the temporary arrays of a step in every call. glibc takes them from the operating
system and gives them back, so that each step touches new pages: 58,000 page faults for 225 MiB.
"""

import ctypes
import glob
import os

# mallopt(3): parameters of glibc, with values. One heap for all threads, nothing mapped for one
# array only, and what is free at the end of the heap is kept, however much it is (-1: a threshold
# in bytes would be an int, so that 2 GiB are given back); it grows by 256 MiB at a time.
SETTINGS = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
    "M_TOP_PAD": (-2, 2**28),
}
# who sets one of these has chosen an allocator, or how it works
CHOICES = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_")
ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Changes the allocator of this process, and returns whether it did.

    It has no effect on threads that have allocated before: call it before NumPy and JAX are
    imported. Where there are accelerators, or another C library, nothing is changed.
    """
    if any(name in os.environ for name in CHOICES) or not _on_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in SETTINGS.values())


def _on_cpu() -> bool:
    """Whether JAX will compute on the CPU; JAX itself cannot be asked before it is imported."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(glob.glob(pattern) for pattern in ACCELERATORS)
