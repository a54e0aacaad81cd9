"""Chooses the memory allocator of runs on CPUs.

XLA allocates the temporary arrays of a step in every call. glibc takes them from the operating
system and gives them back, so that each step touches new pages: 58,000 page faults for 225 MiB.
tcmalloc keeps them, and finds free memory quickly also after a compilation. Where it is not
installed, glibc is told to keep what is freed.
"""

import ctypes
import glob
import os
import sys

TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")  # of gperftools
# of tcmalloc: freed memory is kept, and no line is printed for each array of over 1 GiB
ENVIRONMENT = {
    "TCMALLOC_RELEASE_RATE": "0",
    "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(2**60),
}
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


def choose_allocator(first_run: bool = False) -> None:
    """Makes the allocator of this process fit XLA: tcmalloc if it is installed, else that of glibc.

    Call it first in a command, before NumPy and JAX are imported: to preload tcmalloc, the
    command starts once more, as the same process. Where there are accelerators, or where the user
    has chosen an allocator, nothing is changed.

    Args:
        first_run: whether programs have yet to be compiled. glibc is then left as it is, since
            threads of the compiler would wait for each other at a single heap.
    """
    if any(name in os.environ for name in CHOICES) or not _on_cpu():
        return
    if library := find_tcmalloc():
        preloaded = ENVIRONMENT | os.environ | {"LD_PRELOAD": library}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], preloaded)
    if not first_run:
        keep_freed_memory()


def find_tcmalloc() -> str | None:
    """Returns the name of the installed tcmalloc under which the dynamic linker finds it."""
    for name in TCMALLOC:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, and returns whether it will.

    It has no effect on threads that have allocated before.
    """
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
