"""Mixup, CutMix and random erasing against timm's own, with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from timm.data import mixup, random_erasing

from hpm_jax.augmentation import MIXUP_MODES, erase, mix, smooth_labels
from hpm_jax.augmentation.erasing import AREA

BATCH, CLASSES, SMOOTHING = 8, 5, 0.1
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(BATCH, 10, 14, 3)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, BATCH)


def ours(key, switch, groups, mode, minmax=()):
    targets = smooth_labels(jnp.asarray(LABELS), CLASSES, SMOOTHING)
    options = (0.8, 1.0, 1.0, switch, groups, mode, minmax)
    return map(np.asarray, mix(key, jnp.asarray(IMAGES), targets, *options))


def drawn(key, switch, groups, mode, minmax=()):
    """What our draws were: of each image the share that it keeps and the pixels that it loses."""
    codes = jnp.broadcast_to(jnp.arange(float(BATCH))[:, None, None, None], IMAGES.shape)
    options = (0.8, 1.0, 1.0, switch, groups, mode, minmax)
    images, targets = mix(key, codes, jnp.eye(BATCH), *options)
    return np.diagonal(np.asarray(targets)), np.asarray(images[..., 0]) != np.arange(BATCH)[
        :, None, None
    ]


def timms(monkeypatch, share, lost, cut, groups, mode):
    """timm's mixture of each group, given the draws."""
    parts = np.split(np.arange(BATCH), groups)
    mixtures = [
        timm_mixture(monkeypatch, part, share[part], lost[part], cut, mode) for part in parts
    ]
    return map(np.concatenate, zip(*mixtures, strict=True))


def timm_mixture(monkeypatch, part, share, lost, cut, mode):
    """timm's mixture of the images numbered `part`."""
    mixer = mixup.Mixup(0.8, 1.0, mode=mode, label_smoothing=SMOOTHING, num_classes=CLASSES)
    size = {"batch": 1, "pair": len(part) // 2, "elem": len(part)}[mode]
    boxes = iter(zip(lost, share, strict=True))
    monkeypatch.setattr(mixup, "cutmix_bbox_and_lam", lambda *_, **__: bounds(*next(boxes)))
    # 0.5: whatever is not 1 mixes, and a box brings its own share
    drawn = np.full(size, 0.5, np.float32) if cut else share[:size].copy()
    monkeypatch.setattr(mixer, "_params_per_batch", lambda: (float(drawn[0]), cut))
    monkeypatch.setattr(mixer, "_params_per_elem", lambda count: (drawn, np.full(size, cut)))
    mixed, target = mixer(
        torch.tensor(IMAGES[part].transpose(0, 3, 1, 2)), torch.tensor(LABELS[part])
    )
    return mixed.numpy().transpose(0, 2, 3, 1), target.numpy()


def bounds(lost, share):
    """A box as timm has it: (top, bottom, left, right), and the share that is kept."""
    rows, columns = np.flatnonzero(lost.any(1)), np.flatnonzero(lost.any(0))
    if not len(rows):
        return (0, 0, 0, 0), share
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1), share


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", MIXUP_MODES)
@pytest.mark.parametrize(("cut", "minmax"), [(False, ()), (True, ()), (True, (0.2, 0.8))])
def test_mixtures_are_timms(monkeypatch, cut, minmax, mode, groups):
    for seed in range(5):
        arguments = (jax.random.key(seed), float(cut), groups, mode, minmax)
        share, lost = drawn(*arguments)
        expected = timms(monkeypatch, share, lost, cut, groups, mode)
        for one, other in zip(ours(*arguments), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("minmax", [(), (0.2, 0.8)])
def test_boxes_are_drawn_as_timms_are(minmax):
    """Areas and places over many draws."""
    np.random.seed(0)
    theirs = np.zeros((2000, 10, 14))
    for image in theirs:
        box, _ = mixup.cutmix_bbox_and_lam((3, 10, 14), np.random.beta(1, 1), minmax or None)
        image[box[0] : box[1], box[2] : box[3]] = 1
    keys = jax.random.split(jax.random.key(0), 2000)
    codes = jnp.arange(2.0)[:, None, None, None] + jnp.zeros((2, 10, 14, 1))
    options = (0.0, 1.0, 1.0, 1.0, 1, "batch", minmax)
    found = jax.vmap(lambda key: mix(key, codes, jnp.eye(2), *options)[0][0, ..., 0])(keys)
    np.testing.assert_allclose(found.mean(0), theirs.mean(0), atol=0.06)
    areas = np.asarray(found).mean((1, 2)), theirs.mean((1, 2))
    np.testing.assert_allclose(*(np.quantile(x, (0.1, 0.5, 0.9)) for x in areas), atol=0.04)


@pytest.mark.parametrize("mode", ["pixel", "const", "rand"])
@pytest.mark.parametrize("count", [1, 3])
def test_erased_shares_are_timms(mode, count):
    """How often a pixel is erased, how much of an image, and what replaces it."""
    torch.manual_seed(0)
    eraser = random_erasing.RandomErasing(0.5, mode=mode, max_count=count, device="cpu")
    theirs = eraser(torch.full((1500, 3, 24, 24), 9.0)).numpy().transpose(0, 2, 3, 1)
    found = np.asarray(
        jax.jit(
            lambda: erase(jax.random.key(0), jnp.full((1500, 24, 24, 3), 9.0), 0.5, mode, count)
        )()
    )
    gone = [(images != 9.0).any(-1) for images in (found, theirs)]
    np.testing.assert_allclose(gone[0].mean(0), gone[1].mean(0), atol=0.06)
    np.testing.assert_allclose(gone[0].any((1, 2)).mean(), gone[1].any((1, 2)).mean(), atol=0.06)
    areas = [part[part.any((1, 2))].mean((1, 2)) for part in gone]
    np.testing.assert_allclose(*(np.quantile(x, (0.1, 0.5, 0.9)) for x in areas), atol=0.03)
    fillings = [images[part].std() for images, part in zip((found, theirs), gone, strict=True)]
    np.testing.assert_allclose(*fillings, atol=0.06)
    assert max(x.max() for x in areas) < AREA[1] + 0.05
