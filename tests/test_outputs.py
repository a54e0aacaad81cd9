"""What else an encoder returns: the outputs of its blocks, and the attention of its cls token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.models.stack import REMAT_POLICIES, Stack
from hpm_jax.step.state import init_params

DEPTH, HEADS, WIDTH = 4, 2, 32
MODEL = {"grid": (2, 3, 4), "values": 20, "width": WIDTH, "depth": DEPTH, "heads": HEADS}
MODEL |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(module, params, *inputs, method=None):
    return jax.jit(functools.partial(module.apply, method=method))({"params": params}, *inputs)


def stack_of(depth=DEPTH, **changes):
    return Stack(depth=depth, heads=HEADS, **changes)


def first_blocks(params, count):
    """The parameters of a stack of the first `count` blocks."""
    return {"blocks": jax.tree.map(lambda one: one[:count], params["blocks"])}


# --- the outputs of blocks


@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize("unroll", [1, 3, DEPTH])
def test_the_outputs_of_blocks_are_those_of_shorter_stacks(remat, unroll):
    x, drop = draw(2, 5, 8), draw(2, DEPTH, 2, seed=1)
    stack = stack_of(remat=remat, unroll=unroll)
    params = jax.jit(stack.init)(KEY, x)["params"]
    wanted = (2, 0, 3)

    def run(x):
        return stack.apply({"params": params}, x, drop, collect=wanted, method="outputs")

    found = jax.jit(run)(x)
    np.testing.assert_allclose(found.tokens, apply(stack, params, x, drop), rtol=1e-5, atol=1e-5)
    assert found.attention is None and len(found.blocks) == 3
    for number, block in zip(wanted, found.blocks, strict=True):
        shorter = stack_of(number + 1, norm=False)
        expected = apply(shorter, first_blocks(params, number + 1), x, drop[:, : number + 1])
        np.testing.assert_allclose(block, expected, rtol=1e-5, atol=1e-5)


def test_gradients_through_the_outputs_of_blocks():
    x, weight = draw(2, 5, 8), draw(2, 5, 8, seed=1)
    params = jax.jit(stack_of().init)(KEY, x)["params"]

    def of_collected(params):
        outputs = stack_of().apply({"params": params}, x, collect=(1,), method="outputs")
        return jnp.sum(outputs.blocks[0] * weight)

    def of_shorter(params):
        out = stack_of(2, norm=False).apply({"params": first_blocks(params, 2)}, x)
        return jnp.sum(out * weight)

    found, expected = (jax.jit(jax.grad(f))(params) for f in (of_collected, of_shorter))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_collected_block_may_read_fewer_tokens():
    """Only the last one does, as without collecting."""
    x = draw(2, 7, 8)
    params = jax.jit(stack_of().init)(KEY, x)["params"]
    run = functools.partial(stack_of().apply, read=3, collect=(1, 3), method="outputs")
    found = jax.jit(run)({"params": params}, x)
    assert [block.shape for block in found.blocks] == [(2, 7, 8), (2, 3, 8)]
    whole = jax.jit(functools.partial(run, read=None))({"params": params}, x)
    np.testing.assert_allclose(found.blocks[1], whole.blocks[1][:, -3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [DEPTH, -1])
def test_a_block_that_is_not_there(number):
    with pytest.raises(ValueError, match=f"no block {number} to collect: the 4 count from 0"):
        stack_of().init(KEY, draw(1, 5, 8), collect=(number,), method="outputs")


def test_nothing_is_added_where_nothing_is_collected():
    """One scan, one norm, and nothing else that leaves it than the tokens."""
    x = draw(2, 5, 8)
    params = jax.eval_shape(stack_of().init, KEY, x)["params"]
    traced = jax.make_jaxpr(lambda p: stack_of().apply({"params": p}, x))(params)
    scans = [one for one in traced.eqns if one.primitive.name == "scan"]
    assert len(scans) == 1 and len(scans[0].outvars) == 1 and scans[0].params["length"] == DEPTH


def test_blocks_of_the_encoder_and_of_the_classifier():
    patches = draw(2, 24, 20)
    model = MaskedAutoencoder(**MODEL, layout=LAYOUTS["mae_st"])
    params = jax.jit(init_params, static_argnums=0)(model, KEY)
    features, blocks = jax.jit(
        lambda p: model.apply({"params": p}, patches, (1, 3), method="encode")
    )(params)
    np.testing.assert_allclose(
        features, apply(model, params, patches, method="encode"), rtol=1e-5, atol=1e-5
    )
    norm = params["encoder"]["transformer"]["norm"]
    last = np.asarray(blocks[1])
    last = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(features, last * norm["scale"] + norm["bias"], rtol=1e-4, atol=1e-5)

    sizes = {name: MODEL[name] for name in ("grid", "values", "width", "depth", "heads")}
    classifier = Classifier(**sizes, classes=3, pool="cls", layout=LAYOUTS["mae_st"])
    found, of_classifier = jax.jit(
        lambda p: classifier.apply({"params": p}, patches, collect=(1, 3), method="features")
    )({"encoder": params["encoder"]})
    np.testing.assert_allclose(found, features[:, 0], rtol=1e-5, atol=1e-5)
    for one, other in zip(of_classifier, blocks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# --- attention of the cls token


def naive_attention(block, x, key_bias, has_cls):
    """Softmax of one query over all tokens, head by head, in float64: `[B, N]`."""
    x = np.asarray(x, np.float64)
    norm, qkv = block["LayerNorm_0"], block["attention"]["qkv"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * norm["scale"] + norm["bias"]
    if key_bias:
        bias = np.asarray(qkv["bias"])
    else:
        query, value = np.asarray(block["attention"]["query_value_bias"])
        bias = np.concatenate([query, np.zeros_like(query), value])
    q, k, _ = np.split(x @ np.asarray(qkv["kernel"], np.float64) + bias, 3, axis=-1)
    q = q[:, 0] if has_cls else q.mean(axis=1)
    size, total = q.shape[-1] // HEADS, 0.0
    for head in range(HEADS):
        at = slice(head * size, (head + 1) * size)
        scores = np.einsum("bd,bnd->bn", q[:, at], k[..., at]) / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        total = total + weights / weights.sum(-1, keepdims=True)
    return total / HEADS


@pytest.mark.parametrize("depth", [1, DEPTH])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_is_that_of_the_last_block(layout, depth):
    of = LAYOUTS[layout]
    grid = (1, 4, 6) if layout == "mae" else (2, 3, 4)
    model = MaskedAutoencoder(**MODEL | {"grid": grid, "depth": depth, "layout": of})
    params = jax.jit(init_params, static_argnums=0)(model, KEY)
    # other than zero where parameters start as zero, and large, so that attention is not uniform
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: 2 * x + rng.normal(size=x.shape).astype(x.dtype) / 4, params)
    patches = draw(3, 24, 20)
    keep = np.sort(np.random.default_rng(1).permuted(np.tile(np.arange(24), (3, 1)), axis=1)[:, :9])

    def inputs(params, keep):
        """Of the last block; the stack of no blocks gives the embedded tokens."""
        stack = {"depth": depth, "heads": HEADS, "norm": False, "unroll": 1}
        encoder = model.bind({"params": params}).encoder.clone(stack=stack, parent=None)
        if depth > 1:
            run = functools.partial(encoder.apply, collect=(depth - 2,), method="outputs")
            return run({"params": params["encoder"]}, patches, keep).blocks[0]
        zeroed = jax.tree.map(np.zeros_like, params["encoder"]["transformer"])
        return encoder.apply(
            {"params": {**params["encoder"], "transformer": zeroed}}, patches, keep
        )

    last = jax.tree.map(lambda x: x[-1], params["encoder"]["transformer"]["blocks"])
    for seen in (None, keep):
        features, attention = apply(model, params, patches, seen, method="encode_with_attention")
        assert attention.shape == (3, 24 if seen is None else 9)
        assert attention.dtype == jnp.float32
        expected = naive_attention(last, inputs(params, seen), of.key_bias, of.cls_token)
        expected = expected[:, of.extra_tokens :]
        assert expected.max() > 2 * expected.min()
        np.testing.assert_allclose(attention, expected, rtol=1e-3, atol=1e-6)
        if seen is None:
            plain = apply(model, params, patches, method="encode")
            np.testing.assert_allclose(features, plain, rtol=1e-4, atol=1e-5)


def test_one_pass_gives_features_attention_and_predicted_losses():
    model = MaskedAutoencoder(**MODEL, layout=LAYOUTS["videomae"])
    params = jax.jit(init_params, static_argnums=0)(model, KEY)
    patches = draw(2, 24, 20)
    features, attention = apply(model, params, patches, method="encode_with_attention")
    assert attention.shape == (2, 24)
    found = apply(model, params, features, method="predict_loss_from")
    expected = apply(model, params, patches, method="predict_loss")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_in_bfloat16_is_float32_and_close():
    params = jax.jit(init_params, static_argnums=0)(
        MaskedAutoencoder(**MODEL | {"grid": (1, 4, 6)}), KEY
    )
    patches, found = draw(2, 24, 20), {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = MaskedAutoencoder(**MODEL | {"grid": (1, 4, 6)}, dtype=dtype)
        with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes itself
            found[dtype] = apply(model, params, patches, method="encode_with_attention")[1]
    assert found[jnp.bfloat16].dtype == jnp.float32
    np.testing.assert_allclose(found[jnp.bfloat16], found[jnp.float32], rtol=0.05)
