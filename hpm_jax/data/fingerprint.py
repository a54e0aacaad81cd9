"""What data a run began with: names, sizes and labels in one number, cheap for a million files."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.data.folders import Files
from hpm_jax.data.records import Arrays, DataError, Records, Splits, Subset, known_labels
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write

NAMES = 1000  # of records that are no files: so many of them, evenly spaced


def check_data(workdir: Path, splits: Splits, accept: bool) -> None:
    """Writes `data.json`, or compares with what is there.

    Args:
        accept: whether other data takes the place of what is there.

    Raises:
        DataError: where the data is not what the run began with, with what is different.
    """
    there, now = workdir / "data.json", fingerprint(splits)
    if there.exists() and not accept:
        before = json.loads(there.read_text())
        if changes := _differences(before, now):
            raise DataError(
                f"the data is not what the run in {workdir} began with: {'; '.join(changes)}. Put "
                "it back, start afresh with another --workdir, or go on with the new data by "
                "--config.run.accept_new_data=True"
            )
    if is_main():
        write(there, json.dumps(now, indent=2) + "\n")


def fingerprint(splits: Splits) -> dict[str, Any]:
    """Counts, classes, and a digest of each split, for JSON."""
    found: dict[str, Any] = {"classes": list(splits.classes)}
    for name, records in (("train", splits.train), ("test", splits.test)):
        digest = hashlib.sha256()
        _add(digest, records)
        found[name] = {"count": len(records), "digest": digest.hexdigest()[:16]}
    return found


def _add(digest: Any, records: Records) -> None:
    """Takes a source into the digest; a folder may move, so its root is left out."""
    labels = known_labels(records)
    if labels is not None:
        digest.update(np.asarray(labels).astype("<i8").tobytes())
    if isinstance(records, Subset):
        digest.update(np.asarray(records.indices).astype("<i8").tobytes())
        _add(digest, records.records)
    elif isinstance(records, Files):
        sizes = np.array([os.stat(records.name(i)).st_size for i in range(len(records))], "<i8")
        digest.update(sizes.tobytes())
        for path in records.paths:
            digest.update(path + b"\0")
    elif isinstance(records, Arrays):
        digest.update(np.ascontiguousarray(records.images).data)
    else:
        step = max(1, len(records) // NAMES)
        for index in range(0, len(records), step):
            digest.update(records.name(index).encode(errors="surrogateescape") + b"\0")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = []
    for split in ("train", "test"):
        old, new = before[split], now[split]
        if old["count"] != new["count"]:
            found.append(f"{old['count']} {split} examples then, {new['count']} now")
        elif old["digest"] != new["digest"]:
            found.append(f"other names, sizes or labels among the {new['count']} {split} examples")
    if before["classes"] != now["classes"]:
        lost = sorted(set(before["classes"]) - set(now["classes"]))
        added = sorted(set(now["classes"]) - set(before["classes"]))
        words = [
            f"{word} {', '.join(names[:5])}"
            for word, names in (("without", lost), ("with", added))
            if names
        ]
        found.append(f"classes {' and '.join(words) or 'in another order'}")
    return found
