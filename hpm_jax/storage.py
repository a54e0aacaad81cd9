"""Storage of runs: in folders, or in `gs://` buckets, which have no folders and no append."""

import contextlib
import errno
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hpm_jax.errors import ConfigError, UserError

_URL = re.compile(r"([a-z][a-z0-9]+):/+(.*)", re.DOTALL)  # `Path` merges two slashes into one


class StorageError(UserError, RuntimeError):
    """A run cannot write; files that were written before are intact."""

    exit_code = os.EX_IOERR  # 74: rerun the command to resume when there is room


def as_path(place: str | os.PathLike[str]) -> Path:
    """Returns the path of a folder or a file; for a bucket, an object with the same methods.

    Raises:
        ConfigError: for a bucket that cannot be used.
    """
    found = _URL.fullmatch(os.fspath(place))
    if not found:
        return Path(place)
    kind, rest = found.groups()
    if kind != "gs":
        raise ConfigError(
            f"{kind}://{rest}: Orbax writes checkpoints to folders and to gs:// alone; "
            "mount the bucket, and name the folder"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(f'gs://{rest} needs the extra "gcs": pip install gcsfs')
    from etils import epath

    return epath.Path(f"gs://{rest}")  # type: ignore[return-value]


def is_local(path: Path) -> bool:
    """Whether `path` is in a local folder, where files can be appended to and moved."""
    return isinstance(path, Path)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: the old one stays until the new one is complete.

    Raises:
        StorageError: if it cannot be written.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with reported(path):
        if not is_local(path):
            path.write_bytes(data)  # an object is replaced when the new one is complete
            return
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_bytes(data)
            put_in_place(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Renames a file to `path` once it is on disk; after a power cut the old file is intact."""
    with written.open("rb+") as file:
        flush(file)
    os.replace(written, path)
    _flush_folder(path.parent)


def flush(file: IO[Any]) -> None:
    """Flushes everything written to a file to disk, so that it survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk; some network disks refuse but keep them anyway."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(number)
    finally:
        os.close(number)


def move(folder: Path, target: Path) -> None:
    """Moves a folder to a path that does not exist.

    In a bucket it is moved file by file: the `rename` of etils needs a target folder, and a bucket
    has no folders.
    """
    with reported(target):
        if is_local(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
        else:
            _copy(folder, target)
            folder.rmtree()  # type: ignore[attr-defined]


def _copy(folder: Path, target: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _copy(path, target / path.name)
        else:
            path.copy(target / path.name)  # type: ignore[attr-defined]


@contextlib.contextmanager
def reported(path: Path, error: type[StorageError] = StorageError) -> Iterator[None]:
    """Converts any failure to write `path` to an `error` that names it."""
    try:
        yield
    except StorageError:
        raise
    except Exception as reason:  # OSError, or an error class of a bucket client
        raise error(
            f"cannot write {path} ({in_words(reason)}): make room or make it writable, and the "
            "same command goes on from the newest whole checkpoint"
        ) from reason


# a disk or a network that fails temporarily; the stored data may be intact
UNAVAILABLE = {
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM"),
        *("ESTALE", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"),
    )
}


def unavailable(error: Exception) -> bool:
    """Whether unreadable data may be intact: the disk, the network or the rights failed."""
    names = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    return _error_number(error) in UNAVAILABLE or any(name in str(error) for name in names)


def _error_number(error: Exception) -> int | None:
    """Returns the error number of the operating system, parsed from a library's message."""
    found = re.search(r"os_error_code=\W*(\d+)", str(error))  # TensorStore's
    return getattr(error, "errno", None) or (int(found[1]) if found else None)


def in_words(error: Exception) -> str:
    """Returns the reason in the words of the operating system."""
    number = _error_number(error)
    if number:
        return os.strerror(number)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
