"""A fingerprint of a run's data: a digest of names, sizes and labels, fast for a million files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.data.folders import Files, digest_of_files
from hpm_jax.data.records import Arrays, DataError, Records, Splits, Subset, known_labels
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write
from hpm_jax.text_files import read_json

NAMES = 1000  # number of evenly spaced records hashed if records are not files


def check_data(workdir: Path, splits: Splits, accept: bool) -> None:
    """Writes `data.json`, or compares the data with an existing one.

    Args:
        accept: whether different data is accepted and recorded.

    Raises:
        DataError: if the data differs from the start of the run; the message lists differences.
    """
    there, now = workdir / "data.json", fingerprint(splits)
    if there.exists() and not accept:
        before = read_json(
            there,
            DataError,
            "it told what data the run began with; take the data that is there now for it by "
            "--config.run.accept_new_data=True",
        )
        if changes := _differences(before, now):
            raise DataError(
                f"the data is not what the run in {workdir} began with: {'; '.join(changes)}. Put "
                "it back, start afresh with another --workdir, or go on with the new data by "
                "--config.run.accept_new_data=True"
            )
    if is_main():
        write(there, json.dumps(now, indent=2) + "\n")


def fingerprint(splits: Splits) -> dict[str, Any]:
    """Returns counts, classes, and a digest of each split, for JSON."""
    found: dict[str, Any] = {"classes": list(splits.classes)}
    known: dict[int, bytes] = {}
    for name, records in (("train", splits.train), ("test", splits.test)):
        digest = hashlib.sha256()
        _add(digest, records, known)
        found[name] = {"count": len(records), "digest": digest.hexdigest()[:16]}
    return found


def _add(digest: Any, records: Records, known: dict[int, bytes]) -> None:
    """Adds a source to the digest; a folder may move, so its root is excluded."""
    labels = known_labels(records)
    if labels is not None:
        digest.update(np.asarray(labels).astype("<i8").tobytes())
    if isinstance(records, Subset):
        digest.update(np.asarray(records.indices).astype("<i8").tobytes())
        _add(digest, records.records, known)
    elif isinstance(records, Files):
        if id(records) not in known:  # both splits may be parts of one folder
            known[id(records)] = digest_of_files(records)
        digest.update(known[id(records)])
    elif isinstance(records, Arrays):
        digest.update(np.ascontiguousarray(records.images).data)
    elif hasattr(records, "identity"):
        digest.update(records.identity())
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
