"""Segmentation against PyTorch: the loss with pixels left out, and bilinear resizing."""

import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.evaluation.windows import enlarge, sample
from hpm_jax.models.segmenter import enlarge_logits
from hpm_jax.step.segment_step import pixel_losses

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def resized(logits, size):
    """PyTorch's `interpolate`, as MMSegmentation calls it: `[h, w, classes]`."""
    found = functional.interpolate(
        torch.from_numpy(logits.transpose(2, 0, 1))[None],
        size=size,
        mode="bilinear",
        align_corners=False,
    )
    return found[0].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("size", [(64, 48), (17, 31), (4, 6), (512, 3)])
def test_patch_logits_are_enlarged_as_by_pytorch(size):
    logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    expected = resized(logits, size)
    np.testing.assert_allclose(enlarge(logits, size), expected, atol=1e-5)
    np.testing.assert_allclose(sample(logits, slice(None), size), expected, atol=1e-5)
    np.testing.assert_allclose(
        enlarge_logits(jnp.asarray(logits)[None], size)[0], expected, atol=1e-5
    )


def test_scores_are_reduced_as_by_pytorch():
    """An image that was seen larger than it is: no antialiasing, as in MMSegmentation."""
    logits = np.random.default_rng(0).normal(size=(40, 30, 2)).astype(np.float32)
    expected = resized(logits, (13, 25))
    rows = [sample(logits, slice(start, start + 5), (13, 25)) for start in range(0, 13, 5)]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)


def test_the_loss_of_pytorch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 7, 5, 4)).astype(np.float32)
    labels = rng.integers(-1, 4, (2, 7, 5)).astype(np.int16)
    expected = functional.cross_entropy(
        torch.from_numpy(logits.transpose(0, 3, 1, 2)),
        torch.from_numpy(labels.astype(np.int64)),
        ignore_index=-1,
    )
    losses = np.asarray(pixel_losses(jnp.asarray(logits), labels))
    assert losses.sum() / (labels >= 0).sum() == pytest.approx(float(expected), rel=1e-5)
