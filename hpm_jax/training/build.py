"""From a config to the parts of a run."""

import jax.numpy as jnp
import optax

from hpm_jax.losses import RANKING_LOSSES
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.options import Config, Finetune
from hpm_jax.targets import TARGETS
from hpm_jax.training.finetune_step import Recipe
from hpm_jax.training.optimizer import DECAYED, FINETUNE_DECAYED, make_optimizer
from hpm_jax.training.step import Method


def build_model(config: Config) -> MaskedAutoencoder:
    """The masked autoencoder of a config; it has a loss predictor unless nothing is ranked."""
    model = config.model
    return MaskedAutoencoder(
        grid=config.grid,
        values=model.patch_size**2 * config.data.channels,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        decoder_width=model.decoder_width,
        decoder_depth=model.decoder_depth,
        decoder_heads=model.decoder_heads,
        loss_predictor=config.ranking.loss != "none",
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
    )


def build_method(config: Config) -> Method:
    """The plugs of the training step."""
    return Method(
        patch_size=config.patch_size,
        mean=config.data.mean,
        std=config.data.std,
        hidden=config.hidden,
        strategy=STRATEGIES[config.mask.strategy],
        target=TARGETS[config.target],
        ranking=RANKING_LOSSES.get(config.ranking.loss),
        ranking_weight=config.ranking.weight,
    )


def build_classifier(config: Finetune, classes: int) -> Classifier:
    """The classifier of a fine-tuning config."""
    model = config.model
    return Classifier(
        grid=config.grid,
        values=model.patch_size**2 * config.data.channels,
        classes=classes,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        pool=model.pool,
        head_std=model.head_std,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
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
        mask_sub=regularize.mask_sub,
        max_sup=regularize.max_sup_start > 0 or regularize.max_sup_end > 0,
    )


def build_optimizer(config: Config | Finetune) -> optax.GradientTransformation:
    """AdamW with clipping."""
    o = config.optimizer
    decayed = DECAYED if config.task == "pretrain" else FINETUNE_DECAYED
    return make_optimizer(o.b1, o.b2, o.eps, o.weight_decay, o.clip_norm or None, decayed)
