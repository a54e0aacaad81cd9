"""tcmalloc is preloaded where it is installed; else glibc is told to keep freed memory."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hpm_jax.run import allocator

SCRIPT = """
import resource
from hpm_jax.run import allocator
allocator.TCMALLOC = ()
allocator.choose_allocator()
import numpy as np
def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(size, np.uint8)[-(2**27) :] = 1  # touches 128 MiB, at the end
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
size = {size}
faults(size)
print(faults(size))
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library of Linux")


def faults(size=2**27, **env):
    """Returns the page faults of the second array of a size."""
    clean = {k: v for k, v in os.environ.items() if k not in allocator.CHOICES}
    env["NUMPY_MADVISE_HUGEPAGE"] = "0"  # NumPy's huge pages would hide most faults
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{size}", str(size))],
        env=clean | env | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@on_glibc
@pytest.mark.parametrize("size", [2**27, 2**31 + 2**27], ids=["128 MiB", "over 2 GiB"])
def test_freed_memory_is_kept(size):
    assert faults(size) < 100


@on_glibc
def test_glibc_gives_it_back_where_the_user_has_chosen():
    assert faults(MALLOC_ARENA_MAX="4") > 1000


@pytest.fixture
def told(monkeypatch):
    """What glibc was told, where tcmalloc is missing and nobody has chosen an allocator."""
    called = []
    libc = SimpleNamespace(mallopt=lambda parameter, value: called.append((parameter, value)) or 1)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(allocator, "TCMALLOC", ())
    for name in (*allocator.CHOICES, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator, "ACCELERATORS", ("/dev/no_such_chip*",))
    return called


def test_without_tcmalloc_glibc_is_told_from_the_second_run_on(told):
    allocator.choose_allocator(first_run=True)
    assert not told
    allocator.choose_allocator()
    assert told == list(allocator.SETTINGS.values())


def test_nothing_is_changed_on_accelerators(told, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    allocator.choose_allocator()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(allocator, "ACCELERATORS", ("/dev/null",))
    allocator.choose_allocator()
    assert not told
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    allocator.choose_allocator()
    assert told


@pytest.mark.parametrize("name", allocator.CHOICES)
def test_who_has_chosen_an_allocator_keeps_it(name, told, monkeypatch):
    monkeypatch.setenv(name, "")
    allocator.choose_allocator()
    assert not told


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()


RESTARTED = """
import os, sys
from hpm_jax.run import allocator
allocator.TCMALLOC = ("no_such_library.so", {library!r}) if {library!r} else allocator.TCMALLOC
print(os.getpid(), flush=True)
allocator.choose_allocator(first_run=True)
print(os.environ["LD_PRELOAD"], os.environ["TCMALLOC_RELEASE_RATE"], *sys.argv)
print({library!r} in open("/proc/self/maps").read())
"""


def restarted(library, **env):
    """Returns the lines of a command that preloads a library, with two arguments."""
    clean = {k: v for k, v in os.environ.items() if k not in allocator.CHOICES}
    return subprocess.run(
        [sys.executable, "-c", RESTARTED.replace("{library!r}", repr(library)), "a b", "--c="],
        env=clean | env | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@on_linux
def test_the_command_starts_once_more_with_the_library():
    first, second, environment, loaded = restarted("libm.so.6")
    assert first == second, "the same process"
    assert environment == "libm.so.6 0 -c a b --c="
    assert loaded == "True"


@on_linux
def test_options_of_tcmalloc_are_the_users():
    *_, environment, _ = restarted("libm.so.6", TCMALLOC_RELEASE_RATE="2")
    assert environment == "libm.so.6 2 -c a b --c="


@pytest.mark.skipif(allocator.find_tcmalloc() is None, reason="tcmalloc is not installed")
def test_tcmalloc():
    *_, environment, _ = restarted("")
    assert environment.startswith("libtcmalloc")
