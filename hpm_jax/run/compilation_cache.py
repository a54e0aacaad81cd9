"""Keeps compiled programs on disk, so that the next process need not compile them again.

JAX is imported where it is used: the command asks whether its programs are kept before it imports
JAX, see `hpm_jax/run/allocator.py`.
"""

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from hpm_jax.errors import ConfigError

AUTO, OFF = "auto", "off"
MIN_SECONDS = 0.05  # programs that compile faster are not kept
MOST_BYTES = 2**30  # of the default folder; the oldest programs are deleted first


def use_compilation_cache(choice: str) -> None:
    """Turns on JAX's persistent compilation cache for this process, before anything is compiled.

    An environment variable of JAX, such as JAX_COMPILATION_CACHE_DIR, takes precedence.

    Args:
        choice: a folder; "off"; or "auto", a folder in the user's cache where that is safe.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    import jax

    if choice == OFF or _folder_in_use() is not None:
        return
    if choice == AUTO:
        if not is_safe():
            return
        folder = default_folder()
        with contextlib.suppress(OSError):
            _limit(folder)
        if not _make(folder):  # no home, or a full disk
            return
    else:
        folder = Path(choice).expanduser()
        if not _make(folder):
            raise ConfigError(
                f"config.run.compilation_cache = {choice!r} cannot be written: name a folder of "
                "yours, or 'off'"
            )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def is_safe() -> bool:
    """Whether the cache works without attention: one process, and a CPU that loads its own code.

    With several processes, JAX writes in one of them only, and GPUs tune programs together. On
    Intel's CPUs, XLA reports an error for each program that it reads (openxla/xla issue 44565).
    """
    import jax

    on_intel = jax.default_backend() == "cpu" and "GenuineIntel" in _cpu()
    return jax.process_count() == 1 and not on_intel


def has_run(arguments: Sequence[str]) -> bool:
    """Whether a command with these arguments has ended before, and its programs were kept.

    The folder of the run does not count: a resumed run and a second one need the same programs.
    """
    return _mark(arguments).exists()


def remember(arguments: Sequence[str]) -> None:
    """Notes for `has_run` that the command of this process has ended, if its programs are kept."""
    if _folder_in_use() and _make(default_folder()):  # "" turns JAX's cache off
        with contextlib.suppress(OSError):
            _mark(arguments).touch()


def _mark(arguments: Sequence[str]) -> Path:
    """Returns the empty file that stands for a command."""
    options = re.sub(r"--?workdir[=\0][^\0]*", "", "\0".join(arguments))
    return default_folder() / f"command-{hashlib.sha256(options.encode()).hexdigest()[:16]}"


def _folder_in_use() -> str | None:
    import jax

    return jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined,no-any-return]


def default_folder() -> Path:
    """Returns the folder of this kind of CPU: a home may be shared by machines of several kinds."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kind = hashlib.sha256(_cpu().encode()).hexdigest()[:12]
    return Path(cache) / "hpm_jax" / "compiled" / kind


def _cpu() -> str:
    """Describes the CPU: machine, and on Linux vendor, model and instruction sets."""
    described = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("vendor_id", "model name", "flags", "Features")
        described += dict.fromkeys(line for line in lines if line.startswith(names))
    return "\n".join(described)


def _make(folder: Path) -> bool:
    """Makes a folder of the user alone: whoever writes there can run code here."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def _limit(folder: Path) -> None:
    """Deletes the oldest programs of a folder beyond `MOST_BYTES`."""
    files = [(file.stat(), file) for file in folder.glob("*") if file.is_file()]
    kept = 0
    for stat, file in sorted(files, key=lambda one: one[0].st_mtime, reverse=True):
        kept += stat.st_size
        if kept > MOST_BYTES:
            file.unlink(missing_ok=True)
