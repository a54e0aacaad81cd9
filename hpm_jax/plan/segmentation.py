"""Estimates the temporary memory of a step of segmentation from its trace; see `arithmetic.py`."""

import dataclasses
import functools
import math
from typing import Any

from hpm_jax.plan.arithmetic import Temporaries

COPIES = 3  # of the enlarged logits: themselves, their softmax and their gradient


def temporaries_of_segmentation(config: Any, devices: int) -> Temporaries:
    """Counts the temporaries of a segmentation config on one of `devices`.

    The working memory at the peak is that of the enlarged logits, float32, which are recomputed in
    the backward pass, or of the attention of one block.
    """
    part = math.ceil(config.optimizer.batch_size / devices / config.optimizer.accumulation)
    copies = 1 if config.optimizer.accumulation == 1 else 2
    height, width = config.data.image_size
    model = config.model
    tokens = config.patches + 1 + model.registers
    logits = COPIES * 4 * height * width * config.data.classes
    attention = 3 * model.heads * tokens**2 * (2 if model.dtype == "bfloat16" else 4)
    kept, params = _traced(_plain(config))
    return Temporaries(
        kept=part * kept,
        block=part * max(logits, attention),
        gradients=copies * params // config.run.fsdp,
        patches=4 * part * config.optimizer.accumulation * config.patches * config.values,
    )


def _plain(config: Any) -> Any:
    """Returns the config without irrelevant options, so that traces can be shared."""
    return dataclasses.replace(config, optimizer=type(config.optimizer)(), run=type(config.run)())


@functools.cache
def _traced(config: Any) -> tuple[int, int]:
    """Returns the bytes that the forward pass of one more image keeps, and those of parameters."""
    import jax

    from hpm_jax.run.build import build_optimizer
    from hpm_jax.run.build_dense import build_segment_init, build_segment_recipe, build_segmenter
    from hpm_jax.run.prepared import known_classes
    from hpm_jax.step.schedules import SegmentSchedule
    from hpm_jax.step.segment_step import prepare, segmentation_loss
    from hpm_jax.step.state import Start

    # fused kernels keep the same values, and are not traced for devices that lack them
    model = build_segmenter(config, known_classes(config)).clone(attention="xla")
    recipe = build_segment_recipe(config)
    init, key = build_segment_init(model, build_optimizer(config)), jax.random.key(0)
    state = jax.eval_shape(init, key, Start())

    def kept(rows: int) -> int:
        images = jax.ShapeDtypeStruct((rows, *config.data.train_shape), config.data.pixel_dtype)
        labels = jax.ShapeDtypeStruct((rows, *config.data.image_size), "int16")
        batch = jax.eval_shape(lambda x, y: prepare(model, recipe, x, y, key, 0), images, labels)
        rate = SegmentSchedule(jax.ShapeDtypeStruct((), "float32"))  # type: ignore[arg-type]

        def forward(state, batch, rate):
            loss = segmentation_loss(model, recipe, state)
            backward = jax.vjp(lambda params: loss(params, batch, rate)[0], state.params)[1]
            return jax.tree.leaves(backward)

        traced = jax.make_jaxpr(forward)(state, batch, rate).jaxpr
        given = {*map(id, traced.invars), *map(id, traced.constvars)}
        outputs = {id(x): x.aval for x in traced.outvars if id(x) not in given}
        return sum(x.size * x.dtype.itemsize for x in outputs.values())

    params = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))
    return kept(2) - kept(1), params
