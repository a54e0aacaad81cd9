"""Index of the images in a tar file: made once, stored beside the file or in a cache."""

import contextlib
import glob
import hashlib
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from hpm_jax.data.records import DataError
from hpm_jax.text_files import printable

VERSION = 1
ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm")
JSON_LABELS = ("label", "cls", "class", "class_id", "target")
LABEL_BYTES = 2**20  # largest .cls or .json member
MOST_SHARDS = 10**6


class Sample(NamedTuple):
    """An image of a tar file."""

    key: str  # name up to the first dot of its last part
    offset: int
    size: int
    label: Any  # an integer, a string, or None


def find_shards(pattern: str) -> list[str]:
    """Returns the files of a pattern with braces, `{000..146}` or `{a,b}`, and wildcards.

    Raises:
        DataError: if a file is missing.
    """
    found = []
    for path in expand_braces(pattern):
        fitting = sorted(glob.glob(path)) if any(mark in path for mark in "*?[") else [path]
        if not pattern or not fitting or not all(map(os.path.isfile, fitting)):
            raise DataError(
                f"there is no tar file {path!r}: give a folder of shards, or a pattern, as in "
                "--config.data.path='/data/train-{000000..000146}.tar'"
            )
        found += fitting
    return found


def expand_braces(pattern: str) -> list[str]:
    """Expands `a{1..3}` to a1, a2, a3, keeping leading zeros, and `a{x,y}` to ax, ay."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span:
        low, high = int(span[1]), int(span[2])
        if high - low >= MOST_SHARDS:
            raise DataError(f"{pattern!r} names {high - low + 1} files, expected at most a million")
        words = [str(number).zfill(len(span[1])) for number in range(low, high + 1)]
    else:
        words = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for word in words for path in expand_braces(before + word + after)]


def read_index(shard: str, image_key: str = "", label_key: str = "") -> list[Sample]:
    """Returns the images of a tar file in order, from an existing index or a new one.

    Args:
        image_key: ending of images; "" for any usual one.
        label_key: key in `.json` members; "" for the usual ones, "none" for no labels.

    Raises:
        DataError: for a truncated file, or a file that is not a tar file.
    """
    status = os.stat(shard)
    head = [VERSION, status.st_size, status.st_mtime_ns, image_key, label_key]
    for place in (_beside(shard), _cached(shard)):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(place.read_bytes())
            if found["head"] == head:
                return [Sample(*values) for values in found["samples"]]
    samples = make_index(shard, image_key, label_key)
    text = json.dumps({"head": head, "samples": samples})
    for place in (_beside(shard), _cached(shard)):
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            new = place.with_name(f"{place.name}.{os.getpid()}")
            new.write_text(text)
            os.replace(new, place)
            break
    return samples


def _beside(shard: str) -> Path:
    return Path(f"{shard}.index.json")


def _cached(shard: str) -> Path:
    """Returns the path of the index if the shard's folder is not writable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(os.path.abspath(shard))).hexdigest()[:32]
    return cache / "hpm_jax" / "tar_index" / f"{name}.json"


def make_index(shard: str, image_key: str, label_key: str) -> list[Sample]:
    """Reads headers and labels of a tar file, in which members of one key are adjacent."""
    endings = (image_key.lower().lstrip("."),) if image_key else ENDINGS
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, Any] = {}
    size = os.path.getsize(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    raise DataError(_cut(shard))
                if not member.isreg() or os.path.basename(member.name).startswith("."):
                    continue
                key, ending = split_name(member.name)
                if ending in endings and not member.issparse():
                    images.setdefault(key, (member.offset_data, member.size))
                elif ending in ("cls", "json") and label_key != "none":
                    label = _read_label(tar, member, ending, label_key)
                    if label is not None and (ending == "cls" or key not in labels):
                        labels[key] = label
            if size % tarfile.BLOCKSIZE:
                raise DataError(_cut(shard))
    except tarfile.TarError as error:
        raise DataError(
            f"{shard} is cut or no tar file ({error}): copy it again, or uncompress it, as a "
            "compressed one has no random access"
        ) from error
    return [Sample(printable(key), *place, labels.get(key)) for key, place in images.items()]


def _cut(shard: str) -> str:
    return f"{shard} is cut: its last member is longer than the file, so copy it again"


def split_name(name: str) -> tuple[str, str]:
    """Splits `dir/0001.seg.png` to (`dir/0001`, `seg.png`), as WebDataset groups members."""
    folder, base = os.path.split(name)
    key, _, ending = base.partition(".")
    return os.path.join(folder, key), ending.lower()


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, key: str) -> Any:
    """Returns a number or a name; None if the member has no label."""
    file = tar.extractfile(member) if member.size <= LABEL_BYTES else None
    text = file.read().decode("utf-8", "replace").strip() if file else ""
    if ending == "cls":
        return int(text) if text.lstrip("-").isdecimal() else text or None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            found = next(
                (found[name] for name in ((key,) if key else JSON_LABELS) if name in found), None
            )
        if isinstance(found, int | str) and not isinstance(found, bool):
            return found
    return None
