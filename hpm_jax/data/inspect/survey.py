"""Surveys a data set in one pass over its headers: counts, sizes, unusual images, duplicates."""

import collections
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.data.decoding import MOST_PIXELS
from hpm_jax.data.folders import Files
from hpm_jax.data.inspect.header import Header, header_of
from hpm_jax.data.records import Example, Records, Splits, Subset, known_labels
from hpm_jax.data.statistics import reason_of

THREADS = 8
WHOLE = 20_000  # number of records read per split if records are not files
LISTED = 20  # number of names of each kind in the JSON
TINY, HUGE, THIN = 16, 2**26, 4  # pixels of the short side, pixels in all, long over short side


class Seen(NamedTuple):
    """One record: its header, or the reason why it cannot be read."""

    place: int  # index in its split
    header: Header | None
    reason: str
    digest: bytes  # of the content, if already known


def survey(splits: Splits) -> dict[str, Any]:
    """Returns the facts of both splits, for JSON, with up to `LISTED` names of each kind."""
    found: dict[str, Any] = {"splits": {}, "broken": [], "odd": {}}
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    odd: dict[str, list[str]] = collections.defaultdict(list)
    odd_counts: collections.Counter[str] = collections.Counter()
    sizes: list[tuple[int, int]] = []
    seen_of: dict[str, list[Seen]] = {}
    broken = total = 0
    for split, records in (("train", splits.train), ("test", splits.test)):
        seen_of[split] = seen = list(look_at(records))
        found["splits"][split] = {
            "images": len(records),
            "looked_at": len(seen),
            "classes": _class_counts(records, splits.classes),
        }
        for one in seen:
            if one.header is None:
                broken += 1
                if len(found["broken"]) < LISTED:
                    found["broken"].append(f"{records.name(one.place)}: {one.reason}")
                continue
            header, total = one.header, total + one.header.size
            sizes.append((header.height, header.width))
            counts["formats"][header.format] += 1
            counts["channels"][str(header.channels)] += 1
            counts["bits"][str(header.bits)] += 1
            for note in (*header.notes, *_of_size(header)):
                odd_counts[note] += 1
                if len(odd[note]) < LISTED:
                    odd[note].append(records.name(one.place))
    found |= {name: dict(counter.most_common()) for name, counter in counts.items()}
    found["broken_count"], found["bytes"] = broken, total
    found["odd"] = {
        note: {"images": number, "examples": odd[note]} for note, number in odd_counts.items()
    }
    return found | _of_sizes(sizes) | {"copies": _copies(splits, seen_of)}


def look_at(records: Records) -> Iterator[Seen]:
    """Yields headers of all records that are files, or of `WHOLE` evenly spaced other records."""
    limit = len(records) if isinstance(_base(records)[0], Files) else WHOLE
    indices = np.unique(np.linspace(0, len(records) - 1, min(limit, len(records))).astype(int))
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda index: _look(records, int(index)), indices, chunksize=64)


def _base(records: Any, index: int = 0) -> tuple[Any, int]:
    """Returns the records that a subset is taken from, and the index there."""
    while isinstance(records, Subset):
        records, index = records.records, int(records.indices[index])
    return records, index


def _look(records: Records, index: int) -> Seen:
    base, place = _base(records, index)
    digest = b""
    try:
        if isinstance(base, Files):
            return Seen(index, header_of(base.path(place)), "", digest)
        image = base[place]["image"]
        digest = _digest(image)
        return Seen(index, header_of(image), "", digest)
    except Exception as error:  # Pillow raises many kinds for bytes that are not an image
        return Seen(index, None, reason_of(error), digest)


def _digest(image: bytes | np.ndarray) -> bytes:
    content = image if isinstance(image, bytes) else np.ascontiguousarray(image).data
    return hashlib.blake2b(content, digest_size=16).digest()


def _class_counts(records: Records, classes: tuple[str, ...]) -> dict[str, int]:
    labels = known_labels(records)
    if labels is None or not classes:
        return {}
    counts = np.bincount(np.asarray(labels)[np.asarray(labels) >= 0], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _of_size(header: Header) -> Iterator[str]:
    short, long = sorted((header.height, header.width))
    if short < TINY:
        yield f"tiny (short side below {TINY})"
    if short * long > HUGE:
        yield "huge (more pixels than config.data.max_pixels = 2^26)"
    if short * long > MOST_PIXELS:
        yield "refused by the pipeline, whatever config.data.max_pixels"
    if long > THIN * short:
        yield f"thin (more than {THIN} times as long as wide)"


def _of_sizes(sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Returns smallest, largest and quantiles of sides and of width over height."""
    if not sizes:
        return {}
    array = np.array(sizes, np.float64)
    values = {
        "height": array[:, 0],
        "width": array[:, 1],
        "short_side": array.min(axis=1),
        "aspect": array[:, 1] / np.maximum(array[:, 0], 1),
    }
    edges = (0, 0.05, 0.5, 0.95, 1)
    names = ("least", "5 %", "median", "95 %", "most")
    return {
        key: dict(zip(names, np.round(np.quantile(value, edges), 3).tolist(), strict=True))
        for key, value in values.items()
    }


def _copies(splits: Splits, seen_of: dict[str, list[Seen]]) -> dict[str, Any]:
    """Returns records with the same content; files with a unique size are not read."""
    by_content: dict[bytes, list[tuple[str, str]]] = collections.defaultdict(list)
    same_size: dict[int, list[tuple[str, Seen]]] = collections.defaultdict(list)
    for split, seen in seen_of.items():
        for one in seen:
            if one.header is not None:
                same_size[one.header.size].append((split, one))
    for group in same_size.values():
        for split, one in group if len(group) > 1 else ():
            records: Records = getattr(splits, split)
            try:
                digest = one.digest or _digest(_image(records[one.place]))
            except OSError:
                continue
            by_content[digest].append((split, records.name(one.place)))
    groups = [group for group in by_content.values() if len(group) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    return {
        "groups": len(groups),
        "images": sum(map(len, groups)),
        "between_train_and_test": len(across),
        "examples": [_names(group) for group in sorted(groups, key=_one_split)[:LISTED]],
    }


def _one_split(group: list[tuple[str, str]]) -> bool:
    return len({split for split, _ in group}) == 1


def _image(example: Example) -> Any:
    return example["image"]


def _names(group: Iterable[tuple[str, str]]) -> list[str]:
    return [name for _, name in group][:5]


def sizes_of(records: Records, sample: int) -> list[tuple[int, int]]:
    """Returns heights and widths of at most `sample` evenly spaced records with a header."""
    indices = np.unique(np.linspace(0, len(records) - 1, min(sample, len(records))).astype(int))
    seen = [_look(records, int(index)) for index in indices]
    return [(one.header.height, one.header.width) for one in seen if one.header is not None]
