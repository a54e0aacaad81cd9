"""Frozen encoders of patches, and their baselines, for probes of single patches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config import ConfigError
from hpm_jax.convert.weights import Weights, random_weights
from hpm_jax.evaluation.features import block_number
from hpm_jax.models import Segmenter
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.step.state import Params
from hpm_jax.tokens import Tokenizer, grid_of


class PatchEncoder(NamedTuple):
    """Frozen features of patches."""

    title: str
    tokens: Callable[[Params, Any], Any]  # (params, images) -> [B, L, D]
    params: Params
    grid: tuple[int, int]  # of patches


def encoders_of(config: Any, weights: Weights, baselines: bool) -> Iterator[PatchEncoder]:
    """Yields the encoder, and with `baselines` random weights and raw pixels.

    Args:
        config: of a probe, with the sections `data` and `features`.

    Raises:
        ConfigError: for a block or an image size that the encoder does not have.
    """
    a, data = weights.architecture, config.data
    if a.grid[0] * a.tubelet > 1:
        raise ConfigError(f"config.init_from = {config.init_from!r} is an encoder of videos")
    try:
        grid = grid_of((1, *data.image_size), a.patch)
    except ValueError as error:
        raise ConfigError(f"config.data.image_size = {data.image_size}: {error}") from None
    block = config.features.block
    blocks = block_number(block, a.depth, f"config.features.block = {block}")
    model = Segmenter(
        grid,
        a.values,
        classes=1,
        width=a.width,
        depth=blocks,
        heads=a.heads,
        layout=a.token_layout,
        dtype=jnp.dtype(config.features.dtype),
        unroll=0,
    )
    tokenizer = Tokenizer(a.patch, data.mean, data.std)

    def tokens(params, images):
        return model.apply({"params": params}, tokenizer(images), method="tokens")

    def params_of(found: Weights) -> Params:
        encoder = encoder_on_grid(found.params["encoder"], a.grid, grid)
        transformer = dict(encoder["transformer"])
        transformer["blocks"] = jax.tree.map(lambda x: x[:blocks], transformer["blocks"])
        neutral = {"scale": np.ones(a.width, np.float32), "bias": np.zeros(a.width, np.float32)}
        transformer.setdefault("norm", neutral)  # a classifier of averaged tokens has none
        return {"encoder": encoder | {"transformer": transformer}}

    title = f"{config.weights} weights, block {blocks}"
    yield PatchEncoder(title, tokens, params_of(weights), grid[1:])
    if not baselines:
        return
    if config.weights != "random":
        untrained = params_of(random_weights(a, config.seed))
        yield PatchEncoder(f"random weights, block {blocks}", tokens, untrained, grid[1:])
    yield PatchEncoder("raw pixels", lambda params, images: tokenizer(images), {}, grid[1:])
