"""Fused attention for TPUs in Pallas, for sequences whose scores fit into the memory of a core.

A program computes some images and the heads of one block of lanes. Heads stay beside each other in
the last axis, so that narrow heads do not leave lanes empty: a head is selected by setting the
other lanes of one factor to zero, which costs nothing on a matrix unit that is 128 wide. The scores
of a head are computed at once, so the softmax needs no running maximum as in FlashAttention (Dao et
al. 2022). The backward pass keeps query, key and value only. It computes the scores with keys as
rows: sums over keys are then sums of whole registers, and two of the three products need no
transposition.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

LANES = 128
LONGEST = 512  # tokens; the backward pass holds five arrays of N x N numbers
TOKENS = 1600  # of the images of one program

Kernel = Callable[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def fused_attention(
    query: Array, key: Array, value: Array, heads: int, interpret: bool = False
) -> Array:
    """Computes scaled dot-product attention of tokens whose heads are side by side.

    Args:
        query: `[B, N, D]`, float32 or bfloat16; key and value: `[B, M, D]`.
        heads: number of heads; each is D / heads wide.
        interpret: whether the kernel is emulated, on any device; for tests.

    Returns:
        `[B, N, D]` in the dtype of the value; softmax and sums are in float32.

    Raises:
        ValueError: for more than `LONGEST` tokens.
    """
    return _call(_forward_kernel, (query, key, value), 1, 2, heads, interpret)[0]


def _forward(query: Array, key: Array, value: Array, heads: int, interpret: bool) -> tuple:
    return fused_attention(query, key, value, heads, interpret), (query, key, value)


def _backward(heads: int, interpret: bool, kept: tuple[Array, ...], gradient: Array) -> tuple:
    return tuple(_call(_backward_kernel, (*kept, gradient), 3, 5, heads, interpret))


fused_attention.defvjp(_forward, _backward)


def _call(
    kernel: Kernel,
    arguments: tuple[Array, ...],
    outputs: int,
    products: int,
    heads: int,
    interpret: bool,
) -> list[Array]:
    """Runs a kernel whose outputs have the shapes of its first arguments.

    Args:
        products: number of matrix products of N x M x head width; the compiler plans with them.
    """
    (batch, queries, width), keys = arguments[0].shape, arguments[1].shape[1]
    if max(queries, keys) > LONGEST:
        raise ValueError(f"{max(queries, keys)} tokens: expected at most {LONGEST}")
    head = width // heads
    lanes = block_width(head, width)
    images = max(1, min(batch, TOKENS // max(queries, keys)))
    blocks = [
        pl.BlockSpec((images, x.shape[1], lanes), lambda image, lane: (image, 0, lane))
        for x in arguments
    ]
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments[:outputs]]
    scores = batch * heads * queries * keys
    every: list[Any] = [*arguments, *results]
    moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in every)
    return pl.pallas_call(
        functools.partial(kernel, head=head),
        grid=(pl.cdiv(batch, images), width // lanes),
        in_specs=blocks,
        out_specs=blocks[:outputs],
        out_shape=results,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * head, transcendentals=scores, bytes_accessed=moved
        ),
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
    )(*arguments)


def block_width(head: int, width: int) -> int:
    """Returns the lanes of one program: four heads, so that units do not wait for one, or fewer."""
    wanted = math.lcm(4 * head, LANES), math.lcm(head, LANES), width
    return next(lanes for lanes in wanted if width % lanes == 0)


def _forward_kernel(query: Any, key: Any, value: Any, out: Any, *, head: int) -> None:
    """References `[images, tokens, lanes]`."""

    def one_image(image: Any, _: None) -> None:
        for part, own in _heads(query.shape[2], head):
            queries, keys, values = (x[image, :, part] for x in (query, key, value))
            scores = _product(_scaled(_only(own, queries), head), keys, 1, 1)
            weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
            total = weights.sum(axis=1, keepdims=True)
            mixed = _product(weights.astype(values.dtype), values, 1, 0) / total
            _write(out, image, part, own, mixed)

    jax.lax.fori_loop(0, query.shape[0], one_image, None)


def _backward_kernel(
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    of_query: Any,
    of_key: Any,
    of_value: Any,
    *,
    head: int,
) -> None:
    """References `[images, tokens, lanes]`; scores and weights are `[keys, queries]`."""

    def one_image(image: Any, _: None) -> None:
        for part, own in _heads(query.shape[2], head):
            given = (x[image, :, part] for x in (query, key, value, gradient))
            queries, keys, values, gradients = given
            queries = _scaled(queries, head)
            scores = _product(keys, _only(own, queries), 1, 1)
            weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
            weights = weights * (1.0 / weights.sum(axis=0, keepdims=True))
            inner = _product(values, _only(own, gradients), 1, 1)
            mean = (weights * inner).sum(axis=0, keepdims=True)
            of_scores = (weights * (inner - mean)).astype(keys.dtype)
            weights = weights.astype(gradients.dtype)
            _write(of_value, image, part, own, _product(weights, gradients, 1, 0))
            _write(of_key, image, part, own, _product(of_scores, queries, 1, 0))
            _write(of_query, image, part, own, _product(of_scores, keys, 0, 0) * head**-0.5)

    jax.lax.fori_loop(0, query.shape[0], one_image, None)


def _heads(lanes: int, head: int) -> Iterator[tuple[slice, Array]]:
    """Yields for each head the registers that contain it, and which of their lanes are its own."""
    for first in range(0, lanes, head):
        start = first // LANES * LANES
        end = min(-(-(first + head) // LANES) * LANES, lanes)
        lane = start + jax.lax.broadcasted_iota(jnp.int32, (1, end - start), 1)
        yield slice(start, end), (lane >= first) & (lane < first + head)


def _only(own: Array, x: Array) -> Array:
    return jnp.where(own, x, jnp.zeros_like(x))


def _scaled(query: Array, head: int) -> Array:
    return query * jnp.asarray(head**-0.5, query.dtype)


def _product(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    contracted = ((left_axis,), (right_axis,)), ((), ())
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)


def _write(out: Any, image: Any, part: slice, own: Array, values: Array) -> None:
    """Writes the lanes of one head; heads before it have written theirs."""
    out[image, :, part] = jnp.where(own, values.astype(out.dtype), out[image, :, part])
