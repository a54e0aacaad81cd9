"""Files in folders that are named after their classes."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.records import DataError, Example, Splits, hold_out

if TYPE_CHECKING:
    from hpm_jax.config import Data


@dataclasses.dataclass(frozen=True)
class Files:
    """Files below a folder."""

    root: str
    paths: np.ndarray  # bytes, absolute or from the root: a million take little memory in workers
    labels: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = Path(self.name(index)).read_bytes()
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


def class_folders(data: "Data", what: str, endings: tuple[str, ...]) -> Splits:
    """Files that end in one of `endings`, in class folders; `what` a message calls them.

    Without a `train` folder all of `path` is training data; without a test folder a share of it is
    held out; without class folders there are no labels.
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
    train, classes = scan_folder(train_root, None, what, endings)
    if test_root is None:
        return Splits(*hold_out(train, data.holdout), classes)
    test, _ = scan_folder(test_root, classes, what, endings)
    return Splits(train, test, classes)


def scan_folder(
    root: Path,
    classes: Sequence[str] | None,
    what: str,
    endings: tuple[str, ...],
) -> tuple[Files, tuple[str, ...]]:
    """Finds the files below `root`, in the order of their paths, and their classes.

    Args:
        root: a folder of class folders, or of files.
        classes: those of the training data, which a test folder must keep to; None to find them.
        what: what a message calls them.
        endings: of the files.
    """
    found = sorted(os.path.relpath(path, root) for path in regular_files(str(root), endings))
    if not found:
        raise DataError(
            f"{root} holds no {what}: expected files that end in {', '.join(endings)}, "
            "in folders named after their classes, or just there."
        )
    tops = [path.split(os.sep)[0] if os.sep in path else None for path in found]
    names = tuple(sorted({top for top in tops if top is not None}))
    if None in tops and names:
        loose = found[tops.index(None)]
        raise DataError(
            f"{root} holds class folders ({names[0]}, ...) and loose {what} ({loose}, ...): "
            f"move the loose ones into a folder, or all {what} into one."
        )
    if classes is None:
        classes = names
    else:
        check_classes(str(root), names, classes)
    number: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(top, -1) for top in tops], np.int32)
    return Files(str(root), np.array([os.fsencode(path) for path in found]), labels), tuple(classes)


def regular_files(root: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Files below `root` that end so, each once, without hidden ones, pipes and devices.

    Links are followed after everything else. One that leads to a folder that has been seen, such
    as a parent, leads nowhere new: it would give the same files again under another label.
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
    """Raises a `DataError` where `place` has classes that the training data lacks."""
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{place} has classes that the training data lacks: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}. Rename or remove them; the training classes "
            f"are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
        )


def test_names(data: "Data") -> tuple[str, ...]:
    """What a test split may be called; the first that is there counts."""
    return (data.test_split, "test", "val", "validation")
