"""Where images come from: every source is a list of records with random access, split in two."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpm_jax.options import Data

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")


class DataError(ValueError):
    """Data that cannot be trained on; the message names the place and the remedy."""


class Record(NamedTuple):
    """One image as it is stored."""

    image: bytes | np.ndarray  # an encoded file, or uint8 [h, w, channels]
    label: int  # -1 without labels


class Records(Protocol):
    """Records by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name(self, index: int) -> str:
        """What a message calls the record: its path, or its place in the data set."""
        ...


class Splits(NamedTuple):
    """What a run trains on and what it is measured on."""

    train: Records
    test: Records
    classes: tuple[str, ...]  # names of the labels; empty without labels


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images in memory."""

    images: np.ndarray  # uint8 [N, h, w, channels]
    labels: np.ndarray  # int [N]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return Record(self.images[index], int(self.labels[index]))

    def name(self, index: int) -> str:
        return f"image {index}"


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files below a folder."""

    root: str
    paths: np.ndarray  # bytes, relative to the root: a million take little memory, also in workers
    labels: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        return Record(Path(self.name(index)).read_bytes(), int(self.labels[index]))

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """A split of a tensorflow-datasets data source, images still encoded."""

    source: Any
    title: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        example = self.source[index]
        return Record(example["image"], int(example.get("label", -1)))

    def name(self, index: int) -> str:
        return f"{self.title}, example {index}"


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some of the records of another source."""

    records: Records
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.records[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.records.name(int(self.indices[index]))


def known_labels(records: Records) -> np.ndarray | None:
    """The labels `[N]` of records that have them at hand; None where each must be read."""
    if isinstance(records, Subset):
        labels = known_labels(records.records)
        return None if labels is None else labels[records.indices]
    return getattr(records, "labels", None)


def set_apart(examples: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(examples)` at random into the rest and `count` of them, both sorted."""
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[count:]), np.sort(order[:count])


def hold_out(
    records: Records, share: float, option: str = "config.data.holdout"
) -> tuple[Records, Records]:
    """Splits off a fixed share for testing: the same images for every seed and every run.

    `option` is what a message calls the share.
    """
    count = round(share * len(records))
    if not 0 < count < len(records):
        raise DataError(
            f"{len(records)} images cannot be split with {option} = {share}: "
            "raise it, add images, or give a test split of their own."
        )
    rest, apart = set_apart(len(records), count)
    return Subset(records, rest), Subset(records, apart)


def digits(data: "Data") -> Splits:
    """The 1,797 handwritten digits of 8 x 8 that scikit-learn ships."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    records = Arrays(np.repeat(images, data.channels, axis=-1), bunch.target)
    return Splits(*hold_out(records, data.holdout), tuple("0123456789"))


def synthetic(data: "Data") -> Splits:
    """Noise of the size asked for, in no time: for benchmarks."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (16, *data.image_size, data.channels), dtype=np.uint8)
    numbers = np.arange(data.synthetic_images)
    # a view: it costs no more memory than its pool of 16
    records = Subset(Arrays(pool, np.arange(16) % 10), numbers % 16)
    return Splits(*hold_out(records, data.holdout), tuple("0123456789"))


def folder(data: "Data") -> Splits:
    """Folders of images: `path/train/<class>/*` and `path/test/<class>/*`, or less than that.

    Without a `train` folder all of `path` is training data; without a test folder a share of it is
    held out; without class folders there are no labels.
    """
    root = Path(data.path)
    if not data.path or not root.is_dir():
        raise DataError(
            f"config.data.path = {data.path!r} is not a folder: give the folder that holds the "
            "images, as in --config.data.path=/data/my_images"
        )
    train_root = root / data.train_split if (root / data.train_split).is_dir() else root
    tests = [root / name for name in (data.test_split, "test", "val", "validation")]
    test_root = next((path for path in tests if path.is_dir()), None)
    if train_root == root:
        test_root = None
    train, classes = scan_folder(train_root, None)
    if test_root is None:
        return Splits(*hold_out(train, data.holdout), classes)
    test, _ = scan_folder(test_root, classes)
    return Splits(train, test, classes)


def scan_folder(root: Path, classes: Sequence[str] | None) -> tuple[Files, tuple[str, ...]]:
    """Finds the images below `root`, in the order of their paths, and their classes.

    Args:
        root: a folder of class folders, or of images.
        classes: those of the training data, which a test folder must keep to; None to find them.
    """
    found = sorted(
        os.path.relpath(os.path.join(parent, file), root)
        for parent, _, files in os.walk(root, followlinks=True)
        for file in files
        if file.lower().endswith(IMAGE_ENDINGS) and not file.startswith(".")
    )
    if not found:
        raise DataError(
            f"{root} holds no images: expected files that end in {', '.join(IMAGE_ENDINGS)}, "
            "in folders named after their classes, or just there."
        )
    tops = [path.split(os.sep)[0] if os.sep in path else None for path in found]
    names = tuple(sorted({top for top in tops if top is not None}))
    if None in tops and names:
        loose = found[tops.index(None)]
        raise DataError(
            f"{root} holds class folders ({names[0]}, ...) and loose images ({loose}, ...): "
            "move the loose ones into a folder, or all images into one."
        )
    if classes is None:
        classes = names
    elif unknown := sorted(set(names) - set(classes)):
        raise DataError(
            f"{root} has classes that the training data lacks: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}. Rename or remove them; the training classes "
            f"are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(top, -1) for top in tops], np.int32)
    return Files(str(root), np.array([os.fsencode(path) for path in found]), labels), tuple(classes)


def tfds(data: "Data") -> Splits:
    """A tensorflow-datasets data set stored as ArrayRecord; TensorFlow itself is not needed."""
    import tensorflow_datasets

    if not data.name:
        raise DataError(
            "config.data.name is empty: name the data set, as in --config.data.name=cifar10"
        )

    def split(builder, name):
        decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
        source = builder.as_data_source(split=name, decoders=decoders)
        return TfdsRecords(source, f"{data.name}/{name}")

    try:
        builder = tensorflow_datasets.builder(
            data.name, data_dir=data.path or None, file_format="array_record"
        )
        train = split(builder, data.train_split)
    except Exception as error:
        raise DataError(
            f"cannot read {data.name!r} from {data.path or 'the usual data_dir'}: {error}\n"
            f"Prepare it once (this needs TensorFlow): tfds build {data.name} "
            "--file_format=array_record"
        ) from error
    features = builder.info.features
    classes = tuple(features["label"].names) if "label" in features else ()
    if data.test_split in builder.info.splits:
        return Splits(train, split(builder, data.test_split), classes)
    return Splits(*hold_out(train, data.holdout), classes)


SOURCES: dict[str, Callable[["Data"], Splits]] = {
    "digits": digits,
    "folder": folder,
    "tfds": tfds,
    "synthetic": synthetic,
}
