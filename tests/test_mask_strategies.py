"""What every mask strategy has in common: exact counts, and images that are independent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_masks import TOKENIZER, context, strategy

from hpm_jax.masking import STRATEGIES, select
from hpm_jax.plugs import Setting

GRIDS = {"odd": (1, 7, 5), "clip": (3, 4, 6), "tubes": (1, 6, 6)}


@functools.cache
def example(name, kind):
    """A context with all that a strategy may read."""
    grid = GRIDS[kind]
    tokenizer = TOKENIZER
    rng = np.random.default_rng(1)
    made = context(6, grid, tokenizer=tokenizer)
    if kind == "tubes":
        patches = jnp.asarray(rng.normal(size=(*made.shape, 3 * tokenizer.values)), jnp.float32)
        made = made._replace(patches=patches)
    readings = {
        "predicted_loss": rng.normal(size=made.shape),
        "features": rng.normal(size=(*made.shape, 8)),
        "attention": rng.dirichlet(np.ones(made.shape[1]), size=6),
    }
    readings = {key: jnp.asarray(value, jnp.float32) for key, value in readings.items()}
    plug = strategy(name)
    setting = Setting(tokenizer, grid, made.hidden, 8)
    return made._replace(
        n_hard=jnp.int32(made.hidden // 2),
        readings={who: {key: readings[key] for key in plug.reads} for who in plug.networks},
        state=plug.init_state({"kernel": jnp.ones((2, 2))}, setting),
        views=2,
    )


def rows(made, chosen):
    """The context of some of its images."""
    seen = jax.tree.map(lambda reading: reading[chosen], made.readings)
    return made._replace(patches=made.patches[chosen], readings=seen)


def compiled(name, seed, made):
    """The scores, compiled, with everything that is an array traced."""
    arrays = (made.patches, made.n_hard, made.readings, made.state)
    return _compiled(name, made._replace(patches=0, n_hard=0, readings=0, state=0), seed, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(name, static, seed, arrays):
    patches, n_hard, seen, state = arrays
    made = static._replace(patches=patches, n_hard=n_hard, readings=seen, state=state)
    return strategy(name).scores(jax.random.key(seed), made)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_masks(name, kind):
    made = example(name, kind)
    scores = compiled(name, 0, made)
    assert scores.shape == made.shape and scores.dtype == jnp.float32
    assert np.isfinite(np.asarray(scores)).all()
    mask = select(scores, made.hidden)
    for keep, hide in zip(np.asarray(mask.keep), np.asarray(mask.hide), strict=True):
        assert len(hide) == made.hidden
        assert sorted([*keep, *hide]) == list(range(made.shape[1]))
    other = select(compiled(name, 1, made), made.hidden)
    assert (np.asarray(other.hide) != np.asarray(mask.hide)).any()


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_marked_units_are_hidden(name):
    """Hard units are hidden, whatever the key."""
    made = example(name, "clip")
    hard = strategy(name).hard(made)
    if hard is not None:
        keep = select(compiled(name, 0, made), made.hidden).keep
        assert not np.take_along_axis(np.asarray(hard), np.asarray(keep), axis=1).any()


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_images_are_independent(name):
    """The mask of an image is the same without the images after it, and whatever they are."""
    made = example(name, "clip")
    scores = np.asarray(compiled(name, 3, made))
    for chosen in (np.arange(4), np.array([0, 1, 2, 3, 5, 4])):
        other = compiled(name, 3, rows(made, chosen))
        np.testing.assert_allclose(other[:4], scores[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_the_same_when_compiled(name):
    made = example(name, "clip")
    eager = strategy(name).scores(jax.random.key(0), made)
    np.testing.assert_allclose(compiled(name, 0, made), eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_calls(name):
    """The call of a strategy gives the strategy back."""
    plug = strategy(name)
    assert strategy(plug.call) == plug and str(plug) == name
