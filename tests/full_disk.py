"""A full disk, without one."""

import contextlib
import resource

import pytest

# what Orbax leaves behind when a save fails; a run does not show it, pytest has its own ways
QUIET = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def no_file_larger_than(size: int):
    """Writing a file fails after `size` bytes, in this process and in those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
