"""Resizes and stores images once: `python -m hpm_jax.data.store`; docs/data.md has the speed-up."""

import argparse
import os
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from hpm_jax.config import Data
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.data.store.write import write_store

_HELP = """\
Larger images are resized and stored as JPEG; smaller ones are copied unchanged. Unreadable images
are left out and listed. An interrupted command can be run again: it resumes with the missing files.

examples:
  python -m hpm_jax.data.store --path /data/imagenet --out /data/imagenet_256
  python -m hpm_jax.data.store --source tfds --name imagenet2012 --test_split validation \\
    --out /data/imagenet_256 --quality 90
and then
  python -m hpm_jax.main --config configs/hpm_in1k.py:B --config.data.source=store \\
    --config.data.path=/data/imagenet_256
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error is printed as one sentence."""
    options = _parser().parse_args(arguments)
    began = time.perf_counter()
    data = Data(
        source=options.source,
        path=options.path,
        name=options.name,
        train_split=options.train_split,
        test_split=options.test_split,
        holdout=options.holdout,
    )
    try:
        index = write_store(
            SOURCES[data.source](data),
            options.out,
            options.short_side,
            options.quality,
            options.workers,
            options.max_broken,
        )
    except BrokenProcessPool:
        sys.exit(
            "error: a worker was killed, often for want of memory: give fewer --workers; what is "
            "written is kept"
        )
    except (DataError, OSError, RuntimeError) as error:  # array_record's errors are RuntimeErrors
        sys.exit(f"error: {error}")
    print(describe(index))
    print(f"{options.out} is ready, in {time.perf_counter() - began:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.data.store",
        description="Resizes the images of a source and stores them in ArrayRecord files.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Data()
    add = parser.add_argument
    add("--source", choices=("folder", "tfds"), default="folder")
    add("--path", default="", help="image folder, or data_dir of tfds")
    add("--name", default="", help="name of the tfds data set")
    add("--train_split", default=default.train_split, metavar="NAME")
    add("--test_split", default=default.test_split, metavar="NAME")
    add(
        "--holdout",
        type=float,
        default=default.holdout,
        metavar="SHARE",
        help="fraction to hold out if there is no test split",
    )
    add("--out", type=Path, required=True, help="folder of the store")
    add("--short_side", type=_at_least_one, default=256, metavar="PIXELS")
    add(
        "--quality",
        type=int,
        choices=range(1, 101),
        default=95,
        metavar="1..100",
        help="JPEG quality",
    )
    add(
        "--max_broken",
        type=float,
        default=default.max_broken,
        metavar="SHARE",
        help="largest fraction of unreadable images",
    )
    add(
        "--workers",
        type=_at_least_one,
        default=os.cpu_count(),
        metavar="N",
        help="number of processes",
    )
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def describe(index: dict[str, Any]) -> str:
    """Describes a store: one line per split, and the images left out."""
    lines = []
    for name, split in index["splits"].items():
        before, after = split["before"], sum(size for _, size in split["shards"].values())
        lines.append(
            f"{name:6}{len(split['labels']):,} images, files: {len(split['shards'])}, "
            f"{before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB"
        )
        lines += [f"      left out: {line}" for line in split["broken"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
