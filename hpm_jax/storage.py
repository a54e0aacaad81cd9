"""Where runs are kept: in folders, or in `gs://` buckets, which have no folders and no append."""

import contextlib
import errno
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hpm_jax.errors import ConfigError, UserError

_URL = re.compile(r"([a-z][a-z0-9]+):/+(.*)", re.DOTALL)  # `Path` makes one slash of two


class StorageError(UserError, RuntimeError):
    """Something of a run cannot be written; what had been written before is whole."""

    exit_code = os.EX_IOERR  # 74: the same command goes on when there is room


def as_path(place: str | os.PathLike[str]) -> Path:
    """A folder or a file; of a bucket, an object with the same methods.

    Raises:
        ConfigError: for a bucket that cannot be used, here or at all.
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
    """Whether `path` is in a folder, where files can be appended to and moved."""
    return isinstance(path, Path)


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file; until that is done the old one stays.

    Raises:
        StorageError: where it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with reported(path):
        if not is_local(path):
            path.write_bytes(data)  # an object is replaced when the new one is whole
            return
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_bytes(data)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def move(folder: Path, target: Path) -> None:
    """Moves a folder to where nothing is.

    In a bucket file by file: the `rename` of etils wants a folder to move into, and a bucket has
    none.
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
    """Whatever goes wrong while `path` is written, as an `error` that names it."""
    try:
        yield
    except StorageError:
        raise
    except Exception as reason:  # OSError, and what the clients of buckets have of their own
        raise error(
            f"cannot write {path} ({_in_words(reason)}): make room or make it writable, and the "
            "same command goes on from the newest whole checkpoint"
        ) from reason


# a disk or a network that does not serve now: it says nothing of what is stored there
UNAVAILABLE = {
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM"),
        *("ESTALE", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"),
    )
}


def unavailable(error: Exception) -> bool:
    """Whether what cannot be read may be whole: the disk, the network or the rights failed."""
    names = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    return _error_number(error) in UNAVAILABLE or any(name in str(error) for name in names)


def _error_number(error: Exception) -> int | None:
    """Of the operating system, which is somewhere in what the libraries say."""
    found = re.search(r"os_error_code=\W*(\d+)", str(error))  # TensorStore's
    return getattr(error, "errno", None) or (int(found[1]) if found else None)


def _in_words(error: Exception) -> str:
    """Why, as the operating system says it."""
    number = _error_number(error)
    if number:
        return os.strerror(number)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
