"""The product of tokens and a kernel on CPUs, and attention by one product, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.models.attention import Attention
from hpm_jax.models.compiled_for import compiling_for
from hpm_jax.models.layers import Dense
from hpm_jax.models.products import EQUATION, product

TOKENS = jax.random.normal(jax.random.key(0), (3, 7, 10))


def with_gradients(function, *arguments):
    """Returns `sum(sin(f))` and its gradients, each for CPUs and as for another platform."""

    def total(*arguments):
        return jnp.sin(function(*arguments)).sum()

    found = []
    for platform in ("cpu", "gpu"):
        with compiling_for(platform):
            every = tuple(range(len(arguments)))
            found.append(jax.jit(jax.value_and_grad(total, every)).lower(*arguments).compile())
    return [compiled(*arguments) for compiled in found], found[0].as_text()


def assert_close(found):
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_product_on_cpus_is_einsum():
    kernel = jax.random.normal(jax.random.key(1), (10, 6))
    assert_close(with_gradients(lambda x, w: product(EQUATION, x, w), TOKENS, kernel)[0])


@pytest.mark.parametrize("shape", [(7, 10), (3, 7, 10), (2, 3, 7, 10)])
def test_dense_layers_of_any_number_of_axes(shape):
    dense, x = Dense(6), jax.random.normal(jax.random.key(2), shape)
    params = dense.init(jax.random.key(3), x)
    assert_close(with_gradients(dense.apply, params, x)[0])


@pytest.mark.parametrize("read", [7, 4, 1])
def test_attention_by_one_product(read):
    attention = Attention(2)
    params = attention.init(jax.random.key(4), TOKENS)
    assert_close(with_gradients(lambda p, x: attention.apply(p, x, read), params, TOKENS)[0])


def test_tokens_are_not_transposed():
    """The 21 rows of 10 values, or of 6, are nowhere columns."""
    dense = Dense(6)
    params = dense.init(jax.random.key(5), TOKENS)
    _, program = with_gradients(lambda p, x: dense.apply(p, jnp.exp(x)), params, TOKENS)
    assert "f32[21,6]" in program
    assert "f32[10,21]" not in program and "f32[6,21]" not in program


def test_seeds_can_be_mapped():
    kernels = jax.random.normal(jax.random.key(6), (4, 10, 6))
    with compiling_for("cpu"):
        gradient = jax.grad(lambda w, x: jnp.sin(product(EQUATION, x, w)).sum())
        found = jax.vmap(gradient, (0, None))(kernels, TOKENS)
        expected = jnp.stack([gradient(kernel, TOKENS) for kernel in kernels])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
