"""The machines that a run can be planned for: groups of chips, and how they are named."""

import contextlib
import math
import os
import re
from typing import Any, NamedTuple

from hpm_jax.chips import CHIPS, GPUS, TPUS, Chip
from hpm_jax.errors import UserError

GIB = 2**30


class PlanError(UserError, ValueError):
    """A plan that cannot be made; the message says what to change."""


EXAMPLES = "such as v5e:4x4, v4:2x2x4, h100:8 or a100-80:16"


class Machine(NamedTuple):
    """A group of equal devices."""

    topology: str  # its name, such as v5e:4x4 or h100:8
    chip: Chip
    devices: int

    @property
    def memory(self) -> int:
        """Bytes of one device that a program may take.

        On a GPU that is the share that JAX takes when it starts: three quarters, unless
        XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise, here as in the run.
        """
        share = 1.0 if self.chip.tpu else float(os.environ.get(MEMORY_SHARE, 0.75))
        return int(self.chip.memory * share * GIB)

    def peak(self, dtype: str) -> float:
        """FLOP/s of all devices for products in `dtype`."""
        return self.devices * (self.chip.peak if dtype == "bfloat16" else self.chip.single)


MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def machine(topology: str) -> Machine:
    """From a name, `chip:shape` for TPU slices and `chip:count` for GPUs.

    Raises:
        PlanError: for a chip that is not known, or a shape that is none.
    """
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise PlanError(
            f"--topology {topology}: there is no chip {kind!r}; expected one {EXAMPLES}, of the "
            f"TPUs {', '.join(TPUS)} and the GPUs {', '.join(GPUS)}"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+" if chip.tpu else r"[1-9]\d*", shape):
        wanted = "chips on each side, as in v5e:4x4" if chip.tpu else "how many, as in h100:8"
        raise PlanError(f"--topology {topology}: expected after the colon {wanted}")
    return Machine(topology, chip, chip.cores * math.prod(int(n) for n in shape.split("x")))


def devices_of(machine: Machine) -> list[Any]:
    """The devices that a step is compiled for: a slice that is described, or virtual CPUs.

    Raises:
        PlanError: for a slice that does not exist, where libtpu is not installed, and where JAX
            has started with fewer CPU devices than the GPUs wanted.
    """
    import jax

    if machine.chip.tpu:
        return slice_of(machine.topology)
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", machine.devices)
    devices = jax.devices("cpu")[: machine.devices]
    if len(devices) < machine.devices:
        raise PlanError(
            f"--topology {machine.topology}: JAX has started with {len(devices)} CPU devices; "
            "plan in a fresh process"
        )
    return devices


def slice_of(topology: str) -> list[Any]:
    """The devices of a TPU slice that is described, not there.

    Raises:
        PlanError: for a slice that does not exist, or where libtpu is not installed.
    """
    from jax.experimental import topologies

    # without it v4 has two devices a chip, as no TPU VM shows them
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
        return list(described.devices)
    except Exception as error:
        text = str(error)
        if isinstance(error, ModuleNotFoundError) or "no module" in text.lower():
            raise PlanError("libtpu is missing: pip install libtpu (no TPU is needed)") from None
        first = text.splitlines()[0][:200]
        raise PlanError(
            f"--topology {topology} does not exist ({first}): expected one {EXAMPLES}"
        ) from None
