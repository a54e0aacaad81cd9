"""The throughput of a run: images per second, MFU, and time spent waiting for data."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.chips import peak_of

SIZE = 1536  # of the matrices that are multiplied to measure a peak


def peak_flops() -> tuple[float, str]:
    """Returns the peak FLOP/s of the devices of this run, and the source of the figure.

    A device that is not in the table is measured, see `measured_peak`.
    """
    kind = jax.devices()[0].device_kind
    if (peak := peak_of(kind)) is not None:
        return peak * jax.device_count(), f"{kind}: data sheet, bfloat16"
    # virtual devices of one CPU share its cores
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()
    source = f"{kind}: measured, {SIZE} x {SIZE} float32 products"
    return measured_peak() * devices, source


@functools.cache
def measured_peak() -> float:
    """Returns the FLOP/s of the best of some square matrix products on one device."""
    matrix = jnp.asarray(np.ones((SIZE, SIZE), np.float32))
    product = jax.jit(jnp.dot)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best


class Meter:
    """Measures rates since the last `read`, excluding time spent `paused`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._images, self._flops, self._waited, self._paused = 0, 0.0, 0.0, 0.0

    def step(self, images: int, flops: float) -> None:
        """Records that a step has started."""
        self._images += images
        self._flops += flops

    def waited(self, seconds: float) -> None:
        """Records time spent waiting for data."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Records time spent outside training, such as evaluation."""
        self._paused += seconds

    def read(self, peak: float) -> dict[str, float]:
        """Returns the rates and resets the meter."""
        seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
        rates = {
            "images_per_second": self._images / seconds,
            "mfu": self._flops / seconds / peak,
            "data_wait": self._waited / seconds,
        }
        self._reset()
        return rates
