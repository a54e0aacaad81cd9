"""Videos in class folders, and videos that a list names together with their labels."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpm_jax.data.digits import check_frames
from hpm_jax.data.folders import Files, check_classes, class_folders, test_names
from hpm_jax.data.records import DataError, Splits, hold_out

if TYPE_CHECKING:
    from hpm_jax.config import Data

VIDEO_ENDINGS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v")
# A path up to its last known ending, then what is behind it; else the last word is the label.
_VIDEO = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_ENDINGS))}))(?:[\s,]+(.*))?", re.I)
_WORDS = re.compile(r"(.+?)[\s,]+([^\s,]+)")


def video_folder(data: "Data") -> Splits:
    """Folders of videos: `path/train/<class>/*` and `path/test/<class>/*`, or less than that."""
    check_frames(data)
    return class_folders(data, "videos", VIDEO_ENDINGS)


def video_csv(data: "Data") -> Splits:
    """Lists of videos: `path/train.csv` and `path/val.csv`, a line "path label" for each video.

    So VideoMAE lays out Kinetics-400 and Something-Something v2. The lists are called after
    `data.train_split` and `data.test_split`; without a list to test on, a share of the videos is
    held out. Between path and label stands a space or a comma. Paths are relative to the list's
    folder or absolute. Labels are numbers or names; without any there are no classes.

    Raises:
        DataError: where there is no list, or one that cannot be right.
    """
    check_frames(data)
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


def list_records(path: Path) -> tuple[Files, tuple[str, ...]]:
    """The videos of one list, and the classes that it has itself."""
    listed = read_list(path)
    classes = class_names(listed.labels)
    return _files(path.parent, listed, classes), classes


def class_names(labels: list[str]) -> tuple[str, ...]:
    """The labels that there are; numbers in their own order, which is not that of their names."""
    by_number = all(re.fullmatch(r"-?\d+", label) for label in labels)
    return tuple(sorted(set(labels) - {""}, key=int if by_number else str))


class Listed(NamedTuple):
    """The lines of a list."""

    paths: list[str]
    labels: list[str]  # "" without one


def read_list(path: Path) -> Listed:
    """Reads "path label" lines; a header is left out.

    Raises:
        DataError: where there are none, or some have labels only, or the first path is wrong.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    parsed = [_parse(line.strip()) for line in lines if line.strip()]
    videos = [video.lower().endswith(VIDEO_ENDINGS) for video, _ in parsed]
    if any(videos) and not videos[0]:
        parsed = parsed[1:]  # a header
    if not parsed:
        raise DataError(f'{path} names no videos: expected a line "path label" for each.')
    listed = Listed(*map(list, zip(*parsed, strict=True)))
    if "" in listed.labels and any(listed.labels):
        bare = listed.paths[listed.labels.index("")]
        raise DataError(f"{path} gives {bare} no label, but others have one: add it, or drop all.")
    if not (path.parent / listed.paths[0]).is_file():
        raise DataError(
            f"{path} names {listed.paths[0]}, which is not there: expected paths relative to "
            f"{path.parent}, or absolute ones."
        )
    return listed


def _parse(line: str) -> tuple[str, str]:
    match = _VIDEO.fullmatch(line) or _WORDS.fullmatch(line)
    video, label = match.groups() if match else (line, "")
    return video.strip('"'), (label or "").strip('"')


def _files(root: Path, listed: Listed, classes: tuple[str, ...]) -> Files:
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(label, -1) for label in listed.labels], np.int32)
    return Files(str(root), np.array([os.fsencode(path) for path in listed.paths]), labels)
