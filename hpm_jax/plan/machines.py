"""The machines for which a run can be planned: groups of chips, and their names."""

import contextlib
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from hpm_jax.chips import CHIPS, GPUS, TPUS, Chip
from hpm_jax.errors import UserError
from hpm_jax.plan.gpus import DESCRIBED, target

GIB = 2**30
# the environment of plans, before jax is imported: no device is looked for, and no service is asked
NO_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at once
}


class PlanError(UserError, ValueError):
    """A plan cannot be made; the message has the remedy."""


EXAMPLES = "such as v5e:4x4, v4:2x2x4, h100:8 or a100-80:16"


class Machine(NamedTuple):
    """A group of equal devices."""

    topology: str  # its name, such as v5e:4x4 or h100:8
    chip: Chip
    devices: int

    @property
    def memory(self) -> int:
        """Bytes of one device that a program can use.

        On a GPU this is the fraction that JAX preallocates: three quarters, unless
        XLA_PYTHON_CLIENT_MEM_FRACTION is set, here as in the run.
        """
        share = 1.0 if self.chip.tpu else float(os.environ.get(MEMORY_SHARE, 0.75))
        return int(self.chip.memory * share * GIB)

    @property
    def platform(self) -> str:
        """ "tpu" or "gpu"."""
        return "tpu" if self.chip.tpu else "gpu"

    @property
    def float8(self) -> bool:
        """Whether the devices multiply float8, as far as `DESCRIBED` tells."""
        from hpm_jax.models.quantization import FLOAT8_CAPABILITY

        gpu = DESCRIBED.get(self.topology.partition(":")[0])
        return gpu is not None and gpu.capability >= FLOAT8_CAPABILITY

    def peak(self, dtype: str) -> float:
        """FLOP/s of all devices for products in `dtype`."""
        return self.devices * (self.chip.peak if dtype == "bfloat16" else self.chip.single)


MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def machine(topology: str) -> Machine:
    """Parses a name, `chip:shape` for TPU slices and `chip:count` for GPUs.

    Raises:
        PlanError: for an unknown chip, or an invalid shape.
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
    """Returns the devices for which a step is compiled: a described slice or GPUs, or virtual CPUs.

    GPUs are described if JAX's CUDA plugin is installed and `hpm_jax/plan/gpus.py` knows them.

    Raises:
        PlanError: for a slice that does not exist, if libtpu is not installed, or if JAX has
            started with fewer CPU devices than the requested GPUs.
    """
    import jax

    if machine.chip.tpu:
        return slice_of(machine.topology)
    if described := gpus_of(machine):
        return described
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", machine.devices)
    devices = jax.devices("cpu")[: machine.devices]
    if len(devices) < machine.devices:
        raise PlanError(
            f"--topology {machine.topology}: JAX has started with {len(devices)} CPU devices; "
            "plan in a fresh process"
        )
    return devices


def check_described(machine: Machine, devices: list[Any]) -> None:
    """Checks that a program can be compiled for the devices themselves.

    Raises:
        PlanError: if virtual CPUs stand in for them.
    """
    if devices[0].platform == "cpu":
        raise PlanError(
            f"--topology {machine.topology} has no compiler here: name a TPU slice, or one of the "
            f"GPUs {', '.join(DESCRIBED)} with pip install 'jax[cuda13]', which needs no GPU"
        )


def gpus_of(machine: Machine) -> list[Any]:
    """Returns described GPUs, which need not exist here; none without the plugin or a description.

    The plugin is in `pip install "jax[cuda13]"`, which needs no GPU.
    """
    from jax.experimental import topologies

    kind = machine.topology.partition(":")[0]
    if kind not in DESCRIBED or not any(map(importlib.util.find_spec, PLUGINS)):
        return []
    described = topologies.get_topology_desc(
        kind, "cuda", target_config=target(DESCRIBED[kind]), topology=f"1x1x{machine.devices}"
    )
    return list(described.devices)


PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def slice_of(topology: str) -> list[Any]:
    """Returns the devices of a TPU slice by its description; the slice need not exist here.

    Raises:
        PlanError: for a slice that does not exist, or if libtpu is not installed.
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
