"""Builds the parts of a run from a config; build_dense.py has segmentation and detection."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hpm_jax import random
from hpm_jax.config import Config, Detect, Finetune, Segment
from hpm_jax.convert.assign import overlay
from hpm_jax.frozen_encoder import release
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.flops import StepFlops, encoder_flops, step_flops
from hpm_jax.models.layouts import LAYOUTS, layout_of
from hpm_jax.models.stack import Gather, as_they_are
from hpm_jax.run.devices import Devices, check_batch
from hpm_jax.step.criterion import CRITERIA
from hpm_jax.step.finetune_step import Recipe
from hpm_jax.step.method import Method
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.state import (
    Params,
    TrainState,
    abstract_state,
    fresh_state,
    init_params,
)
from hpm_jax.step.state import Start as Start
from hpm_jax.step.step import make_train_step
from hpm_jax.tokens import Tokenizer


def encoder_arguments(
    config: Config | Finetune | Segment | Detect, gather: Gather
) -> dict[str, Any]:
    """Returns the arguments of all models: sizes of the encoder, and how it is computed."""
    model = config.model
    return {
        "grid": config.grid,
        "values": config.values,
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
        "layout": layout_of(model.layout, model),
        "dtype": jnp.dtype(model.dtype),
        "remat": model.remat,
        "unroll": model.unroll,
        "attention": model.attention,
        "gather": gather,
    }


def build_model(config: Config, gather: Gather = as_they_are) -> MaskedAutoencoder:
    """Builds the masked autoencoder; it has a loss predictor if a term trains one.

    Args:
        gather: `Devices.gather`, for parameters that are sharded over devices.
    """
    model, method = config.model, build_method(config)
    return MaskedAutoencoder(
        **encoder_arguments(config, gather),
        target_values=0 if method.target_width == config.values else method.target_width,
        decoder_width=model.decoder_width,
        decoder_depth=model.decoder_depth,
        decoder_heads=model.decoder_heads,
        decoder=config.decoder,
        loss_predictor=method.predicts_loss,
        replaces=config.mask.replaced > 0 or config.mask.ratio_moves,
    )


def build_tokenizer(config: Config | Finetune | Segment | Detect) -> Tokenizer:
    """Builds the tokenizer, which converts images to patches."""
    return Tokenizer(config.patch_size, config.data.mean, config.data.std)


def build_method(config: Config) -> Method:
    """Builds the plugs of the training step."""
    mask = config.mask
    return Method(
        tokenizer=build_tokenizer(config),
        unit=config.unit,
        hidden=config.hidden_units,
        width=config.model.width,
        least_hidden=config.unit.hidden(mask.ratios[0]) if mask.ratio_moves else 0,
        some_count=mask.some_count,
        queried=config.queried_units if config.queried_units < config.hidden_units else 0,
        replaced=mask.replaced,
        views=mask.views,
        strategy=mask.strategy,
        target=config.target,
        objective=config.objective,
        terms=config.terms,
        teacher=config.teacher,
        decoder=config.decoder,
    )


def batch_inputs(config: Config, method: Method) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parts of a batch that the step takes, in order: images, and what terms read."""
    count = config.optimizer.batch_size
    images = jax.ShapeDtypeStruct((count, *config.data.train_shape), config.data.pixel_dtype)
    known = {"label": jax.ShapeDtypeStruct((count,), jnp.int32)}
    return {"image": images} | {name: known[name] for name in method.annotations}


def build_flops(config: Config) -> StepFlops:
    """Returns the operations of one training step per image or video of a batch."""
    model, method = build_model(config), build_method(config)
    flops = step_flops(
        model,
        config.hidden,
        method.network_passes,
        "predicted_loss" in method.strategy.reads,
        method.teacher.frame_stride,
        method.parts,
        config.queried,
        method.unseen * method.unit.size,
    )
    # what the target reads is computed in every step; a strategy that asks the teacher shares it
    passes = len(method.models(method.networks(False)))
    of_target = step_flops(model, config.hidden, passes, False).teacher
    shared = of_target if method.uses_teacher else 0
    # a frozen teacher is another model; one pass serves all that read it
    setting = method.setting._replace(sizes=model.decoder_sizes)
    read, always = (method.networks(hard).get("teacher", ()) for hard in (True, False))
    frozen = method.teacher.pass_flops(setting, always)
    of_strategy = method.teacher.pass_flops(setting, read) - frozen
    student = sum(x.step_flops(setting) for x in method.plugs.values())
    if method.masks:
        student += flops.student
    if method.encodes_whole:
        length = config.patches
        student += 3 * encoder_flops(length, model.values, model.width, model.depth, model.layout)
    clips = config.data.clips
    every = config.teacher.every_steps if config.stored_scores else 1
    return StepFlops(
        student=(student * method.views + of_target + frozen) * clips,
        teacher=(flops.teacher - shared + of_strategy) * clips / every,
    )


def load_frozen(method: Method) -> dict[str, Any]:
    """Loads the frozen weights of every plug that has some, by slot."""
    loaded = {slot: plug.load(method.setting) for slot, plug in method.plugs.items()}
    release()
    return {slot: weights for slot, weights in loaded.items() if weights is not None}


def build_fresh_params(
    model: MaskedAutoencoder, method: Method
) -> Callable[[Array, Array | int], Params]:
    """Builds `(root key, stage) -> params`, random parameters of the model and of all plugs."""

    setting = method.setting._replace(sizes=model.decoder_sizes)

    def fresh_params(root: Array, stage: Array | int) -> Params:
        params = init_params(model, random.stream(root, "init", stage))
        terms = {
            slot: plug.init(random.stream(root, f"init {slot}", stage), setting)
            for slot, plug in method.plugs.items()
        }
        terms = {slot: tree for slot, tree in terms.items() if tree is not None}
        return params | ({"terms": terms} if terms else {})

    return fresh_params


def build_init(
    config: Config,
    model: MaskedAutoencoder,
    method: Method,
    optimizer: optax.GradientTransformation,
) -> Callable[[Array, Start], TrainState]:
    """Builds `(root key, start) -> state`, to be jitted with the shardings wanted."""

    fresh_params = build_fresh_params(model, method)

    def init(root: Array, start: Start) -> TrainState:
        params = overlay(fresh_params(root, 0), start.get("params", {}))
        state = fresh_state(params, optimizer, method.teacher.in_state, config.stored_scores)
        plugs = {
            slot: plug.init_state(params, method.setting) for slot, plug in method.plugs.items()
        }
        plugs = {slot: tree for slot, tree in plugs.items() if tree is not None}
        return state.replace(plugs=plugs or None, frozen=start.get("frozen") or None)

    return init


def build_classifier(config: Finetune, classes: int, gather: Gather = as_they_are) -> Classifier:
    """Builds the classifier of a fine-tuning config; `gather` as in `build_model`."""
    return Classifier(
        **encoder_arguments(config, gather),
        classes=classes,
        pool=config.model.pool,
        head_std=config.model.head_std,
    )


def build_finetune_init(
    config: Finetune, model: Classifier, optimizer: optax.GradientTransformation
) -> Callable[[Array, Start], TrainState]:
    """Builds `(root key, start) -> state` of fine-tuning, as `build_init` does of pre-training."""

    def init(root: Array, start: Start) -> TrainState:
        params = init_params(model, random.stream(root, "init", 0))
        params = overlay(params, start.get("params", {}))
        state = fresh_state(params, optimizer, bool(config.optimizer.average))
        return state.replace(frozen=start.get("frozen") or None)

    return init


def build_recipe(config: Finetune) -> Recipe:
    """Builds the plugs of the fine-tuning step."""
    regularize = config.regularize
    return Recipe(
        tokenizer=build_tokenizer(config),
        augment=config.augment,
        drop_path=config.model.drop_path,
        head_dropout=config.model.head_dropout,
        mask_sub=regularize.mask_sub,
        max_sup=regularize.max_sup_start > 0 or regularize.max_sup_end > 0,
        regularizers=regularize.terms,
        criterion=CRITERIA[config.labels],
    )


def build_optimizer(
    config: Config | Finetune | Segment | Detect,
) -> optax.GradientTransformation:
    """Builds AdamW with gradient clipping, and the optimizers that plugs have of their own."""
    o = config.optimizer
    numbers = o.b1, o.b2, o.eps, o.weight_decay, o.clip_norm or None
    if not isinstance(config, Config):
        return make_optimizer(*numbers, FINETUNE_DECAYED)
    plugs = build_method(config).plugs
    own = {slot: plug.optimizer for slot, plug in plugs.items() if plug.optimizer is not None}
    return make_optimizer(*numbers, LAYOUTS[config.model.layout].decayed, own)


class ShardedStep(NamedTuple):
    """The sharded pre-training step of a config, before it is compiled."""

    model: MaskedAutoencoder
    method: Method
    init: Callable[[Array, Start], TrainState]  # to be jitted
    start: Start  # its second argument
    state: TrainState  # shapes, dtypes and shardings
    inputs: dict[str, jax.ShapeDtypeStruct]  # of a global batch, see `batch_inputs`
    step: Any  # jitted: (state, *inputs, key, schedule) -> (state, metrics)

    @property
    def images(self) -> jax.ShapeDtypeStruct:
        """The images of a global batch."""
        return self.inputs["image"]


def build_sharded_step(config: Config, devices: Devices) -> ShardedStep:
    """Builds the step for benchmarks and plans; the devices need not exist.

    Raises:
        ConfigError: if the batch does not divide over the devices.
    """
    check_batch(config, devices)
    model, method = build_model(config, devices.gather), build_method(config)
    optimizer = build_optimizer(config)

    init, start = build_init(config, model, method, optimizer), Start(frozen=load_frozen(method))
    state = abstract_state(init, jax.random.key(0), start, place=devices.shardings)
    step = devices.jit_step(
        make_train_step(model, method, optimizer, config.optimizer.accumulation), state
    )
    inputs = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
        for name, x in batch_inputs(config, method).items()
    }
    return ShardedStep(model, method, init, start, state, inputs, step)
