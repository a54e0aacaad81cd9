"""Noise in the decoder: N-JEPA's positions and DiffMAE's hidden patches, against plain readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import Parts, schedule, small_config
from test_decoders import attend, dense, norm
from test_latent_regressor import random_params
from test_multi_scale import GRID, gelu, normal, random_mask

from hpm_jax.config import ConfigError
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.decoders import Decoder, SelfAttention
from hpm_jax.models.noise import Noise, draw_noise, noised, signal_shares
from hpm_jax.models.positions import sincos_2d
from hpm_jax.step.step import draw_all, make_train_step


def model_of(kind, **changes):
    sizes = {"width": 12, "depth": 3, "heads": 2}
    sizes |= {"decoder_width": 8, "decoder_depth": 2, "decoder_heads": 2} | changes
    return MaskedAutoencoder(GRID, 16, decoder=Decoder.parse_call(kind, "x"), **sizes)


def noise_of(*steps):
    return draw_noise(jax.random.key(4), jnp.asarray(steps, jnp.int32))


def drawn_of(seed, shape):
    """The standard normal numbers of one image."""
    return np.asarray(jax.random.normal(jax.random.wrap_key_data(seed), shape))


def test_signal_shares():
    """Step by step, as the noise is added in so many steps."""
    shares, left = signal_shares(), 1.0
    assert shares.shape == (1001,) and shares[0] == 1
    for step in range(1000):
        left *= 1 - (1e-4 + step * (0.02 - 1e-4) / 999)
        np.testing.assert_allclose(shares[step + 1], left, rtol=1e-5)
    assert shares[-1] < 1e-4


def test_noised():
    """Each image by its own seed, whatever the others are; step 0 changes nothing."""
    values, noise = normal(3, 5, 4), noise_of(0, 300, 1000)
    found = noised(values, noise)
    np.testing.assert_array_equal(found[0], values[0])
    share = np.float64(signal_shares()[300])
    expected = np.sqrt(share) * values[1] + np.sqrt(1 - share) * drawn_of(noise.seed[1], (5, 4))
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=1e-6)
    alone = noised(values[1:2], jax.tree.map(lambda x: x[1:2], noise))
    np.testing.assert_array_equal(alone[0], found[1])
    many = noised(np.zeros((400, 10, 10), np.float32), noise_of(*[1000] * 400))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_what_is_drawn():
    mask = random_mask(images=4000)
    noisy = Decoder.parse_call("noisy_positions(levels=(0, 100, 300))", "x")
    level, seed = noisy.draw(jax.random.key(0), mask)
    counts = np.bincount(level, minlength=301)
    assert (counts > 0).nonzero()[0].tolist() == [0, 100, 300]
    assert abs(counts[[0, 100, 300]] / 4000 - 1 / 3).max() < 0.04
    assert len(np.unique(seed, axis=0)) == 4000
    step, _ = Decoder.parse_call("diffusion", "x").draw(jax.random.key(0), mask)
    assert 1 <= step.min() < 10 and 990 < step.max() <= 1000
    assert abs(np.mean(step) - 500.5) < 20
    assert SelfAttention().draw(jax.random.key(0), mask) is None


def test_noisy_positions_are_those_of_mask_tokens():
    """The tokens are those of MAE's decoder, but for the positions of hidden patches."""
    model, plain = model_of("noisy_positions"), model_of("self_attention")
    params, patches, mask = random_params(model), normal(3, 16, 16), random_mask()
    jax.tree.map(np.testing.assert_array_equal, params, random_params(plain))
    apply = jax.jit(lambda m, *a: m.apply({"params": params}, *a), static_argnums=0)
    clean = apply(plain, patches, mask)
    for one, other in zip(apply(model, patches, mask)[:3], clean[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    noise = noise_of(0, 100, 1000)
    found = model.apply({"params": params}, patches, mask, drawn=noise)
    np.testing.assert_allclose(found.values[0], clean.values[0], rtol=1e-4, atol=1e-5)
    assert np.abs(found.values[1:] - clean.values[1:]).max(axis=(1, 2)).min() > 1e-2
    entry, positions = params["decoder_input"], sincos_2d(8, GRID)

    def tokens(m, noise):
        features = jnp.asarray(clean.features)

        def moved(positions):
            return noised(positions, noise)

        return m.decoder_input(features, mask.keep, mask.hide, moved)

    found = model.apply({"params": params}, noise, method=tokens)
    share = signal_shares()[100]
    moved = np.sqrt(share) * positions[mask.hide[1]]
    moved = moved + np.sqrt(1 - share) * drawn_of(noise.seed[1], (10, 8))
    np.testing.assert_allclose(found[1, -10:], entry["mask_token"][0] + moved, rtol=1e-4, atol=1e-5)


def plain_diffusion(params, patches, step, blocks, mask):
    """Embeddings, then block by block: among the noised patches, to visible ones, and an MLP."""
    entry, positions = params["decoder_input"], sincos_2d(8, GRID)
    angles = step[:, None] * 1e4 ** (-np.arange(4) / 4)
    time = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    time = dense(gelu(dense(time, entry["time_in"])), entry["time_out"])
    x = dense(patches, entry["embedding"]) + positions[mask.hide] + time[:, None]
    stack = params["reconstructor"]["transformer"]
    for number in range(2):
        block = jax.tree.map(lambda p, n=number: p[n], stack["blocks"])
        memory = norm(np.float64(blocks[2 - number]), block["memory_norm"])
        itself = block["self_attention"]
        qkv, bias = itself["qkv"]["kernel"], itself["qkv"]["bias"]
        split = {"query": {"kernel": qkv[:, :8], "bias": bias[:8]},
                 "key_value": {"kernel": qkv[:, 8:], "bias": bias[8:]},
                 "projection": itself["projection"]}  # fmt: skip
        normed = norm(x, block["self_norm"])
        x = x + attend(normed, normed, split, 2)
        x = x + attend(norm(x, block["LayerNorm_0"]), memory, block["attention"], 2)
        hidden = gelu(dense(norm(x, block["LayerNorm_1"]), block["Dense_0"]))
        x = x + dense(hidden, block["Dense_1"])
    return dense(norm(x, stack["norm"]), params["reconstructor"]["head"])


def test_diffusion_against_a_plain_reading():
    model = model_of("diffusion")
    params, patches, mask = random_params(model), normal(3, 16, 16), random_mask()
    noise = noise_of(1, 250, 1000)
    apply = jax.jit(model.apply, static_argnums=3)
    found = apply({"params": params}, patches, mask, (0, 1, 2), noise)
    hidden = np.take_along_axis(patches, mask.hide[..., None], axis=1)
    rebuilt = np.stack(
        [
            np.sqrt(signal_shares()[s]) * hidden[i]
            + np.sqrt(1 - signal_shares()[s]) * drawn_of(noise.seed[i], (10, 16))
            for i, s in enumerate((1, 250, 1000))
        ]
    )
    step = np.float64([1, 250, 1000])
    expected = plain_diffusion(params, rebuilt, step, found.blocks, mask)
    np.testing.assert_allclose(found.values, expected, rtol=5e-3, atol=5e-3)

    # --- in evaluations: noise alone, of each place, the same for every image
    found = apply({"params": params}, patches, mask, (0, 1, 2))
    alone = np.asarray(jax.random.normal(jax.random.key(0), (16, 16)))[mask.hide]
    expected = plain_diffusion(params, alone, np.full(3, 1000.0), found.blocks, mask)
    np.testing.assert_allclose(found.values, expected, rtol=5e-3, atol=5e-3)


def test_hidden_patches_are_seen_in_training_alone():
    model = model_of("diffusion")
    params, patches, mask = random_params(model), normal(3, 16, 16), random_mask()
    changed = np.array(patches)
    changed[np.arange(3)[:, None], mask.hide] += 1.0
    noise, apply = noise_of(1, 1, 1), jax.jit(model.apply)
    found, other = (
        apply({"params": params}, x, mask, drawn=noise).values for x in (patches, changed)
    )
    assert np.abs(found - other).max() > 0.1
    found, other = (apply({"params": params}, x, mask).values for x in (patches, changed))
    np.testing.assert_array_equal(found, other)


@pytest.mark.parametrize("kind", ["noisy_positions(levels=(300,))", "diffusion"])
def test_a_step_draws_and_an_evaluation_does_not(kind):
    parts = Parts(small_config(decoder=kind, optimizer={"batch_size": 8}))
    method, step = parts.method, make_train_step(parts.model, parts.method, parts.optimizer)
    step, inputs = jax.jit(step), (parts.images, parts.key, schedule(n_hard=6))
    metrics = step(parts.state, *inputs)[1]
    others = step(parts.state, parts.images, jax.random.key(9), schedule(n_hard=6))[1]
    assert np.isfinite([float(x) for x in metrics.values()]).all()
    assert metrics["reconstruction"] != others["reconstruction"]
    mask = random_mask(8, 12)
    first, second = (draw_all(method, mask, parts.key, n)["decoder"] for n in (0, 1))
    assert isinstance(first, Noise) and (first.seed != second.seed).any()
    assert "decoder" not in draw_all(method.at_random, mask, parts.key, 0)
    assert "decoder" not in draw_all(method.in_full, mask, parts.key, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "noisy_positions(levels=())"}, "expected one level or more"),
        ({"decoder": "noisy_positions(levels=(1001,))"}, "expected a number from 0 to 1000"),
        ({"decoder": "noisy_positions(block=2)"}, "so block is from 1 to 1"),
        (
            {"decoder": "diffusion", "model": {"decoder_depth": 2}},
            "config.model.decoder_depth = 2 is above config.model.depth = 1",
        ),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)
