"""The file formats of features, by the ending of the file."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpm_jax.embed import npz, parquet
from hpm_jax.embed.rows import Rows
from hpm_jax.errors import ConfigError


class Format(NamedTuple):
    """Functions that write, read and join parts."""

    ending: str
    write_part: Callable[[Path, Rows, Sequence[str]], None]
    read_part: Callable[[Path, bool], Rows]  # the features only where asked for
    join: Callable[[Path, Sequence[Path], Sequence[str], dict[str, Any]], None]
    read_notes: Callable[[Path], dict[str, Any]]  # what `join` has written beside the rows


FORMATS = {
    ".npz": Format(".npz", npz.write_part, npz.read_part, npz.join, npz.read_notes),
    ".parquet": Format(
        ".parquet", parquet.write_part, parquet.read_part, parquet.join, parquet.read_notes
    ),
}


def format_of(out: str) -> tuple[Format, bool]:
    """Returns the format, and whether `out` is a folder with a Parquet file per part.

    Raises:
        ConfigError: for another ending, or if pyarrow is missing.
    """
    folder = out.endswith("/") or os.path.isdir(out) or not Path(out).suffix
    ending = ".parquet" if folder else Path(out).suffix
    if ending not in FORMATS:
        raise ConfigError(
            f"--out={out}: the ending {ending} is unknown, expected FILE.parquet, FILE.npz, or a "
            "folder, which gets several .parquet files"
        )
    if ending == ".parquet":
        parquet.import_pyarrow()
    return FORMATS[ending], folder
