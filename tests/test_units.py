"""Tubes: the same place in every frame is hidden, judged and counted as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.masking import Context, select
from hpm_jax.masking.hard import Hard
from hpm_jax.masking.schedule import hard_count
from hpm_jax.masking.selection import select_some
from hpm_jax.masking.units import Unit, every_frame_of
from hpm_jax.tokens import Mask, Tokenizer

VIDEO_MAE = (8, 14, 14)
GRID = (3, 2, 4)  # frames, rows, columns: 8 tubes of 3 patches
TUBE, PATCH = Unit(GRID, tube=True), Unit(GRID)
TOKENIZER = Tokenizer((1, 1, 5), (0.5,), (0.5,))


def patches(values=5, batch=2):
    shape = (batch, 24, values)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_counts_of_videomae_and_of_masks_that_do_not_know_time():
    tube, patch = Unit(VIDEO_MAE, tube=True), Unit(VIDEO_MAE)
    assert (tube.count, tube.size, tube.hidden(0.9)) == (196, 8, 176)
    assert tube.hidden(0.9) * tube.size == 1408 and 1568 - 1408 == 160
    assert (patch.count, patch.size, patch.hidden(0.9)) == (1568, 1, 1412)
    assert 1568 - patch.hidden(0.9) == 156, "what mae_st keeps"
    assert hard_count(799, 800, tube.hidden(0.9)) == 88
    assert hard_count(799, 800, patch.hidden(0.9)) == 706


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.2])
def test_tubes_that_cannot_be_hidden(ratio):
    with pytest.raises(ValueError, match=f"mask ratio {ratio} hides .* tubes"):
        TUBE.hidden(ratio)


def test_a_tube_is_hidden_in_every_frame():
    scores = jax.random.uniform(jax.random.key(0), (4, TUBE.count))
    units = select(scores, 5)
    mask = TUBE.spread(units)
    assert mask.hide.shape == (4, 15) and mask.keep.shape == (4, 9)
    for ours, tubes in ((mask.hide, units.hide), (mask.keep, units.keep)):
        for row, wanted in zip(np.asarray(ours), np.asarray(tubes), strict=True):
            times, places = np.divmod(row, 8)
            for frame in range(3):
                np.testing.assert_array_equal(places[times == frame], wanted)
            assert (np.diff(row) > 0).all(), "raster order"
    both = np.concatenate([mask.keep, mask.hide], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(24), (4, 1)))


def test_the_marks_of_a_tube_are_those_of_every_frame():
    """What is replaced or counts is told of each unit, and holds in all its frames."""
    scores = jax.random.uniform(jax.random.key(0), (4, TUBE.count))
    units = select_some(scores, 3, 6, jnp.int32(4))
    mask = TUBE.spread(units)
    pairs = ((mask.keep, mask.replaced, units.keep), (mask.hide, mask.counted, units.hide))
    for ours, marks, tubes in pairs:
        unit_grid = units.replaced if tubes is units.keep else units.counted
        assert marks.shape == ours.shape and marks.any() and not marks.all()
        for row in range(4):
            marked = dict(zip(np.asarray(tubes[row]), np.asarray(unit_grid[row]), strict=True))
            expected = [marked[place % 8] for place in np.asarray(ours[row])]
            np.testing.assert_array_equal(marks[row], expected)
    assert PATCH.spread(units) is units


def test_patches_are_spread_as_they_are():
    mask = Mask(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 2), jnp.int32))
    assert PATCH.spread(mask) is mask


def test_merge_puts_the_frames_of_a_tube_side_by_side():
    x = patches()
    merged = np.asarray(TUBE.merge(jnp.asarray(x)))
    assert merged.shape == (2, 8, 15)
    for row in range(2):
        for tube in range(8):
            expected = np.concatenate([x[row, frame * 8 + tube] for frame in range(3)])
            np.testing.assert_array_equal(merged[row, tube], expected)
    np.testing.assert_array_equal(PATCH.merge(jnp.asarray(x)), x)


def test_the_loss_of_a_tube_is_its_mean_over_time():
    grid = (4, 2, 3)
    said = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
    tubes = Unit(grid, tube=True).pool(jnp.asarray(said))
    assert tubes.shape == (2, 6)
    for row in range(2):
        for place in range(6):
            of_place = [said[row, frame * 6 + place] for frame in range(4)]
            np.testing.assert_allclose(tubes[row, place], np.mean(of_place), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(Unit(grid).pool(jnp.asarray(said)), said)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_patches_of_some_frames(stride):
    slots = np.arange(4 * 2 * 3).reshape(4, 2, 3)
    seen = every_frame_of((4, 2, 3), stride)
    np.testing.assert_array_equal(seen.keep, slots[::stride].ravel())
    np.testing.assert_array_equal(np.sort(np.concatenate(seen[:2])), np.arange(24))
    assert seen.keep.dtype == np.int32


def mask_of(unit, said, n_hard, count, seed=0):
    """As a step masks: the strategy scores units, the highest are hidden, and spread."""
    x = unit.merge(jnp.asarray(patches(batch=len(said))))
    seen = {"teacher": {"predicted_loss": jnp.asarray(said)}}
    context = Context(x, unit.unit_grid, TOKENIZER, count, jnp.int32(n_hard), seen)
    return unit.spread(select(Hard().scores(jax.random.key(seed), context), count))


@pytest.mark.parametrize("n_hard", [0, 3, 5])
def test_the_hardest_tubes_are_hidden(n_hard):
    """Those with the highest mean over their frames, and no tube in part."""
    of_patches = np.random.default_rng(1).normal(size=(6, 24)).astype(np.float32)
    said = TUBE.pool(jnp.asarray(of_patches))
    mask = mask_of(TUBE, said, n_hard, count=5)
    for losses, hide in zip(of_patches, np.asarray(mask.hide), strict=True):
        means = [np.mean([losses[frame * 8 + tube] for frame in range(3)]) for tube in range(8)]
        hardest = np.argsort(means)[8 - n_hard :]
        assert {frame * 8 + tube for tube in hardest for frame in range(3)} <= set(hide)
        assert len(set(hide % 8)) == 5
        if n_hard == 5:
            assert set(hide % 8) == set(hardest), "these exactly"
    other = mask_of(TUBE, said, n_hard, count=5, seed=1)
    assert np.array_equal(mask.hide, other.hide) == (n_hard == 5)


def test_the_tubes_of_an_image_are_its_patches():
    grid = (1, 4, 6)
    tube, patch = Unit(grid, tube=True), Unit(grid)
    said = np.random.default_rng(1).normal(size=(3, 24)).astype(np.float32)
    assert tube.unit_grid == patch.unit_grid == grid and tube.count == patch.count == 24
    assert tube.hidden(0.75) == patch.hidden(0.75) == 18
    np.testing.assert_array_equal(tube.pool(jnp.asarray(said)), said)
    ours, theirs = (mask_of(unit, said, 6, 18) for unit in (tube, patch))
    np.testing.assert_array_equal(ours.hide, theirs.hide)
    np.testing.assert_array_equal(ours.keep, theirs.keep)
