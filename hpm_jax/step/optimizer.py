"""AdamW as masked autoencoders use it: clipped gradients, no decay for some, layer-wise rates."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.plugs import OwnOptimizer
from hpm_jax.step.state import Params

# Matrices and learned tokens decay; biases and norm scales do not (timm's rule, by name, because
# the parameters of scanned blocks carry one axis more than those that the rule speaks of).
DECAYED = LAYOUTS["mae"].decayed
# Fine-tuning spares the tokens and positions that it starts from (MAE, util/lr_decay.py).
FINETUNE_DECAYED = ("kernel",)
RUN = "run"  # the group of parameters that have no optimizer of their own
NONE: Mapping[str, OwnOptimizer] = MappingProxyType({})

Descend = Callable[[Params, Params, Array], Params]


def decay_mask(params: Params, decayed: Collection[str] = DECAYED) -> Params:
    """True for every parameter that weight decay applies to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in decayed, params)


def make_optimizer(
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float | None,
    decayed: Collection[str] = DECAYED,
    own: Mapping[str, OwnOptimizer] = NONE,
) -> optax.GradientTransformation:
    """AdamW but for the learning rate, which the step multiplies in: it is a traced scalar there.

    Args:
        clip_norm: the largest global norm of the gradient; None does not clip.
        decayed: the names of the parameters that weight decay applies to.
        own: by slot, the optimizers of plugs that have one; their gradients are not clipped, and
            are no part of the norm that is.
    """

    def adamw(b1: float, b2: float, weight_decay: float) -> Sequence[Any]:
        decay = optax.add_decayed_weights(weight_decay, lambda tree: decay_mask(tree, decayed))
        return optax.scale_by_adam(b1, b2, eps), decay

    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    run = optax.chain(clip, *adamw(b1, b2, weight_decay))
    if not own:
        return run
    each = {
        slot: optax.chain(*adamw(x.b1, x.b2, x.weight_decay), optax.scale(x.rate))
        for slot, x in own.items()
    }

    def whose(path: Any, _: Any) -> str:
        keys = [part.key for part in path]
        return keys[1] if keys[0] == "terms" and keys[1] in own else RUN

    labels = functools.partial(jax.tree_util.tree_map_with_path, whose)
    return optax.multi_transform({RUN: run} | each, labels)


def descend(params: Params, updates: Params, rate: Array) -> Params:
    """Every parameter by the same learning rate."""
    return jax.tree.map(lambda p, step: p - rate * step, params, updates)


def layer_scales(params: Params, layer_decay: float) -> Params:
    """What the learning rate of each parameter of a `Classifier` is multiplied with.

    The layer below the first block (patches, positions, cls token) is number 0, block k is number
    k + 1, and what follows the last block is number depth + 1: layer i has the scale
    `layer_decay ** (depth + 1 - i)` (MAE, util/lr_decay.py; BEiT). Parameters of the stacked
    blocks get one scale a block, `[depth, 1, ...]`.
    """
    blocks = params["encoder"]["transformer"]["blocks"]
    depth = jax.tree.leaves(blocks)[0].shape[0]

    def scale(path, leaf):
        keys = [part.key for part in path]
        if "blocks" in keys:
            powers = depth - np.arange(depth).reshape(-1, *[1] * (leaf.ndim - 1))
            return np.float32(layer_decay**powers)
        below = keys[0] == "encoder" and "transformer" not in keys
        return np.float32(layer_decay ** (depth + 1) if below else 1.0)

    return jax.tree_util.tree_map_with_path(scale, params)


def layerwise(scales: Params) -> Descend:
    """Each layer by its own rate: its scale times the whole scheduled rate, floor included.

    The lowest layers end far below the schedule's floor, as in the official codes of MAE and HPM
    (util/lr_sched.py) and of VideoMAE (engine_for_finetuning.py).

    Args:
        scales: from `layer_scales`.
    """

    def descend(params, updates, rate):
        return jax.tree.map(lambda p, step, scale: p - scale * rate * step, params, updates, scales)

    return descend


def encoder_rates(params: Params, layer_decay: float, frozen: bool) -> Descend:
    """Returns the rule of a model with an encoder: layer by layer, and 0 for a frozen encoder.

    Args:
        params: of the model, with the key "encoder".
        layer_decay: see `layer_scales`; without effect on a frozen encoder.
    """
    if not frozen:
        return layerwise(layer_scales(params, layer_decay))
    return layerwise(
        jax.tree_util.tree_map_with_path(
            lambda path, _: np.float32(path[0].key != "encoder"), params
        )
    )
