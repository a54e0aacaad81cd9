"""Images with label maps: folders of images beside folders of PNG files of class indices."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.folders import Files, digest_of_files, regular_files
from hpm_jax.data.records import DataError, Example, Records, Splits, Subset, hold_out
from hpm_jax.text_files import printable, read_text

if TYPE_CHECKING:
    from hpm_jax.config import Data

LABEL_FOLDERS = ("labels", "annotations")
LABEL_ENDINGS = (".png",)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
# other names of the splits: ADE20K's, and COCO-Stuff's
SPLITS = {"train": ("train", "training", "train2017"), "val": ("val", "validation", "val2017")}
TRAIN_IDS = "_labelTrainIds"  # ends the name of a map whose classes are counted without gaps
NAMES, ADE_NAMES = "classes.txt", "objectInfo150.txt"
NAMES_BYTES = 2**20
LISTED = 3  # number of files listed in a message


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Image files, each with a label-map file of the same name."""

    images: Files
    label_maps: Files

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """Returns both files, encoded."""
        label_map = self.label_maps[index]["image"]
        return {"image": self.images[index]["image"], "label_map": label_map}

    def name(self, index: int) -> str:
        return self.images.name(index)

    def label_name(self, index: int) -> str:
        """Returns the name of the label map in messages."""
        return self.label_maps.name(index)

    def identity(self) -> bytes:
        """Returns a digest of the names and sizes of all files."""
        digests = (digest_of_files(self.images), digest_of_files(self.label_maps))
        return hashlib.sha256(b"".join(digests)).digest()


def label_name(records: Records, index: int) -> str:
    """Returns the name of the label map of a record, also of a `Subset`."""
    if isinstance(records, Subset):
        return label_name(records.records, int(records.indices[index]))
    return records.label_name(index) if isinstance(records, LabelledImages) else records.name(index)


def label_maps(data: "Data") -> Splits:
    """Loads `images/<split>/*` and `labels/<split>/*.png` (CamVid), or `annotations/` (ADE20K).

    Without the folder of the split "val", a fraction of the training images is held out. The names
    of the classes are from `classes.txt`, one in a line, or ADE20K's `objectInfo150.txt`; without
    one there are none.

    Raises:
        DataError: for a missing folder, an image without a label map, or the reverse.
    """
    root = Path(data.path)
    if not data.path or not (root / "images").is_dir():
        raise DataError(
            f"config.data.path = {data.path!r} holds no folder images: expected "
            "images/<split>/*.jpg and labels/<split>/*.png, or annotations/<split>/*.png"
        )
    labels = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if labels is None:
        raise DataError(
            f"{root} has images and no folder {' or '.join(LABEL_FOLDERS)}: expected a PNG of "
            "class indices for every image, under the same name"
        )
    classes = read_classes(root)
    train = paired_folders(root / "images", labels, data.train_split, "config.data.train_split")
    if train is None:
        raise DataError(_no_split(root / "images", data.train_split, "config.data.train_split"))
    test = paired_folders(root / "images", labels, data.test_split, "config.data.test_split")
    if test is None:
        if data.test_split not in SPLITS:
            raise DataError(_no_split(root / "images", data.test_split, "config.data.test_split"))
        return Splits(*hold_out(train, data.holdout), classes)
    return Splits(train, test, classes)


def paired_folders(
    images: Path,
    labels: Path,
    split: str,
    option: str,
    kind: str = "label map",
    expected: str = "a PNG of class indices for every image",
) -> LabelledImages | None:
    """Pairs the files of a split by name; None if there is no such folder of images.

    Args:
        images, labels: folders with a folder of each split.
        option: the option that names the split, in messages.
        kind, expected: what the second folder holds, in messages.

    Raises:
        DataError: for an image without its pair, or the reverse.
    """
    name = next((one for one in SPLITS.get(split, (split,)) if (images / one).is_dir()), None)
    if name is None:
        return None
    if not (labels / name).is_dir():
        raise DataError(
            f"{images / name} has no folder of {kind}s {labels / name}: expected {expected}, or "
            f"another {option}"
        )
    pictures = _by_stem(images / name, IMAGE_ENDINGS)
    maps = _train_ids(_by_stem(labels / name, LABEL_ENDINGS))
    if not pictures:
        raise DataError(
            f"{images / name} holds no images: expected files that end in "
            f"{', '.join(IMAGE_ENDINGS)}"
        )
    for these, others, what, missing in (
        (pictures, maps, images / name, f"{kind} {labels / name}"),
        (maps, pictures, labels / name, f"image {images / name}"),
    ):
        if alone := sorted(these.keys() - others.keys()):
            more = f", and {len(alone) - 1} more of {len(these)}" if len(alone) > 1 else ""
            raise DataError(
                f"{printable(str(what / these[alone[0]]))} has no {missing}/"
                f"{printable(alone[0])}.*{more}: add what is missing, or remove the file"
            )
    stems = sorted(pictures)
    return LabelledImages(
        files_below(images / name, [pictures[stem] for stem in stems]),
        files_below(labels / name, [maps[stem] for stem in stems]),
    )


def _train_ids(maps: dict[str, str]) -> dict[str, str]:
    """Returns the maps of training indices alone, where a folder has some (COCO-Stuff)."""
    found = {stem: path for stem, path in maps.items() if stem.endswith(TRAIN_IDS)}
    return {stem.removesuffix(TRAIN_IDS): path for stem, path in found.items()} or maps


def _by_stem(root: Path, endings: tuple[str, ...]) -> dict[str, str]:
    """Returns the paths of files below `root`, relative to it, by their paths without endings."""
    found: dict[str, str] = {}
    for path in regular_files(str(root), endings):
        relative = str(Path(path).relative_to(root))
        stem = relative.rpartition(".")[0]
        if stem in found:
            raise DataError(
                f"{root} has {printable(found[stem])} and {printable(relative)}: expected one "
                "file of each name"
            )
        found[stem] = relative
    return found


def files_below(root: Path, paths: Sequence[str]) -> Files:
    """Returns the files at `paths` relative to `root`, without labels."""
    encoded = np.array([path.encode(errors="surrogateescape") for path in paths])
    return Files(str(root), encoded, np.full(len(paths), -1, np.int32))


def _no_split(images: Path, split: str, option: str) -> str:
    there = sorted(path.name for path in images.iterdir() if path.is_dir())
    return f"{option} = {split!r}: {images} has no such folder; it has {', '.join(there) or 'none'}"


def read_classes(root: Path) -> tuple[str, ...]:
    """Returns the names of the classes in the order of their indices; () without a file of them."""
    plain, ade = root / NAMES, root / ADE_NAMES
    if plain.exists():
        lines = read_text(plain, NAMES_BYTES, DataError).splitlines()
        names = [printable(line).strip() for line in lines if line.strip()]
    elif ade.exists():
        rows = read_text(ade, NAMES_BYTES, DataError).splitlines()[1:]
        names = [printable(row.split("\t")[-1]).strip() for row in rows if row.strip()]
    else:
        return ()
    if len(names) < 2:
        there = plain if plain.exists() else ade
        raise DataError(f"{there} names {len(names)} classes: expected one in a line, two at least")
    return tuple(names)
