"""Images with boxes and masks in COCO's layout: a folder of images and one JSON file a split."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpm_jax.data.folders import Files
from hpm_jax.data.records import DataError, Example, Records, Splits, Subset, hold_out
from hpm_jax.text_files import check_size, parse_json, printable

if TYPE_CHECKING:
    from hpm_jax.config import Data

ANNOTATION_BYTES = 2**33  # largest annotation file; COCO's has 0.5 GB
HELD_OUT = "val"  # the split that may be missing
COORDINATES = 6  # numbers of the smallest polygon, a triangle


class Instances(NamedTuple):
    """The n annotated objects of an image, in pixels of its file."""

    boxes: np.ndarray  # float32 [n, 4]: left, top, right, bottom, clipped to the image
    classes: np.ndarray  # int32 [n]
    crowds: np.ndarray  # bool [n]: regions of many objects, which are neither learned nor errors
    areas: np.ndarray  # float32 [n], by which COCO tells small objects from large ones
    # of each object a list of polygons, float32 [x, y, x, y, ...], an RLE {"size", "counts"}, or
    # None
    masks: tuple[Any, ...]

    def take(self, chosen: np.ndarray) -> "Instances":
        """Returns some of the objects, by indices or a mask."""
        masks = tuple(self.masks[number] for number in np.arange(len(self.boxes))[chosen])
        boxes, classes, crowds, areas = (part[chosen] for part in self[:4])
        return Instances(boxes, classes, crowds, areas, masks)


@dataclasses.dataclass(frozen=True)
class CocoImages:
    """Image files and their objects."""

    images: Files
    instances: tuple[Instances, ...]
    sizes: np.ndarray  # int [N, 2]: height and width in the annotation file
    file: str  # the annotation file, for messages
    digest: bytes  # of the annotation file
    skipped: int = 0  # unusable annotations that were left out

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """Returns the encoded image."""
        return {"image": self.images[index]["image"]}

    def name(self, index: int) -> str:
        return self.images.name(index)

    def identity(self) -> bytes:
        """Returns a digest of all annotations and names."""
        return hashlib.sha256(self.digest + b"\0".join(map(bytes, self.images.paths))).digest()


def find_instances(records: Records, index: int) -> tuple[CocoImages, int]:
    """Returns the images that a record is of, and its place there, also of a `Subset`.

    Raises:
        DataError: for records of another source.
    """
    if isinstance(records, Subset):
        return find_instances(records.records, int(records.indices[index]))
    if not isinstance(records, CocoImages):
        raise DataError(
            f"{records.name(index)} has no boxes: use --config.data.source=coco, with "
            "annotations/<split>.json and <split>/*.jpg"
        )
    return records, index


def coco(data: "Data") -> Splits:
    """Loads `annotations/<split>.json` and `<split>/*`; or COCO's `annotations/instances_*.json`.

    Without an annotation file of the split "val", a fraction of the training images is held out.
    Classes are the categories in the order of their ids.

    Raises:
        DataError: for a missing or damaged file, an annotation that cannot be used, or categories
            that differ between the splits.
    """
    root = Path(data.path)
    if not data.path or not (root / "annotations").is_dir():
        raise DataError(
            f"config.data.path = {data.path!r} holds no folder annotations: expected "
            "annotations/<split>.json and <split>/*.jpg"
        )
    skip = getattr(data, "skip_invalid", False)
    train, classes = _read(root, data.train_split, "config.data.train_split", skip)
    if data.test_split == HELD_OUT and _annotation_file(root, HELD_OUT) is None:
        return Splits(*hold_out(train, data.holdout), classes)
    test, others = _read(root, data.test_split, "config.data.test_split", skip)
    if classes != others:
        one, other = (", ".join(names[:3]) for names in (classes, others))
        raise DataError(
            f"{test.file} has {len(others)} categories, {other}, ..., and {train.file} "
            f"{len(classes)}, {one}, ...: expected the same names in the order of their ids"
        )
    return Splits(train, test, classes)


def _annotation_file(root: Path, split: str) -> Path | None:
    names = (f"{split}.json", f"instances_{split}.json")
    found = [root / "annotations" / name for name in names]
    return next((path for path in found if path.exists()), None)


def _read(root: Path, split: str, option: str, skip: bool) -> tuple[CocoImages, tuple[str, ...]]:
    path = _annotation_file(root, split)
    if path is None:
        there = sorted(one.name for one in (root / "annotations").glob("*.json"))
        raise DataError(
            f"{option} = {split!r}: {root / 'annotations'} has no file {split}.json or "
            f"instances_{split}.json; it has {', '.join(map(printable, there)) or 'none'}"
        )
    folder = next((one for one in (root / split, root / "images" / split) if one.is_dir()), None)
    if folder is None:
        raise DataError(f"{path} has no folder of images {root / split}: add it beside annotations")
    where = printable(str(path))
    check_size(path, ANNOTATION_BYTES, DataError)
    content = path.read_bytes()
    document = parse_json(content, where, DataError)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DataError(f"{where} has no list {key!r}: expected COCO's annotations of objects")
    classes, numbers = _categories(document["categories"], where)
    images = _images(document["images"], folder, where)
    order = sorted(images)
    by_image: dict[Any, list[Mapping]] = {identity: [] for identity in order}
    for one in document["annotations"]:
        if not isinstance(one, dict) or not _is_known(one.get("image_id"), images):
            raise DataError(
                f"{where} has the annotation {_identity(one)} of the image "
                f"{_field(one, 'image_id')}, which is not among its images: correct the file"
            )
        by_image[one["image_id"]].append(one)
    known = {image.name for image in os.scandir(folder)}
    found, skipped = [], 0
    for identity in order:
        image = images[identity]
        if image.file not in known and not (folder / image.file).exists():
            raise DataError(
                f"{printable(str(folder / image.file))} does not exist, and {where} names it: add "
                "the image, or remove it from the file"
            )
        rows = []
        for one in by_image[identity]:
            reason = _why_invalid(one, image, numbers)
            if reason and not skip:
                raise DataError(
                    f"{where}: the annotation {_identity(one)} of {printable(image.file)} "
                    f"{reason}: correct it, or leave out all such by "
                    "--config.data.skip_invalid=True"
                )
            skipped += bool(reason)
            rows += [] if reason else [one]
        found.append(_instances(rows, image, numbers))
    paths = np.array([os.fsencode(images[identity].file) for identity in order])
    records = CocoImages(
        Files(str(folder), paths, np.full(len(paths), -1, np.int32)),
        tuple(found),
        np.array([(images[one].height, images[one].width) for one in order]).reshape(-1, 2),
        where,
        hashlib.sha256(content).digest(),
        skipped,
    )
    return records, classes


class _Image(NamedTuple):
    file: str
    height: int
    width: int


def _categories(categories: list, where: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Returns the names of the classes, and the class index of each category id."""
    try:
        names = {int(one["id"]): printable(str(one["name"])) for one in categories}
    except (TypeError, KeyError, ValueError):
        raise DataError(f"{where} has a category without id or name: give each of them both") from (
            None
        )
    if not names or len(names) < len(categories):
        raise DataError(
            f"{where} has {len(categories)} categories: expected one or more, each id once"
        )
    order = sorted(names)
    return tuple(names[one] for one in order), {one: place for place, one in enumerate(order)}


def _images(images: list, folder: Path, where: str) -> dict[Any, _Image]:
    found: dict[Any, _Image] = {}
    for one in images:
        try:
            image = _Image(str(one["file_name"]), int(one["height"]), int(one["width"]))
            identity = one["id"]
            known = identity in found
        except (TypeError, KeyError, ValueError, OverflowError):
            raise DataError(
                f"{where} has an image without id, file_name, height or width: {_identity(one)}"
            ) from None
        if known:
            raise DataError(f"{where} has two images of the id {identity}: expected one of each")
        inside = Path(os.path.normpath(folder / image.file)).is_relative_to(folder)
        if not inside or image.height < 1 or image.width < 1:
            raise DataError(
                f"{where} has the image {printable(image.file)} of {image.height} x {image.width} "
                f"pixels: expected a file in {folder}, and a size"
            )
        found[identity] = image
    if not found:
        raise DataError(f"{where} names no images: expected one or more")
    return found


def _why_invalid(one: Mapping, image: _Image, numbers: Mapping[Any, int]) -> str:
    """Returns what is wrong with an annotation, as the end of a sentence; "" for nothing."""
    box = one.get("bbox")
    if not _is_numbers(box, 4):
        return f"has the box {box!r}, expected [left, top, width, height]"
    assert isinstance(box, list)
    left, top, width, height = box
    if not (width > 0 and height > 0):
        return f"has an empty box {box}"
    if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
        return f"has a box {box} outside the image of {image.height} x {image.width} pixels"
    if not _is_known(one.get("category_id"), numbers):
        return f"has the category {one.get('category_id')!r}, which is not among the categories"
    if not _is_numbers([one.get("area", 0)], 1):
        return f"has the area {one['area']!r}, expected a number"
    return _why_invalid_mask(one.get("segmentation"), image)


def _is_known(identity: Any, known: Mapping[Any, Any]) -> bool:
    return isinstance(identity, int | str) and identity in known


def _why_invalid_mask(mask: Any, image: _Image) -> str:
    if mask is None or mask == []:
        return ""
    if isinstance(mask, dict):
        if mask.get("size") != [image.height, image.width]:
            return f"has a mask of the size {mask.get('size')}, expected that of the image"
        counts = mask.get("counts")
        if isinstance(counts, str):
            counts = lengths_of(counts)
        if not isinstance(counts, list):
            return "has a mask without counts"
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        if not whole or sum(counts) != image.height * image.width:
            return "has a mask whose run lengths do not fill the image"
        return "" if sum(counts[1::2]) else "has an empty mask"
    if not isinstance(mask, list):
        return "has a mask that is neither polygons nor run lengths"
    for polygon in mask:
        if not isinstance(polygon, list) or not _is_numbers(polygon, len(polygon)):
            return "has a polygon that is no list of numbers"
        if len(polygon) < COORDINATES or len(polygon) % 2:
            return (
                f"has a degenerate polygon of {len(polygon)} numbers, expected pairs, six or more"
            )
    return ""


def lengths_of(text: str) -> list[int]:
    """Returns the run lengths in COCO's compressed text, of which a damaged one has others.

    Five bits of a number are in each character from "0" on, the lowest first; the sixth says that
    more follow, and the fifth of the last one is the sign. From the fourth number on, each is the
    difference from the one two places before.
    """
    lengths: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - ord("0")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = bits = 0
    return lengths


def _is_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _instances(rows: list[Mapping], image: _Image, numbers: Mapping[Any, int]) -> Instances:
    boxes = np.array([one["bbox"] for one in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, np.array([image.width, image.height] * 2, np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = [one.get("area", float(side.prod())) for one, side in zip(rows, sides, strict=True)]
    return Instances(
        boxes,
        np.array([numbers[one["category_id"]] for one in rows], np.int32),
        np.array([bool(one.get("iscrowd", 0)) for one in rows], bool),
        np.array(areas, np.float32),
        tuple(_compact(one.get("segmentation")) for one in rows),
    )


def _compact(mask: Any) -> Any:
    """Polygons as arrays: of Python's numbers, COCO's would take a gigabyte in every worker."""
    if isinstance(mask, list):
        return [np.array(polygon, np.float32) for polygon in mask] or None
    return mask


def _identity(one: Any) -> str:
    return f"{_field(one, 'id')}"


def _field(one: Any, name: str) -> Any:
    return one.get(name, "without " + name) if isinstance(one, dict) else repr(one)[:40]


def instances_in(records: Records) -> Iterator[Instances]:
    """Yields the objects of every record."""
    for index in range(len(records)):
        images, place = find_instances(records, index)
        yield images.instances[place]
