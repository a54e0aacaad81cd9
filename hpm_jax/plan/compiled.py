"""The plan: figures of the training step, compiled for devices that are not present."""

import functools
import math
import re
from typing import Any, NamedTuple

from hpm_jax.plan.arithmetic import temporaries
from hpm_jax.plan.machines import GIB, Machine, PlanError
from hpm_jax.plan.program import work

# optimisations that the CPU compiler may skip: only the sharding is read from its result
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Plan(NamedTuple):
    """Memory and work of one device in a step; in bytes unless stated otherwise."""

    devices: int
    memory: int  # of one device, usable by programs
    params: int
    teacher: int
    optimizer: int
    images: int  # of a batch, with annotations if there are any
    temporaries: int  # reported by the compiler, also if it fails for lack of memory
    needed: int  # total
    fits: bool
    compiled: bool  # whether temporaries and traffic are the compiler's, not estimates
    flops: float  # analytic, of the whole step over all devices
    traffic: int  # memory reads and writes; 0 if unknown
    collectives: dict[str, tuple[int, int]]  # number per step, and bytes of their results

    @property
    def state(self) -> int:
        """Parameters, teacher and optimizer."""
        return self.params + self.teacher + self.optimizer


def make_plan(config: Any, machine: Machine, devices: list[Any]) -> Plan:
    """Compiles the sharded training step of a config whose task is in `PREPARED`.

    For described devices all figures are the compiler's. For virtual CPUs, which stand in for GPUs
    that cannot be described, the state of a device and the communication are; the rest is an
    estimate.

    Args:
        config: from `hpm_jax.config.freeze`.
        devices: from `devices_of`.

    Raises:
        ConfigError: if the batch or fsdp does not fit the devices.
        PlanError: for detection on devices that cannot be described.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from hpm_jax.models.compiled_for import compiling_for
    from hpm_jax.run.devices import Devices
    from hpm_jax.run.prepared import prepare

    if len(devices) % config.run.fsdp:
        raise PlanError(
            f"config.run.fsdp = {config.run.fsdp} does not divide {len(devices)} devices"
        )
    described = devices[0].platform != "cpu"
    if not described and config.task == "detect":
        raise PlanError(
            f"--topology {machine.topology}: detection is not estimated, and has to be compiled: "
            "name a TPU slice, or pip install 'jax[cuda13]' for GPUs"
        )
    grid = np.array(devices).reshape(-1, config.run.fsdp)
    mesh = Devices(Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    parts = prepare(config, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mesh.replicated)
    scalars = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((), x.dtype, sharding=mesh.replicated),
        parts.timetable(config.optimizer.batch_size).at(0),
    )
    held = bytes_of((parts.state, parts.inputs))
    known = functools.partial(
        Plan,
        devices=len(devices),
        memory=machine.memory,
        params=bytes_of(parts.state.params),
        teacher=bytes_of(parts.state.teacher),
        optimizer=bytes_of(parts.state.optimizer),
        images=bytes_of(parts.inputs),
        compiled=described,
        flops=parts.flops * config.optimizer.batch_size,
    )
    platform = machine.platform if described else "cpu"
    with compiling_for(platform, float8=machine.float8):
        lowered = parts.step.lower(parts.state, *parts.inputs.values(), key, scalars)
    if not described:
        counted = temporaries(config, len(devices))
        program = work(lowered.compile(compiler_options=QUICK).as_text())
        needed = held + counted.total
        passes = 2 * config.optimizer.accumulation  # what is kept is written, then read
        return known(
            temporaries=counted.total,
            needed=needed,
            fits=needed <= machine.memory,
            traffic=passes * counted.activations + 2 * (held + counted.gradients),
            collectives=program.collectives,
        )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = asked_for(str(error)) or max(machine.memory, held)
        return known(
            temporaries=max(needed - held, 0),
            needed=needed,
            fits=False,
            traffic=0,
            collectives={},
        )
    memory, program = compiled.memory_analysis(), work(compiled.as_text())
    between = memory.argument_size_in_bytes + memory.output_size_in_bytes
    needed = between - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return known(
        temporaries=memory.temp_size_in_bytes,
        needed=needed,
        fits=needed <= machine.memory,  # XLA compiles for GPUs what does not fit them, too
        traffic=program.traffic,
        collectives=program.collectives,
    )


def bytes_of(part: Any) -> int:
    """Returns the bytes on one device of a tree of shapes with their shardings."""
    import jax

    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(part)
    )


def asked_for(error: str) -> int | None:
    """Parses the bytes in a compiler's out-of-memory report, which include the state."""
    asked = re.search(r"\(([\d.]+)([MGT])\) exceeds", error)
    return int(float(asked[1]) * {"M": 2**20, "G": GIB, "T": 2**40}[asked[2]]) if asked else None
