"""What erased boxes are filled with, and how many there are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.augmentation import erase

GREY, SHAPE = 100.0, (400, 24, 36, 3)
KEY = jax.random.key(0)


@functools.cache
def erased(mode, count=1, shape=SHAPE):
    """Grey images after erasing `[N, ..., H, W, C]`, and which of their pixels are erased."""
    images = jax.jit(lambda: erase(KEY, jnp.full(shape, GREY), 1.0, mode, count))()
    images = np.asarray(images)
    return images, (images != GREY).any(-1)


def test_every_mode_erases_the_same_boxes():
    boxes = [erased(mode)[1] for mode in ("pixel", "const", "rand")]
    np.testing.assert_array_equal(boxes[0], boxes[1])
    np.testing.assert_array_equal(boxes[0], boxes[2])
    assert boxes[0].any((1, 2)).all()


def test_const_is_zero_the_mean_of_the_data():
    images, inside = erased("const")
    assert (images[inside] == 0).all()


def test_rand_is_one_colour_for_each_box():
    images, inside = erased("rand")
    colours = [image[box] for image, box in zip(images, inside, strict=True)]
    for colour in colours:
        np.testing.assert_array_equal(colour, colour[:1] + 0 * colour)
    first = np.stack([colour[0] for colour in colours])
    assert abs(first.mean()) < 0.1 and abs(first.std() - 1) < 0.1
    assert abs(np.corrcoef(first.T)[np.triu_indices(3, 1)]).max() < 0.2, "each channel by itself"


def test_rand_in_clips_is_a_colour_for_each_frame():
    """As VideoMAE draws it: the box is the same in every frame, its colour is not."""
    clips, inside = erased("rand", 1, (8, 4, 24, 36, 3))
    np.testing.assert_array_equal(inside, inside[:, :1] & np.ones((1, 4, 1, 1), bool))
    for clip, boxes in zip(clips, inside, strict=True):
        colours = [np.unique(frame[box], axis=0) for frame, box in zip(clip, boxes, strict=True)]
        assert all(len(colour) == 1 for colour in colours)
        assert len(np.unique(np.concatenate(colours), axis=0)) == 4


@pytest.mark.parametrize("count", [2, 3])
def test_several_boxes_share_the_area_of_one(count):
    """1 to `count` boxes, as often as each other, each of a share of the area."""
    images, inside = erased("rand", count)
    numbers = [
        len(np.unique(image[box], axis=0)) for image, box in zip(images, inside, strict=True)
    ]
    assert set(numbers) <= set(range(1, count + 1)) and len(set(numbers)) == count
    assert abs(np.mean(numbers) - (1 + count) / 2) < 0.2, "hidden boxes are rare"
    area = inside.mean((1, 2))
    assert abs(area.mean() - erased("rand")[1].mean()) < 0.02 and area.max() < 0.36
