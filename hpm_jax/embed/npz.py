"""Features in `.npz`: parts, and the joined file, which is written without loading it whole."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.embed.rows import Rows, as_left_out, beside_of
from hpm_jax.storage import reported, write


def write_part(path: Path, rows: Rows, classes: Sequence[str]) -> None:
    """Writes a part atomically."""
    packed = io.BytesIO()
    arrays = {"names": _strings(rows.names), "labels": rows.labels, "features": rows.features}
    notes = json.dumps({"left_out": rows.left_out})
    np.savez(packed, **arrays, notes=notes)  # type: ignore[arg-type]
    write(path, packed.getvalue())


def read_part(path: Path, features: bool = True) -> Rows:
    """Reads a part or a whole file, with or without its features."""
    with np.load(path, allow_pickle=False) as file:
        left_out = as_left_out(json.loads(str(file["notes"]))["left_out"])
        found = file["features"] if features else None
        return Rows(file["names"].tolist(), file["labels"], found, left_out)


def join(path: Path, parts: Sequence[Path], classes: Sequence[str], notes: dict[str, Any]) -> None:
    """Joins parts to `names [N]`, `labels [N]`, `classes`, `features [N, ...]` and `notes`.

    `np.load` reads the file. NumPy can only write whole arrays; here the largest is written part by
    part.
    """
    names: list[str] = []
    labels = []
    for part in parts:
        rows = read_part(part, features=False)
        names += rows.names
        labels.append(rows.labels)
    with reported(path), beside_of(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        small = {
            "names": _strings(names),
            "labels": np.concatenate(labels),
            "classes": _strings(classes),
            "notes": np.array(json.dumps(notes)),
        }
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("features.npy", "w", force_zip64=True) as file:
            for number, part in enumerate(parts):
                features: Any = read_part(part).features
                if not number:
                    shape = (len(names), *features.shape[1:])
                    descr = np.lib.format.dtype_to_descr(features.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(features.tobytes())


def read_notes(path: Path) -> dict[str, Any]:
    """Reads the notes that `join` has written."""
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["notes"]))


def _strings(names: Sequence[str]) -> np.ndarray:
    return np.array(list(names), dtype=np.str_)
