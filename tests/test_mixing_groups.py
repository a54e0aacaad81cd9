"""Mixing in groups, by pairs and by images, and CutMix's boxes from side to side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.augmentation import MIXUP_MODES, mix

KEYS = jax.random.split(jax.random.key(0), 2000)
MIXUP, CUTMIX = 0.0, 1.0  # the switch
BATCH, SIDES = 12, (10, 16)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def mixed(key, switch=0.5, groups=1, mode="batch", minmax=(), alphas=(0.8, 1.0)):
    """Images of one value each, the image's number, and one-hot targets, mixed."""
    images = jnp.broadcast_to(jnp.arange(BATCH)[:, None, None, None], (BATCH, *SIDES, 1))
    return mix(
        key, images.astype(float), jnp.eye(BATCH), *alphas, 1.0, switch, groups, mode, minmax
    )


def partners(groups):
    """The image at the same place from the end of each one's group."""
    size = BATCH // groups
    return np.concatenate([start + np.arange(size)[::-1] for start in range(0, BATCH, size)])


def kept(targets, groups):
    """The share of itself in each image's target; checks that the rest is its partner's."""
    rows, other = np.arange(BATCH), partners(groups)
    share = np.asarray(targets[rows, rows])
    both = targets[rows, rows] + np.where(other == rows, 0, targets[rows, other])
    np.testing.assert_allclose(both, 1.0, atol=1e-6)
    return share


@pytest.mark.parametrize("switch", [MIXUP, CUTMIX, 0.5])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_each_group_is_mixed_by_itself(groups, switch):
    """One share for each group, partners from its end, and pixels mixed as targets are."""
    different = 0
    for key in KEYS[:8]:
        images, targets = map(np.asarray, mixed(key, switch, groups))
        share, rows, other = kept(targets, groups), np.arange(BATCH), partners(groups)
        by_group = share.reshape(groups, -1)
        np.testing.assert_allclose(by_group, by_group[:, :1] + 0 * by_group, atol=1e-6)
        different += len(np.unique(by_group[:, 0].round(5)))
        mean = images.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(mean, share * rows + (1 - share) * other, rtol=1e-4, atol=1e-4)
    assert different > 0.7 * 8 * groups


def test_a_step_that_mixes_nothing_is_rare_with_groups():
    """One lambda for all often keeps or loses nearly everything; six lambdas never all do."""

    def extreme(groups):
        targets = jax.vmap(lambda key: mixed(key, 0.5, groups)[1])(KEYS)
        shares = np.asarray(jnp.diagonal(targets, axis1=1, axis2=2))
        return ((shares < 0.05) | (shares > 0.95)).all(axis=1).mean()

    assert extreme(1) > 0.1 and extreme(6) < 0.01


@pytest.mark.parametrize("switch", [MIXUP, CUTMIX])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_pair_shares_its_draw(groups, switch):
    images, targets = map(np.asarray, mixed(KEYS[1], switch, groups, "pair"))
    share, other = kept(targets, groups), partners(groups)
    np.testing.assert_allclose(share, share[other], atol=1e-6)
    assert len(np.unique(share.round(5))) > BATCH // 3
    # what an image lost its partner got
    np.testing.assert_allclose(
        images + images[other],
        (np.arange(BATCH) + other)[:, None, None, None] + 0 * images,
        rtol=1e-5,
    )


def test_each_image_has_its_own_draw():
    _, targets = mixed(KEYS[2], MIXUP, 1, "elem")
    share = kept(np.asarray(targets), 1)
    assert len(np.unique(share.round(5))) == BATCH


def test_both_kinds_meet_in_a_batch_of_elements():
    images, _ = mixed(KEYS[3], 0.5, 1, "elem")
    flat = np.ptp(np.asarray(images).reshape(BATCH, -1), axis=1) < 1e-6
    assert 0 < flat.sum() < BATCH


@pytest.mark.parametrize("mode", MIXUP_MODES)
def test_boxes_from_side_to_side(mode):
    """Sides are uniform whole numbers from 0.2 to 0.8 of the image's, upper end excluded."""
    sides = []
    for key in KEYS[:300]:
        images, targets = map(np.asarray, mixed(key, CUTMIX, 1, mode, (0.2, 0.8), (0.0, 0.0)))
        inside = images[0, ..., 0] == BATCH - 1
        rows, columns = inside.any(1), inside.any(0)
        np.testing.assert_array_equal(inside, rows[:, None] & columns)
        np.testing.assert_allclose(targets[0, 0], 1 - inside.mean(), atol=1e-6)
        sides.append((rows.sum(), columns.sum()))
    heights, widths = np.transpose(sides)
    assert set(heights) == set(range(2, 8)) and set(widths) == set(range(3, 12))


def test_the_whole_box_is_inside_and_reaches_every_edge():
    images = np.stack(
        [mixed(key, CUTMIX, 1, "batch", (0.2, 0.8))[0][0, ..., 0] for key in KEYS[:300]]
    )
    touched = (images == BATCH - 1).any(0)
    assert touched[[0, -1]].any(1).all() and touched[:, [0, -1]].any(0).all()
