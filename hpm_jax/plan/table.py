"""Formats a plan as a table."""

from typing import Any

from hpm_jax.plan.compiled import Plan
from hpm_jax.plan.machines import GIB, Machine


def table(plan: Plan, config: Any, machine: Machine, mfu: float, images: int) -> str:
    """Returns one line for each figure, with its source.

    Args:
        mfu: fraction of the peak that is assumed for the time.
        images: number of images per epoch.
    """
    optimizer = config.optimizer
    batch, parts, chip = optimizer.batch_size, optimizer.accumulation, machine.chip
    steps = optimizer.epochs * images / batch
    hours = steps * plan.flops / (machine.peak(config.model.dtype) * mfu) / 3600
    source = "compiled" if plan.compiled else "arithmetic"
    in_parts = f" in {parts} parts" if parts > 1 else ""
    rows = [
        (
            "machine",
            f"{machine.topology}: {plan.devices} devices, {_gib(plan.memory)} free on each",
        ),
        ("batch", f"{batch}, {batch // plan.devices} a device{in_parts}"),
        ("parameters", f"{_gib(plan.params)} a device"),
        ("teacher", _gib(plan.teacher)),
        ("optimizer", _gib(plan.optimizer)),
        ("temporaries", f"{_gib(plan.temporaries)} ({source})"),
        ("needed", f"{_gib(plan.needed)} of {_gib(plan.memory)} ({source})"),
        ("operations", f"{plan.flops / 1e12:.1f} TFLOP a step (analytic)"),
    ]
    for kind, (count, size) in plan.collectives.items():
        compiler = "" if plan.compiled else " (compiled for CPUs)"
        rows.append((kind, f"{count} a step, {_gib(size)} a device{compiler}"))
    time = f"{hours:.1f} h for {optimizer.epochs} epochs at {mfu:.0%} MFU"
    if plan.traffic:
        least = "" if plan.compiled else "at least "
        rows.append(("memory traffic", f"{least}{_gib(plan.traffic)} a device and step ({source})"))
        alone = steps * plan.traffic / chip.bandwidth / 3600
        time += f"; {least}{alone:.1f} h for the memory traffic alone"
    rows.append(("time", time))
    return "\n".join(f"{name:<18} {value}" for name, value in rows)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
