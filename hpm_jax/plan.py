"""What a run needs, before it is rented: the real step, compiled here for TPUs that are not here.

python -m hpm_jax.plan --config configs/hpm_in1k.py:B --topology v5e:4x4
"""

import functools
import math
import os
import re
import sys
from collections import Counter
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import config_flags

GIB = 2**30
# memory of a chip and its peak in bfloat16, by Google's documents
CHIPS = {
    "v2": (16 * GIB, 45e12),
    "v3": (32 * GIB, 123e12),
    "v4": (32 * GIB, 275e12),
    "v5e": (16 * GIB, 197e12),
    "v5p": (95 * GIB, 459e12),
    "v6e": (32 * GIB, 918e12),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1}


class PlanError(ValueError):
    """A plan that cannot be made; the message says what to change."""


class Plan(NamedTuple):
    """What one device of a slice holds and does in a step; bytes unless said otherwise."""

    devices: int
    memory: int  # of one device
    params: int
    teacher: int
    optimizer: int
    temporaries: int  # by the compiler, also where it refuses for want of memory
    needed: int  # in all
    fits: bool  # whether the compiler found room for all of it
    flops: float  # analytic, of the whole step over all devices
    accessed: float  # bytes that the step reads and writes, by the compiler
    collectives: dict[str, tuple[int, int]]  # how many in the program, and bytes of their results


def main(argv: list[str]) -> None:
    """Prints the plan, or what to change."""
    from hpm_jax.config import freeze
    from hpm_jax.options import ConfigError

    options = flags.FLAGS
    if options.config is None:
        sys.exit("error: --config is missing, as in --config configs/hpm_in1k.py:L")
    try:
        config = freeze(options.config)
        devices = slice_of(options.topology)
        memory = CHIPS[chip_of(options.topology)][0] * chips(options.topology) // len(devices)
        plan = make_plan(config, devices, memory)
        print(table(plan, config, options.topology, options.mfu, options.images))
        if not plan.fits:
            sys.exit(1)
    except (ConfigError, PlanError) as error:
        sys.exit(f"error: {error}")


def chip_of(topology: str) -> str:
    """The kind of chip, as in "v5e"."""
    return topology.split(":")[0]


def chips(topology: str) -> int:
    """How many chips a slice has; a device is one of them, or one of its cores (v2 to v4)."""
    return math.prod(tuple(int(side) for side in topology.split(":")[1].split("x")))


def slice_of(topology: str) -> list:
    """The devices of a TPU slice that is described, not there.

    Raises:
        PlanError: for a slice that does not exist, or where libtpu is not installed.
    """
    from jax.experimental import topologies

    examples = "such as v5e:4x4, v6e:8x8, v4:2x2x2 or v5p:2x2x4"
    if chip_of(topology) not in CHIPS or not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise PlanError(f"--topology {topology} is no TPU slice: expected chip:shape, {examples}")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except ModuleNotFoundError as error:
        raise PlanError(f"{error}: pip install libtpu (no TPU is needed)") from None
    except Exception as error:
        if "libtpu" in str(error).lower() and "no module" in str(error).lower():
            raise PlanError("libtpu is missing: pip install libtpu (no TPU is needed)") from None
        first = str(error).splitlines()[0][:200]
        raise PlanError(
            f"--topology {topology} does not exist ({first}): use one {examples}"
        ) from None


def make_plan(config: Any, devices: list, memory: int) -> Plan:
    """Compiles the sharded training step of a pre-training config for `devices`.

    Args:
        config: from `hpm_jax.config.freeze`.
        devices: of a topology; `config.run.fsdp` divides them.
        memory: bytes of one device.

    Raises:
        ConfigError: where the batch or fsdp does not fit the devices.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from hpm_jax.models.flops import step_flops
    from hpm_jax.training.build import build_sharded_step
    from hpm_jax.training.devices import Devices
    from hpm_jax.training.schedules import Schedule

    if len(devices) % config.run.fsdp:
        raise PlanError(
            f"config.run.fsdp = {config.run.fsdp} does not divide {len(devices)} devices"
        )
    grid = np.array(devices).reshape(-1, config.run.fsdp)
    mesh = Devices(Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    model, method, _, state, images, step = build_sharded_step(config, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mesh.replicated)
    scalars = Schedule(
        *(
            jax.ShapeDtypeStruct((), kind, sharding=mesh.replicated)
            for kind in (np.float32, np.float32, np.int32)
        )
    )
    flops = step_flops(model, config.hidden, method.strategy.asks_teacher).total
    whole = flops * config.optimizer.batch_size
    known = functools.partial(
        Plan,
        devices=len(devices),
        memory=memory,
        params=_bytes_a_device(state.params),
        teacher=_bytes_a_device(state.teacher),
        optimizer=_bytes_a_device(state.optimizer),
        flops=whole,
    )
    try:
        compiled = step.lower(state, images, key, scalars).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked = re.search(r"\(([\d.]+)([GM])\) exceeds", str(error))
        asked_bytes = float(asked[1]) * {"G": GIB, "M": 2**20}[asked[2]] if asked else memory
        held = _bytes_a_device(state)
        return known(
            temporaries=int(asked_bytes),
            needed=int(asked_bytes) + held,
            fits=False,
            accessed=0.0,
            collectives={},
        )
    analysis = compiled.memory_analysis()
    kept = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    needed = kept - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes
    return known(
        temporaries=analysis.temp_size_in_bytes,
        needed=needed,
        fits=True,
        accessed=compiled.cost_analysis().get("bytes accessed", 0.0),
        collectives=collectives(compiled.as_text()),
    )


def _bytes_a_device(part: Any) -> int:
    import jax

    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(part)
    )


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind a compiled program has, and the bytes that they give."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match:
            result, kind = match.groups()
            counts[kind] += 1
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
                lengths = tuple(int(n) for n in shape.split(",") if n)
                sizes[kind] += BYTES.get(dtype, 4) * math.prod(lengths)
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def table(plan: Plan, config: Any, topology: str, mfu: float, images: int) -> str:
    """The plan for a person, with advice where it does not fit."""
    batch = config.optimizer.batch_size
    peak = CHIPS[chip_of(topology)][1] * chips(topology)
    hours = config.optimizer.epochs * images / batch * plan.flops / (peak * mfu) / 3600
    rows = [
        ("slice", f"{topology}: {plan.devices} devices of {plan.memory / GIB:.0f} GiB"),
        ("batch", f"{batch} images, {batch // plan.devices} a device"),
        ("parameters", f"{plan.params / GIB:.2f} GiB a device"),
        ("teacher", f"{plan.teacher / GIB:.2f} GiB"),
        ("optimizer", f"{plan.optimizer / GIB:.2f} GiB"),
        ("temporaries", f"{plan.temporaries / GIB:.2f} GiB"),
        ("needed", f"{plan.needed / GIB:.2f} GiB of {plan.memory / GIB:.0f}"),
        ("arithmetic", f"{plan.flops / 1e12:.1f} TFLOP a step (analytic)"),
    ]
    if plan.fits:
        rows.append(("memory traffic", f"{plan.accessed / GIB:.1f} GiB a device and step"))
    for kind, (count, size) in plan.collectives.items():
        rows.append((kind, f"{count} in the program, {size / 2**20:.0f} MiB"))
    rows.append(("time", f"{hours:.1f} h for {config.optimizer.epochs} epochs at {mfu:.0%} MFU"))
    text = "\n".join(f"{name:<16} {value}" for name, value in rows)
    if plan.fits:
        share = (plan.memory - plan.needed + plan.temporaries) / max(plan.temporaries, 1)
        largest = int(batch * share) // plan.devices * plan.devices
        return f"{text}\n{'largest batch':<16} about {largest}, if temporaries grow with it"
    return f"{text}\n{advice(plan, config)}"


def advice(plan: Plan, config: Any) -> str:
    """What to change so that it fits, the cheapest first."""
    tips = []
    if config.model.dtype != "bfloat16":
        tips.append("--config.model.dtype=bfloat16 halves the activations")
    parts = config.optimizer.accumulation * 2
    tips.append(f"--config.optimizer.accumulation={parts} halves the images that are in work")
    if config.model.remat == "none":
        tips.append("--config.model.remat=full keeps less for the backward pass, a third slower")
    state = plan.params + plan.teacher + plan.optimizer
    if config.run.fsdp == 1 and state > 0.3 * plan.memory:
        tips.append(
            f"--config.run.fsdp={min(plan.devices, 8)} splits {state / GIB:.1f} GiB of state"
        )
    return "it does not fit:\n" + "\n".join(f"  {tip}" for tip in tips)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A pre-training config")
    flags.DEFINE_string("topology", "v5e:4x4", "A TPU slice, such as v5e:4x4 or v4:2x2x2")
    flags.DEFINE_float("mfu", 0.4, "The share of the peak that is assumed for the time")
    flags.DEFINE_integer("images", 1_281_167, "Training images; ImageNet's by default")
    # before a config file imports jax: no TPU is looked for, and none is asked what it is
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at once
    }
    app.run(main)
