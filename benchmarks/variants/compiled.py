"""Steps compiled for one chip of a TPU slice that is not here."""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks.variants.measure import Bench, step_of
from benchmarks.variants.table import Subject
from hpm_jax.config import Config
from hpm_jax.models.scaled_dot_product import compiling_for
from hpm_jax.plan import slice_of
from hpm_jax.plan.program import work
from hpm_jax.run.build import build_sharded_step
from hpm_jax.run.devices import Devices
from hpm_jax.step.schedules import Schedule


class StepCost(NamedTuple):
    """Of one step on one chip."""

    temporaries: int  # bytes
    traffic: int  # bytes
    cycles: int


def shapes_on(topology: str, config: Config) -> Bench:
    """The bench of a config without numbers: only shapes, on the first chip of the slice."""
    chip = np.array(slice_of(topology)[:1]).reshape(1, 1)
    devices = Devices(Mesh(chip, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    step = build_sharded_step(config, devices)

    def shape(x, kind):
        return jax.ShapeDtypeStruct(x, kind, sharding=devices.replicated)

    key = shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    schedule = Schedule(*(shape((), kind) for kind in (np.float32, np.float32, np.int32)))
    return Bench(config, Subject(step.model, step.method), step.state, step.images, key, schedule)


def step_cost(bench: Bench, subject: Subject) -> StepCost:
    """Compiles a step, which takes a minute or two, and reads what it costs."""
    step = step_of(bench.config, subject)
    with compiling_for("tpu"):
        lowered = step.lower(bench.state, bench.images, bench.key, bench.schedule)
    compiled = lowered.compile()
    cost = work(compiled.as_text())
    return StepCost(compiled.memory_analysis().temp_size_in_bytes, cost.traffic, cost.cycles)
