"""Advice for a step that does not fit: option changes and the memory that each needs."""

import itertools
from typing import Any, NamedTuple

from hpm_jax.plan.compiled import Plan
from hpm_jax.plan.largest import estimate, flags, with_options
from hpm_jax.plan.machines import GIB, MEMORY_SHARE

CHANGED = ("accumulation", "remat", "fsdp")  # alone, in this order
REMATS = ("none", "mlp", "full")
MARGIN = 0.9  # fraction of the memory that the estimate may use
SMALLEST_PART = 16  # images per device: fewer leave its matrix units idle


class Change(NamedTuple):
    """Options with other values, and the bytes that a device then needs."""

    options: dict[str, Any]
    needed: float
    fits: bool

    def __str__(self) -> str:
        verdict = "" if self.fits else ", still too much"
        return f"{flags(self.options)}: about {self.needed / GIB:.1f} GiB{verdict}"


def advice(config: Any, plan: Plan, gpu: bool = False) -> str:
    """Suggests changes that make the step fit, by estimate; plan the changed config to confirm.

    Each option is changed alone, to its first sufficient value. If none suffices, all are combined:
    accumulation first, then recomputation, then parameter sharding.
    """
    lines = []
    if config.model.dtype != "bfloat16":
        lines.append("--config.model.dtype=bfloat16: half the activations")
    if gpu:
        lines.append(f"{MEMORY_SHARE}=0.95 in the environment: JAX takes 0.75 of a GPU by default")
    values = choices(config, plan)
    alone = [first_that_fits(config, plan, {name: values[name]}) for name in CHANGED]
    lines += [str(change) for change in alone if change]
    if not any(change and change.fits for change in alone):
        together = first_that_fits(config, plan, values)
        if together and together.fits:
            lines.append(f"enough together: {together}")
        else:
            lines.append("nothing of that is enough: more devices, or a smaller batch")
    return "it does not fit; by arithmetic\n" + "\n".join(f"  {line}" for line in lines)


def choices(config: Any, plan: Plan) -> dict[str, list[Any]]:
    """Returns other values of each option, from cheap to expensive."""
    parts = config.optimizer.accumulation
    images = config.optimizer.batch_size // plan.devices
    return {
        "fsdp": [n for n in (2, 4, 8) if n > config.run.fsdp and plan.devices % n == 0],
        "remat": list(REMATS[REMATS.index(config.model.remat) + 1 :]),
        "accumulation": [
            n
            for n in (2 * parts, 4 * parts, 8 * parts, 16 * parts)
            if images % n == 0 and images // n >= SMALLEST_PART
        ],
    }


def first_that_fits(config: Any, plan: Plan, values: dict[str, list[Any]]) -> Change | None:
    """Returns the first combination that fits, varying the last option first; else the last one."""
    change = None
    unchanged = [[None, *options] for options in values.values()]
    for combination in itertools.product(*unchanged):
        pairs = zip(values, combination, strict=True)
        options = {name: value for name, value in pairs if value is not None}
        if options:
            needed = estimate(config, plan, with_options(config, **options))
            change = Change(options, needed, needed <= MARGIN * plan.memory)
            if change.fits:
                break
    return change
