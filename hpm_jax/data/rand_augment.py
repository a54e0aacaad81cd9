"""RandAugment (Cubuk et al. 2019) on the host, with timm's policies and Pillow's operations.

MAE fine-tunes with `rand-m9-mstd0.5-inc1`: two operations per image, each with probability 0.5.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hpm_jax.config import ConfigError

# (image, strength, fill) -> image. The strength is the magnitude over 10, with a random sign. The
# sign is a direction, such as left or right; operations without a direction ignore it.
Operation = Callable[[Image.Image, float, Any], Image.Image]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A RandAugment policy; magnitudes are from 0 to 10, or higher if `maximum` allows it."""

    magnitude: int = 10  # mean of the magnitudes
    layers: int = 2  # number of operations drawn per image, with replacement
    probability: float = 0.5  # of applying a drawn operation
    deviation: float = 0.0  # standard deviation; above 100: uniform from 0 to `magnitude`
    maximum: int = 10  # magnitudes are clipped to [0, maximum]
    increasing: bool = False  # whether every operation gets stronger with the magnitude


EXAMPLE = "rand-m9-mstd0.5-inc1"

# Parts of a policy: the field, how its value is written and read, an example and its meaning.
_PARTS: dict[str, tuple[str, str, Callable[[str], Any], str]] = {
    "m": ("magnitude", r"\d{1,3}", int, "m9 (magnitude, an integer)"),
    "n": ("layers", r"[1-9]\d?", int, "n2 (operations an image, at least 1)"),
    "p": ("probability", r"0(\.\d+)?|1(\.0+)?", float, "p0.5 (how often each is applied, 0 to 1)"),
    "mstd": ("deviation", r"\d{1,3}(\.\d+)?", float, "mstd0.5 (deviation of the magnitude)"),
    "mmax": ("maximum", r"[1-9]\d{0,2}", int, "mmax10 (the largest magnitude, an integer from 1)"),
    "inc": (
        "increasing",
        r"[01]",
        lambda digit: digit == "1",
        "inc1 or inc0 (does severity grow with it?)",
    ),
}


def parse_policy(text: str) -> Policy:
    """Parses timm's notation: `rand`, then parts in any order, such as `rand-m9-mstd0.5-inc1`.

    Raises:
        ConfigError: for an invalid policy; the message names the wrong part.
    """
    first, *parts = text.split("-")
    wrong = f"RandAugment policy {text!r}"
    if first != "rand":
        raise ConfigError(f"{wrong} begins with {first!r}: expected 'rand', as in {EXAMPLE!r}.")
    fields: dict[str, Any] = {}
    for part in parts:
        name = part.rstrip("0123456789.")
        if name not in _PARTS:
            known = ", ".join(meaning for *_, meaning in _PARTS.values())
            raise ConfigError(f"{wrong}: no part {part!r}, use {known}, as in {EXAMPLE!r}.")
        field, pattern, read, meaning = _PARTS[name]
        value = part.removeprefix(name)
        if not re.fullmatch(pattern, value):
            raise ConfigError(f"{wrong}: {part!r} is not like {meaning}, as in {EXAMPLE!r}.")
        if field in fields:
            raise ConfigError(f"{wrong}: {part!r} is its second {name!r} part, leave one.")
        fields[field] = read(value)
    return Policy(**fields)


def rand_augment(
    image: np.ndarray, rng: np.random.Generator, policy: Policy, fill: tuple[int, ...]
) -> np.ndarray:
    """Changes an image, or all frames of a clip in the same way, by operations drawn from `rng`.

    Args:
        image: uint8 `[..., h, w, C]`, grey or colour; `Color` does not change grey images.
        fill: value of pixels outside a moved image, from 0 to 255 per channel; MAE uses the mean of
            the data.

    Returns:
        uint8 `[..., h, w, C]`; the image itself if no operation was applied.

    Raises:
        ConfigError: for other numbers of channels, or a fill of another length.
    """
    check_channels(image.shape[-1], fill)
    drawn = draw(rng, policy)
    if not drawn:
        return image
    frames = image.reshape(-1, *image.shape[-3:])
    changed = [apply(frame, drawn, policy.increasing, fill) for frame in frames]
    return np.stack(changed).reshape(image.shape)


def check_channels(channels: int, fill: tuple[int, ...]) -> None:
    """Raises a `ConfigError` for images that RandAugment cannot change."""
    if channels not in (1, 3):
        raise ConfigError(
            f"RandAugment changes images of 1 or 3 channels, and these have {channels}: set "
            "config.data.channels to 1 or 3, or train without RandAugment."
        )
    if len(fill) != channels:
        raise ConfigError(f"fill = {fill}: expected a value for each of {channels} channel(s).")


def apply(
    image: np.ndarray, drawn: list[tuple[str, float]], increasing: bool, fill: tuple[int, ...]
) -> np.ndarray:
    """Applies operations in sequence to uint8 `[h, w, C]`."""
    operations = INCREASING if increasing else ORIGINAL
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    for name, strength in drawn:
        picture = operations[name](picture, strength, fill[0] if grey else fill)
    return np.asarray(picture).reshape(image.shape)


def draw(rng: np.random.Generator, policy: Policy) -> list[tuple[str, float]]:
    """Draws the operations for one image, in order, and the signed strength of each."""
    names = rng.integers(len(OPERATIONS), size=policy.layers)
    applied = rng.random(policy.layers) < policy.probability
    return [(OPERATIONS[name], _strength(rng, policy)) for name in names[applied]]


def _strength(rng: np.random.Generator, policy: Policy) -> float:
    if policy.deviation > 100:
        magnitude = rng.uniform(0, policy.magnitude)
    else:
        magnitude = rng.normal(policy.magnitude, policy.deviation)
    size = min(max(magnitude, 0.0), policy.maximum) / 10
    return size if rng.random() < 0.5 else -size


def _operations(
    bits: Callable[[float], int],
    threshold: Callable[[float], int],
    factor: Callable[[float], float],
) -> dict[str, Operation]:
    """Returns the fifteen operations.

    Args:
        bits: maps the strength to the bits that Posterize keeps.
        threshold: maps the strength to the value from which Solarize inverts.
        factor: maps the strength to the factor of Pillow's enhancements; 1 changes nothing.
    """
    return {
        "AutoContrast": lambda image, s, fill: ImageOps.autocontrast(image),
        "Equalize": lambda image, s, fill: ImageOps.equalize(image),
        "Invert": lambda image, s, fill: ImageOps.invert(image),
        "Rotate": lambda image, s, fill: image.rotate(30 * s, BICUBIC, fillcolor=fill),
        "Posterize": lambda image, s, fill: _posterize(image, bits(s)),
        "Solarize": lambda image, s, fill: ImageOps.solarize(image, threshold(s)),
        "SolarizeAdd": lambda image, s, fill: _add_to_dark(image, min(128, int(110 * abs(s)))),
        "Color": lambda image, s, fill: ImageEnhance.Color(image).enhance(factor(s)),
        "Contrast": lambda image, s, fill: ImageEnhance.Contrast(image).enhance(factor(s)),
        "Brightness": lambda image, s, fill: ImageEnhance.Brightness(image).enhance(factor(s)),
        "Sharpness": lambda image, s, fill: ImageEnhance.Sharpness(image).enhance(factor(s)),
        "ShearX": lambda image, s, fill: _move(image, fill, x=(1, 0.3 * s, 0)),
        "ShearY": lambda image, s, fill: _move(image, fill, y=(0.3 * s, 1, 0)),
        "TranslateX": lambda image, s, fill: _move(image, fill, x=(1, 0, 0.45 * s * image.width)),
        "TranslateY": lambda image, s, fill: _move(image, fill, y=(0, 1, 0.45 * s * image.height)),
    }


BICUBIC = Image.Resampling.BICUBIC

INCREASING = _operations(
    bits=lambda s: 4 - int(4 * abs(s)),
    threshold=lambda s: 256 - min(256, int(256 * abs(s))),
    factor=lambda s: max(0.1, 1 + 0.9 * s),
)
# levels of the first implementation: a higher magnitude weakens Posterize and Solarize
ORIGINAL = _operations(
    bits=lambda s: int(4 * abs(s)),
    threshold=lambda s: min(256, int(256 * abs(s))),
    factor=lambda s: 0.1 + 1.8 * abs(s),
)
OPERATIONS = tuple(INCREASING)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keeps the highest bits; 0 or fewer leave black, which ImageOps.posterize refuses to make."""
    kept = 0xFF << (8 - min(max(bits, 0), 8)) & 0xFF
    return _look_up(image, [value & kept for value in range(256)])


def _add_to_dark(image: Image.Image, amount: int) -> Image.Image:
    """Adds `amount` to values below 128, up to 255."""
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return _look_up(image, table)


def _look_up(image: Image.Image, table: list[int]) -> Image.Image:
    return image.point(table * len(image.getbands()))


def _move(image: Image.Image, fill: Any, x=(1, 0, 0), y=(0, 1, 0)) -> Image.Image:
    """Takes each pixel from `(a x + b y + c, d x + e y + f)` of the image; bicubic."""
    return image.transform(
        image.size, Image.Transform.AFFINE, (*x, *y), resample=BICUBIC, fillcolor=fill
    )
