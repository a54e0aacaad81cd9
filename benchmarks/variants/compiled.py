"""Steps compiled for one device that is not here."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks.described import Cost, cost_of, first_device, tracing_for
from benchmarks.variants.measure import Bench, step_of
from benchmarks.variants.table import Subject
from hpm_jax.config import Config
from hpm_jax.run.build import build_sharded_step
from hpm_jax.run.devices import Devices
from hpm_jax.step.schedules import Schedule


def shapes_on(topology: str, config: Config) -> Bench:
    """The bench of a config without numbers: only shapes, on the first device of a machine."""
    device = np.array([first_device(topology)]).reshape(1, 1)
    devices = Devices(Mesh(device, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    step = build_sharded_step(config, devices)

    def shape(x, kind):
        return jax.ShapeDtypeStruct(x, kind, sharding=devices.replicated)

    key = shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    schedule = Schedule(*(shape((), kind) for kind in (np.float32, np.float32, np.int32)))
    return Bench(config, Subject(step.model, step.method), step.state, step.images, key, schedule)


def step_cost(topology: str, bench: Bench, subject: Subject) -> Cost:
    """Compiles a step, which takes a minute or two, and reads what it costs."""
    step = step_of(bench.config, subject)
    with tracing_for(topology):
        lowered = step.lower(bench.state, bench.images, bench.key, bench.schedule)
    return cost_of(lowered)
