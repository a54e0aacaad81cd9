"""Estimates the temporary memory of a step from its trace, if no compiler reports it.

The backward pass needs the residuals of the forward pass, which JAX lists when it differentiates. A
compiler adds working memory, and keeps less if it recomputes more.
XLA for CPUs used 1.04 to 1.11 of this estimate for ViT-B in float32, XLA for TPUs 0.74 to 0.84 for
ViT-B, L and H in bfloat16, and 0.52 with remat=full; compilers for GPUs were not measured.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple


class Temporaries(NamedTuple):
    """Bytes on one device at the peak of a step, without the state and the images."""

    kept: int  # residuals of the forward pass for the backward pass
    block: int  # working memory of the backward pass of one block
    gradients: int  # one array per parameter; two with accumulation
    patches: int  # float32, of all parts

    @property
    def activations(self) -> int:
        """The bytes that grow with the images of a part."""
        return self.kept + self.block

    @property
    def fixed(self) -> int:
        """The other bytes."""
        return self.gradients + self.patches

    @property
    def total(self) -> int:
        """The total."""
        return self.activations + self.fixed


def temporaries(config: Any, devices: int) -> Temporaries:
    """Counts the temporaries of a config of pre-training or segmentation on one of `devices`.

    Gradients are sharded like their parameters; other gathered arrays of a block are small.
    """
    if config.task == "segment":
        from hpm_jax.plan.segmentation import temporaries_of_segmentation

        return temporaries_of_segmentation(config, devices)
    rows = math.ceil(config.clips * config.mask.views / devices)
    part = math.ceil(rows / config.optimizer.accumulation)
    copies = 1 if config.optimizer.accumulation == 1 else 2
    return Temporaries(
        kept=kept(config, part),
        block=attention_bytes(config, part) + computed_again(config, part),
        gradients=copies * param_bytes(_plain(config)) // config.run.fsdp,
        patches=4 * rows * config.patches * config.values,
    )


def kept(config: Any, rows: int, **changes: Any) -> int:
    """Returns the bytes of residuals that the forward pass of `rows` images or clips keeps.

    Args:
        changes: fields of the model that differ from the config's.
    """
    one, two = (_traced(_plain(config), n, tuple(changes.items())) for n in (1, 2))
    return one + (rows - 1) * (two - one)


def _plain(config: Any) -> Any:
    """Returns the config without irrelevant options, so that traces can be shared."""
    return dataclasses.replace(config, optimizer=type(config.optimizer)(), run=type(config.run)())


@functools.cache
def _traced(config: Any, rows: int, changes: tuple[tuple[str, Any], ...]) -> int:
    """Returns the bytes of traced forward outputs that are neither parameters nor inputs."""
    import jax
    import jax.numpy as jnp

    from hpm_jax.run.build import (
        Start,
        batch_inputs,
        build_init,
        build_method,
        build_model,
        build_optimizer,
        load_frozen,
    )
    from hpm_jax.step.mask import run_networks
    from hpm_jax.step.step import Masked, draw_all, masked_loss
    from hpm_jax.tokens import Mask

    # fused kernels keep the same values, and are not traced for devices that lack them
    model = build_model(config).clone(attention="xla", **dict(changes))
    method = build_method(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = build_init(config, model, method, build_optimizer(config))
    state = jax.eval_shape(init, key, Start(frozen=load_frozen(method)))
    patches: Any = jax.ShapeDtypeStruct((rows, config.patches, config.values), jnp.float32)
    counts = config.patches - config.hidden, config.queried
    indices: list[Any] = [jax.ShapeDtypeStruct((rows, count), jnp.int32) for count in counts]
    mask = Mask(*indices)

    def others(state, patches, mask, key):
        readings = run_networks(model, method, state, patches, hard=False).target
        return draw_all(method, mask, key, 0), readings

    annotations: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
        for name, x in batch_inputs(config, method).items()
        if name != "image"
    }
    drawn, readings = jax.eval_shape(others, state, patches, mask, key)

    def forward(state, masked):
        loss = masked_loss(model, method, state)
        derivative = jax.vjp(lambda params: loss(params, masked, None)[0], state.params)[1]
        return jax.tree.leaves(derivative)

    masked = Masked(patches, mask, drawn, readings, annotations)
    traced = jax.make_jaxpr(forward)(state, masked).jaxpr
    given = {*map(id, traced.invars), *map(id, traced.constvars)}
    outputs = {id(x): x.aval for x in traced.outvars if id(x) not in given}
    return sum(x.size * x.dtype.itemsize for x in outputs.values())


@functools.cache
def param_bytes(config: Any) -> int:
    """Returns the bytes of all parameters."""
    import jax

    from hpm_jax.run.build import build_model
    from hpm_jax.step.state import param_shapes

    shapes = jax.tree.leaves(param_shapes(build_model(config)))
    return sum(x.size * x.dtype.itemsize for x in shapes)


def attention_bytes(config: Any, rows: int) -> int:
    """Returns the bytes of attention weights, their gradients and those of scores in one block."""
    import jax.numpy as jnp

    from hpm_jax.run.build import build_model

    model = build_model(config)
    seen = config.patches - (0 if model.decoder.in_place else config.hidden)
    of_encoder = model.heads * (seen + model.layout.extra_tokens) ** 2
    of_decoder = model.decoder.attention_pairs(model.decoder_sizes, seen, config.queried)
    pairs = max(of_encoder, of_decoder)
    return 3 * rows * pairs * jnp.dtype(model.dtype).itemsize


def computed_again(config: Any, rows: int) -> int:
    """Returns the bytes that remat saves in the largest block, which are recomputed there."""
    from hpm_jax.losses.reconstruction import SquaredError
    from hpm_jax.targets.pixels import RawPixels

    # the blocks alone count, and plugs may name some that a shallow model lacks
    predictors = tuple(term for term in config.losses if term.predicts_loss)
    config = dataclasses.replace(
        config, target=RawPixels(), objective=SquaredError(), losses=predictors
    )

    def bytes_of(remat, depth, decoder_depth):
        return kept(config, rows, remat=remat, depth=depth, decoder_depth=decoder_depth)

    decoders = 1 + any(term.predicts_loss for term in config.terms)

    def blocks(remat):
        shallow = bytes_of(remat, 1, 2)
        encoder = bytes_of(remat, 2, 2) - shallow
        return encoder, (bytes_of(remat, 1, 3) - shallow) // decoders

    pairs = zip(blocks("none"), blocks(config.model.remat), strict=True)
    return max(without - remat for without, remat in pairs)
