"""Norms of queries and keys: against plain numpy, in summaries, through a file, and in a step."""

import jax
import numpy as np
import pytest
from small import MAE, compiled_step, parts_of, schedule, small_config

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import Architecture, random_weights
from hpm_jax.convert.write import write_weights
from hpm_jax.models.attention import Attention, rotate
from hpm_jax.step.optimizer import decay_mask

LAYER = Attention(2, qk_norm=True, norm_eps=1e-3)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    made = LAYER.init(jax.random.key(0), normal(2, 5, 8))["params"]
    for number, name in enumerate(("query_norm", "key_norm")):
        made[name] = {"scale": 1 + normal(4, seed=number), "bias": normal(4, seed=2 + number)}
    return made


def heads(params, x, rotation=None):
    """Query, key and value by numpy, `[B, 2, N, 4]`."""
    qkv = np.float64(x) @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    parts = list(qkv.reshape(*x.shape[:2], 3, 2, 4).transpose(2, 0, 3, 1, 4))
    for place, name in enumerate(("query_norm", "key_norm")):
        centred = parts[place] - parts[place].mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normed = centred / np.sqrt(variance + 1e-3)
        parts[place] = normed * params[name]["scale"] + params[name]["bias"]
        if rotation is not None:  # after the norm
            parts[place] = np.asarray(rotate(np.float32(parts[place]), rotation))
    return parts


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("rotated", [False, True])
def test_attention(params, rotated):
    x, angles = normal(2, 5, 8, seed=7), normal(1, 1, 5, 2, seed=8)
    rotation = (np.cos(angles), np.sin(angles)) if rotated else None
    query, key, value = heads(params, x, rotation)
    weights = softmax(np.einsum("bhnd,bhmd->bhnm", query, key) / 2)
    out = np.einsum("bhnm,bhmd->bnhd", weights, value).reshape(2, 5, 8)
    expected = out @ params["projection"]["kernel"] + params["projection"]["bias"]
    found = LAYER.apply({"params": params}, x, None, rotation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    last = LAYER.apply({"params": params}, x, 2, rotation)
    np.testing.assert_allclose(last, expected[:, -2:], rtol=1e-4, atol=1e-5)
    for first, summary in ((True, query[:, :, :1]), (False, query.mean(axis=2, keepdims=True))):
        row = softmax(np.einsum("bhnd,bhmd->bhnm", summary, key) / 2)[:, :, 0]
        found = LAYER.apply({"params": params}, x, first, rotation, method="summary_weights")
        np.testing.assert_allclose(found, row, rtol=1e-4, atol=1e-5)


def test_weights_go_through_a_file(tmp_path):
    sizes = {"patch_size": 4, "channels": 1, "width": 16, "depth": 2, "heads": 2}
    weights = random_weights(Architecture((1, 4, 4), **sizes, qk_norm=True), 0)
    names = weights.params["encoder"]["transformer"]["blocks"]["attention"]
    assert names["query_norm"]["scale"].shape == (2, 8)
    write_weights(tmp_path / "e.npz", weights, "timm")
    again = read_weights(tmp_path / "e.npz", heads=2)
    assert again.architecture.qk_norm
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)


def test_a_step():
    """It trains; norms do not decay."""
    config = small_config(**MAE, model={"qk_norm": True})
    parts = parts_of(config)
    after, metrics = compiled_step(config)(parts.state, parts.images, parts.key, schedule())
    assert np.isfinite(metrics["loss"])
    before, norms = (
        state.params["encoder"]["transformer"]["blocks"]["attention"]["key_norm"]
        for state in (parts.state, after)
    )
    assert (norms["scale"] != before["scale"]).any()
    decays = decay_mask(parts.state.params)["encoder"]["transformer"]["blocks"]["attention"]
    assert decays["qkv"]["kernel"] and not any(decays["query_norm"].values())
