"""The fused attention for TPUs, emulated, against ours by XLA; it is compiled in tests/interop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from hpm_jax.models import scaled_dot_product, tpu_attention
from hpm_jax.models.attention import Attention
from hpm_jax.models.compiled_for import compiling_for
from hpm_jax.models.scaled_dot_product import attend, join_heads, split_heads
from hpm_jax.models.tpu_attention import fused_attention
from hpm_jax.run.devices import Devices


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_xla(query, key, value, heads):
    return join_heads(attend(*(split_heads(x, heads) for x in (query, key, value))))


def emulated(query, key, value, heads):
    return fused_attention(query, key, value, heads, True)


def output_and_gradients(mix, heads, arguments, weight):
    out, back = jax.vjp(lambda *x: mix(*x, heads), *arguments)
    return out, *back(weight.astype(out.dtype))


@pytest.mark.parametrize(
    ("images", "queries", "keys", "heads", "head"),
    [
        (3, 13, 13, 4, 32),  # one block of 128 lanes
        (2, 7, 7, 8, 32),  # two
        (2, 9, 9, 3, 64),  # width 192, which no block divides
        (1, 4, 17, 2, 16),  # fewer queries, one image
        (2, 9, 9, 8, 80),  # heads that cross registers
        (5, 400, 400, 1, 8),  # images that do not fill the last program
    ],
)
def test_values_and_gradients_are_ours(images, queries, keys, heads, head):
    width = heads * head
    arguments = 2 * draw(images, queries, width), 2 * draw(images, keys, width, seed=1)
    arguments = *arguments, draw(images, keys, width, seed=2)
    weight = draw(images, queries, width, seed=3)
    found = output_and_gradients(emulated, heads, arguments, weight)
    for one, other in zip(
        found, output_and_gradients(by_xla, heads, arguments, weight), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_is_as_near_as_ours():
    arguments = [draw(2, 33, 64, seed=seed) for seed in range(3)]
    weight = draw(2, 33, 64, seed=3)
    exact = output_and_gradients(by_xla, 2, arguments, weight)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
    found, ours = (output_and_gradients(mix, 2, half, weight) for mix in (emulated, by_xla))
    for one, other, wanted in zip(found, ours, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        apart, allowed = (np.abs(np.float32(x) - wanted).mean() for x in (one, other))
        assert 0 < apart < 1.1 * allowed


def test_scores_beyond_the_range_of_exp():
    query = jnp.full((1, 2, 4), 100.0)
    key = jnp.stack([query[0, 0], -query[0, 0]])[None]
    out, *gradients = output_and_gradients(emulated, 1, (query, key, key), jnp.ones_like(query))
    np.testing.assert_array_equal(out, query)
    assert all(np.isfinite(x).all() for x in gradients)


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Kernels are emulated, in a program that is traced for a TPU; counts them."""
    counted = []

    def kernel(query, key, value, heads):
        counted.append(query.shape)
        return emulated(query, key, value, heads)

    monkeypatch.setattr(scaled_dot_product, "fused_attention", kernel)
    with compiling_for("tpu"):
        yield counted


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"key_bias": False}])
@pytest.mark.parametrize("read", [None, 4])
def test_the_layer_is_the_same(on_a_tpu, read, options):
    ours, fused = Attention(4, **options), Attention(4, attention="pallas", **options)
    x = draw(2, 9, 32)
    params = ours.init(jax.random.key(0), x)
    assert jax.tree.structure(params) == jax.tree.structure(fused.init(jax.random.key(0), x))

    def with_gradients(layer):
        return jax.value_and_grad(lambda *a: (layer.apply(*a, read) ** 2).sum(), (0, 1))(params, x)

    leaves = [jax.tree.leaves(with_gradients(layer)) for layer in (fused, ours)]
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert on_a_tpu


def test_each_device_computes_its_own_images(on_a_tpu):
    devices = np.array(jax.devices()[:2]).reshape(2, 1)
    devices = Devices(Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
    attend_fused = functools.partial(scaled_dot_product.attend_side_by_side, heads=2)
    x = draw(4, 5, 16)

    def step(state, x):
        return state, attend_fused(x, x, x)

    def stepped(x):
        state = jax.device_put(jnp.zeros(()), devices.replicated)
        return devices.jit_step(step, state)(state, x)[1]

    np.testing.assert_allclose(stepped(devices.put(x)), by_xla(x, x, x, 2), rtol=1e-5, atol=1e-5)
    assert on_a_tpu == [(2, 5, 16)]

    odd = draw(3, 5, 16)
    np.testing.assert_allclose(stepped(odd), by_xla(odd, odd, odd, 2), rtol=1e-5, atol=1e-5)
    assert len(on_a_tpu) == 1, "3 images do not divide over 2 devices: computed by XLA"


def test_what_the_kernel_does_not_run_is_said_in_one_sentence():
    tokens = jnp.zeros((1, 2, 5, 8))
    with pytest.raises(ValueError, match=r"'pallas' needs a TPU .*is a CPU.*attention=xla"):
        scaled_dot_product.attend_by_pallas(tokens, tokens, tokens)
    tokens = jnp.zeros((1, 2, 513, 8))
    with compiling_for("tpu"), pytest.raises(ValueError, match=r"at most 512 tokens .*are 513"):
        scaled_dot_product.attend_by_pallas(tokens, tokens, tokens)
    assert tpu_attention.LONGEST == 512
