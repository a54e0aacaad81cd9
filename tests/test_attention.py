"""Attention against the textbook, its backward pass, and what a stack of blocks keeps and reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.models import attention, scaled_dot_product
from hpm_jax.models.attention import Attention
from hpm_jax.models.compiled_for import compiling_for
from hpm_jax.models.scaled_dot_product import (
    attend,
    attend_automatically,
    attend_by_cudnn,
    attend_one_product,
    join_heads,
    split_heads,
)
from hpm_jax.models.stack import REMAT_POLICIES, Stack


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(query, key, value):
    """By the textbook, in the dtype of its arguments."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhnm,bhmd->bhnd", jax.nn.softmax(scores, axis=-1), value)


def output_and_gradients(mix, arguments, weight):
    out, back = jax.vjp(mix, *arguments)
    return out, *back(weight.astype(out.dtype))


@pytest.mark.parametrize("asked", [9, 4, 1])
def test_attention_and_its_gradients_are_the_textbooks(asked):
    """Also where fewer tokens ask than answer, and where scores are large."""
    arguments = 4 * draw(2, 3, asked, 8), 4 * draw(2, 3, 9, 8, seed=1), draw(2, 3, 9, 8, seed=2)
    weight = draw(2, 3, asked, 8, seed=3)
    found = jax.jit(functools.partial(output_and_gradients, attend))(arguments, weight)
    expected = jax.jit(functools.partial(output_and_gradients, softmax))(arguments, weight)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_in_bfloat16_it_is_as_near_as_the_textbook():
    arguments = [draw(2, 3, 33, 16, seed=seed) for seed in range(3)]
    weight = draw(2, 3, 33, 16, seed=3)
    exact = output_and_gradients(softmax, arguments, weight)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
    found = output_and_gradients(attend, half, weight)
    plain = output_and_gradients(softmax, half, weight)
    for one, other, wanted in zip(found, plain, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        apart, allowed = (np.abs(np.float32(x) - wanted).mean() for x in (one, other))
        assert 0 < apart < 1.1 * allowed


def test_scores_beyond_the_range_of_exp():
    query = jnp.full((1, 1, 2, 4), 100.0)
    key = jnp.stack([query[0, 0, 0], -query[0, 0, 0]])[None, None]
    out, *gradients = output_and_gradients(attend, (query, key, key), jnp.ones_like(query))
    np.testing.assert_array_equal(out, query)
    assert all(np.isfinite(x).all() for x in gradients)


def softmax_attention(x, qkv, bias, projection, heads):
    q, k, v = np.split(x @ qkv + bias, 3, axis=-1)
    out, size = np.zeros_like(q), q.shape[-1] // heads
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        scores = q[..., at] @ k[..., at].swapaxes(1, 2) / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., at] = weights / weights.sum(-1, keepdims=True) @ v[..., at]
    return out @ projection["kernel"] + projection["bias"]


def test_attention_without_a_bias_of_keys():
    x, heads = draw(2, 9, 16), 4
    without, full = Attention(heads, key_bias=False), Attention(heads)
    params = jax.tree.map(np.array, without.init(jax.random.key(0), x)["params"])
    assert set(params["qkv"]) == {"kernel"} and params["query_value_bias"].shape == (2, 16)
    assert not params["query_value_bias"].any()
    query, value = params["query_value_bias"] = draw(2, 16, seed=1)
    found = without.apply({"params": params}, x)

    bias = np.concatenate([query, np.zeros(16, np.float32), value])
    of_full = {"qkv": {**params["qkv"], "bias": bias}, "projection": params["projection"]}
    np.testing.assert_allclose(found, full.apply({"params": of_full}, x), rtol=1e-5, atol=1e-6)
    expected = softmax_attention(x, params["qkv"]["kernel"], bias, params["projection"], heads)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- stacks


def stack_and_params(**changes):
    stack = Stack(**({"depth": 3, "heads": 2} | changes))
    return stack, jax.jit(stack.init)(jax.random.key(0), draw(1, 5, 8))["params"]


@functools.cache
def whole_stack(depth, unroll):
    """Parameters, inputs, and the last four tokens with their gradients, without recomputation."""
    stack, params = stack_and_params(depth=depth, unroll=unroll)
    x, drop = draw(2, 7, 8), jnp.asarray(draw(2, depth, 2, seed=1))
    inputs = params, x, drop, draw(2, 4, 8, seed=2)

    def whole(params, x):
        return stack.apply({"params": params}, x, drop)[:, -4:]

    return inputs, stack_gradients(whole, inputs)


def stack_gradients(function, inputs):
    params, x, _, weight = inputs

    def with_gradients(params, x):
        out, back = jax.vjp(function, params, x)
        return out, back(weight)

    return jax.jit(with_gradients)(params, x)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize(("depth", "unroll"), [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_tokens_that_nobody_reads_change_nothing(depth, unroll, remat):
    """The last block computes the four last tokens only; dropped branches stay with their image."""
    inputs, expected = whole_stack(depth, unroll)
    stack, drop = Stack(depth, heads=2, unroll=unroll, remat=remat), inputs[2]

    def short(params, x):
        return stack.apply({"params": params}, x, drop, read=4)

    found = stack_gradients(short, inputs)
    assert found[0].shape == (2, 4, 8)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_blocks_start_apart_and_each_as_the_first():
    _, params = stack_and_params()
    kernels = np.asarray(params["blocks"]["attention"]["qkv"]["kernel"])
    assert kernels.shape == (3, 8, 24)
    assert all(not np.array_equal(kernels[0], other) for other in kernels[1:])
    bound = (6 / 32) ** 0.5
    assert all(0.8 * bound < np.abs(kernel).max() <= bound for kernel in kernels)


@pytest.mark.parametrize(("remat", "values"), [("none", 10), ("mlp", 6), ("full", 1)])
def test_what_the_backward_pass_keeps(remat, values):
    """Of each token and block `values` times the width, and one number a head and row.

    Input, query, key and value, attended, middle, and hidden layer: 1 + 3 + 1 + 1 + 4.
    """
    batch, length, width, heads, depth = 2, 64, 32, 2, 3
    stack, params = stack_and_params(depth=depth, heads=heads, remat=remat, norm=False)
    params = jax.eval_shape(lambda: stack.init(jax.random.key(0), draw(1, 1, width))["params"])
    x = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)

    def forward(params, x):
        return jax.tree.leaves(jax.vjp(lambda p, x: stack.apply({"params": p}, x), params, x)[1])

    traced = jax.make_jaxpr(forward)(params, x).jaxpr
    given = {*map(id, traced.invars), *map(id, traced.constvars)}
    kept = [v.aval for v in traced.outvars if id(v) not in given]
    of_tokens = sum(v.size for v in kept if v.shape[:2] == (depth, batch))
    rows = 0 if remat == "full" else heads
    assert of_tokens == depth * batch * length * (values * width + rows)


@pytest.mark.parametrize(("asked", "tokens"), [(5, 5), (4, 5), (3, 6), (4, 4)])
def test_padding_to_even_numbers_of_tokens_changes_nothing(asked, tokens):
    """What cuDNN is given, computed by XLA: output and gradients are those of our attention."""
    arguments = draw(2, 2, asked, 8), draw(2, 2, tokens, 8, seed=1), draw(2, 2, tokens, 8, seed=2)
    weight = draw(2, 2, asked, 8, seed=3)
    emulated = functools.partial(attend_by_cudnn, implementation="xla")
    found = output_and_gradients(emulated, arguments, weight)
    for one, other in zip(found, output_and_gradients(attend, arguments, weight), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [5, 4])
def test_attention_from_one_product(tokens):
    """What cuDNN is given, computed by XLA; the token that was added is finite and read by none."""
    parts = [draw(2, 2, tokens, 8, seed=seed) for seed in range(3)]
    weight = draw(2, 2, tokens, 8, seed=3)

    def from_one_product(*parts):
        product = jnp.concatenate([join_heads(x) for x in parts], axis=-1)
        out = attend_one_product(product, 2, "xla")
        assert out.shape == (2, tokens + tokens % 2, 16)
        return split_heads(out, 2)[:, :, :tokens]

    found = output_and_gradients(from_one_product, parts, weight)
    for one, other in zip(found, output_and_gradients(attend, parts, weight), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    added = attend_one_product(jnp.ones((2, tokens, 48)), 2, "xla")[:, tokens:]
    np.testing.assert_allclose(added, 1.0, rtol=1e-6)  # the mean of the values


@pytest.mark.parametrize("read", [None, 4, 3])
def test_the_layer_is_the_same_by_cudnn(monkeypatch, read):
    by_xla = functools.partial(attend_by_cudnn, implementation="xla")
    monkeypatch.setattr(attention, "attend_by_cudnn", by_xla)
    one_product = functools.partial(attend_one_product, implementation="xla")
    monkeypatch.setattr(attention, "attend_one_product", one_product)
    ours, fused = Attention(4), Attention(4, attention="cudnn")
    x = draw(2, 9, 32)
    params = ours.init(jax.random.key(0), x)

    def with_gradients(layer):
        return jax.value_and_grad(lambda *a: (layer.apply(*a, read) ** 2).sum(), (0, 1))(params, x)

    leaves = [jax.tree.leaves(with_gradients(layer)) for layer in (fused, ours)]
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_cudnn_gets_even_numbers_of_tokens_and_their_lengths(monkeypatch):
    given = []

    def stand_in(*arrays, **options):
        given.append([x.shape[1] for x in arrays])
        lengths = options["query_seq_lengths"], options["key_value_seq_lengths"]
        given.append([None if x is None else x.tolist() for x in lengths])
        assert options["implementation"] == "cudnn"
        return arrays[0]

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    for tokens in (5, 4):
        arguments = [jnp.zeros((2, 3, tokens, 8), jnp.bfloat16)] * 3
        assert attend_by_cudnn(*arguments).shape == (2, 3, tokens, 8)
    assert given == [[6, 6, 6], [[6, 6], [5, 5]], [4, 4, 4], [None, None]]


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((2, 2, 5, 8), jnp.float32, "the dtype is float32"),
        ((2, 2, 5, 12), jnp.bfloat16, "a head is 12 wide"),
        ((2, 2, 5, 256), jnp.bfloat16, "a head is 256 wide"),
        ((2, 2, 5, 8), jnp.bfloat16, "cuDNN"),  # no such GPU
    ],
)
def test_what_cudnn_cannot_run_is_said_in_one_sentence(shape, dtype, reason):
    arguments = [jnp.zeros(shape, dtype)] * 3
    with pytest.raises(ValueError, match=rf"needs an NVIDIA GPU .*{reason}.*attention=xla"):
        attend_by_cudnn(*arguments)


def test_attention_is_chosen_by_device_dtype_and_width(monkeypatch):
    def chosen(dtype=jnp.bfloat16, width=64):
        return scaled_dot_product.chosen("auto", dtype, width)

    assert chosen() == "xla", "this is a CPU"
    with compiling_for("gpu"):
        assert chosen() == "cudnn"
        assert chosen(jnp.float32) == chosen(width=12) == chosen(width=256) == "xla"
        with compiling_for("tpu"):
            assert chosen() == "xla"
    monkeypatch.setattr(scaled_dot_product, "has_cudnn", lambda: True)
    assert chosen() == "cudnn" and scaled_dot_product.chosen("xla", jnp.bfloat16, 64) == "xla"


def test_what_is_chosen_is_computed():
    arguments = [draw(2, 2, 5, 8, seed=seed) for seed in range(3)]
    np.testing.assert_array_equal(attend_automatically(*arguments), attend(*arguments))


def test_a_gpu_whose_cudnn_does_not_compile_is_noticed(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not scaled_dot_product.has_cudnn.__wrapped__()


def test_parameters_for_cudnn_are_initialised_anywhere():
    _, params = stack_and_params(attention="cudnn")
    _, expected = stack_and_params()
    jax.tree.map(np.testing.assert_array_equal, params, expected)
