"""Reads files from folders that are named after their classes."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.decoding import TooLarge
from hpm_jax.data.records import DataError, Example, Splits, read_splits
from hpm_jax.text_files import check_size, printable

if TYPE_CHECKING:
    from hpm_jax.config import Data


VIDEO_BYTES = 2**34  # size limit of a video


@dataclasses.dataclass(frozen=True)
class Files:
    """Files below a folder."""

    root: str
    paths: (
        np.ndarray
    )  # bytes, absolute or relative to the root: a million take little memory in workers
    labels: np.ndarray  # int32
    largest: int = 2**30  # size limit of a file in bytes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.path(index)
        check_size(path, self.largest, TooLarge)
        return {"image": path.read_bytes(), "label": int(self.labels[index])}

    def path(self, index: int) -> Path:
        """Returns the path of a file; its name may not be valid text."""
        return Path(self.root, os.fsdecode(self.paths[index]))

    def name(self, index: int) -> str:
        return printable(str(self.path(index)))


def digest_of_files(records: Files) -> bytes:
    """Returns sizes and names as bytes, without the root: a folder may move."""
    root = os.fsencode(records.root)  # bytes: a Path for each file would take ten times as long
    paths = [os.path.join(root, path) for path in records.paths]
    sizes = np.fromiter((os.stat(path).st_size for path in paths), "<i8", len(paths))
    return sizes.tobytes() + b"".join(path + b"\0" for path in records.paths)


def class_folders(data: "Data", what: str, endings: tuple[str, ...]) -> Splits:
    """Returns files with one of the `endings`, in class folders; `what` is their name in messages.

    Without a `train` folder, all of `path` is training data. Without a test folder, a fraction is
    held out. Without class folders, there are no labels.
    """
    root = Path(data.path)
    if not data.path or not root.is_dir():
        raise DataError(
            f"config.data.path = {data.path!r} is not a folder: give the folder that holds the "
            f"{what}, as in --config.data.path=/data/my_{what}"
        )
    train_root = root / data.train_split if (root / data.train_split).is_dir() else root
    tests = [root / name for name in test_names(data)]
    test_root = next((path for path in tests if path.is_dir()), None)
    if train_root == root:
        test_root = None
    read = functools.partial(scan_folder, what=what, endings=endings)
    return read_splits(read, train_root, test_root, data.holdout)


def scan_folder(
    root: Path,
    classes: Sequence[str] | None,
    what: str,
    endings: tuple[str, ...],
    loose: bool = False,
) -> tuple[Files, tuple[str, ...]]:
    """Finds the files below `root`, in the order of their paths, and their classes.

    Args:
        root: a folder of class folders, or of files.
        classes: classes of the training data, which a test folder must use; None to find them.
        what: name of the files in messages.
        endings: endings of the files.
        loose: whether files beside class folders are included, without a label.
    """
    found = sorted(os.path.relpath(path, root) for path in regular_files(str(root), endings))
    if not found:
        raise DataError(
            f"{root} holds no {what}: expected files that end in {', '.join(endings)}, "
            "in folders named after their classes, or just there."
        )
    tops = [printable(path.split(os.sep)[0]) if os.sep in path else None for path in found]
    names = tuple(sorted({top for top in tops if top is not None}))
    if None in tops and names and not loose:
        first = printable(found[tops.index(None)])
        raise DataError(
            f"{root} holds class folders ({names[0]}, ...) and loose {what} ({first}, ...): "
            f"move the loose ones into a folder, or all {what} into one."
        )
    if classes is None:
        classes = names
    else:
        check_classes(str(root), names, classes)
    number: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(top, -1) for top in tops], np.int32)
    paths = np.array([os.fsencode(path) for path in found])
    largest = VIDEO_BYTES if what == "videos" else Files.largest
    return Files(str(root), paths, labels, largest), tuple(classes)


def regular_files(root: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Yields files below `root` with one of the endings once, without hidden files and devices.

    Links are followed after everything else. A link to a folder that has been visited, such as a
    parent, is skipped: it would yield the same files again under another label.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = collections.deque([root]), collections.deque[str]()
    while folders or linked:
        folder = folders.popleft() if folders else linked.popleft()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    (linked if entry.is_symlink() else folders).append(entry.path)
                elif entry.name.lower().endswith(endings) and entry.is_file():
                    yield entry.path


def check_classes(place: str, found: Sequence[str], classes: Sequence[str]) -> None:
    """Raises a `DataError` if `place` has classes that the training data lacks."""
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{place} has classes that the training data lacks: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}. Rename or remove them; the training classes "
            f"are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
        )


def is_of_split(path: Path, root: Path, split: str) -> bool:
    """Returns whether a file below `root` is in a folder of the split, or its name begins so."""
    inner = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return split in inner.parts[:-1] or path.name.startswith(split)


def test_names(data: "Data") -> tuple[str, ...]:
    """Returns possible names of the test split; the first that exists is used."""
    return (data.test_split, "test", "val", "validation")
