"""What is freed is kept: the second time a large array is made, no page is new."""

import os
import subprocess
import sys

import pytest

from hpm_jax.run import allocator

SCRIPT = """
import resource
from hpm_jax.run.allocator import keep_freed_memory
changed = keep_freed_memory()
import numpy as np
def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(size, np.uint8)[-(2**27) :] = 1  # touches 128 MiB, at the end
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
size = {size}
faults(size)
print(changed, faults(size))
"""


def run(size=2**27, **env):
    """Returns whether the allocator was changed, and the page faults of the second array."""
    clean = {k: v for k, v in os.environ.items() if k not in allocator.CHOICES}
    env["NUMPY_MADVISE_HUGEPAGE"] = "0"  # NumPy's huge pages would hide most faults
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{size}", str(size))],
        env=clean | env,
        capture_output=True,
        text=True,
        check=True,
    )
    changed, faults = done.stdout.split()
    return changed == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("size", [2**27, 2**31 + 2**27], ids=["128 MiB", "over 2 GiB"])
def test_freed_memory_is_kept(size):
    changed, faults = run(size, JAX_PLATFORMS="cpu")
    assert not changed or faults < 100


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_who_has_chosen_keeps_the_choice():
    changed, faults = run(JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="4")
    assert not changed and faults > 1000, "glibc gives 128 MiB back"


def test_only_on_cpus_and_where_nobody_has_chosen(monkeypatch):
    called = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library(called))
    for name in (*allocator.CHOICES, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator, "ACCELERATORS", ("/dev/null",))
    assert not allocator.keep_freed_memory() and not called
    monkeypatch.setattr(allocator, "ACCELERATORS", ("/dev/no_such_chip*",))
    assert allocator.keep_freed_memory() and len(called) == len(allocator.SETTINGS)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert not allocator.keep_freed_memory()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert allocator.keep_freed_memory()
    for name in allocator.CHOICES:
        with monkeypatch.context() as chosen:
            chosen.setenv(name, "something")
            assert not allocator.keep_freed_memory()


def test_another_c_library(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in allocator.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()


class Library:
    """A C library that records calls of mallopt."""

    def __init__(self, called):
        self.mallopt = lambda parameter, value: called.append((parameter, value)) or 1
