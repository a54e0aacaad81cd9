"""A teacher that sees parts of an image, or some of its patches, drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, schedule, small_config

from hpm_jax import random
from hpm_jax.config import ConfigError
from hpm_jax.step.mask import (
    draw_view,
    losses_by_parts,
    make_mask,
    read_networks,
    run_network,
)
from hpm_jax.tokens import Mask

PARTS = "moving_average(start=0.9, end=0.9, view='parts')"


def looked_at(config):
    parts = parts_of(config)
    patches = parts.method.patches(jnp.asarray(parts.images[:4]))
    return parts, patches, parts.state.params


def test_each_patch_is_predicted_by_the_parts_that_do_not_hold_it():
    parts, patches, params = looked_at(small_config(teacher=PARTS))
    found = losses_by_parts(parts.model, parts.method, params, patches)["predicted_loss"]
    dealt = np.array_split(np.random.default_rng(0).permutation(16), 4)
    expected = np.zeros((4, 16))
    for part in dealt:
        rest = np.setdiff1d(np.arange(16), part)
        rows = [np.tile(np.sort(x), (4, 1)) for x in (part, rest)]
        mask = Mask(*map(jnp.asarray, rows))
        values = parts.model.apply({"params": params}, patches, mask, method="predict_loss")
        np.add.at(expected, (np.arange(4)[:, None], rest), np.asarray(values)[:, len(part) :])
    np.testing.assert_allclose(found, expected / 3, rtol=1e-5, atol=1e-6)


def test_what_is_in_a_patch_does_not_change_its_own_prediction():
    parts, patches, params = looked_at(small_config(teacher=PARTS))
    before = run_network(parts.model, parts.method, params, patches)["predicted_loss"]
    changed = patches.at[:, 5].add(3.0)
    after = run_network(parts.model, parts.method, params, changed, passes=2)["predicted_loss"]
    np.testing.assert_allclose(after[:, 5], before[:, 5], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after, before)
    whole, patches, params = looked_at(small_config())
    one, other = (
        run_network(whole.model, whole.method, params, x)["predicted_loss"]
        for x in (patches, changed)
    )
    assert not np.allclose(one[:, 5], other[:, 5])


def test_there_are_as_many_parts_as_views_fit_into_an_image():
    for changes in ({}, {"mask": {"ratio": 0.5}}):
        config = small_config(teacher=PARTS, **changes)
        parts = parts_of(config)
        assert parts.method.parts == (4 if not changes else 2)
        found = jax.eval_shape(
            lambda x, p=parts: run_network(p.model, p.method, p.state.params, p.method.patches(x)),
            parts.images,
        )
        assert found["predicted_loss"].shape == (64, 16)


# --- random views


@pytest.mark.parametrize(("view", "unseen"), [("half", 8), ("visible", 12)])
def test_a_random_view_shows_other_patches_of_each_image(view, unseen):
    parts, patches, params = looked_at(small_config(teacher=f"moving_average(view={view!r})"))
    masks = [draw_view(parts.method, 4, key) for key in (None, *map(jax.random.key, range(2)))]
    for mask in masks:
        assert mask.keep.shape == (4, 16 - unseen) and mask.hide.shape == (4, unseen)
        assert len({tuple(row) for row in np.asarray(mask.keep)}) > 1
        both = np.sort(np.concatenate(mask[:2], axis=1), axis=1)
        np.testing.assert_array_equal(both, np.tile(np.arange(16), (4, 1)))
    assert not np.array_equal(masks[1].keep, masks[2].keep)

    def found(patches, passes=1):
        key = jax.random.key(1)
        return run_network(parts.model, parts.method, params, patches, passes, key=key)

    before = found(patches)["predicted_loss"]
    rows = jnp.arange(4)[:, None]
    unseen_changed = found(patches.at[rows, masks[2].hide].set(jnp.nan))["predicted_loss"]
    np.testing.assert_array_equal(unseen_changed, before)
    seen_changed = found(patches.at[rows, masks[2].keep].add(1.0))["predicted_loss"]
    assert not np.allclose(seen_changed, before)
    np.testing.assert_allclose(found(patches, 2)["predicted_loss"], before, rtol=1e-5, atol=1e-6)
    values = parts.model.apply({"params": params}, patches, masks[2], method="predict_loss")
    order = jnp.concatenate(masks[2][:2], axis=1)
    np.testing.assert_allclose(before, jnp.zeros((4, 16)).at[rows, order].set(values), rtol=1e-5)


def test_each_step_draws_another_view():
    """The teacher and the batch stay, and other patches are hard."""
    config = small_config(
        teacher="moving_average(start=1.0, end=1.0, view='visible')",
        mask={"strategy": "hard(start=1.0, end=1.0)"},
    )
    parts = parts_of(config)
    patches = parts.method.patches(jnp.asarray(parts.images[:4]))

    @jax.jit
    def hidden(key):
        readings = read_networks(
            parts.model, parts.method, parts.state, patches, jnp.int32(12), key=key
        )
        return make_mask(parts.method, parts.state, patches, key, schedule(12), readings.units).hide

    keys = [random.stream(parts.key, "view", step) for step in range(2)]
    assert not np.array_equal(*map(hidden, keys))


def test_a_view_of_tubes_shows_whole_tubes():
    config = small_config(
        data={"source": "synthetic", "frames": 4},
        model={"tubelet": 2, "layout": "mae_st"},
        mask={"unit": "tube"},
        teacher="moving_average(view='visible')",
    )
    method = parts_of(config).method
    mask = draw_view(method, 4, None)
    tubes = method.unit.count
    assert mask.keep.shape == (4, 2 * (tubes - method.hidden))
    np.testing.assert_array_equal(
        mask.keep[:, : tubes - method.hidden] + tubes, mask.keep[:, tubes - method.hidden :]
    )


# --- what is refused


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": {"strategy": "attention"}, "teacher": PARTS},
        {"mask": {"strategy": "attention"}, "teacher": "moving_average(view='half')"},
        {"teacher": "moving_average(view='visible')", "decoder": "linear"},
        {"teacher": "moving_average(view='half')", "target": "teacher_features"},
        {
            "data": {"source": "synthetic", "frames": 4},
            "model": {"tubelet": 2, "layout": "mae_st"},
            "teacher": "moving_average(view='half', frame_stride=2)",
        },
        {"teacher": "moving_average(view='part')"},
    ],
)
def test_what_it_cannot_see_is_said(changes):
    with pytest.raises(ConfigError, match="view"):
        small_config(**changes)
