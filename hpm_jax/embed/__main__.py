"""Writes features of images or videos to one file; see docs/embed.md.

    python -m hpm_jax.embed --init_from=runs/hpm_b200 --path=photos --out=features.parquet
    python -m hpm_jax.embed --init_from=mae_pretrain_vit_base.pth --path=photos --out=features.npz
    python -m hpm_jax.embed --init_from=runs/hpm_b200 --path=photos --out=features.parquet \\
        --contact_sheet=neighbours.png --neighbours=5

An interrupted command resumes when it is run again.
"""

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

from absl import logging

if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # else Orbax names every file it reads
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np

from hpm_jax.config import ConfigError, Report, defaults, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.preprocessing import test_crop
from hpm_jax.convert.read import WHICH, read_weights
from hpm_jax.convert.weights import Weights
from hpm_jax.data.records import Records
from hpm_jax.data.sources import SOURCES
from hpm_jax.embed.encode import PART_SIZE, Output, read_rows, write_features
from hpm_jax.embed.formats import format_of
from hpm_jax.embed.neighbours import contact_sheet, nearest_neighbours, write_sheet
from hpm_jax.embed.records import SPLITS, records_to_encode
from hpm_jax.errors import UserError
from hpm_jax.evaluation.features import READOUTS
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.run.lock import release_all
from hpm_jax.storage import as_path

PASSED_ON = {  # options of the command that are options of the config
    "data": ("source", "path", "name", "train_split", "test_split", "image_size"),
    "features": ("block", "batch_size"),
    "run": ("workers", "threads"),
}
VIDEOS_AT_ONCE = 16


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error is printed as one sentence."""
    options = _parser().parse_args(arguments)
    try:
        embed(options)
    except UserError as error:
        print(f"error: {_as_options(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on with what is missing")
    finally:
        release_all()


def embed(options: argparse.Namespace) -> None:
    """Writes the requested features, and the contact sheet."""
    console = Console()
    format_of(options.out)
    _check_sheet(options)
    weights = read_weights(options.init_from, options.weights)
    config = make_config(options, weights)
    records, classes = records_to_encode(config.data, options.split)
    devices, how = all_devices(), options.pool or config.features.pool
    output = Output(options.out, how, options.dtype, options.part_size)
    size = "x".join(map(str, config.data.image_size))
    console.say(
        f"{config.weights} weights of {config.init_from}: {how} after block "
        f"{config.features.block} of {weights.architecture.depth}, {size} pixels; {len(records)} "
        f"{'videos' if config.data.frames > 1 else 'images'} of {config.data.source} "
        f"{config.data.path or config.data.name}, on {devices.count} x "
        f"{jax.devices()[0].device_kind}"
    )
    notes = write_features(config, output, weights, records, classes, devices, console)
    if options.contact_sheet:
        _draw(options, config, output, records, notes)
        console.say(f"wrote {options.contact_sheet}")


def make_config(options: argparse.Namespace, weights: Weights) -> Report:
    """Converts the options to those of a report, completed from the run or the weights file.

    Raises:
        ConfigError: for an invalid value, or if there is nothing to encode.
    """
    config = defaults("report")
    config.init_from, config.weights = options.init_from, options.weights
    config.data.max_broken = 1.0  # any number of unreadable images is skipped
    for section, names in PASSED_ON.items():
        for name in names:
            if (value := getattr(options, name)) is not None:
                config[section][name] = value
    if options.path and not options.source:
        config.data.source = "folder"
    if options.pool in ("cls", "mean", "both"):
        config.features.pool = options.pool
    elif options.pool == "tokens":
        config.features.pool = "mean"  # which every encoder has; it is not read
    config.features.dtype = options.compute_dtype
    config = inherit(config)
    if config.data.source is None:
        raise ConfigError("nothing to encode: give --path=FOLDER, or --source")
    videos = (config.data.frames or 1) > 1
    if videos and options.path and not options.source:
        config.data.source = "video_folder"
    if videos and options.batch_size is None:
        config.features.batch_size = VIDEOS_AT_ONCE
    if config.data.test_crop is None:
        size = config.data.image_size
        config.data.test_crop = test_crop(as_path(options.init_from), weights.architecture, size)
    frozen = freeze(config)
    if frozen.data.path:  # so that the same folder has the same name from everywhere
        path = os.path.abspath(frozen.data.path)
        frozen = dataclasses.replace(frozen, data=dataclasses.replace(frozen.data, path=path))
    return frozen


def _draw(
    options: argparse.Namespace,
    config: Report,
    output: Output,
    records: Records,
    notes: dict[str, Any],
) -> None:
    rows = read_rows(output)
    index = np.setdiff1d(np.arange(len(records)), [int(place) for place in notes["left_out"]])
    count = min(options.queries, len(index))
    queries = np.linspace(0, len(index) - 1, count).round().astype(np.int64)
    features: Any = rows.features
    found = nearest_neighbours(features.reshape(len(index), -1), queries, options.neighbours)
    title = f"{config.init_from}: nearest of {len(index)}"
    classes = tuple(notes["classes"])
    sheet = contact_sheet(records, config.data, index, rows.labels, classes, queries, found, title)
    write_sheet(Path(options.contact_sheet), sheet)


def _check_sheet(options: argparse.Namespace) -> None:
    """Raises a `ConfigError` for a sheet that cannot be drawn, before anything is encoded."""
    if not options.contact_sheet:
        return
    endings = (".png", ".jpg", ".webp")
    path = Path(options.contact_sheet)
    if path.suffix.lower() not in endings:
        raise ConfigError(f"--contact_sheet={path}: expected a file that ends in {endings}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--contact_sheet={path}: there is no folder {path.parent}")
    if options.pool == "tokens":
        raise ConfigError("--contact_sheet compares one vector an image: give another --pool")


def _as_options(message: str) -> str:
    """Rewrites a message about the config with the options of this command."""
    message = re.sub(r"(--)?\bconfig\.(data|features|run)\.", "--", message)
    message = message.replace("goes on from the newest whole checkpoint", "goes on")
    return message.replace("--workdir", "--out").replace("config.init_from", "--init_from")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--init_from", required=True, help="workdir, weights file, or folder of a published model")
    add("--weights", choices=WHICH, default="student", help="which weights of a pre-training run")
    add("--path", help="folder, list (.txt, .csv), or one file; default: the run's own data")
    add(
        "--source",
        choices=SOURCES,
        help="data source, see hpm_jax/data/sources.py; default: folder",
    )
    add("--name", help="name of the data set, for --source=tfds")
    add("--train_split", help="name of the training split")
    add("--test_split", help="name of the test split")
    add("--split", choices=SPLITS, default="all", help="records to encode; default: all")
    add("--out", required=True, help="output: FILE.parquet, FILE.npz, or a folder")
    add("--block", type=int, help="block whose output is used, from 1; default: -1, the last")
    add(
        "--pool",
        choices=READOUTS,
        help="feature of an image; default: that of the run's evaluation",
    )
    add("--image_size", type=_size, metavar="PIXELS", help="side, or HEIGHT,WIDTH, such as 224,320")
    add("--dtype", choices=("float32", "float16"), default="float32", help="dtype of the output")
    add(
        "--compute_dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of matrix products",
    )
    add(
        "--batch_size",
        type=_count,
        metavar="N",
        help="number per batch; default: 256 images, 16 videos",
    )
    add(
        "--part_size",
        type=_count,
        default=PART_SIZE,
        metavar="N",
        help="number of records per part",
    )
    add("--workers", type=int, metavar="N", help="number of decoding processes; default: threads")
    add("--threads", type=_count, metavar="N", help="number of decoding threads")
    add(
        "--contact_sheet", metavar="FILE.png", help="picture of images and their nearest neighbours"
    )
    add(
        "--neighbours", type=_count, default=5, metavar="K", help="neighbours per image; default: 5"
    )
    add("--queries", type=_count, default=8, metavar="N", help="images on the sheet; default: 8")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    sides = [_count(side) for side in text.split(",")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 224, or 224,320")
    return sides[0], sides[-1]


if __name__ == "__main__":
    main()
