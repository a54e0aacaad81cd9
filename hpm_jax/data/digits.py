"""The 1,797 handwritten digits of 8 x 8 that scikit-learn ships, still or moving."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hpm_jax.data.clips import reach
from hpm_jax.data.records import Arrays, DataError, Example, Records, Splits, hold_out

if TYPE_CHECKING:
    from hpm_jax.config import Data

DIGITS = tuple("0123456789")
DIRECTIONS = ("left", "right", "up", "down")
SIZE = 0.45  # of a moving digit, as a fraction of the frame's shorter side


def digits(data: "Data") -> Splits:
    """Loads the digits as images, unchanged."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    records = Arrays(np.repeat(images, data.channels, axis=-1), bunch.target)
    return Splits(*hold_out(records, data.holdout), DIGITS)


def moving_digits(data: "Data") -> Splits:
    """Makes videos of a clip's length: every digit four times, once in each of the `DIRECTIONS`.

    `data.name` selects the label: the "digit", the "direction", or "" for both. Held-out digits do
    not occur in training.

    Raises:
        DataError: for another name, or clips of one frame.
    """
    check_frames(data)
    classes = {
        "": tuple(f"{digit} {direction}" for digit in DIGITS for direction in DIRECTIONS),
        "digit": DIGITS,
        "direction": DIRECTIONS,
    }
    if data.name not in classes:
        raise DataError(
            f"config.data.name = {data.name!r}: the label of a moving digit is its 'digit', its "
            "'direction', or '' for both."
        )
    still = digits(data)
    return Splits(_moving(still.train, data), _moving(still.test, data), classes[data.name])


def check_frames(data: "Data") -> None:
    """Raises a `DataError` if videos are requested and clips have one frame."""
    if data.frames < 2:
        raise DataError(
            f"config.data.frames = {data.frames}, and config.data.source = {data.source!r} gives "
            "videos: set --config.data.frames=16, or take a source of images."
        )


@dataclasses.dataclass(frozen=True)
class MovingDigits:
    """Digits that cross a black frame; generated on access, deterministically."""

    still: Records
    labels: np.ndarray  # int32, for each digit and direction
    data: "Data"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        digit, direction = divmod(index, len(DIRECTIONS))
        rng = np.random.default_rng(index)
        video = move(self.still[digit]["image"], DIRECTIONS[direction], rng, self.data)
        return {"image": video, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        digit, direction = divmod(index, len(DIRECTIONS))
        return f"{self.still.name(digit)}, moving {DIRECTIONS[direction]}"


def _moving(still: Records, data: "Data") -> MovingDigits:
    digit = np.repeat([still[index]["label"] for index in range(len(still))], len(DIRECTIONS))
    direction = np.arange(len(digit)) % len(DIRECTIONS)
    both = len(DIRECTIONS) * digit + direction
    labels = {"digit": digit, "direction": direction, "": both}[data.name]
    return MovingDigits(still, labels.astype(np.int32), data)


def move(still: np.ndarray, direction: str, rng: np.random.Generator, data: "Data") -> np.ndarray:
    """Returns a digit that moves steadily inside the frame: uint8 `[reach(data), H, W, C]`.

    It covers between half and all of the available distance. A clip towards one side is the
    reversed clip towards the other, so a single frame does not reveal the direction.

    Args:
        still: uint8 `[8, 8, C]`.
        direction: one of `DIRECTIONS`.
    """
    side = max(1, round(SIZE * min(data.image_size)))
    digit = Image.fromarray(still[..., 0]).resize((side, side), Image.Resampling.BILINEAR)
    room = np.array(data.image_size) - side
    along = 1 if direction in ("left", "right") else 0
    distance = rng.integers((room[along] + 1) // 2, room[along] + 1)
    start = rng.integers(room + 1 - distance * (np.arange(2) == along))
    way = np.linspace(0, distance, reach(data)).round().astype(np.int64)
    if direction in ("left", "up"):
        way = way[::-1]
    video = np.zeros((len(way), *data.image_size, data.channels), np.uint8)
    corners = np.tile(start, (len(way), 1))
    corners[:, along] += way
    for frame, (top, left) in zip(video, corners, strict=True):
        frame[top : top + side, left : left + side] = np.asarray(digit)[..., None]
    return video
