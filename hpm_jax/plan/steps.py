"""The training steps that can be planned, by task."""

from collections.abc import Callable
from typing import Any, NamedTuple

CLASSES = 80  # of a planned detector: COCO's


class Planned(NamedTuple):
    """A sharded step before it is compiled; all arrays are shapes with their shardings."""

    state: Any
    inputs: list[Any]  # of a global batch, in the order of the step
    step: Any  # jitted: (state, *inputs, key, schedule) -> (state, metrics)
    schedule: Any
    flops: float  # of the whole step over all devices


def pretraining(config: Any, devices: Any) -> Planned:
    """Builds the step of pre-training on `Devices`, which need not exist."""
    import numpy as np

    from hpm_jax.run.build import build_flops, build_sharded_step
    from hpm_jax.step.schedules import Schedule

    parts = build_sharded_step(config, devices)
    schedule = Schedule(*_scalars(devices, np.float32, np.float32, np.int32))
    flops = build_flops(config).total * config.optimizer.batch_size
    return Planned(parts.state, [parts.images], parts.step, schedule, flops)


def detection(config: Any, devices: Any) -> Planned:
    """Builds the step of detection, for `CLASSES` classes."""
    import jax
    import numpy as np

    from hpm_jax.detection.matching import most_positive
    from hpm_jax.models.flops import detector_flops
    from hpm_jax.run.build import (
        build_detect_init,
        build_detect_recipe,
        build_detector,
        build_optimizer,
    )
    from hpm_jax.run.devices import check_batch
    from hpm_jax.step.detect_step import PROPOSAL_SHARE, make_detect_step
    from hpm_jax.step.optimizer import layer_scales, layerwise
    from hpm_jax.step.schedules import DetectSchedule
    from hpm_jax.step.state import Start, abstract_state
    from hpm_jax.tasks.detect import batch_shapes

    check_batch(config, devices)
    model, optimizer = build_detector(config, CLASSES, devices.gather), build_optimizer(config)
    init, recipe = build_detect_init(model, optimizer), build_detect_recipe(config)
    state = abstract_state(init, jax.random.key(0), Start(), place=devices.shardings)
    rates = layerwise(layer_scales(state.params, config.optimizer.layer_decay))
    step = make_detect_step(model, recipe, optimizer, rates)
    inputs = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
        for x in batch_shapes(config).values()
    ]
    sampled = recipe.sampled_proposals
    flops = detector_flops(model, sampled, most_positive(sampled, PROPOSAL_SHARE))
    return Planned(
        state,
        inputs,
        devices.jit_step(step, state),
        DetectSchedule(*_scalars(devices, np.float32)),
        flops * config.optimizer.batch_size,
    )


def _scalars(devices: Any, *kinds: Any) -> list[Any]:
    import jax

    return [jax.ShapeDtypeStruct((), kind, sharding=devices.replicated) for kind in kinds]


STEPS: dict[str, Callable[[Any, Any], Planned]] = {"pretrain": pretraining, "detect": detection}
