"""The devices of a run as a mesh with one axis, `data`, over which batches are split."""

import dataclasses

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hpm_jax.options import Config, ConfigError


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh, and how things lie on it."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many devices share a batch."""
        return self.mesh.shape["data"]

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device: parameters, metrics."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Split along the first axis: images."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def put(self, images: np.ndarray) -> Array:
        """A batch from this process's host to the devices."""
        return jax.make_array_from_process_local_data(self.batch, images)

    def round_up(self, count: int) -> int:
        """The least multiple of the devices that is not below `count`."""
        return -(-count // self.count) * self.count


def all_devices() -> Devices:
    """Every device of the run."""
    # positional: the names of these arguments changed between the jax versions that we support
    return Devices(jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,)))


def check_batch(config: Config, devices: Devices) -> None:
    """Raises a `ConfigError` where a batch cannot be split over the devices."""
    optimizer = config.optimizer
    part = optimizer.batch_size // optimizer.accumulation
    if part % devices.count:
        step = devices.count * optimizer.accumulation
        lower = optimizer.batch_size // step * step
        raise ConfigError(
            f"config.optimizer.batch_size = {optimizer.batch_size} in {optimizer.accumulation} "
            f"part(s) does not divide over {devices.count} devices: use "
            f"{f'{lower} or ' if lower else ''}{lower + step}, or fewer devices "
            "(CUDA_VISIBLE_DEVICES, JAX_NUM_CPU_DEVICES)."
        )
