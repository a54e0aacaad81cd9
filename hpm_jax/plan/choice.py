"""Compiles the same step in several ways, and chooses the one that moves the fewest bytes."""

import time
from collections.abc import Callable
from typing import Any

from hpm_jax.errors import ConfigError
from hpm_jax.plan.compiled import Plan
from hpm_jax.plan.largest import flags, with_options
from hpm_jax.plan.machines import GIB, Machine

# what computes the same step: attention, and whether the blocks are scanned (1) or unrolled (0)
ON_GPUS = [{"attention": name, "unroll": blocks} for name in ("xla", "cudnn") for blocks in (1, 0)]
ON_TPUS = [{"attention": name} for name in ("xla", "pallas")]  # unrolled compiles for too long

Compile = Callable[[Any], Plan]


def choose(
    config: Any, machine: Machine, compile_for: Compile, show: Callable[[str], None]
) -> tuple[Any, Plan]:
    """Compiles the ways to compute the step of a config, and returns the best with its plan.

    The best is the one with the least memory traffic of those that fit, or, if none fits, the one
    that needs the least memory. A way that is refused, such as cuDNN's attention in float32, is
    shown with the reason.

    Args:
        config: from `hpm_jax.config.freeze`.
        machine: described, so that its plans are compiled.
        compile_for: maps a config to its plan.
        show: receives a line for each way as soon as it is compiled, and one for the choice.

    Raises:
        ConfigError: if every way is refused.
    """
    show(f"{'same step, with':<36}{'temporaries':>13}{'needed':>11}{'traffic':>12}  to compile")
    found: list[tuple[Any, Plan, str]] = []
    refusals = []
    for options in ON_TPUS if machine.chip.tpu else ON_GPUS:
        changed, named = with_options(config, **options), flags(options)
        began = time.monotonic()
        try:
            plan = compile_for(changed)
        except ConfigError as error:
            refusals.append(error)
            show(f"{short(options):<36}refused: {error}")
            continue
        found.append((changed, plan, named))
        show(f"{short(options):<36}{row(plan)}{time.monotonic() - began:>10.0f} s")
    if not found:
        raise refusals[0]
    if fitting := [one for one in found if one[1].fits]:
        config, plan, named = min(fitting, key=lambda one: one[1].traffic)
        reason = "the least traffic of those that fit"
    else:
        config, plan, named = min(found, key=lambda one: one[1].needed)
        reason = "none fits, this needs the least memory"
    show(f"{named}: {reason}\n")
    return config, plan


def row(plan: Plan) -> str:
    """Returns temporaries, memory and traffic of a plan."""
    sizes = f"{plan.temporaries / GIB:9.2f} GiB{plan.needed / GIB:7.2f} GiB"
    return sizes + (f"{plan.traffic / GIB:8.2f} GiB" if plan.fits else f"{'does not fit':>12}")


def short(options: dict[str, Any]) -> str:
    """Returns options as they stand in a row."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
