"""Features in Parquet files, by pyarrow: a row group per part, and notes in the schema."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.embed.rows import Rows, as_left_out, beside_of
from hpm_jax.extras import import_extra
from hpm_jax.storage import reported

KEY = b"hpm_jax"  # of the notes in the schema


def import_pyarrow() -> tuple[Any, Any]:
    """Imports `pyarrow` and `pyarrow.parquet`.

    Raises:
        ConfigError: if the extra is not installed.
    """
    what = "features in .parquet"
    names = ("pyarrow", "pyarrow.parquet")
    return tuple(import_extra(name, "parquet", what) for name in names)  # type: ignore[return-value]


def write_part(path: Path, rows: Rows, classes: Sequence[str]) -> None:
    """Writes a part atomically."""
    _, parquet = import_pyarrow()
    features: Any = rows.features
    notes = {"left_out": rows.left_out, "shape": features.shape[1:]}
    table = _table(rows, classes, notes)
    with reported(path), beside_of(path) as beside:
        parquet.write_table(table, beside, use_dictionary=["class"])


def read_part(path: Path, features: bool = True) -> Rows:
    """Reads a part or a whole file, with or without its features."""
    _, parquet = import_pyarrow()
    columns = ["name", "label", *(["features"] if features else [])]
    table = parquet.read_table(path, columns=columns)
    notes = json.loads(table.schema.metadata[KEY])
    values = None
    if features:
        chunks = [x.flatten().to_numpy(zero_copy_only=False) for x in table["features"].chunks]
        values = np.concatenate(chunks).reshape(-1, *notes["shape"])
    left_out = as_left_out(notes["left_out"])
    labels = table["label"].to_numpy().astype(np.int32)
    return Rows(table["name"].to_pylist(), labels, values, left_out)


def join(path: Path, parts: Sequence[Path], classes: Sequence[str], notes: dict[str, Any]) -> None:
    """Joins parts to a file with a row group per part; the notes are metadata of the schema."""
    _, parquet = import_pyarrow()
    metadata = {KEY: json.dumps(notes)}
    schema = parquet.read_schema(parts[0]).with_metadata(metadata)

    def written(to: Path) -> Any:
        return parquet.ParquetWriter(to, schema, use_dictionary=["class"])

    with reported(path), beside_of(path) as beside, written(beside) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part).replace_schema_metadata(metadata))


def _table(rows: Rows, classes: Sequence[str], notes: dict[str, Any]) -> Any:
    arrow, _ = import_pyarrow()
    features: Any = rows.features
    flat = arrow.array(features.reshape(-1))
    width = int(np.prod(features.shape[1:]))
    names = [classes[label] if 0 <= label < len(classes) else None for label in rows.labels]
    columns = {
        "name": arrow.array(rows.names, arrow.string()),
        "label": arrow.array(rows.labels, arrow.int32()),
        "class": arrow.array(names, arrow.string()),
        "features": arrow.FixedSizeListArray.from_arrays(flat, width),
    }
    return arrow.table(columns).replace_schema_metadata({KEY: json.dumps(notes)})


def read_notes(path: Path) -> dict[str, Any]:
    """Reads the notes that `join` has written."""
    _, parquet = import_pyarrow()
    return json.loads(parquet.read_schema(path).metadata[KEY])
