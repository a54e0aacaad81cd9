"""The heads of probes: against the formulas, written out for one image."""

import jax
import numpy as np
import pytest

from hpm_jax.config import ConfigError
from hpm_jax.evaluation.heads import attentive, linear
from hpm_jax.evaluation.probes import Sweep, init_probe

CLASSES = 3


def numpy_attention(params, tokens, heads):
    """Key, query and value of every token, head by head, with the softmax over the tokens."""
    logits = []
    for image in np.asarray(tokens, np.float64):
        key = image @ params["key"]["kernel"]
        value = image @ params["value"]["kernel"] + params["value"]["bias"]
        parts = []
        for of_head in np.split(np.arange(image.shape[1]), heads):
            scores = key[:, of_head] @ params["query"][of_head] / np.sqrt(len(of_head))
            weights = np.exp(scores - scores.max())
            parts.append(weights / weights.sum() @ value[:, of_head])
        out = np.concatenate(parts) @ params["projection"]["kernel"] + params["projection"]["bias"]
        out = (out - out.mean()) / np.sqrt(out.var() + 1e-6)
        out = out * params["norm"]["scale"] + params["norm"]["bias"]
        logits.append(out @ params["classifier"]["kernel"] + params["classifier"]["bias"])
    return np.stack(logits)


def test_the_attentive_head_is_cross_attention():
    head, shape = attentive(3), (7, 12)
    params = head.init(jax.random.key(0), shape, CLASSES)
    rng = np.random.default_rng(0)  # biases too, and a query that chooses
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    tokens = rng.normal(size=(4, *shape)).astype(np.float32)
    expected = numpy_attention(params, tokens, heads=3)
    np.testing.assert_allclose(head.apply(params, tokens), expected, rtol=2e-3, atol=2e-4)


def test_heads_refuse_other_features():
    key = jax.random.key(0)
    with pytest.raises(ConfigError, match=r"features of shape \(7, 12\): a linear probe"):
        linear.init(key, (7, 12), CLASSES)
    for shape in ((12,), (7, 10)):
        with pytest.raises(ConfigError, match="multiple of its 3 heads"):
            attentive(3).init(key, shape, CLASSES)
    with pytest.raises(ConfigError, match="optimizer 'adam' does not exist"):
        init_probe(linear, Sweep((0.1,)), "adam", (12,), CLASSES, key)
