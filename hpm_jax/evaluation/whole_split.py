"""One pass over a whole split: every image once, on all devices, and what cannot be read named."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array

from hpm_jax.data.pipeline import evaluation_batches
from hpm_jax.data.sources import Records
from hpm_jax.run.devices import Devices


def over_split(
    function: Callable[[Array, Array, Array], Any],
    records: Records,
    config: Any,
    batch_size: int,
    devices: Devices,
) -> Iterator[tuple[Any, list[str]]]:
    """What `function` makes of each batch, on the host, and the names of images left out of it.

    Args:
        function: of uint8 images `[B, H, W, C]`, labels `[B]` and weights `[B]`, on the devices;
            weight 0 fills up the last batch and stands for images that cannot be read. Its result
            is the same on all devices.
        config: has `data` and `run`.
        batch_size: over all devices, which divide it.
    """
    rows = devices.rows(batch_size)
    for batch in evaluation_batches(records, config.data, config.run, batch_size, rows):
        arrays = (devices.put(batch[name]) for name in ("image", "label", "weight"))
        unread = [records.name(int(index)) for index in batch["broken"] if index >= 0]
        yield jax.device_get(function(*arrays)), unread
