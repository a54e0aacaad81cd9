"""From a config to the parts of a run."""

import jax.numpy as jnp
import optax

from hpm_jax.losses import RANKING_LOSSES
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.options import Config
from hpm_jax.targets import TARGETS
from hpm_jax.training.optimizer import make_optimizer
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


def build_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with clipping."""
    o = config.optimizer
    return make_optimizer(o.b1, o.b2, o.eps, o.weight_decay, o.clip_norm or None)
