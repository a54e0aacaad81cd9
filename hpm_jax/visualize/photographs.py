"""Reads photographs for an encoder, with its cropping and normalisation."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_jax.config import Data, Features, defaults
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import Weights
from hpm_jax.data.views import test_view
from hpm_jax.errors import ConfigError, UserError
from hpm_jax.evaluation.features import block_number, frozen_encoder
from hpm_jax.models.encoder import Encoder
from hpm_jax.step.state import Params
from hpm_jax.text_files import printable
from hpm_jax.tokens import Tokenizer, grid_of

PHOTO_BYTES = 2**30


class PhotographError(UserError, ValueError):
    """Photographs or an encoder that cannot be visualised."""


class Photographs(NamedTuple):
    """Photographs and their encoder."""

    names: list[str]
    images: np.ndarray  # uint8 [B, H, W, C]
    tokenizer: Tokenizer
    encoder: Encoder  # up to the requested block, on the grid of the images
    params: Params
    block: int  # the number of its last block, from 1


def photograph_parser(prog: str, doc: str, out: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that the commands share."""
    parser = argparse.ArgumentParser(
        prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", help="image files")
    parser.add_argument(
        "--init_from", required=True, help="workdir, weights file, or folder of a published model"
    )
    parser.add_argument("--weights", default="student", help="student or teacher")
    parser.add_argument("--block", type=int, default=-1, help="block, from 1; -1 is the last")
    parser.add_argument(
        "--image_size", help="SIDE or HEIGHT,WIDTH; default: the image size of the encoder"
    )
    parser.add_argument("--out", default=out, help="output picture")
    return parser


def load_photographs(options: argparse.Namespace, cls_token: bool) -> Photographs:
    """Loads the photographs and the encoder named by the options of `photograph_parser`.

    Args:
        cls_token: whether the encoder needs a cls token.

    Raises:
        PhotographError: for a file that is not an image, a video encoder, a missing cls token, or
            an unsupported block or size.
        WeightsError, CheckpointError: for weights that cannot be read.
    """
    weights = read_weights(options.init_from, options.weights)
    data = _data(options, weights)
    a = weights.architecture
    if a.grid[0] * a.tubelet > 1:
        raise PhotographError(
            f"{options.init_from} encodes videos of {a.grid[0] * a.tubelet} frames, expected an "
            "encoder of images"
        )
    if cls_token and not a.token_layout.cls_token:
        raise PhotographError(
            f"{options.init_from} has no cls token, whose attention this is: choose another "
            "encoder, or look at its features by hpm_jax.visualize.features"
        )
    try:
        block = block_number(options.block, a.depth, f"--block={options.block}")
    except ConfigError as error:
        raise PhotographError(str(error)) from None
    try:
        grid_of((1, *data.image_size), a.patch)
    except ValueError as error:
        raise PhotographError(f"--image_size={options.image_size}: {error}") from None
    features = dataclasses.replace(Features(), block=block, pool="mean", dtype="float32")
    encoder, params = frozen_encoder(weights, (1, *data.image_size), features)
    images = np.stack([read_photograph(Path(photo), data) for photo in options.photos])
    names = [printable(Path(photo).stem)[:16] for photo in options.photos]
    return Photographs(
        names, images, Tokenizer(a.patch, data.mean, data.std), encoder, params, block
    )


def _data(options: argparse.Namespace, weights: Weights) -> Data:
    """Returns how the images of the encoder are cropped and normalised."""
    config = defaults("report")
    config.init_from = options.init_from
    found = inherit(config).data
    a = weights.architecture
    if found.mean is None or found.std is None:
        raise PhotographError(
            f"{options.init_from} does not tell how its images of {a.channels} channels are "
            "normalised: name the workdir of a run, or a folder with preprocessor_config.json"
        )
    size = _size(options.image_size) if options.image_size else tuple(found.image_size)
    return Data(
        image_size=size,
        channels=a.channels,
        mean=tuple(found.mean),
        std=tuple(found.std),
        test_crop=1.0,
    )


def _size(text: str) -> tuple[int, int]:
    """Parses `SIDE` or `HEIGHT,WIDTH` to two numbers."""
    parts: Sequence[str] = text.strip("()").replace("x", ",").split(",")
    if len(parts) in (1, 2) and all(part.strip().isdigit() for part in parts):
        sides = [int(part) for part in parts]
        if all(1 <= side <= 2**13 for side in sides):
            return sides[0], sides[-1]
    raise PhotographError(
        f"--image_size={text}: expected SIDE or HEIGHT,WIDTH in pixels, from 1 to {2**13}"
    )


def read_photograph(path: Path, data: Data) -> np.ndarray:
    """Reads one photograph, resized and cropped to the centre: uint8 `[H, W, C]`."""
    if not path.is_file():
        raise PhotographError(f"there is no file {printable(str(path))}")
    if path.stat().st_size > PHOTO_BYTES:
        raise PhotographError(f"{printable(str(path))} is too large for a photograph")
    try:
        return test_view(data)({"image": path.read_bytes()})["image"]
    except (ValueError, OSError) as error:  # not an image, or truncated
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PhotographError(
            f"{printable(str(path))} cannot be read as an image ({reason}): expected a whole "
            "JPEG, PNG, WebP, BMP, TIFF or GIF"
        ) from None
