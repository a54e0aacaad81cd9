"""The PyTorch step of the benchmark computes what ours does: the same losses for the same mask."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.pytorch_hpm import (
    HardPatches,
    average_at_once,
    average_one_by_one,
    losses_of,
    masks_at_once,
    masks_one_by_one,
)
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import (
    constant_positions,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.losses import squared_error
from hpm_jax.losses.ranking import relative
from hpm_jax.targets import TARGETS, TargetContext
from hpm_jax.tokens import Mask, Tokenizer, gather, patchify

SIZES = {
    "patch_size": 4, "width": 32, "depth": 2, "heads": 4,
    "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2,
}  # fmt: skip
IMAGES = np.random.default_rng(1).normal(size=(3, 24, 24, 3)).astype(np.float32)


def random_model(fused: bool) -> HardPatches:
    torch.manual_seed(0)
    model = HardPatches(SIZES, 24, fused)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            table = constant_positions(parameter.shape[-1], (1, 6, 6))
            parameter.data.copy_(torch.from_numpy(table))
    return model


@pytest.mark.parametrize("fused", (False, True))
def test_losses(fused):
    theirs = random_model(fused)
    hide = np.random.default_rng(2).permuted(np.tile(np.arange(36), (3, 1)), axis=1)[:, :27]
    chosen = np.zeros((3, 36), bool)
    np.put_along_axis(chosen, hide, True, axis=1)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    expected = [x.item() for x in losses_of(theirs, images, torch.from_numpy(chosen), 4)]

    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    weights = from_state_dict(state, heads=4, decoder_heads=2)
    model, params = masked_autoencoder(weights), masked_autoencoder_params(weights)
    patches = patchify(jnp.asarray(IMAGES), (1, 4, 4))
    order = np.argsort(chosen, axis=1, kind="stable")
    mask = Mask(jnp.asarray(order[:, :9]), jnp.asarray(order[:, 9:]))
    prediction = model.apply({"params": params}, patches, mask)
    context = TargetContext(patches, (1, 6, 6), Tokenizer((1, 4, 4), (0.0,) * 3, (1.0,) * 3))
    target = gather(TARGETS["normalized_pixels"]()(context), mask.hide)
    losses = squared_error(prediction.values, target)
    found = [float(losses.mean()), float(relative(prediction.loss, losses))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("draw", (masks_one_by_one, masks_at_once))
def test_masks(draw):
    predicted = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 36)))
    mask = draw(predicted, 27, 9)
    assert (mask.sum(dim=1) == 27).all()
    assert mask.gather(1, predicted.argsort(dim=1)[:, -9:]).all(), "the hardest are hidden"
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("average", (average_one_by_one, average_at_once))
def test_the_moving_average(average):
    teacher, student = random_model(False), HardPatches(SIZES, 24)
    before, other = teacher.norm.weight.clone(), student.norm.weight
    with torch.no_grad():
        average(teacher, student, 0.75)
    torch.testing.assert_close(teacher.norm.weight, 0.75 * before + 0.25 * other)
