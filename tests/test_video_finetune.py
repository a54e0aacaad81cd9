"""Clips in fine-tuning and evaluation: views, erasing, mixing, labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.augmentation import erase, mix
from hpm_jax.config import Augment
from hpm_jax.evaluation.accuracy import average_views
from hpm_jax.models import Classifier
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.step.finetune_step import Recipe, prepare
from hpm_jax.tokens import Tokenizer

KEY = jax.random.key(0)


def test_views_are_averaged_by_their_probabilities():
    logits = np.random.default_rng(0).normal(scale=3.0, size=(4 * 3, 5)).astype(np.float32)
    exponents = np.exp(logits.astype(np.float64))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    expected = np.log(probabilities.reshape(4, 3, 5).mean(axis=1))
    np.testing.assert_allclose(average_views(jnp.asarray(logits), 4), expected, rtol=1e-5)
    np.testing.assert_array_equal(average_views(jnp.asarray(logits), 12), logits)


def test_the_average_of_very_sure_views_is_finite():
    """A wrong view that is sure must not make the loss of a whole split infinite."""
    logits = jnp.asarray([[200.0, 0.0, -200.0]] * 2)
    np.testing.assert_allclose(average_views(logits, 1), [[0.0, -200.0, -400.0]], atol=1e-4)


def test_a_clip_is_erased_at_the_same_place_in_every_frame():
    clips = jnp.zeros((16, 4, 12, 10, 3))
    erased = np.asarray(jax.jit(lambda clips: erase(KEY, clips, 0.6))(clips))
    touched = (erased != 0).all(axis=-1)
    np.testing.assert_array_equal(touched, (erased != 0).any(axis=-1))
    np.testing.assert_array_equal(touched, np.broadcast_to(touched[:, :1], touched.shape))
    some = touched.any(axis=(1, 2, 3))
    assert 0 < some.sum() < 16
    noise = erased[some][touched[some]]
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert not np.array_equal(erased[some][:, 0], erased[some][:, 1]), "anew in each frame"
    # the boxes are those of images
    images = jax.jit(lambda images: erase(KEY, images, 0.6))(clips[:, 0])
    np.testing.assert_array_equal((np.asarray(images) != 0).all(axis=-1), touched[:, 0])


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
def test_clips_are_mixed_alike_in_every_frame(alphas):
    clips = jnp.stack([jnp.full((4, 12, 10, 3), float(value)) for value in range(4)])
    targets = jnp.eye(4)
    mixed, labels = jax.jit(lambda: mix(KEY, clips, targets, *alphas, 1.0, 0.5))()
    mixed = np.asarray(mixed)
    np.testing.assert_array_equal(mixed, np.broadcast_to(mixed[:, :1], mixed.shape))
    share = (mixed[0, 0] / 3).mean()  # of the last clip in the first
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(labels[0], [1 - share, 0, 0, share], atol=1e-5)
    images, _ = jax.jit(lambda: mix(KEY, clips[:, 0], targets, *alphas, 1.0, 0.5))()
    np.testing.assert_allclose(images, mixed[:, 0], atol=1e-6)


def test_every_clip_of_a_video_has_its_label():
    model = Classifier((2, 2, 2), 32, 5, 16, 2, 2, layout=LAYOUTS["videomae"])
    augment = Augment(policy="", erase=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0)
    recipe = Recipe(Tokenizer((2, 4, 4), (0.5,), (0.5,)), augment, drop_path=0.2, mask_sub=0.5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, 4, 8, 8, 1), dtype=np.uint8)
    labels = np.array([4, 0, 2], np.int32)
    batch = jax.jit(lambda: prepare(model, recipe, images, labels, KEY, 0))()
    np.testing.assert_array_equal(np.argmax(batch.targets, axis=1), [4, 4, 0, 0, 2, 2])
    for row, (video, clip) in enumerate(np.ndindex(3, 2)):
        corner = images[video, clip, :2, :4, :4].reshape(-1) / 127.5 - 1
        np.testing.assert_allclose(batch.patches[row, 0], corner, atol=1e-5)
    assert batch.drop.shape == (6, 2, 2) and batch.keep.shape == (6, 4)
    mixing = dataclasses.replace(recipe, augment=Augment(policy="", erase=0.5))
    batch = jax.jit(lambda: prepare(model, mixing, images, labels, KEY, 0))()
    np.testing.assert_allclose(batch.targets.sum(axis=1), 1.0, rtol=1e-5)
    assert batch.patches.shape == (6, 8, 32)
