"""From a config to the parts of a run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from hpm_jax.config import Config, Finetune
from hpm_jax.losses import RANKING_LOSSES, pairs_ranked_correctly
from hpm_jax.losses.pairs import (
    Pairs,
    all_pairs,
    pairs_of_tubes,
    some_pairs,
)
from hpm_jax.losses.ranking import relative
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.flops import StepFlops, step_flops
from hpm_jax.models.layers import Gather, as_they_are
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.run.devices import Devices, check_batch
from hpm_jax.step.finetune_step import Recipe
from hpm_jax.step.method import Method, whole
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.state import TrainState, abstract_state, init_state
from hpm_jax.step.step import make_train_step
from hpm_jax.targets import TARGETS, one_frame


def build_model(config: Config, gather: Gather = as_they_are) -> MaskedAutoencoder:
    """The masked autoencoder of a config; it has a loss predictor unless nothing is ranked.

    Args:
        gather: `Devices.gather`, for parameters that are split over devices.
    """
    model = config.model
    return MaskedAutoencoder(
        grid=config.grid,
        values=config.values,
        target_values=config.target_values,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        decoder_width=model.decoder_width,
        decoder_depth=model.decoder_depth,
        decoder_heads=model.decoder_heads,
        loss_predictor=config.ranking.loss != "none",
        layout=LAYOUTS[model.layout],
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
        attention=model.attention,
        gather=gather,
    )


def build_method(config: Config) -> Method:
    """The plugs of the training step."""
    pairs = build_pairs(config)
    ranking = RANKING_LOSSES.get(config.ranking.loss)
    if config.ranking.loss == "relative":
        ranking = functools.partial(relative, pairs=pairs)
    part = whole
    if config.target_frames == "one":
        part = functools.partial(one_frame, grid=config.grid, patch_size=config.patch_size)
    return Method(
        patch_size=config.patch_size,
        mean=config.data.mean,
        std=config.data.std,
        hidden=config.hidden_units,
        strategy=STRATEGIES[config.mask.strategy],
        target=TARGETS[config.target],
        part=part,
        ranking=ranking,
        ranking_weight=config.ranking.weight,
        ranked=functools.partial(pairs_ranked_correctly, pairs=pairs),
        shuffle=config.ranking.pairs == "sampled",
        tubes=config.mask.unit == "tube",
        views=config.mask.views,
        frame_stride=config.teacher.frame_stride,
        every_steps=config.teacher.every_steps if config.stored_scores else 1,
    )


def build_pairs(config: Config) -> Pairs:
    """Over which pairs of hidden patches the ranking goes."""
    return {
        "all": all_pairs(config.hidden),
        "tubes": pairs_of_tubes(config.unit.size),
        "sampled": some_pairs(config.ranking.distances),
    }[config.ranking.pairs]


def build_flops(config: Config) -> StepFlops:
    """Operations of one training step for one image or video of a batch."""
    method = build_method(config)
    flops = step_flops(
        build_model(config), config.hidden, method.strategy.asks_teacher, method.frame_stride
    )
    clips = config.data.clips
    return StepFlops(
        student=flops.student * clips * method.views,
        teacher=flops.teacher * clips / method.every_steps,
    )


def build_classifier(config: Finetune, classes: int, gather: Gather = as_they_are) -> Classifier:
    """The classifier of a fine-tuning config; `gather` as in `build_model`."""
    model = config.model
    return Classifier(
        grid=config.grid,
        values=config.values,
        classes=classes,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        pool=model.pool,
        head_std=model.head_std,
        layout=LAYOUTS[model.layout],
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
        attention=model.attention,
        gather=gather,
    )


def build_recipe(config: Finetune) -> Recipe:
    """The plugs of the fine-tuning step."""
    regularize = config.regularize
    return Recipe(
        patch_size=config.patch_size,
        mean=config.data.mean,
        std=config.data.std,
        augment=config.augment,
        drop_path=config.model.drop_path,
        head_dropout=config.model.head_dropout,
        mask_sub=regularize.mask_sub,
        max_sup=regularize.max_sup_start > 0 or regularize.max_sup_end > 0,
    )


def build_optimizer(config: Config | Finetune) -> optax.GradientTransformation:
    """AdamW with clipping."""
    o = config.optimizer
    pretrain = config.task == "pretrain"
    decayed = LAYOUTS[config.model.layout].decayed if pretrain else FINETUNE_DECAYED
    return make_optimizer(o.b1, o.b2, o.eps, o.weight_decay, o.clip_norm or None, decayed)


class ShardedStep(NamedTuple):
    """The pre-training step of a config as it lies on devices, before it is compiled."""

    model: MaskedAutoencoder
    method: Method
    init: Callable[[Array], TrainState]  # of a key, to be jitted
    state: TrainState  # shapes, dtypes and shardings
    images: jax.ShapeDtypeStruct  # of a global batch
    step: Any  # jitted: (state, images, key, schedule) -> (state, metrics)


def build_sharded_step(config: Config, devices: Devices) -> ShardedStep:
    """What a benchmark runs and a plan compiles; nothing of it needs the devices to be there.

    Raises:
        ConfigError: where the batch does not divide over the devices.
    """
    check_batch(config, devices)
    model, method = build_model(config, devices.gather), build_method(config)
    optimizer = build_optimizer(config)

    def init(key):
        return init_state(model, optimizer, key, config.teacher.keep, config.stored_scores)

    state = abstract_state(init, jax.random.key(0), place=devices.shardings)
    placement = jax.tree.map(lambda x: x.sharding, state)
    shape = (config.optimizer.batch_size, *config.data.train_shape)
    step = jax.jit(
        make_train_step(model, method, optimizer, config.optimizer.accumulation),
        donate_argnums=0,
        out_shardings=(placement, devices.replicated),
    )
    images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=devices.batch)
    return ShardedStep(model, method, init, state, images, step)
