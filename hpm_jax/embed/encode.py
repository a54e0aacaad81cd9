"""Encodes records in batches and writes their features in parts."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.config import Report
from hpm_jax.convert.weights import Weights
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.records import DataError, Records, Subset
from hpm_jax.embed.formats import Format, format_of
from hpm_jax.embed.parts import NOTES, Parts, check_same, open_parts, remove
from hpm_jax.embed.records import describe_records, short_name
from hpm_jax.embed.rows import Rows
from hpm_jax.errors import ConfigError
from hpm_jax.evaluation.feature_file import origin
from hpm_jax.evaluation.features import FeatureBatch, FeatureExtractor
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices
from hpm_jax.run.workdir import versions
from hpm_jax.storage import as_path, is_local, write

PART_SIZE = 4096  # records, at least
NAMED = 10  # unreadable images, on the console


class Output(NamedTuple):
    """The path and the content of an output."""

    out: str
    how: str = "cls"  # a name in `READOUTS`
    dtype: str = "float32"  # dtype of the stored features
    part_size: int = PART_SIZE


def write_features(
    config: Report,
    output: Output,
    weights: Weights,
    records: Records,
    classes: tuple[str, ...],
    devices: Devices,
    console: Console,
) -> dict[str, Any]:
    """Encodes the missing parts of the output, joins them, and returns its notes.

    Args:
        config: has `init_from`, `weights`, `data`, `features` and `run`.

    Raises:
        ConfigError: for an existing output with other options.
        DataError: if no record can be read, or features are not finite.
        StorageError: if the output cannot be written.
    """
    path, (format, folder) = as_path(output.out), format_of(output.out)
    place = path if folder else path.with_name(f"{path.name}.parts")
    if not is_local(path):
        raise ConfigError(f"--out={output.out}: features are written to files of this machine")
    made_by = origin(config, weights, output.how) | describe_records(records, classes)
    made_by["dtype"] = output.dtype
    if not folder and path.exists():
        notes = _read_notes(path, format)
        check_same(path, notes["made_by"], made_by)
        remove(place)  # of a command that was killed when the file was there already
        console.say(f"{path} is complete already")
        return notes
    whose = f"{config.weights} weights of {config.init_from}"
    extractor = FeatureExtractor(config, weights, devices, output.how, whose)
    size = -(-output.part_size // extractor.batch_size) * extractor.batch_size
    parts = open_parts(place, format, len(records), size, classes, made_by)
    encode_missing(extractor, records, parts, output.dtype, console)

    left_out = parts.left_out()
    for name in list(left_out.values())[:NAMED]:
        console.say(f"cannot read {name}: left out")
    if len(left_out) == len(records):
        raise DataError(f"none of the {len(records)} files can be read: give others")
    if left_out:
        console.say(f"{len(left_out)} of {len(records)} cannot be read and are left out")
    first: Any = parts.read(0, True).features
    notes = {
        **describe(config, output, classes),
        "shape": list(first.shape[1:]),
        "left_out": {str(index): name for index, name in left_out.items()},
        "part_size": parts.size,
        "made_by": made_by,
    }
    if folder:
        write(place / NOTES, json.dumps(notes, indent=2) + "\n")
    else:
        format.join(path, parts.paths, classes, notes)
        remove(place)
    console.say(f"wrote {len(records) - len(left_out)} rows of features to {path}")
    return notes


def encode_missing(
    extractor: FeatureExtractor, records: Records, parts: Parts, dtype: str, console: Console
) -> None:
    """Encodes the records of the missing parts in one stream, and writes each complete part.

    Raises:
        DataError: if no record can be read, or features are not finite in `dtype`.
    """
    todo = parts.missing()
    if not todo:
        return
    index = np.concatenate([parts.span(number) for number in todo])
    ends = np.cumsum([len(parts.span(number)) for number in todo])
    done = [number for number in range(len(parts.paths)) if number not in set(todo)]
    known = sum(len(parts.read(number).names) for number in done)
    if done:
        console.say(f"{len(done)} of {len(parts.paths)} parts are there: going on")
    remaining, data = Subset(records, index), extractor.config.data
    # what is unreadable ends a command only where nothing else is there
    broken = BrokenImages(remaining, 1.0, data.max_pixels, len(index) + known)

    held: list[FeatureBatch] = []
    seen = written = first = 0
    kind = "videos" if data.frames > 1 else "images"
    console.start(len(index), 0, kind.removesuffix("s"))
    began = since = time.perf_counter()
    for batch in extractor.batches(remaining, broken):
        held.append(batch)
        seen = min(seen + extractor.batch_size, len(index))
        if not first:
            first, since = seen, time.perf_counter()  # without the time to compile
        while written < len(todo) and ends[written] <= seen:
            start, end = ends[written] - len(parts.span(todo[written])), ends[written]
            unread = {int(index[i]): broken.names[i] for i in broken.names if start <= i < end}
            whole, held = _split(held, end)
            names = [short_name(remaining, int(i), data.path) for i in whole.places]
            features = _stored(whole.features, dtype)
            rows = Rows(names, whole.labels.astype(np.int32), features, unread)
            parts.format.write_part(parts.paths[todo[written]], rows, parts.classes)
            written += 1
        console.step(seen, None, f"{len(broken.names)} unreadable" if broken.names else "")
    console.stop()
    now = time.perf_counter()
    count, seconds = (seen - first, now - since) if seen > first else (seen, now - began)
    console.say(f"encoded in {now - began:.1f} s, {count / seconds:.0f} {kind}/s")


def describe(config: Report, output: Output, classes: tuple[str, ...]) -> dict[str, Any]:
    """Returns the notes on the features: model, data and options."""
    data, features = config.data, config.features
    return {
        "encoder": config.init_from,
        "weights": config.weights,
        "block": features.block,
        "pool": output.how,
        "compute_dtype": features.dtype,
        "image_size": list(data.image_size),
        "frames": data.frames,
        "mean": list(data.mean),
        "std": list(data.std),
        "test_crop": data.test_crop,
        "classes": list(classes),
        "versions": versions(),
    }


def _split(held: list[FeatureBatch], end: int) -> tuple[FeatureBatch, list[FeatureBatch]]:
    """Splits batches into the rows of records below `end`, joined, and the others."""
    features, labels, places = (
        np.concatenate([getattr(batch, name) for batch in held])
        for name in ("features", "labels", "places")
    )
    below = places < end
    whole, rest = (
        FeatureBatch(features[rows], labels[rows], places[rows], []) for rows in (below, ~below)
    )
    return whole, [rest]


def _stored(features: np.ndarray, dtype: str) -> np.ndarray:
    """Converts features to the dtype of the file.

    Raises:
        DataError: if they are too large for it.
    """
    largest = float(np.abs(features).max(initial=0.0))
    if largest > np.finfo(dtype).max:
        raise DataError(
            f"--dtype={dtype} holds numbers up to {np.finfo(dtype).max:g}, and features go up to "
            f"{largest:g}: give --dtype=float32"
        )
    return features.astype(dtype)


def _read_notes(path: Path, format: Format) -> dict[str, Any]:
    try:
        notes = format.read_notes(path)
        return notes | {"made_by": dict(notes["made_by"])}
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise ConfigError(
            f"--out={path} is there, and holds no features that can be read "
            f"({type(error).__name__}): remove it, or name another file"
        ) from None


def read_rows(output: Output) -> Rows:
    """Reads all rows of a complete output.

    Raises:
        ConfigError: if a part of a folder is damaged.
    """
    path, (format, folder) = Path(output.out), format_of(output.out)
    if not folder:
        return format.read_part(path, True)
    parts = [format.read_part(part, True) for part in sorted(path.glob(f"part-*{format.ending}"))]
    names = [name for part in parts for name in part.names]
    labels, features = (
        np.concatenate([np.asarray(getattr(part, column)) for part in parts])
        for column in ("labels", "features")
    )
    return Rows(names, labels, features, {})
