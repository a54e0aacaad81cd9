"""A device that is not here: programs are compiled for it, and their text says what they cost."""

import contextlib
from typing import Any, NamedTuple

from hpm_jax.plan.machines import check_described, devices_of, machine
from hpm_jax.plan.program import work


class Cost(NamedTuple):
    """Of one run of a program on one device."""

    temporaries: int  # bytes
    traffic: int  # bytes
    cycles: int  # the compiler's estimate; 0 for GPUs, for which it makes none


def first_device(topology: str) -> Any:
    """Returns the first device of a TPU slice or of GPUs by name, such as v5e:2x2 or h100:1.

    Raises:
        PlanError: without libtpu or JAX's CUDA plugin, or if there is no such machine.
    """
    chosen = machine(topology)
    devices = devices_of(chosen)
    check_described(chosen, devices)
    return devices[0]


def tracing_for(topology: str) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which programs are traced for these devices."""
    from hpm_jax.models.compiled_for import compiling_for

    chosen = machine(topology)
    return compiling_for(chosen.platform, float8=chosen.float8)


def cost_of(lowered: Any) -> Cost:
    """Compiles a program, and reads what it costs."""
    compiled = lowered.compile()
    found = work(compiled.as_text())
    return Cost(compiled.memory_analysis().temp_size_in_bytes, found.traffic, found.cycles)
