"""Command-line arguments for data: the options of `config.data` without the prefix."""

import argparse
import ast
import dataclasses
from pathlib import Path
from typing import Any

from hpm_jax.config import Data
from hpm_jax.errors import ConfigError
from hpm_jax.fields import convert

NAMES = (
    "path",
    "name",
    "train_split",
    "test_split",
    "holdout",
    "image_key",
    "label_key",
    "channels_first",
    "frames",
)
ENDINGS = {
    ".tar": "webdataset",
    ".parquet": "parquet",
    ".npz": "numpy",
    ".npy": "numpy",
    ".nii": "volumes",
    ".nii.gz": "volumes",
    ".mp4": "video_folder",
    ".webm": "video_folder",
    ".avi": "video_folder",
    ".mkv": "video_folder",
    ".mov": "video_folder",
}
NOTES = {
    "store.json": "store",
    "dataset_dict.json": "hugging_face",
    "state.json": "hugging_face",
    "train.txt": "list",
    "train.csv": "video_csv",
}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds `--source`, `--path` and the like to a parser."""
    from hpm_jax.data.sources import SOURCES

    parser.add_argument(
        "--source",
        choices=tuple(SOURCES),
        default=None,
        help="data source; default: inferred from the files",
    )
    fields = {field.name: field for field in dataclasses.fields(Data)}
    for name in NAMES:
        field = fields[name]
        parser.add_argument(
            f"--{name}", default=None, help=field.metadata["help"].replace("%", "%%")
        )


def data_of(options: argparse.Namespace) -> Data:
    """Returns the data options of the arguments; a missing source is inferred from the files.

    Raises:
        ConfigError: for an invalid value.
    """
    fields = {field.name: field for field in dataclasses.fields(Data)}
    values: dict[str, Any] = {}
    for name in NAMES:
        text = getattr(options, name)
        if text is None:
            continue
        kind = fields[name].type
        value: Any = text
        if kind is not str:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                raise ConfigError(f"--{name}={text!r}: expected {kind}") from None
        values[name] = convert(kind, value, f"--{name}", fields[name].metadata["bounds"])
    source = options.source or find_source(values.get("path", ""))
    return Data(source=source, **values)


def find_source(path: str) -> str:
    """Infers the source for `path` from index files and endings; `folder` otherwise."""
    root = Path(path)
    for note, source in NOTES.items():
        if (root / note).is_file():
            return source
    for ending, source in ENDINGS.items():
        if path.rstrip("'\"").endswith(ending):
            return source
    if root.is_dir():
        for pattern in ("*", "*/*", "*/*/*"):
            for found in sorted(root.glob(pattern))[:1000]:
                for ending, source in ENDINGS.items():
                    if found.name.lower().endswith(ending):
                        return source
    return "folder"
