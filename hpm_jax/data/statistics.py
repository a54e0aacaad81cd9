"""Measures mean, deviation and range of pixels: `python -m hpm_jax.data.statistics --path DATA`."""

import argparse
import collections
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpm_jax.data.decoding import BrokenImage, EncodedImage
from hpm_jax.data.records import DataError, Records

if TYPE_CHECKING:
    from hpm_jax.config import Data

PIXELS = 2**14  # number of pixels sampled per image, evenly spaced
TAIL = 0.001  # fraction of values excluded at each end of a range
BINS = 2**16  # number of histogram bins for the range


class Statistics(NamedTuple):
    """Statistics of a sample of images."""

    sample: int  # number of images that were read
    channels: int
    dtype: str
    low: float  # of all values except the `TAIL`
    high: float
    mean: tuple[float, ...]  # of each channel, with values scaled to the range 0 to 1
    std: tuple[float, ...]
    constant: tuple[str, ...]  # names of images of one colour
    broken: tuple[str, ...]  # names and reasons

    @property
    def value_range(self) -> tuple[float, ...]:
        """The value of `config.data.value_range`; () for 8-bit images."""
        return () if self.dtype in ("uint8", "bool") else (self.low, self.high)

    def options(self) -> dict[str, Any]:
        """Returns data options by name, without those that 8-bit colour images do not need."""
        found: dict[str, Any] = {
            "data.channels": self.channels,
            "data.mean": self.mean,
            "data.std": self.std,
        }
        return found | ({"data.value_range": self.value_range} if self.value_range else {})


def measure(records: Records, data: "Data", sample: int) -> Statistics:
    """Measures at most `sample` of the records, evenly spaced, as they are stored.

    Images with an unusual number of channels are excluded from mean and deviation, except grey
    images among colour images.

    Raises:
        DataError: if no image can be read.
    """
    pixels: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    dtypes: collections.Counter[str] = collections.Counter()
    constant, broken = [], []
    for index in np.unique(np.linspace(0, len(records) - 1, min(sample, len(records))).astype(int)):
        try:
            image = stored_pixels(records[int(index)]["image"], data)
            if image.dtype.kind == "f" and not np.isfinite(image).all():
                raise BrokenImage("NaN or infinite values")
        except (BrokenImage, OSError) as error:
            broken.append(f"{records.name(int(index))}: {reason_of(error)}")
            continue
        if (image == image[:1, :1]).all():
            constant.append(records.name(int(index)))
        dtypes[str(image.dtype)] += 1
        flat = image.reshape(-1, image.shape[-1])
        flat = flat[:: max(1, len(flat) // PIXELS)]
        pixels[image.shape[-1]].append(flat.astype(np.float32))
    if not pixels:
        raise DataError(f"none of {len(broken)} images can be read, such as {broken[0]}")
    channels = _channels({count: len(found) for count, found in pixels.items()})
    if channels == 3 and 1 in pixels:
        pixels[3] += [np.repeat(grey, 3, axis=1) for grey in pixels[1]]
    values = np.concatenate(pixels[channels])
    dtype = dtypes.most_common(1)[0][0]
    low, high = _range(values, dtype)
    unit = (values - low) / (high - low)
    return Statistics(
        sample=sum(dtypes.values()),
        channels=channels,
        dtype=dtype,
        low=low,
        high=high,
        mean=_rounded(unit.mean(axis=0, dtype=np.float64)),
        std=_rounded(np.maximum(unit.std(axis=0, dtype=np.float64), 1e-4)),
        constant=tuple(constant),
        broken=tuple(broken),
    )


def stored_pixels(image: Any, data: "Data") -> np.ndarray:
    """Returns the pixels of a file, `[h, w, C]`; of a video its middle frame."""
    if isinstance(image, bytes):
        if data.frames > 1:
            from hpm_jax.data.video import Video

            with Video(image, data.max_pixels) as video:
                return video.read(np.array(len(video) // 2))
        encoded = EncodedImage(image, data.max_pixels)
        return encoded.pixels(encoded.channels, deep=True)
    return image[len(image) // 2] if image.ndim == 4 else image


def reason_of(error: Exception) -> str:
    """Returns the reason why an image cannot be read, in one line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "no image, or a damaged one" if "cannot identify image file" in text else text


def _channels(counts: dict[int, int]) -> int:
    """Returns 3 for a mixture of grey and colour, else the most frequent number of channels."""
    if set(counts) == {1, 3}:
        return 3
    return max(counts, key=lambda channels: counts[channels])


def _range(values: np.ndarray, dtype: str) -> tuple[float, float]:
    """Returns the values for 0 and 1: the full range of 8 bits, else all but the `TAIL`."""
    if dtype in ("uint8", "bool"):
        return 0.0, 255.0 if dtype == "uint8" else 1.0
    some = values.reshape(-1)[:: max(1, values.size // BINS**2)]
    low, high = (float(f"{edge:.3g}") for edge in np.quantile(some, (TAIL, 1 - TAIL)))
    return (low, high) if low < high else (low, low + 1.0)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def config_lines(options: dict[str, Any]) -> list[str]:
    """Formats options by name as command-line arguments."""
    return [f"--config.{name}={_word(value)}" for name, value in options.items() if value != ()]


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ",".join(f"{x:g}" if isinstance(x, float) else str(x) for x in value)
        return f"'({inner}{',' if len(value) == 1 else ''})'"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if all(c.isalnum() or c in "_./:-" for c in text) else f'"{text}"'


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error is printed as one sentence."""
    from hpm_jax.data.inspect.arguments import add_data, data_of
    from hpm_jax.data.sources import SOURCES
    from hpm_jax.errors import one_sentence

    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.data.statistics", description=(__doc__ or "").splitlines()[0]
    )
    add_data(parser)
    parser.add_argument(
        "--sample", type=int, default=2000, metavar="N", help="number of images to read"
    )
    options = parser.parse_args(arguments)
    with one_sentence(OSError):
        data = data_of(options)
        splits = SOURCES[data.source](data)
        found = measure(splits.train, data, max(1, options.sample))
    print(
        f"{found.sample} of {len(splits.train)} training images, {found.channels} channels of "
        f"{found.dtype}, values from {found.low:g} to {found.high:g}"
    )
    print("\n".join(config_lines(found.options())))


if __name__ == "__main__":
    main()
