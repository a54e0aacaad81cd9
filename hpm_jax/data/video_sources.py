"""Video sources: class folders, and lists of videos with labels."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpm_jax.data.digits import check_frames
from hpm_jax.data.folders import (
    VIDEO_BYTES,
    Files,
    check_classes,
    class_folders,
    test_names,
)
from hpm_jax.data.records import DataError, Splits, hold_out
from hpm_jax.extras import import_extra
from hpm_jax.text_files import LIST_BYTES, printable, read_text

if TYPE_CHECKING:
    from hpm_jax.config import Data

VIDEO_ENDINGS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v")
# A path up to its last known ending, then the label; otherwise the last word is the label.
_VIDEO = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_ENDINGS))}))(?:[\s,]+(.*))?", re.I)
_WORDS = re.compile(r"(.+?)[\s,]+([^\s,]+)")


def video_folder(data: "Data") -> Splits:
    """Loads video folders: `path/train/<class>/*` and `path/test/<class>/*`, or a part of that."""
    _check_video(data)
    return class_folders(data, "videos", VIDEO_ENDINGS)


def video_csv(data: "Data") -> Splits:
    """Loads lists of videos: `path/train.csv` and `path/val.csv`, one line "path label" per video.

    VideoMAE uses this format for Kinetics-400 and Something-Something v2. The lists are named after
    `data.train_split` and `data.test_split`; without a test list, a fraction of the videos is held
    out. Path and label are separated by a space or a comma. Paths are relative to the list's folder
    or absolute. Labels are numbers or names; without labels there are no classes.

    Raises:
        DataError: if there is no list, or a list is invalid.
    """
    _check_video(data)
    root = Path(data.path)
    train_path = root / f"{data.train_split}.csv"
    if not data.path or not train_path.is_file():
        raise DataError(
            f"config.data.path = {data.path!r} holds no {train_path.name}: give the folder of the "
            'lists, with a line "path label" for each video, as in --config.data.path=/data/k400'
        )
    train = read_list(train_path)
    classes = class_names(train.labels)
    tests = [root / f"{name}.csv" for name in test_names(data)]
    test_path = next((path for path in tests if path.is_file()), None)
    if test_path is None:
        return Splits(*hold_out(_files(root, train, classes), data.holdout), classes)
    test = read_list(test_path)
    check_classes(str(test_path), [label for label in test.labels if label], classes)
    return Splits(_files(root, train, classes), _files(root, test, classes), classes)


def _check_video(data: "Data") -> None:
    """Raises an error for options that do not apply to videos, or if PyAV is missing."""
    check_frames(data)
    import_extra("av", "video", f"config.data.source = {data.source!r}")  # before loaders need it


def list_records(path: Path) -> tuple[Files, tuple[str, ...]]:
    """Returns the videos of one list and its own classes."""
    listed = read_list(path)
    classes = class_names(listed.labels)
    return _files(path.parent, listed, classes), classes


def class_names(labels: list[str]) -> tuple[str, ...]:
    """Returns the distinct labels; numbers in numerical order."""
    by_number = all(re.fullmatch(r"-?\d+", label) for label in labels)
    return tuple(sorted(set(labels) - {""}, key=int if by_number else str))


class Listed(NamedTuple):
    """The lines of a list."""

    paths: list[str]
    labels: list[str]  # "" without one


def read_list(path: Path) -> Listed:
    """Reads "path label" lines and skips a header.

    Raises:
        DataError: if there are no lines, only some have labels, or the first path is wrong.
    """
    lines = read_text(path, LIST_BYTES, DataError).splitlines()
    parsed = [_parse(line.strip()) for line in lines if line.strip()]
    videos = [video.lower().endswith(VIDEO_ENDINGS) for video, _ in parsed]
    if any(videos) and not videos[0]:
        parsed = parsed[1:]  # a header
    if not parsed:
        raise DataError(f'{path} names no videos: expected a line "path label" for each.')
    listed = Listed(*map(list, zip(*parsed, strict=True)))
    if "" in listed.labels and any(listed.labels):
        bare = listed.paths[listed.labels.index("")]
        raise DataError(
            f"{path} gives {printable(bare)} no label, but others have one: add it, or drop all."
        )
    if not (path.parent / listed.paths[0]).is_file():
        raise DataError(
            f"{path} names {printable(listed.paths[0])}, which is not there: expected paths "
            f"relative to {path.parent}, or absolute ones."
        )
    return listed


def _parse(line: str) -> tuple[str, str]:
    match = _VIDEO.fullmatch(line) or _WORDS.fullmatch(line)
    video, label = match.groups() if match else (line, "")
    return video.strip('"'), printable((label or "").strip('"'))


def _files(root: Path, listed: Listed, classes: tuple[str, ...]) -> Files:
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(label, -1) for label in listed.labels], np.int32)
    paths = np.array([os.fsencode(path) for path in listed.paths])
    return Files(str(root), paths, labels, VIDEO_BYTES)
