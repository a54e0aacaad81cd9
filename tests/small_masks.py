"""Contexts for mask strategies, and the masks that they give."""

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.masking import Context, Strategy, select
from hpm_jax.tokens import Tokenizer

TOKENIZER = Tokenizer((1, 4, 4), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def strategy(call):
    return Strategy.parse_call(call, "mask.strategy")


def context(batch, grid, ratio=0.75, tokenizer=TOKENIZER, **values):
    """A context with patches of noise, which differ from image to image."""
    units = int(np.prod(grid))
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(batch, units, tokenizer.values)).astype(np.float32)
    values = {"n_hard": jnp.int32(0), "patches": jnp.asarray(patches), **values}
    hidden = units - int(units * (1 - ratio))
    return Context(grid=grid, tokenizer=tokenizer, hidden=hidden, **values)


def visible(call, context, seed=0):
    """True where the mask of `call` keeps a unit: bool `[B, t, h, w]`."""
    scores = strategy(call).scores(jax.random.key(seed), context)
    keep = np.asarray(select(scores, context.hidden).keep)
    units = np.zeros(context.shape, bool)
    np.put_along_axis(units, keep, True, axis=1)
    return units.reshape(-1, *context.grid)


def uniform_chance(shown, share):
    """Whether each unit is visible in a share of the images, within five standard deviations."""
    bound = 5 * np.sqrt(share * (1 - share) / len(shown))
    return np.abs(shown.mean(axis=0) - share).max() < bound
