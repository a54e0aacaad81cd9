"""The device mesh of a run: batches are sharded over both axes, parameters over one."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hpm_jax.config import ConfigError

SMALL = 2**16  # elements: sharding smaller arrays costs more time than it saves memory
BATCH = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh, and the sharding of arrays on it."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """Number of devices that share a batch."""
        return self.mesh.size

    @property
    def replicated(self) -> NamedSharding:
        """Replicated on every device: metrics, and parameters if fsdp is 1."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Sharded along the first axis: images."""
        return NamedSharding(self.mesh, BATCH)

    @property
    def compile_once(self) -> dict[str, Any] | None:
        """Compiler options of a function that runs once: on a CPU, half the time to compile."""
        cpu = all(device.platform == "cpu" for device in self.mesh.devices.flat)
        return {"xla_backend_optimization_level": 1} if cpu else None

    def shardings(self, shapes: Any) -> Any:
        """Returns the shardings of a state, by fully sharded data parallelism.

        Arrays of the blocks with at least `SMALL` elements, which are nearly all, are sharded over
        `fsdp` along the longest divisible axis; the rest is replicated. Teacher and optimizer are
        sharded like the parameters. A block is gathered before it is used.

        Raises:
            ConfigError: for an array without a divisible axis.
        """
        parts = self.mesh.shape["fsdp"]

        def place(path, x):
            in_a_block = "['blocks']" in jax.tree_util.keystr(path)
            if parts == 1 or not in_a_block or math.prod(x.shape) < SMALL:
                return self.replicated
            # the first axis counts the blocks
            divisible = [axis for axis in range(1, len(x.shape)) if x.shape[axis] % parts == 0]
            if not divisible:
                raise ConfigError(
                    f"config.run.fsdp = {parts} does not divide any axis of "
                    f"{jax.tree_util.keystr(path)} with shape {x.shape}: use a number that "
                    "divides the width, such as 2, 4 or 8."
                )
            longest = max(divisible, key=lambda axis: x.shape[axis])
            axes: list[str | None] = [None] * len(x.shape)
            axes[longest] = "fsdp"
            return NamedSharding(self.mesh, PartitionSpec(*axes))

        return jax.tree_util.tree_map_with_path(place, shapes)

    def gather(self, params: Any) -> Any:
        """Replicates the parameters of a block before their use."""
        if self.mesh.shape["fsdp"] == 1:
            return params
        return jax.lax.with_sharding_constraint(params, self.replicated)

    def jit_step(self, step: Callable[..., Any], state: Any) -> Any:
        """Jits a step `(state, ...) -> (state, metrics)`; the state is donated, its sharding kept.

        Args:
            state: shapes, dtypes and shardings of the state; see `abstract_state`.
        """
        placement = jax.tree.map(lambda x: x.sharding, state)

        @functools.wraps(step)
        def on_mesh(*arguments: Any) -> Any:
            # kernels that the compiler cannot partition read it while they are traced
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return step(*arguments)

        return jax.jit(on_mesh, donate_argnums=0, out_shardings=(placement, self.replicated))

    def rows(self, batch_size: int) -> np.ndarray:
        """Returns which images of a global batch this process loads, in device order."""
        places = self.batch.addressable_devices_indices_map((batch_size,)).values()
        spans = {index[0].indices(batch_size)[:2] for index in places if index is not None}
        return np.concatenate([np.arange(*span) for span in sorted(spans)])

    def put(self, images: np.ndarray) -> Array:
        """Puts the rows of a batch that this process has loaded on the devices."""
        return jax.make_array_from_process_local_data(self.batch, images)

    def put_whole(self, images: np.ndarray) -> Array:
        """Puts a batch that every process has on the devices, each device its own part."""
        return jax.make_array_from_callback(images.shape, self.batch, lambda part: images[part])

    def round_up(self, count: int) -> int:
        """Returns the smallest multiple of the device count that is at least `count`."""
        return -(-count // self.count) * self.count


def all_devices(fsdp: int = 1) -> Devices:
    """Returns all devices of the run, of all its processes.

    Args:
        fsdp: number of devices over which parameters are sharded; the rest of the mesh is `data`.

    Raises:
        ConfigError: if the devices do not fill such a mesh.
    """
    count = jax.device_count()
    if count % fsdp:
        fitting = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise ConfigError(
            f"config.run.fsdp = {fsdp} does not divide the {count} devices of this run: "
            f"use {', '.join(fitting)}."
        )
    # positional: the names of these arguments changed between the jax versions that we support
    mesh = jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return Devices(mesh)


def check_batch(config: Any, devices: Devices) -> None:
    """Raises a `ConfigError` if a batch cannot be split over the devices."""
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
