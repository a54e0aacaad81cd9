"""Finds the largest batch that fits, by estimate or by compiling several batches."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from hpm_jax.plan.arithmetic import temporaries
from hpm_jax.plan.compiled import Plan


class Found(NamedTuple):
    """The result of a search for the largest batch."""

    fits: int  # largest batch that fits; 0 for none
    refused: int  # smallest batch that does not fit; 0 for none
    compiles: int

    def __str__(self) -> str:
        fits = f"{self.fits} fits" if self.fits else "none was found"
        refused = f", {self.refused} does not" if self.refused else ""
        return f"{fits}{refused} (compiled {self.compiles} more)"


SECTIONS = {
    "batch_size": "optimizer",
    "accumulation": "optimizer",
    "remat": "model",
    "attention": "model",
    "unroll": "model",
    "fsdp": "run",
}


def with_options(config: Any, **options: Any) -> Any:
    """Returns a config with options of `SECTIONS` changed."""
    for name, value in options.items():
        section = SECTIONS[name]
        changed = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def flags(options: dict[str, Any]) -> str:
    """Returns options of `SECTIONS` as flags of a command."""
    named = (f"--config.{SECTIONS[name]}.{name}={value}" for name, value in options.items())
    return " ".join(named)


def estimate(config: Any, plan: Plan, changed: Any) -> float:
    """Estimates the bytes that one device needs with other options.

    The estimate is scaled by the ratio of the plan's memory to its estimate, so that the savings of
    the compiler are taken into account.

    Args:
        config: the planned config.
        plan: the plan of it.
        changed: the changed config.
    """
    before, after = (temporaries(c, plan.devices) for c in (config, changed))
    saved = (plan.temporaries - before.fixed) / before.activations
    state = plan.state * config.run.fsdp / changed.run.fsdp
    images = plan.images * changed.optimizer.batch_size / config.optimizer.batch_size
    return state + images + after.fixed + max(saved, 0.0) * after.activations


def granule(config: Any, plan: Plan) -> int:
    """Returns the number of which batches are multiples, so that parts divide over the devices."""
    return plan.devices * config.optimizer.accumulation


def about(config: Any, plan: Plan) -> int:
    """Estimates the largest batch that fits, from a plan of any batch; at least 0."""
    batch, step = config.optimizer.batch_size, granule(config, plan)
    now, more = (
        estimate(config, plan, with_options(config, batch_size=size))
        for size in (batch, batch + step)
    )
    room = (plan.memory - now) / (more - now)
    return max(batch + math.floor(room) * step, 0)


def search(config: Any, plan: Plan, compile_at: Callable[[Any], Plan], compiles: int = 5) -> Found:
    """Compiles larger and smaller batches until the limit is found, at most `compiles` times.

    Each plan, also one that does not fit, updates the estimate of the limit.

    Args:
        plan: the first plan, that of `config`.
        compile_at: maps a config to its plan.
    """
    step, batch = granule(config, plan), config.optimizer.batch_size
    fits, refused = (batch, 0) if plan.fits else (0, batch)
    used = 0
    while used < compiles and refused != fits + step:
        guess = max(about(with_options(config, batch_size=batch), plan), fits + step)
        batch = min(guess, refused - step) if refused else guess
        plan = compile_at(with_options(config, batch_size=batch))
        used += 1
        fits, refused = (batch, refused) if plan.fits else (fits, batch)
    return Found(fits, refused, used)
