"""The model: tokens, positions, initialisation, and what each pass may see."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.masking import select
from hpm_jax.models import SIZES, MaskedAutoencoder
from hpm_jax.models.flops import step_flops
from hpm_jax.models.positions import sincos_2d
from hpm_jax.step.state import init_params
from hpm_jax.tokens import grid_of, patchify, unpatchify

GRID = (1, 4, 6)
SMALL = {"width": 32, "depth": 2, "heads": 2}
SMALL |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def small_model(**changes):
    return MaskedAutoencoder(grid=GRID, values=20, **(SMALL | changes))


init = jax.jit(init_params, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, patches, mask):
    return model.apply({"params": params}, patches, mask)


def patches_and_mask(batch=3, count=18):
    patches = jax.random.normal(jax.random.key(1), (batch, 24, 20))
    return patches, select(jax.random.uniform(jax.random.key(2), (batch, 24)), count)


def test_patches_of_a_wide_image_with_five_channels():
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 5)).astype(np.float32)
    patches = patchify(jnp.asarray(images), (1, 2, 2))
    assert patches.shape == (2, 24, 20)
    # the second patch of the second row of patches; channel fastest
    np.testing.assert_array_equal(patches[1, 7], images[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, GRID, (1, 2, 2))[:, 0], images)


def test_an_image_is_a_video_of_one_frame():
    video = jnp.arange(2 * 4 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 4, 3)
    patches = patchify(video, (2, 2, 2))
    assert patches.shape == (2, 2 * 2 * 2, 2 * 2 * 2 * 3)
    np.testing.assert_array_equal(unpatchify(patches, (2, 2, 2), (2, 2, 2)), video)
    frame = patchify(video[:, 0], (1, 2, 2))
    np.testing.assert_array_equal(frame, patchify(video[:, :1], (1, 2, 2)))


def test_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match="width 30 is not a multiple of the patch size 4: use 28"):
        grid_of((1, 32, 30), (1, 4, 4))


def test_positions():
    """Column in the first half, row in the second; sine before cosine."""
    table = sincos_2d(16, (1, 3, 5))
    row, column = 2, 3
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([f(p * frequencies) for p in (column, row) for f in (np.sin, np.cos)])
    np.testing.assert_allclose(table[row * 5 + column], expected, rtol=1e-6)


def test_the_encoder_does_not_see_hidden_patches():
    model = small_model()
    params = init(model, jax.random.key(0))
    patches, mask = patches_and_mask()
    one = run(model, params, patches, mask)
    rows = jnp.arange(3)[:, None]
    other = run(model, params, patches.at[rows, mask.hide].set(99.0), mask)
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.values, other.values)
    changed = run(model, params, patches.at[rows, mask.keep].set(99.0), mask)
    assert np.abs(changed.values - one.values).max() > 1e-3


def test_the_teacher_needs_no_reconstructor():
    model = small_model()
    params = init(model, jax.random.key(0))
    patches, _ = patches_and_mask()
    del params["reconstructor"]
    assert model.apply({"params": params}, patches, method="predict_loss").shape == (3, 24)


def test_ranking_gradients_reach_the_encoder_and_not_the_reconstructor():
    model = small_model()
    params = init(model, jax.random.key(0))
    patches, mask = patches_and_mask()
    grads = jax.jit(jax.grad(lambda p: run(model, p, patches, mask).loss.std()))(params)
    largest = {name: max(np.abs(x).max() for x in jax.tree.leaves(grads[name])) for name in grads}
    assert largest["encoder"] > 0 and largest["decoder_input"] > 0 and largest["predictor"] > 0
    assert largest["reconstructor"] == 0


@pytest.mark.parametrize("changes", [{"unroll": 0}, {"remat": "mlp"}, {"remat": "full"}])
def test_scan_and_remat_change_no_number(changes):
    params = init(small_model(), jax.random.key(0))
    patches, mask = patches_and_mask()

    def loss_of(model):
        return lambda params: jnp.square(
            model.apply({"params": params}, patches, mask).values
        ).mean()

    expected = jax.jit(jax.value_and_grad(loss_of(small_model())))(params)
    actual = jax.jit(jax.value_and_grad(loss_of(small_model(**changes))))(params)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def test_bfloat16_computes_close_by_and_keeps_float32_outside():
    params = init(small_model(), jax.random.key(0))
    patches, mask = patches_and_mask()
    exact = run(small_model(), params, patches, mask)
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes itself
        rough = run(small_model(dtype=jnp.bfloat16), params, patches, mask)
        fresh = init(small_model(dtype=jnp.bfloat16), jax.random.key(0))
    assert rough.features.dtype == jnp.bfloat16
    assert rough.values.dtype == rough.loss.dtype == jnp.float32
    assert 0 < np.abs(exact.values - rough.values).max() < 0.1
    assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


def base_model(size):
    sizes = dict(SIZES[size])
    patch = sizes.pop("patch_size")
    return MaskedAutoencoder(grid=(1, 224 // patch, 224 // patch), values=patch**2 * 3, **sizes)


@pytest.mark.parametrize(("size", "millions"), [("B", 137.27), ("L", 354.9), ("H", 682.1)])
def test_official_parameter_counts(size, millions):
    shapes = jax.eval_shape(lambda: init_params(base_model(size), jax.random.key(0)))
    count = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
    # the official totals of L and H count the frozen positions
    assert abs(count - millions) < 0.01 + (0.5 if size != "B" else 0)


@pytest.mark.parametrize(
    ("size", "gflops"), [("B", 136.4), ("L", 290.5), ("H", 682.6), ("S", 35.6)]
)
def test_flops_of_the_lean_step(size, gflops):
    """Section 4.2 of the algorithm's description; S within the rounding of what it leaves out.

    There the last block of both decoders still computes tokens that nobody reads.
    """
    model = base_model(size)
    length = model.grid[1] ** 2
    hidden, width = length * 3 // 4, model.decoder_width
    unread = 2 * (length + 1 - hidden) * (10 * width**2 + 2 * (length + 1) * width)
    flops = step_flops(model, hidden, network_passes=1).total + 3 * 2 * unread
    assert abs(flops / 1e9 / gflops - 1) < (0.03 if size == "S" else 0.02)


def test_initialisation():
    model = base_model("S").clone(depth=1, decoder_depth=1)
    params = init(model, jax.random.key(0))
    embedding = params["encoder"]["patch_embedding"]["projection"]
    assert np.abs(embedding["bias"]).max() <= 768**-0.5
    np.testing.assert_allclose(embedding["bias"].std(), 768**-0.5 / 3**0.5, rtol=0.1)
    qkv = params["encoder"]["transformer"]["blocks"]["attention"]["qkv"]["kernel"]
    bound = (6 / (4 * 384)) ** 0.5  # the fused kernel counts three outputs
    assert 0.99 * bound < np.abs(qkv).max() <= bound
    np.testing.assert_allclose(params["encoder"]["cls_token"].std(), 0.02, rtol=0.15)
    np.testing.assert_allclose(params["decoder_input"]["mask_token"].std(), 0.02, rtol=0.15)
    assert not params["predictor"]["head_bias"].any()


def test_import_needs_little():
    """A notebook or a bare GPU image has none of the data libraries."""
    heavy = ["tensorflow", "grain", "PIL", "ml_collections", "orbax", "tensorboard", "sklearn"]
    code = f"import sys, hpm_jax.models; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
